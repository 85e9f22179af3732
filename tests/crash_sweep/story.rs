//! Plays one point from its beginning to its judgement.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pulumi_audit_forwarder::journal::sqlite::SqliteJournal;
use tokio::time::Instant;

use crate::calls;
use crate::durable;
use crate::judge;
use crate::lasting;
use crate::point::{Act, Fault, Place, Point, Series};
use crate::stage::{Fate, Play, Stage};
use crate::world::chance::Chance;

/// After a signal the process ends within its deadline for deliveries under way, and a moment.
const STOP: Duration = Duration::from_secs(11);
const NESTED_KILLS: usize = 5;

/// What became of a point that did not fail.
#[derive(Debug)]
pub enum Outcome {
    /// Calls of this kind went wrong, and everything was well in the end.
    Hit(Vec<String>),
    /// There was no such call: the series ends here.
    Untouched,
}

/// Plays a point.
///
/// # Errors
/// With what is wrong.
pub async fn play(stage: &mut Stage, point: Point) -> Result<Outcome, String> {
    let mut play = stage.play();
    let outcome = match point.series {
        Series::Call { act, place, fault } if fault.lasts() => {
            play_until(&mut play, act).await?;
            lasting::refused(&mut play, place, fault, point.number).await
        }
        Series::Call { act, fault: Fault::Torn, .. } => {
            play_until(&mut play, act).await?;
            torn(&mut play, act, point.number).await
        }
        Series::Call { act, place, fault } => {
            play_until(&mut play, act).await?;
            let fate = Fate { place, fault, number: point.number, while_there: None };
            one_fault(&mut play, act, &fate).await
        }
        Series::Nested => nested(&mut play, point.number).await,
        Series::Full => lasting::full(&mut play, point.number).await,
        Series::Limited => lasting::limited(&mut play, point.number).await,
    };
    if outcome.is_ok() {
        play.clear().await;
    }
    outcome
}

/// What comes before the run that meets its fault.
async fn play_until(play: &mut Play<'_>, act: Act) -> Result<(), String> {
    if act == Act::Second {
        let ended = play.act(Act::First, None).await;
        judge::of_the_end(Fault::Kill, false, &ended)?;
    }
    Ok(())
}

async fn one_fault(play: &mut Play<'_>, act: Act, fate: &Fate) -> Result<Outcome, String> {
    let ended = play.act(act, Some(fate)).await;
    let hit = judge::name_of_hit(&ended.calls);
    judge::of_the_end(fate.fault, hit.is_some(), &ended)?;
    if fate.fault == Fault::Term && hit.is_some() && ended.took > STOP {
        return Err(format!("it took {:?} to end after SIGTERM", ended.took));
    }
    let before = judge::after_the_fault(play, ended.log.as_deref()).await?;
    if fate.fault == Fault::Lost && hit.is_some() {
        let mut chance = Chance::seeded(fate.number);
        let (state, archive) = (play.paths().state.clone(), play.paths().archive_of(&play.id));
        let gone = durable::lose_power(&ended.calls, [&state, &archive], &mut chance);
        // What was lost may come again; what else was there must not change.
        let before = judge::after_the_fault(play, None).await?;
        let recovered = play.recover().await;
        judge::of_the_recovery(play, &recovered, &before, 1)
            .await
            .map_err(|error| format!("{error}\nlost were: {}", gone.join(", ")))?;
    } else {
        let recovered = play.recover().await;
        judge::of_the_recovery(play, &recovered, &before, usize::from(hit.is_some())).await?;
    }
    if fate.fault.kills() {
        judge::of_the_leftovers(play)?;
    }
    Ok(hit.map_or(Outcome::Untouched, |hit| Outcome::Hit(vec![hit])))
}

/// The process dies before the sync that makes a commit durable, and the log ends anywhere since the sync before.
async fn torn(play: &mut Play<'_>, act: Act, number: u64) -> Result<Outcome, String> {
    let fate = Fate { place: Place::Journal, fault: Fault::Torn, number, while_there: None };
    let ended = play.act(act, Some(&fate)).await;
    let hit = judge::name_of_hit(&ended.calls);
    judge::of_the_end(fate.fault, hit.is_some(), &ended)?;
    let before = judge::after_the_fault(play, ended.log.as_deref()).await?;
    let state = play.paths().state.clone();
    let open = durable::unsynced(&ended.calls, &state);
    let wal = durable::wal(&state);
    let end = std::fs::metadata(&wal).map_or(0, |found| found.len());
    let from = open.iter().map(|(offset, _)| *offset).min().unwrap_or(end).min(end);
    if hit.is_some() && from < end {
        let scratch = play.paths().root.join("scratch");
        durable::copy(&state, &scratch);
        let whole = durable::read(&scratch)?;
        let kept = durable::kept(&ended.calls, &state, &scratch)?;
        let lengths = lengths(from, end, play.stage.thorough);
        LENGTHS.fetch_add(lengths.len() as u64, Ordering::Relaxed);
        let lengths = every_length(&state, &scratch, lengths, &kept, &whole);
        let id = play.id.clone();
        tokio::task::spawn_blocking(lengths)
            .await
            .map_err(|_| format!("{id}: the lengths were cut off"))??;
        // The real binary starts on one of them.
        let length = from + Chance::seeded(number).below(end - from + 1);
        let file = std::fs::OpenOptions::new().write(true).open(&wal).expect("the log can be opened");
        file.set_len(length).expect("the log can be cut");
        durable::forget_index(&state);
    }
    let recovered = play.recover().await;
    judge::of_the_recovery(play, &recovered, &before, usize::from(hit.is_some())).await?;
    Ok(hit.map_or(Outcome::Untouched, |hit| Outcome::Hit(vec![format!("{hit}, log torn")])))
}

