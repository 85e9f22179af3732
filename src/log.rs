//! The log: one line per happening on standard error, text on a terminal and JSON otherwise.
//!
//! A line holds a constant lowercase text and values as fields. A blocked or closed standard error never stops the daemon: lines
//! go through a bounded queue to a thread of their own ([`sink`]), and those that do not fit are dropped and counted. What comes
//! again and again is written a few times, and then counted ([`repeats`]). Every message is in `docs/logs.md`.
//!
//! *Why control characters are escaped here, once:* a value that comes from outside (a service's message, a name) could otherwise
//! begin a line of its own and forge what the log says.

#[cfg(test)]
mod catalogue;
#[cfg(test)]
mod meanings;
mod repeats;
mod sink;

use std::io::IsTerminal;
use std::pin::pin;
use std::time::Duration;

use prometheus::IntCounter;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::{FilterExt, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::config::settings::{LogFormat, LogSettings};
use repeats::Repeats;
use sink::{Escape, Lines, Sink};

#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("cannot start the log's thread: {0}")]
    Thread(std::io::Error),
    #[error("the log was started twice")]
    Twice,
}

/// The running log. Keep it until the end, then [`Log::finish`].
#[must_use]
pub struct Log {
    sink: Sink,
    level: Level,
    repeats: Repeats,
}

/// Which lines are written; it can be changed while the log runs.
#[derive(Clone)]
pub struct Level(reload::Handle<Targets, Registry>);

impl Level {
    /// `error`, `warn`, `info`, `debug`, `trace`.
    pub fn set(&self, level: &str) {
        // It fails only where there is no log any more.
        self.0.reload(filter(level)).unwrap_or_default();
    }
}

/// Starts the log of this process. `dropped` counts lines that were lost ([`crate::metrics::Metrics::log_lines_dropped`]).
///
/// # Errors
/// When it was started before, or a thread cannot be made.
pub fn start(settings: &LogSettings, dropped: IntCounter) -> Result<Log, LogError> {
    let terminal = std::io::stderr().is_terminal();
    let shape = match settings.format {
        LogFormat::Json => Shape::Json,
        LogFormat::Auto if !terminal => Shape::Json,
        LogFormat::Auto | LogFormat::Text => {
            Shape::Text { colours: terminal && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()) }
        }
    };
    let sink = Sink::start(std::io::stderr(), dropped).map_err(LogError::Thread)?;
    let repeats = Repeats::default();
    let (subscriber, level) = subscriber(shape, &settings.level, sink.lines(shape.escape()), repeats.clone());
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Twice)?;
    Ok(Log { sink, level, repeats })
}

impl Log {
    /// Does the work, and says meanwhile how many lines were left out.
    pub async fn beside<Done>(&self, work: impl Future<Output = Done>) -> Done {
        let work = pin!(work);
        tokio::select! {
            done = work => done,
            never = self.repeats.tend() => never,
        }
    }

    /// Says what was left out, and waits until every line is written, at most `deadline`; a blocked standard error does not keep the
    /// process.
    pub fn finish(self, deadline: Duration) {
        self.repeats.say_all();
        self.sink.flush(deadline);
    }

