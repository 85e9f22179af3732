//! Faults that a test has queued: which request meets which, and how often.

use std::fmt::Debug;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    Next(u32),
    /// Lets so many requests pass first: `After(2, 1)` meets the third one only.
    After(u32, u32),
    UntilCleared,
}

/// A list of faults, each with the requests it is for (`scope`) and how often it strikes. The first that fits strikes.
#[derive(Debug)]
pub struct Script<S, F> {
    lines: Vec<Line<S, F>>,
}

#[derive(Debug)]
struct Line<S, F> {
    scope: S,
    fault: F,
    skip: u32,
    left: Option<u32>,
}

impl<S, F> Default for Script<S, F> {
    fn default() -> Self {
        Self { lines: Vec::new() }
    }
}

impl<S, F: Clone> Script<S, F> {
    pub fn push(&mut self, scope: S, fault: F, times: Times) {
        let (skip, left) = match times {
            Times::Next(n) => (0, Some(n)),
            Times::After(skip, n) => (skip, Some(n)),
            Times::UntilCleared => (0, None),
        };
        self.lines.push(Line { scope, fault, skip, left });
    }

    pub fn strike(&mut self, fits: impl Fn(&S, &F) -> bool) -> Option<F> {
        self.lines.retain(|line| line.left != Some(0));
        for line in self.lines.iter_mut().filter(|line| fits(&line.scope, &line.fault)) {
            if line.skip > 0 {
                line.skip -= 1;
                continue;
            }
            if let Some(left) = &mut line.left {
                *left -= 1;
            }
            return Some(line.fault.clone());
        }
        None
    }

    /// Whether any may still strike.
    pub fn is_armed(&self) -> bool {
        self.lines.iter().any(|line| line.left != Some(0))
    }

    pub fn clear(&mut self, which: impl Fn(&S) -> bool) {
        self.lines.retain(|line| !which(&line.scope));
    }
}