/// Lengths at which a log was cut, in this process.
pub static LENGTHS: AtomicU64 = AtomicU64::new(0);

/// A frame of the log: its header and a page.
const FRAME_HEADER: u64 = 24;
const FRAME: u64 = FRAME_HEADER + 8_192;
/// Prime, so that all sorts of places are met.
const STRIDE: usize = 509;

/// Every length in the last frame, which carries the commit, or of a spread those in its header; and some in the others.
fn lengths(from: u64, end: u64, thorough: bool) -> Vec<u64> {
    let last = end.saturating_sub(FRAME).max(from);
    let dense = if thorough { end } else { (last + FRAME_HEADER).min(end) };
    let some = (from..=end).step_by(STRIDE);
    let all: BTreeSet<u64> = some.chain(last..=dense).chain(end.saturating_sub(3).max(from)..=end).collect();
    all.into_iter().collect()
}

/// Opens the journal at each length, as the forwarder does. It must hold all of the commit or nothing of it.
fn every_length(
    state: &Path,
    scratch: &Path,
    lengths: Vec<u64>,
    kept: &durable::Kept,
    whole: &durable::Kept,
) -> impl FnOnce() -> Result<(), String> + Send + 'static {
    let (state, scratch) = (state.to_owned(), scratch.to_owned());
    let (kept, whole) =
        ((kept.claims.clone(), kept.keys.clone()), (whole.claims.clone(), whole.keys.clone()));
    move || {
        for length in lengths {
            durable::copy(&state, &scratch);
            let log = std::fs::OpenOptions::new().write(true).open(durable::wal(&scratch));
            log.and_then(|file| file.set_len(length)).map_err(|error| error.to_string())?;
            let opened = SqliteJournal::open(&scratch);
            drop(opened.map_err(|error| format!("with a log of {length} bytes: {error}"))?);
            let found = durable::read(&scratch)?;
            let found = (found.claims, found.keys);
            if found != kept && found != whole {
                return Err(format!("with a log of {length} bytes, a part of a commit is there"));
            }
        }
        Ok(())
    }
}

/// Killed again and again, during recovery as well.
async fn nested(play: &mut Play<'_>, seed: u64) -> Result<Outcome, String> {
    let mut chance = Chance::seeded(seed);
    let mut hits = Vec::new();
    let act = *chance.pick(&Act::ALL);
    play_until(play, act).await?;
    let begun = Instant::now();
    let mut most = 60;
    let mut before = None;
    while hits.len() < NESTED_KILLS {
        let place = *chance.pick(&Place::ALL);
        let fault = match Place::DISKS.contains(&place) {
            true => Fault::Kill,
            false => *chance.pick(&[Fault::Kill, Fault::After, Fault::Half]),
        };
        let few = if Place::DISKS.contains(&place) { most } else { 4 };
        let fate = Fate { place, fault, number: 1 + chance.below(few), while_there: None };
        let ended = play.act(act, Some(&fate)).await;
        let hit = judge::name_of_hit(&ended.calls);
        judge::of_the_end(fault, hit.is_some(), &ended)?;
        before = Some(judge::after_the_fault(play, ended.log.as_deref()).await?);
        match hit {
            Some(hit) => hits.push(hit),
            // It has less to do each time: earlier calls are taken. A run that had nothing to do is the end.
            None if most == 1 => break,
            None => most = (most / 2).max(1),
        }
        if begun.elapsed() > Duration::from_secs(120) {
            return Err("it does not come to an end".to_owned());
        }
    }
    let recovered = play.recover().await;
    let before = before.ok_or("nothing was killed")?;
    judge::of_the_recovery(play, &recovered, &before, hits.len()).await?;
    Ok(Outcome::Hit(hits))
}

/// The script without a fault: how many calls there are to make go wrong, and proof that the shim sees all of them.
pub struct Recorded {
    pub counts: Vec<(Series, u64)>,
    /// Calls that strace saw as well.
    pub agreed: usize,
    pub seconds: f64,
}

/// Plays the script once under the shim and strace together, and counts.
///
/// # Errors
/// When something is wrong even so, or the two disagree.
pub async fn record(stage: &mut Stage) -> Result<Recorded, String> {
    let mut play = stage.play();
    let addresses = play.addresses();
    let (mut agreed, mut counts, mut seconds) = (0, Vec::new(), 0.0);
    for act in Act::ALL {
        let trace: PathBuf = play.paths().root.join("trace");
        let ended = play.traced(act, &trace).await;
        judge::of_the_end(Fault::Kill, false, &ended)?;
        let traced =
            std::fs::read_to_string(&trace).map_err(|error| format!("strace wrote nothing: {error}"))?;
        agreed += calls::compare(&ended.calls, &traced, &addresses)?;
        seconds += ended.took.as_secs_f64();
        for series in Series::all() {
            if let Series::Call { act: of, place, fault } = series
                && of == act
            {
                counts.push((series, calls::count(&ended.calls, place, fault.calls())));
            }
        }
    }
    let before = judge::after_the_fault(&play, None).await?;
    judge::of_the_archive(&play, &before, 0, play.now).await?;
    judge::of_the_script(&play).await?;
    play.clear().await;
    Ok(Recorded { counts, agreed, seconds })
}
