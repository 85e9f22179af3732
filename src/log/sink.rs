//! The queue between those who log and standard error, and the thread that empties it.
//!
//! Nobody who logs ever waits for the writer: the lock is held only to move a line, never while one is written.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus::IntCounter;
use tracing_subscriber::fmt::MakeWriter;

/// Most bytes that wait to be written: some thousands of lines.
const QUEUED_BYTES_MAX: usize = 1024 * 1024;
/// Longer lines are dropped and counted: cut, a line of JSON would be none.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// How long a process that panics may take to say where.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Which control characters inside a line are escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Escape {
    All,
    /// Our own colours stay; the formatter lets a value's ESC through, so they are told apart here.
    AllButColours,
    /// As JSON spells them: the line stays an object.
    Json,
}

/// The writing side. Dropping it lets the thread end once the queue is empty.
pub(super) struct Sink(Arc<Queue>);

struct Queue {
    state: Mutex<State>,
    /// A line has arrived, or no more will.
    arrived: Condvar,
    /// Nothing waits and nothing is being written.
    idle: Condvar,
    dropped: IntCounter,
}

#[derive(Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    writing: bool,
    closed: bool,
}

impl Sink {
    /// Starts the thread that writes to `out`.
    pub(super) fn start(out: impl Write + Send + 'static, dropped: IntCounter) -> io::Result<Sink> {
        let queue = Arc::new(Queue {
            state: Mutex::default(),
            arrived: Condvar::new(),
            idle: Condvar::new(),
            dropped,
        });
        let theirs = Arc::clone(&queue);
        std::thread::Builder::new().name("log".into()).spawn(move || theirs.write_all(out))?;
        Ok(Sink(queue))
    }

    /// What a subscriber writes its lines to.
    pub(super) fn lines(&self, escape: Escape) -> Lines {
        Lines { queue: Arc::clone(&self.0), escape }
    }

    /// Waits until all lines are written, at most `deadline`.
    pub(super) fn flush(&self, deadline: Duration) {
        let state = self.0.lock();
        let busy = |state: &mut State| state.writing || !state.lines.is_empty();
        drop(self.0.idle.wait_timeout_while(state, deadline, busy).unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // The process is about to end, and what it says of that would be lost.
            self.flush(LAST_WORDS);
        }
        self.0.lock().closed = true;
        self.0.arrived.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, line: Vec<u8>) {
        let mut state = self.lock();
        if line.len() > LINE_BYTES_MAX || state.bytes + line.len() > QUEUED_BYTES_MAX {
            self.dropped.inc();
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        self.arrived.notify_one();
    }

    /// The thread: writes line after line. One that cannot be written is dropped and counted; perhaps the next one can.
    fn write_all(&self, mut out: impl Write) {
        let mut state = self.lock();
        loop {
            let Some(line) = state.lines.pop_front() else {
                self.idle.notify_all();
                if state.closed {
                    return;
                }
                state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            state.bytes -= line.len();
            state.writing = true;
            drop(state);
            if out.write_all(&line).and_then(|()| out.flush()).is_err() {
                self.dropped.inc();
            }
            state = self.lock();
            state.writing = false;
        }
    }
}

/// Takes whole lines from a subscriber.
#[derive(Clone)]
pub(super) struct Lines {
    queue: Arc<Queue>,
    escape: Escape,
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Lines;
    fn make_writer(&'a self) -> Lines {
        self.clone()
    }
}

/// The formatter hands over each event in one call, newline included.
impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.queue.push(escaped(line, self.escape));
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The line with its one newline at the end, and every other control character (C0, DEL, C1) spelled out.
fn escaped(line: &[u8], escape: Escape) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let mut clean = String::with_capacity(text.len() + 1);
    for (at, character) in text.char_indices() {
        let colour = escape == Escape::AllButColours && is_colour(&text[at..]);
        // The separators end a line for some readers.
        if (character.is_control() || matches!(character, '\u{2028}' | '\u{2029}')) && !colour {
            match escape {
                // All of them lie in the basic plane, so one escape holds each.
                Escape::Json => clean.push_str(&format!("\\u{:04x}", u32::from(character))),
                Escape::All | Escape::AllButColours => clean.extend(character.escape_default()),
            }
        } else {
            clean.push(character);
        }
    }
    clean.push('\n');
    clean.into_bytes()
}

/// Whether the text begins with one of the sequences that the formatter colours with. None of them hides text or moves the cursor.
fn is_colour(text: &str) -> bool {
    let parameter = text.strip_prefix("\u{1b}[").and_then(|rest| rest.split_once('m'));
    parameter
        .is_some_and(|(number, _)| matches!(number, "0" | "1" | "2" | "3" | "31" | "32" | "33" | "34" | "35"))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::mpsc;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// A writer whose bytes a test can read.
    #[derive(Clone, Default)]
    pub(in crate::log) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(in crate::log) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A pipe that nobody reads until the test opens it.
    struct Blocked {
        opens: mpsc::Receiver<()>,
        out: Captured,
    }

    impl Write for Blocked {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // An error means that it is open for good.
            let _opened = self.opens.recv();
            self.out.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Closed;

    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::BrokenPipe.into())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn counter() -> IntCounter {
        IntCounter::new("dropped", "dropped").unwrap()
    }

    #[test]
    fn a_blocked_output_drops_and_counts_lines_and_keeps_nobody_waiting() {
        let (opener, opens) = mpsc::channel();
        let (out, dropped) = (Captured::default(), counter());
        let sink = Sink::start(Blocked { opens, out: out.clone() }, dropped.clone()).unwrap();
        let mut lines = sink.lines(Escape::All);
        let line = [b"x".repeat(9_999), b"\n".to_vec()].concat();
        for _ in 0..200 {
            lines.write_all(&line).unwrap();
        }
        let kept = u64::try_from(QUEUED_BYTES_MAX / line.len()).unwrap();
        // The thread may have taken one line out of the queue already.
        assert!((200 - kept - 1..=200 - kept).contains(&dropped.get()), "{}", dropped.get());
        sink.flush(Duration::from_millis(1));
        assert_eq!(out.text(), "", "the deadline ends the wait");

        drop(opener);
        sink.flush(PATIENCE);
        assert_eq!(out.text().lines().count() as u64 + dropped.get(), 200, "each is written or counted");
    }

    #[test]
    fn a_closed_output_counts_every_line() {
        let dropped = counter();
        let sink = Sink::start(Closed, dropped.clone()).unwrap();
        let mut lines = sink.lines(Escape::All);
        for _ in 0..3 {
            lines.write_all(b"line\n").unwrap();
        }
        sink.flush(PATIENCE);
        assert_eq!(dropped.get(), 3);
    }
}
