//! The transactions: what each call of [`crate::journal::Journal`] reads, checks and writes, once it has the database.
//!
//! They neither begin nor commit ([`super::store`] does), so a failure anywhere leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{OptionalExtension, Transaction, params};

use super::fault::Fault;
use super::rows::{self, LaneRow, Meta, OrgRow, number, stored};
use crate::chunk::{Chunk, Link};
use crate::clock::Second;
use crate::coverage::Coverage;
use crate::destination::{DestinationName, RowId};
use crate::event::OrgId;
use crate::journal::decision::{Action, Decision};
use crate::journal::{
    Acknowledge, Append, JournalError, OrgState, Outstanding, PROVISIONAL_ROWS_MAX, QUARANTINE_ROWS_MAX,
    TIMELESS_MINUTE, Usage, WINDOWS_KEPT,
};

/// Opens an org and makes `lanes` its configured ones.
pub(super) fn open(t: &Transaction<'_>, id: &OrgId, lanes: &[DestinationName]) -> Result<OrgState, Fault> {
    let mut org = match OrgRow::read(t, id)? {
        Some(org) => org,
        None => OrgRow::create(t, id)?,
    };
    let (state, changed) = state(t, &org, lanes)?;
    if !changed.is_empty() {
        let known = LaneRow::all(t, &org)?;
        for lane in changed {
            org.lanes += u64::from(!known.contains_key(&lane.destination));
            lane.write(t, &org)?;
        }
        org.write(t)?;
    }
    Ok(state)
}

/// What [`open`] would answer; changes nothing.
pub(super) fn look(t: &Transaction<'_>, id: &OrgId, lanes: &[DestinationName]) -> Result<OrgState, Fault> {
    if let Some(org) = OrgRow::read(t, id)? {
        return state(t, &org, lanes).map(|(state, _)| state);
    }
    let lanes: BTreeMap<DestinationName, u64> = lanes.iter().map(|lane| (*lane, 0)).collect();
    Ok(OrgState {
        revision: 0,
        instance: Meta::read(t)?.instance,
        start: None,
        coverage: Coverage::default(),
        next: 0,
        link: Link::FIRST,
        tally_floor: None,
        added: lanes.clone().into_iter().collect(),
        checkpoints: lanes,
    })
}

/// The org's state with `lanes` as its configured ones, and the lanes' rows that have to be written for that. All that can be
/// checked without reading every body is checked here.
fn state(
    t: &Transaction<'_>,
    org: &OrgRow,
    lanes: &[DestinationName],
) -> Result<(OrgState, Vec<LaneRow>), Fault> {
    rows::verify_tally(t, org)?;
    rows::verify_chunks(t, org)?;
    let wanted: BTreeSet<DestinationName> = lanes.iter().copied().collect();
    let mut known = LaneRow::all(t, org)?;
    let mut checkpoints = BTreeMap::new();
    let mut added = Vec::new();
    let mut changed = Vec::new();
    for destination in &wanted {
        let lane = known.remove(destination);
        let was = lane.as_ref().map(|lane| (lane.checkpoint, lane.configured));
        let mut lane = lane.unwrap_or(LaneRow {
            destination: *destination,
            checkpoint: org.oldest,
            configured: true,
            quarantined: 0,
        });
        // A lane that was away may find its next chunk pruned.
        if was.is_none_or(|(checkpoint, _)| checkpoint < org.oldest) {
            lane.checkpoint = org.oldest;
            added.push((*destination, org.oldest));
        }
        lane.configured = true;
        checkpoints.insert(*destination, lane.checkpoint);
        if was != Some((lane.checkpoint, true)) {
            changed.push(lane);
        }
    }
    changed.extend(
        known.into_values().filter(|lane| lane.configured).map(|lane| LaneRow { configured: false, ..lane }),
    );
    let state = OrgState {
        revision: org.revision,
        instance: Meta::read(t)?.instance,
        start: org.start,
        coverage: org.coverage(t)?,
        next: org.next,
        link: org.link,
        tally_floor: org.tally_floor,
        checkpoints,
        added,
    };
    Ok((state, changed))
}

