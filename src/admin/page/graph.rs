//! Graphs as paths of SVG: new events as bars, and coverage as a line of what was read, what is owed another look, and what is missing.
//!
//! What a piece of the line is can be told without colours: settled time is a full bar, unsettled time half of it, a hole a dashed
//! frame, a damaged second a mark that stands out above. The shorter a hole or a damaged second is, the more it is exaggerated:
//! what is missing must be seen.

use std::fmt::Write;

use crate::clock::Second;
use crate::report::activity::{self, ActivityStatus};
use crate::report::spans::{SpanState, SpanStatus};
use crate::report::status::OrgStatus;
use crate::report::words::{counted, grouped, length};

/// Units of a graph across; its style decides how large that is.
const WIDTH: f64 = 192.0;
/// Height of the bars, and where the line of coverage begins and ends.
const BARS: f64 = 36.0;

/// A stretch of time, drawn across.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub(super) from: Second,
    pub(super) until: Second,
}

impl Range {
    fn at(self, moment: Second) -> f64 {
        let length = (self.until - self.from).max(1) as f64;
        ((moment - self.from) as f64 / length * WIDTH).clamp(0.0, WIDTH)
    }
}

pub(super) struct Graph {
    pub(super) label: String,
    pub(super) total: String,
    pub(super) bars: String,
    pub(super) line: Line,
}

/// The last day: bars, and coverage below them.
pub(super) fn day(org: &OrgStatus, now: Second) -> Option<Graph> {
    if org.activity.is_none() && org.spans.is_empty() {
        return None;
    }
    let from = activity::since(now);
    let range = Range { from, until: from + activity::STEPS * activity::STEP_SECONDS };
    let coverage = line_in_words(&org.spans, range);
    let events = org.activity.as_ref().map(bars_in_words);
    Some(Graph {
        label: match &events {
            Some(events) => format!("{events}; of that time {coverage}"),
            None => format!("events not counted yet; of the last 24 hours {coverage}"),
        },
        total: org.activity.as_ref().map(|known| grouped(known.total())).unwrap_or_default(),
        bars: org.activity.as_ref().map(bars).unwrap_or_default(),
        line: line(&org.spans, range, 42.0, 2.0),
    })
}

/// Where the full six hours lie in the graph of the day, in its units, and what they are called.
pub(super) fn hours(now: Second) -> Vec<(String, String)> {
    let from = activity::since(now);
    let first = (from.0.div_euclid(21_600) + 1) * 21_600;
    let day = activity::STEPS * activity::STEP_SECONDS;
    (0..4)
        .map(|index| Second(first + index * 21_600))
        .filter(|at| *at - from < day)
        .map(|at| {
            let x = (at - from) as f64 / day as f64 * WIDTH;
            (format!("{x:.1}"), at.to_string().get(11..16).unwrap_or_default().to_owned())
        })
        .collect()
}

/// Bars of new events; empty where there were none.
pub(super) fn bars(activity: &ActivityStatus) -> String {
    let most = activity.most().max(1) as f64;
    let step = WIDTH / activity.events.len().max(1) as f64;
    let mut path = String::new();
    for (index, events) in activity.events.iter().enumerate().filter(|(_, events)| **events > 0) {
        let x = (index as f64 + 0.5) * step;
        // One event among thousands is still to be seen.
        let height = (*events as f64 / most * BARS).max(1.5);
        add(&mut path, format_args!("M{} {BARS}v-{}", short(x), short(height)));
    }
    path
}

/// What the bars say, for who does not see them.
pub(super) fn bars_in_words(activity: &ActivityStatus) -> String {
    match activity.total() {
        0 => "no new events in the last 24 hours".to_owned(),
        total => format!(
            "{} in the last 24 hours, at most {} in half an hour",
            counted(total, "new event"),
            grouped(activity.most())
        ),
    }
}

/// A line of coverage: one path for each state.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    pub(super) settled: String,
    pub(super) unsettled: String,
    pub(super) holes: String,
    pub(super) damaged: String,
}