    pub fn level(&self) -> Level {
        self.level.clone()
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Text { colours: bool },
    Json,
}

impl Shape {
    fn escape(self) -> Escape {
        match self {
            Shape::Text { colours: true } => Escape::AllButColours,
            Shape::Text { colours: false } => Escape::All,
            Shape::Json => Escape::Json,
        }
    }
}

fn subscriber(
    shape: Shape,
    level: &str,
    lines: Lines,
    repeats: Repeats,
) -> (Box<dyn Subscriber + Send + Sync>, Level) {
    let (filter, handle) = reload::Layer::new(filter(level));
    // In this order: what is not to be written at all is not counted.
    let filter = filter.and(repeats);
    let layer = tracing_subscriber::fmt::layer().with_writer(lines);
    let subscriber: Box<dyn Subscriber + Send + Sync> = match shape {
        Shape::Text { colours } => {
            let layer = layer.with_ansi(colours).with_target(false).with_filter(filter);
            Box::new(tracing_subscriber::registry().with(layer))
        }
        Shape::Json => {
            let layer = layer.json().flatten_event(true).with_span_list(false).with_filter(filter);
            Box::new(tracing_subscriber::registry().with(layer))
        }
    };
    (subscriber, Level(handle))
}

/// What libraries say below a warning is theirs, and may hold more than we would print.
fn filter(level: &str) -> Targets {
    let level: LevelFilter = level.parse().unwrap_or(LevelFilter::INFO);
    Targets::new().with_default(level.min(LevelFilter::WARN)).with_target(env!("CARGO_CRATE_NAME"), level)
}

#[cfg(test)]
mod tests {
    use super::sink::tests::Captured;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn log(shape: Shape, level: &str, say: impl FnOnce()) -> String {
        let captured = Captured::default();
        let dropped = IntCounter::new("dropped", "dropped").unwrap();
        let sink = Sink::start(captured.clone(), dropped).unwrap();
        let (subscriber, _level) = subscriber(shape, level, sink.lines(shape.escape()), Repeats::default());
        tracing::subscriber::with_default(subscriber, say);
        sink.flush(PATIENCE);
        captured.text()
    }

    #[test]
    fn every_json_line_is_one_object_with_its_fields_at_the_top() {
        let text = log(Shape::Json, "info", || {
            tracing::error!(
                org = "acme",
                destination = "s3",
                cause = "line one\nline \"two\"\u{1b}[2J\u{7f}\u{9b}",
                "paused"
            );
            tracing::info!(org = "acme", seconds = 61, "pause ended");
        });
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["level"], "ERROR");
        assert_eq!(lines[0]["message"], "paused");
        assert_eq!(lines[0]["org"], "acme");
        assert_eq!(lines[0]["cause"], "line one\nline \"two\"\u{1b}[2J\u{7f}\u{9b}");
        assert_eq!(lines[1]["seconds"], 61);
        assert!(!text.contains('\u{1b}'), "{text:?}");
    }

    #[test]
    fn a_value_cannot_forge_a_line_of_text_or_colour_the_terminal() {
        for colours in [false, true] {
            let text = log(Shape::Text { colours }, "info", || {
                let hostile = "x\n2026-11-21T10:15:00Z  INFO all is well\r\u{1b}[2J\u{9b}2J\u{7f}\0";
                tracing::warn!(cause = hostile, shown = %hostile, debug = ?hostile, "waiting");
            });
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(
                !text.contains("\u{1b}[2J") && !text.contains('\u{9b}') && !text.contains('\r'),
                "{text:?}"
            );
            assert_eq!(text.contains('\u{1b}'), colours, "{text:?}");
        }
    }

    #[test]
    fn the_level_counts_for_our_lines_and_libraries_say_warnings_only() {
        let text = log(Shape::Text { colours: false }, "debug", || {
            tracing::debug!("ours");
            tracing::info!(target: "hyper", "theirs");
            tracing::warn!(target: "hyper", "their warning");
        });
        assert!(
            text.contains("ours") && text.contains("their warning") && !text.contains("theirs"),
            "{text}"
        );
        let text = log(Shape::Json, "error", || {
            tracing::warn!("ours");
            tracing::warn!(target: "hyper", "their warning");
        });
        assert_eq!(text, "");
    }

    #[test]
    fn the_level_can_be_changed_while_the_log_runs() {
        let captured = Captured::default();
        let sink = Sink::start(captured.clone(), IntCounter::new("dropped", "dropped").unwrap()).unwrap();
        let (subscriber, level) =
            subscriber(Shape::Json, "info", sink.lines(Escape::Json), Repeats::default());
        tracing::subscriber::with_default(subscriber, || {
            for (at, to) in [("first", "debug"), ("second", "error"), ("third", "info")] {
                tracing::debug!(at, "detail");
                level.set(to);
            }
            tracing::info!("end");
        });
        sink.flush(PATIENCE);
        let text = captured.text();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.contains("second") && text.contains("end"), "{text}");
    }
}