pub(super) fn append(t: &Transaction<'_>, id: &OrgId, append: &Append) -> Result<(), Fault> {
    let mut org = OrgRow::known(t, id)?;
    if append.revision != org.revision {
        return Err(Fault::conflict(format!(
            "`{id}` is at revision {}, and this was decided at {}",
            org.revision, append.revision
        )));
    }
    for chunk in &append.chunks {
        if chunk.id != *id || chunk.number != org.next || chunk.previous != org.link {
            return Err(Fault::conflict(format!(
                "chunk {} of `{}` does not continue the chain of `{id}`, whose next is {}",
                chunk.number, chunk.id, org.next
            )));
        }
        rows::insert_chunk(t, &org, chunk, append.now)?;
        org.next += 1;
        org.link = Link::of_claim(&chunk.claim);
    }
    for page in &append.tally {
        rows::put_page(t, &mut org, page)?;
    }
    org.tally_floor = org.tally_floor.max(append.tally_floor);
    if let Some(floor) = org.tally_floor {
        // A minute lies wholly before the floor when the next one begins at or before it.
        rows::delete_pages(t, &mut org, TIMELESS_MINUTE + 1, floor.0.div_euclid(60))?;
    }
    if let Some(record) = &append.window {
        let this = rows::after_newest(t, "sweep", &org)?;
        t.prepare_cached(
            "INSERT INTO sweep (org, number, window_from, window_until, kind, read_at, seen, new) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        )?
        .execute(params![
            org.org,
            this,
            record.window.from.0,
            record.window.until.0,
            record.kind,
            record.read_at.0,
            stored(record.seen),
            stored(record.new),
        ])?;
        t.prepare_cached("DELETE FROM sweep WHERE org = ?1 AND number <= ?2")?
            .execute(params![org.org, this.saturating_sub(i64::from(WINDOWS_KEPT))])?;
    }
    org.start = append.start.or(org.start);
    org.revision += 1;
    org.set_coverage(t, &append.coverage)?;
    org.write(t)
}

pub(super) fn chunk(t: &Transaction<'_>, id: &OrgId, number: u64) -> Result<Option<Chunk>, Fault> {
    match OrgRow::read(t, id)? {
        Some(org) if (org.oldest..org.next).contains(&number) => rows::read_chunk(t, &org, number).map(Some),
        _ => Ok(None),
    }
}

pub(super) fn acknowledge(t: &Transaction<'_>, id: &OrgId, acknowledge: &Acknowledge) -> Result<(), Fault> {
    let Acknowledge { destination, chunk, receipt, now } = acknowledge;
    let org = OrgRow::known(t, id)?;
    let mut lane = LaneRow::all(t, &org)?
        .remove(destination)
        .ok_or_else(|| Fault::conflict(format!("`{id}` has no lane `{destination}`")))?;
    if lane.checkpoint != *chunk || *chunk >= org.next {
        return Err(Fault::conflict(format!(
            "lane `{destination}` of `{id}` is at chunk {} of {}, and {chunk} was acknowledged",
            lane.checkpoint, org.next
        )));
    }
    if receipt.confirms {
        t.prepare_cached(
            "UPDATE quarantine SET provisional = 0 WHERE org = ?1 AND destination = ?2 AND provisional = 1",
        )?
        .execute(params![org.org, destination.as_str()])?;
    }
    let gone = receipt.released.iter().chain(receipt.quarantined.iter().map(|refusal| &refusal.at));
    for at in gone {
        let removed = t
            .prepare_cached(
                "DELETE FROM quarantine WHERE org = ?1 AND destination = ?2 AND chunk = ?3 AND row = ?4",
            )?
            .execute(params![org.org, destination.as_str(), stored(at.chunk), at.row])?;
        lane.quarantined = lane.quarantined.saturating_sub(removed as u64);
    }
    for refusal in &receipt.quarantined {
        if lane.quarantined >= QUARANTINE_ROWS_MAX {
            return Err(Fault::Journal(JournalError::Full(format!(
                "the quarantine of lane `{destination}` of `{id}` has {QUARANTINE_ROWS_MAX} rows, and no room for those of chunk {chunk}"
            ))));
        }
        rows::insert_refusal(t, &org, *destination, refusal)?;
        lane.quarantined += 1;
    }
    t.prepare_cached(
        "INSERT OR REPLACE INTO receipt (org, destination, chunk, at, status, reference, rows, bytes) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        org.org,
        destination.as_str(),
        stored(*chunk),
        now.0,
        receipt.status,
        receipt.reference,
        receipt.rows,
        stored(receipt.bytes),
    ])?;
    t.prepare_cached("DELETE FROM receipt WHERE org = ?1 AND destination = ?2 AND chunk <= ?3")?.execute(
        params![org.org, destination.as_str(), stored(*chunk).saturating_sub(i64::from(WINDOWS_KEPT))],
    )?;
    lane.checkpoint += 1;
    lane.write(t, &org)
}

