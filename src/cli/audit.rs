//! `audit`: the record of who did what to this forwarder, and whether it is whole. It changes nothing.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write};

use anyhow::{Context, anyhow};

use super::{AuditFlags, Exit, Failure, Global};
use crate::audit::{self, Checked, Line};
use crate::report::words::clean;

/// Lines that are shown without `--all`.
const SHOWN: usize = 50;

pub(super) fn audit(
    global: &Global,
    flags: &AuditFlags,
    out: &mut (dyn Write + Send),
) -> Result<Exit, Failure> {
    let settings = global.load_without_secrets()?.settings;
    let path = settings.state_dir.join(audit::FILE);
    let most = if flags.all { usize::MAX } else { SHOWN };
    let mut newest = VecDeque::new();
    let checked = audit::check(&path, |line| {
        newest.push_back(line.clone());
        if newest.len() > most {
            newest.pop_front();
        }
    });
    let Checked { head, wrong, cut_off } = match checked {
        Ok(checked) => checked,
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(
                anyhow!("there is no record at {}: the daemon has not started yet", path.display()).into()
            );
        }
        Err(error) => {
            return Err(Failure::from(anyhow::Error::from(error).context(path.display().to_string())));
        }
    };
    for line in &newest {
        if flags.json {
            writeln!(out, "{}", serde_json::to_string(line).context("a line")?)?;
        } else {
            writeln!(out, "{}", said(line))?;
        }
    }
    if let Some((at, what)) = wrong {
        return Err(anyhow!("line {at} of {} does not follow: {what}", path.display()).into());
    }
    if !flags.json {
        let cut = match cut_off {
            0 => String::new(),
            count => format!(", {count} of them cut off by a crash"),
        };
        writeln!(out, "{} lines{cut}, each follows the one before it; head {}", head.lines, head.sha256)?;
    }
    Ok(Exit::Done)
}

fn said(line: &Line) -> String {
    let act = serde_json::to_value(line.act).ok();
    let act = act.as_ref().and_then(|act| act.as_str()).unwrap_or_default().replace('_', " ");
    let org = line.org.as_deref().map(|org| format!("{}: ", clean(org))).unwrap_or_default();
    let changed = line.changed.iter().map(|name| clean(name)).collect::<Vec<_>>().join(", ");
    format!("{}  {act:18} {}  {org}{changed}", clean(&line.time), clean(&line.who)).trim_end().to_owned()
}
