//! What is seen: the acts, one after another, and between them where every org and destination stands.
//!
//! On a terminal a table at the bottom is drawn again and again; in a pipe the same figures come as plain lines of one width, one
//! for each org, every other second.

use std::io::{self, IsTerminal, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::cast::DESTINATIONS;
use crate::forwarder::{Lane, Org, Status};

/// Of paragraphs, where the terminal is not narrower.
const WIDTH: usize = 112;
/// What stands before the text of an act.
const INDENT: usize = 11;
const LINES_EVERY: Duration = Duration::from_secs(2);
const BAR_CELLS: usize = 8;

pub(crate) struct Screen {
    begun: Instant,
    form: Form,
    bold: bool,
    width: usize,
}

enum Form {
    /// Its message is the table; there from the first look on.
    Terminal { table: Option<ProgressBar> },
    Pipe {
        shown: Option<Instant>,
        /// A new act has begun since the columns were last named.
        headless: bool,
    },
}

impl Screen {
    pub(crate) fn new() -> Self {
        let terminal = io::stdout().is_terminal();
        let form = match terminal {
            true => Form::Terminal { table: None },
            false => Form::Pipe { shown: None, headless: true },
        };
        let bold = terminal && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty());
        let width = if terminal { terminal_width().unwrap_or(80).clamp(60, WIDTH) } else { WIDTH };
        Self { begun: Instant::now(), form, bold, width }
    }

    /// What the figures mean; they are the forwarder's own.
    pub(crate) fn legend(&mut self) -> io::Result<()> {
        self.say("The figures come from the forwarder's own /api/status; times are UTC.")?;
        self.line("  tip     the newest second that was read")?;
        self.line("  cursor  everything before it is journaled, from the org's start on")?;
        if matches!(self.form, Form::Pipe { .. }) {
            self.line("  read    how much of the time between start and tip is journaled")?;
            self.line("  until   everything before it is delivered there")?;
            self.line("  waits   events that are journaled and not delivered there yet; ~ the destination waits, ! it is paused")?;
        }
        Ok(())
    }

    /// Time is counted from here.
    pub(crate) fn begin(&mut self) {
        self.begun = Instant::now();
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Something happens to the forwarder.
    pub(crate) fn act(&mut self, sign: char, text: &str) -> io::Result<()> {
        if let Form::Pipe { shown, headless } = &mut self.form {
            (*shown, *headless) = (None, true);
        }
        self.line("")?;
        let mut lines = wrapped(text, self.width - INDENT).into_iter();
        let first = format!("{:>6.1} s  {sign} {}", self.seconds(), lines.next().unwrap_or_default());
        let rest = lines.map(|line| format!("           {line}"));
        for line in std::iter::once(first).chain(rest) {
            let line = if self.bold { format!("\u{1b}[1m{line}\u{1b}[0m") } else { line };
            self.line(&line)?;
        }
        Ok(())
    }

    /// What came of it.
    pub(crate) fn note(&mut self, text: &str) -> io::Result<()> {
        for (number, line) in wrapped(text, self.width - INDENT).into_iter().enumerate() {
            match number {
                0 => self.line(&format!("{:>6.1} s    {line}", self.seconds()))?,
                _ => self.line(&format!("            {line}"))?,
            }
        }
        Ok(())
    }

    /// A paragraph.
    pub(crate) fn say(&mut self, text: &str) -> io::Result<()> {
        for line in wrapped(text, self.width) {
            self.line(&line)?;
        }
        Ok(())
    }

    pub(crate) fn line(&mut self, line: &str) -> io::Result<()> {
        match &mut self.form {
            Form::Terminal { table: Some(table) } => table.suspend(|| writeln!(io::stdout(), "{line}")),
            _ => writeln!(io::stdout(), "{line}"),
        }
    }

    /// Where everything stands; nothing when the forwarder does not answer.
    pub(crate) fn show(&mut self, status: Option<&Status>) -> io::Result<()> {
        let seconds = self.seconds();
        match &mut self.form {
            Form::Terminal { table } => {
                let text = blocks(status, seconds).join("\n");
                if let Some(table) = table {
                    table.set_message(text);
                } else {
                    let style = ProgressStyle::with_template("{msg}").map_err(io::Error::other)?;
                    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
                    *table = Some(bar.with_style(style).with_message(text));
                }
                Ok(())
            }
            Form::Pipe { shown, headless } => {
                if shown.is_some_and(|shown| shown.elapsed() < LINES_EVERY) {
                    return Ok(());
                }
                *shown = Some(Instant::now());
                let mut out = io::stdout().lock();
                if std::mem::take(headless) {
                    writeln!(out)?;
                    for line in columns() {
                        writeln!(out, "{line}")?;
                    }
                }
                match status {
                    Some(status) => {
                        for org in &status.orgs {
                            writeln!(out, "{}", plain(org, seconds))?;
                        }
                    }
                    None => writeln!(out, "{seconds:>6.1} s  (the forwarder is not running)")?,
                }
                out.flush()
            }
        }
    }

    /// No more tables; what follows is plain text.
    pub(crate) fn finish(&mut self) {
        if let Form::Terminal { table } = &mut self.form
            && let Some(table) = table.take()
        {
            table.finish_and_clear();
        }
    }

    fn seconds(&self) -> f64 {
        self.begun.elapsed().as_secs_f64()
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.finish();
    }
}

/// For a pipe: one line an org.
fn plain(org: &Org, seconds: f64) -> String {
    let mut line = format!(
        "{seconds:>6.1} s  {:<5}  {:<7}  {:>11}  {:>11}  {:>4.0} %",
        org.id,
        org.source.state,
        moment(org.tip()),
        moment(org.cursor()),
        (org.read_share() * 100.0).floor(),
    );
    for destination in DESTINATIONS {
        let lane = org.lanes.iter().find(|lane| lane.destination == destination);
        let mark = match lane.map(|lane| lane.state.as_str()) {
            Some("waiting") => '~',
            Some("paused") => '!',
            _ => ' ',
        };
        let until = moment(lane.and_then(Lane::delivered_until));
        let backlog = grouped(lane.map_or(0, |lane| lane.backlog_events));
        line.push_str(&format!(" │{mark}{until:>11} {backlog:>6}"));
    }
    line
}

fn columns() -> [String; 2] {
    let mut first = format!("{:<56}", "");
    let mut second =
        format!("{:<11}{:<5}  {:<7}  {:>11}  {:>11}  {:>6}", "", "org", "source", "tip", "cursor", "read");
    for destination in DESTINATIONS {
        first.push_str(&format!(" │ {destination:<18}"));
        second.push_str(&format!(" │ {:>11} {:>6}", "until", "waits"));
    }
    [first.trim_end().to_owned(), second]
}

/// For a terminal: a block an org, 80 columns wide.
fn blocks(status: Option<&Status>, seconds: f64) -> Vec<String> {
    let Some(status) = status else {
        return vec![String::new(), format!("{seconds:>6.1} s  the forwarder is not running")];
    };
    let mut lines = vec![String::new(), format!("{seconds:>6.1} s")];
    for org in &status.orgs {
        let share = org.read_share();
        let full = ((share * BAR_CELLS as f64) as usize).min(BAR_CELLS);
        lines.push(format!(
            "{:<6} {:<21} tip {:>11}  cursor {:>11}  {}{} {:>3.0} %",
            org.id,
            state(&org.source.state, org.source.reason.as_deref()),
            moment(org.tip()),
            moment(org.cursor()),
            "█".repeat(full),
            "░".repeat(BAR_CELLS - full),
            (share * 100.0).floor(),
        ));
        for lane in &org.lanes {
            lines.push(format!(
                "  {:<9}{:<17} delivered until {:>11}  {:>7} events wait",
                lane.destination,
                state(&lane.state, lane.reason.as_deref()),
                moment(lane.delivered_until()),
                grouped(lane.backlog_events),
            ));
        }
    }
    lines
}

fn state(state: &str, reason: Option<&str>) -> String {
    match reason {
        Some(reason) => format!("{state} ({reason})"),
        None => state.to_owned(),
    }
}

/// Today as a time of day, before that as a date; UTC, 11 columns.
fn moment(second: Option<i64>) -> String {
    let at = second.and_then(|second| OffsetDateTime::from_unix_timestamp(second).ok());
    let Some(at) = at else { return "–".to_owned() };
    let today = crate::world::clock::WorldClock::system().now().div_euclid(86_400);
    if at.unix_timestamp().div_euclid(86_400) == today {
        format!("{:02}:{:02}:{:02}", at.hour(), at.minute(), at.second())
    } else {
        format!("{:02}-{:02} {:02}:{:02}", u8::from(at.month()), at.day(), at.hour(), at.minute())
    }
}

/// Columns of the terminal, as `stty` tells them.
fn terminal_width() -> Option<usize> {
    let size =
        Command::new("stty").arg("size").stderr(Stdio::null()).stdin(Stdio::inherit()).output().ok()?;
    String::from_utf8(size.stdout).ok()?.split_whitespace().nth(1)?.parse().ok()
}

/// `30,212`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if used > 0 && used + 1 + length > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(line) = lines.last_mut() {
            if used > 0 {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
        }
        used += length;
    }
    lines
}