/// `top` is where the line begins; it is eight high. A hole or a damaged second is at least `visible` wide.
pub(super) fn line(spans: &[SpanStatus], range: Range, top: f64, visible: f64) -> Line {
    let mut line = Line::default();
    for span in spans.iter().filter(|span| span.from.0 < range.until && span.until.0 > range.from) {
        let (from, until) = (range.at(span.from.0), range.at(span.until.0));
        let (path, top, height, least) = match span.state {
            SpanState::Settled => (&mut line.settled, top, 8.0, 0.0),
            SpanState::Unsettled => (&mut line.unsettled, top + 4.0, 4.0, 0.0),
            SpanState::Hole => (&mut line.holes, top + 0.5, 7.0, visible),
            SpanState::Damaged => (&mut line.damaged, top - 2.0, 12.0, visible),
        };
        let width = (until - from).max(least);
        let from = from.min(WIDTH - width);
        let (from, top, width, height) = (short(from), short(top), short(width), short(height));
        add(path, format_args!("M{from} {top}h{width}v{height}h-{width}z"));
    }
    line
}

/// What the line says.
pub(super) fn line_in_words(spans: &[SpanStatus], range: Range) -> String {
    let seconds = |state| -> i64 {
        let inside = |span: &&SpanStatus| span.state == state;
        let length = |span: &SpanStatus| span.until.0.min(range.until) - span.from.0.max(range.from);
        spans.iter().filter(inside).map(length).map(|seconds| seconds.max(0)).sum()
    };
    let parts: Vec<String> = [
        (SpanState::Hole, "not read yet"),
        (SpanState::Damaged, "too dense to be read whole"),
        (SpanState::Unsettled, "read and due another look"),
        (SpanState::Settled, "settled"),
    ]
    .into_iter()
    .map(|(state, what)| (seconds(state), what))
    .filter(|(seconds, _)| *seconds > 0)
    .map(|(seconds, what)| format!("{} {what}", length(seconds)))
    .collect();
    if parts.is_empty() { "nothing read yet".to_owned() } else { parts.join(", ") }
}

/// At most one digit after the point: a page may hold hundreds of graphs.
fn short(number: f64) -> String {
    let text = format!("{number:.1}");
    text.strip_suffix(".0").unwrap_or(&text).to_owned()
}

fn add(path: &mut String, text: std::fmt::Arguments<'_>) {
    #[expect(clippy::expect_used, reason = "a string takes whatever it is given")]
    path.write_fmt(text).expect("writing to a string does not fail");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::status::Moment;

    const RANGE: Range = Range { from: Second(1_000), until: Second(1_192) };

    fn span(from: i64, until: i64, state: SpanState) -> SpanStatus {
        SpanStatus { from: Moment(Second(from)), until: Moment(Second(until)), state }
    }

    #[test]
    fn the_highest_bar_fills_the_graph_and_a_single_event_is_still_seen() {
        let activity = ActivityStatus {
            from: Moment(Second(0)),
            step_seconds: 1_800,
            events: vec![0, 10_000, 1, 5_000],
        };
        assert_eq!(bars(&activity), "M72 36v-36M120 36v-1.5M168 36v-18");
        assert_eq!(
            bars_in_words(&activity),
            "15,001 new events in the last 24 hours, at most 10,000 in half an hour"
        );
    }

    #[test]
    fn a_hole_of_a_second_is_seen_and_what_lies_outside_is_not_drawn() {
        let spans = [
            span(0, 900, SpanState::Hole),
            span(900, 1_100, SpanState::Settled),
            span(1_191, 1_192, SpanState::Hole),
            span(1_192, 1_500, SpanState::Unsettled),
        ];
        let drawn = line(&spans, RANGE, 0.0, 2.0);
        assert_eq!(drawn.settled, "M0 0h100v8h-100z");
        assert_eq!(drawn.holes, "M190 0.5h2v7h-2z");
        assert_eq!((drawn.unsettled.as_str(), drawn.damaged.as_str()), ("", ""));
        assert_eq!(line_in_words(&spans, RANGE), "1s not read yet, 1m 40s settled");
        assert_eq!(line_in_words(&[], RANGE), "nothing read yet");
    }
}