/// A person's word about rows in quarantine, with its line in the record. Returns how many rows are left.
pub(super) fn decide(t: &Transaction<'_>, id: &OrgId, decision: &Decision) -> Result<u64, Fault> {
    let destination = decision.destination;
    let org = OrgRow::known(t, id)?;
    let mut lane = LaneRow::all(t, &org)?
        .remove(&destination)
        .ok_or_else(|| Fault::conflict(format!("`{id}` has no lane `{destination}`")))?;
    let sql = match decision.action {
        Action::Retry => {
            "UPDATE quarantine SET provisional = 1 WHERE org = ?1 AND destination = ?2 AND chunk = ?3 AND row = ?4"
        }
        Action::Drop => {
            "DELETE FROM quarantine WHERE org = ?1 AND destination = ?2 AND chunk = ?3 AND row = ?4"
        }
    };
    let mut statement = t.prepare_cached(sql)?;
    for RowId { chunk, row } in &decision.rows {
        if decision.action == Action::Retry && *chunk < org.oldest {
            return Err(Fault::conflict(format!("chunk {chunk} of `{id}` is no longer kept")));
        }
        let found = statement.execute(params![org.org, destination.as_str(), stored(*chunk), row])?;
        if found != 1 {
            return Err(Fault::conflict(format!(
                "row {row} of chunk {chunk} of `{id}` is not in quarantine for `{destination}`"
            )));
        }
    }
    match decision.action {
        Action::Retry => {
            let waiting: i64 = t
                .prepare_cached(
                    "SELECT count(*) FROM quarantine WHERE org = ?1 AND destination = ?2 AND provisional = 1",
                )?
                .query_row(params![org.org, destination.as_str()], |row| row.get(0))?;
            if waiting > i64::from(PROVISIONAL_ROWS_MAX) {
                return Err(Fault::conflict(format!(
                    "{waiting} rows of `{id}` would wait to be sent again, and {PROVISIONAL_ROWS_MAX} may: \
                     start the daemon, and ask for the others when it has sent these"
                )));
            }
        }
        Action::Drop => {
            lane.quarantined = lane.quarantined.saturating_sub(decision.rows.len() as u64);
            lane.write(t, &org)?;
        }
    }
    rows::insert_decision(t, &org, decision)?;
    Ok(lane.quarantined)
}

pub(super) fn outstanding(
    t: &Transaction<'_>,
    id: &OrgId,
    destination: DestinationName,
) -> Result<Outstanding, Fault> {
    let Some(org) = OrgRow::read(t, id)? else { return Ok(Outstanding::default()) };
    let lane = LaneRow::all(t, &org)?.remove(&destination);
    // A lane that is not there yet would start at the oldest chunk kept.
    let (checkpoint, quarantined) =
        lane.map_or((org.oldest, 0), |lane| (lane.checkpoint.max(org.oldest), lane.quarantined));
    let (events, first): (i64, Option<i64>) = t
        .prepare_cached(
            "SELECT coalesce(sum(count), 0), min(first) FROM chunk INDEXED BY chunk_sizes \
             WHERE org = ?1 AND number >= ?2",
        )?
        .query_row(params![org.org, stored(checkpoint)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Outstanding {
        chunks: org.next.saturating_sub(checkpoint),
        events: number(events)?,
        first: first.map(Second),
        quarantined,
    })
}

/// The first chunk that some configured lane has still to deliver. Without a configured lane nothing counts as delivered.
fn held_from(t: &Transaction<'_>, org: &OrgRow) -> Result<Option<u64>, Fault> {
    Ok(LaneRow::all(t, org)?.into_values().filter(|lane| lane.configured).map(|lane| lane.checkpoint).min())
}

/// All bytes kept, and those from chunk `from` on, in one pass.
fn bytes(t: &Transaction<'_>, org: &OrgRow, from: u64) -> Result<(u64, u64), Fault> {
    let (all, later): (i64, i64) = t
        .prepare_cached(
            "SELECT coalesce(sum(bytes), 0), coalesce(sum(bytes) FILTER (WHERE number >= ?2), 0) \
             FROM chunk INDEXED BY chunk_sizes WHERE org = ?1",
        )?
        .query_row(params![org.org, stored(from)], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok((number(all)?, number(later)?))
}

pub(super) fn usage(t: &Transaction<'_>, id: &OrgId) -> Result<Usage, Fault> {
    let Some(org) = OrgRow::read(t, id)? else { return Ok(Usage::default()) };
    let (bytes, unacknowledged_bytes) = bytes(t, &org, held_from(t, &org)?.unwrap_or(org.next))?;
    Ok(Usage { chunks: org.next.saturating_sub(org.oldest), bytes, unacknowledged_bytes })
}

/// Deletes at most `limit` chunks, so that no transaction grows without bound.
pub(super) fn prune(
    t: &Transaction<'_>,
    id: &OrgId,
    before: Second,
    bytes_max: u64,
    limit: u64,
) -> Result<u64, Fault> {
    let mut org = OrgRow::known(t, id)?;
    let held = held_from(t, &org)?.unwrap_or(org.oldest);
    let first = org.oldest;
    let (mut bytes, _) = bytes(t, &org, first)?;
    while org.oldest < held.min(first.saturating_add(limit)) {
        let found: Option<(i64, i64)> = t
            .prepare_cached("SELECT appended, bytes FROM chunk WHERE org = ?1 AND number = ?2")?
            .query_row(params![org.org, stored(org.oldest)], |row| Ok((row.get(0)?, row.get(1)?)))
            .optional()?;
        let Some((appended, size)) = found else {
            return Err(Fault::damaged(format!("chunk {} of `{id}` is missing", org.oldest)));
        };
        if Second(appended) >= before && bytes <= bytes_max {
            break;
        }
        bytes = bytes.saturating_sub(number(size)?);
        org.oldest += 1;
    }
    if org.oldest > first {
        for table in ["chunk", "body"] {
            t.prepare_cached(&format!("DELETE FROM {table} WHERE org = ?1 AND number < ?2"))?
                .execute(params![org.org, stored(org.oldest)])?;
        }
        org.write(t)?;
    }
    Ok(org.oldest - first)
}
