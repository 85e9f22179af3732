//! The steps of putting an org's state back from its archive, inside a transaction.

use rusqlite::{Transaction, params};

use super::fault::Fault;
use super::rows::{self, LaneRow, OrgRow, stored};
use crate::chunk::Link;
use crate::coverage::Coverage;
use crate::event::OrgId;
use crate::journal::restore::{Begin, MARK, Part, Restore, Restored};

pub(super) fn restore(t: &Transaction<'_>, id: &OrgId, steps: &[Restore]) -> Result<(), Fault> {
    for step in steps {
        let mut org = OrgRow::known(t, id)?;
        match step {
            Restore::Begin(step) => begin(t, &mut org, step)?,
            Restore::Part(step) => part(t, &mut org, step)?,
            Restore::Done(step) => done(t, &mut org, step)?,
        }
        org.write(t)?;
    }
    Ok(())
}

fn begin(t: &Transaction<'_>, org: &mut OrgRow, begin: &Begin) -> Result<(), Fault> {
    let Begin { next, link, mark } = begin;
    let keeps = org.oldest < *next && *next <= org.next;
    let first_gone = if keeps { *next } else { 0 };
    if keeps && Link::of_claim(&rows::read_chunk(t, org, next - 1)?.claim) != *link {
        return Err(Fault::conflict(format!("chunk {next} does not continue what is kept of `{}`", org.id)));
    }
    for table in ["chunk", "body"] {
        t.prepare_cached(&format!("DELETE FROM {table} WHERE org = ?1 AND number >= ?2"))?
            .execute(params![org.org, stored(first_gone)])?;
    }
    rows::delete_pages(t, org, i64::MIN, i64::MAX)?;
    let mut lanes = LaneRow::all(t, org)?;
    for lane in lanes.values_mut() {
        lane.checkpoint = lane.checkpoint.min(*next);
        let at = params![org.org, lane.destination.as_str(), stored(*next)];
        let gone = t
            .prepare_cached("DELETE FROM quarantine WHERE org = ?1 AND destination = ?2 AND chunk >= ?3")?
            .execute(at)?;
        lane.quarantined = lane.quarantined.saturating_sub(gone as u64);
        t.prepare_cached("DELETE FROM receipt WHERE org = ?1 AND destination = ?2 AND chunk >= ?3")?
            .execute(at)?;
        lane.write(t, org)?;
    }
    org.oldest = if keeps { org.oldest } else { *next };
    (org.next, org.link) = (*next, *link);
    (org.start, org.tally_floor) = (None, None);
    org.revision += 1;
    org.set_coverage(t, &Coverage::default())?;
    rows::set_note(t, org, MARK, Some(mark))
}

fn part(t: &Transaction<'_>, org: &mut OrgRow, part: &Part) -> Result<(), Fault> {
    marked(t, org)?;
    for chunk in &part.chunks {
        if chunk.id != org.id || chunk.number != org.next || chunk.previous != org.link {
            return Err(Fault::conflict(format!(
                "chunk {} does not continue what is kept of `{}`, whose next is {}",
                chunk.number, org.id, org.next
            )));
        }
        rows::insert_chunk(t, org, chunk, part.now)?;
        org.next += 1;
        org.link = Link::of_claim(&chunk.claim);
    }
    part.tally.iter().try_for_each(|page| rows::put_page(t, org, page))
}

fn done(t: &Transaction<'_>, org: &mut OrgRow, restored: &Restored) -> Result<(), Fault> {
    marked(t, org)?;
    if restored.next != org.next || restored.checkpoints.values().any(|next| *next > org.next) {
        return Err(Fault::conflict(format!(
            "not all of `{}` is put back before chunk {}",
            org.id, restored.next
        )));
    }
    org.start = restored.start;
    org.tally_floor = restored.tally_floor;
    org.revision += 1;
    org.set_coverage(t, &restored.coverage)?;
    let mut lanes = LaneRow::all(t, org)?;
    for (destination, checkpoint) in &restored.checkpoints {
        let checkpoint = (*checkpoint).max(org.oldest);
        let lane = lanes.remove(destination);
        org.lanes += u64::from(lane.is_none());
        let lane = lane.unwrap_or(LaneRow {
            destination: *destination,
            checkpoint,
            configured: false,
            quarantined: 0,
        });
        LaneRow { checkpoint, ..lane }.write(t, org)?;
    }
    rows::set_note(t, org, MARK, None)
}

fn marked(t: &Transaction<'_>, org: &OrgRow) -> Result<(), Fault> {
    match rows::note(t, org, MARK)? {
        Some(_) => Ok(()),
        None => Err(Fault::conflict(format!("nothing of `{}` is being put back", org.id))),
    }
}
