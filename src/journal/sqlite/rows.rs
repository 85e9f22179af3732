//! Rows that decisions rest on, with their checksums: a row that does not match is never returned.
//!
//! *Why an org's row counts its lanes and digests its tally:* a flipped bit in a key makes a row disappear, and an absent row has no
//! checksum to fail. An absent lane would be delivered again from the start, an absent page would make old events new.

use std::collections::BTreeMap;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::checksum::Checksum;
use super::fault::Fault;
use crate::chunk::{Chunk, Link, Mode};
use crate::clock::{Second, Window};
use crate::coverage::{Coverage, Span};
use crate::destination::{DestinationName, QuarantineReason, Refusal, RowId};
use crate::event::OrgId;
use crate::journal::decision::{Action, DECISIONS_KEPT, Decision};
use crate::journal::{PROVISIONAL_ROWS_MAX, Quarantined, TallyPage};

/// Numbers as SQLite holds them. None of ours comes near the end.
pub(super) fn stored(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

pub(super) fn number(stored: i64) -> Result<u64, Fault> {
    u64::try_from(stored).map_err(|_| Fault::damaged(format!("{stored} stands where a count should")))
}

fn seconds(at: Option<i64>) -> Option<Second> {
    at.map(Second)
}

fn bytes_32(bytes: &[u8], what: &str) -> Result<[u8; 32], Fault> {
    bytes.try_into().map_err(|_| Fault::damaged(format!("{what} is not 32 bytes long")))
}

fn mismatch(what: impl std::fmt::Display, org: &OrgId) -> Fault {
    Fault::damaged(format!("{what} of `{org}` does not match its checksum"))
}

/// What belongs to the state directory as a whole.
pub(super) struct Meta {
    pub(super) instance: String,
    orgs: u64,
}

impl Meta {
    pub(super) fn create(connection: &Connection) -> Result<(), Fault> {
        // SQLite seeds its generator from the system's.
        let instance: String =
            connection.query_row("SELECT lower(hex(randomblob(16)))", [], |row| row.get(0))?;
        let meta = Meta { instance, orgs: 0 };
        connection.execute(
            "INSERT INTO journal (one, instance, orgs, sum) VALUES (1, ?1, 0, ?2)",
            params![meta.instance, meta.sum()],
        )?;
        Ok(())
    }

    pub(super) fn read(connection: &Connection) -> Result<Meta, Fault> {
        let found: Option<(String, i64, i64)> = connection
            .prepare_cached("SELECT instance, orgs, sum FROM journal WHERE one = 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))
            .optional()?;
        let Some((instance, orgs, sum)) = found else {
            return Err(Fault::damaged("`journal.db` has lost its name".to_owned()));
        };
        let meta = Meta { instance, orgs: number(orgs)? };
        match meta.sum() == sum {
            true => Ok(meta),
            false => Err(Fault::damaged("the name of `journal.db` does not match its checksum".to_owned())),
        }
    }

    fn sum(&self) -> i64 {
        Checksum::new("journal", "").bytes(self.instance.as_bytes()).integer(stored(self.orgs)).finish()
    }

    fn add_org(mut self, connection: &Connection) -> Result<(), Fault> {
        self.orgs += 1;
        connection
            .prepare_cached("UPDATE journal SET orgs = ?1, sum = ?2 WHERE one = 1")?
            .execute(params![stored(self.orgs), self.sum()])?;
        Ok(())
    }
}

/// Every org's own row, and that none is missing: done at each opening, before anything is decided.
pub(super) fn verify(connection: &Connection) -> Result<(), Fault> {
    let meta = Meta::read(connection)?;
    let orgs = OrgRow::all(connection)?;
    if orgs.len() as u64 != meta.orgs {
        return Err(Fault::damaged(format!(
            "{} orgs were recorded, and {} are there",
            meta.orgs,
            orgs.len()
        )));
    }
    Ok(())
}

/// An org's row; its coverage stands in a table of its own, because most transactions do not change it.
#[derive(Clone, Debug)]
pub(super) struct OrgRow {
    /// Stands for the id in the other tables.
    pub(super) org: i64,
    pub(super) id: OrgId,
    pub(super) revision: u64,
    pub(super) start: Option<Second>,
    /// The oldest chunk kept; `next` when none is.
    pub(super) oldest: u64,
    pub(super) next: u64,
    pub(super) link: Link,
    pub(super) tally_floor: Option<Second>,
    /// All tally pages' entries, XORed.
    pub(super) tally_digest: i64,
    coverage_sum: i64,
    /// How many rows `lane` holds for it.
    pub(super) lanes: u64,
}

const ORG_COLUMNS: &str =
    "org, id, revision, start, oldest, next, link, tally_floor, tally_digest, coverage_sum, lanes, sum";

impl OrgRow {
    pub(super) fn read(connection: &Connection, id: &OrgId) -> Result<Option<OrgRow>, Fault> {
        let mut statement =
            connection.prepare_cached(&format!("SELECT {ORG_COLUMNS} FROM org WHERE id = ?1"))?;
        let mut rows = statement.query([id.as_str()])?;
        rows.next()?.map(OrgRow::from_row).transpose()
    }

    /// As [`OrgRow::read`], where the caller must have opened the org.
    pub(super) fn known(connection: &Connection, id: &OrgId) -> Result<OrgRow, Fault> {
        OrgRow::read(connection, id)?.ok_or_else(|| Fault::conflict(format!("`{id}` has not been opened")))
    }

    pub(super) fn all(connection: &Connection) -> Result<Vec<OrgRow>, Fault> {
        let mut statement =
            connection.prepare_cached(&format!("SELECT {ORG_COLUMNS} FROM org ORDER BY id"))?;
        let mut rows = statement.query([])?;
        let mut orgs = Vec::new();
        while let Some(row) = rows.next()? {
            orgs.push(OrgRow::from_row(row)?);
        }
        Ok(orgs)
    }

    fn from_row(row: &Row<'_>) -> Result<OrgRow, Fault> {
        let id: String = row.get(1)?;
        let id =
            OrgId::new(&id).map_err(|_| Fault::damaged("an org's row has an impossible id".to_owned()))?;
        let link: Vec<u8> = row.get(6)?;
        let found = OrgRow {
            org: row.get(0)?,
            revision: number(row.get(2)?)?,
            start: seconds(row.get(3)?),
            oldest: number(row.get(4)?)?,
            next: number(row.get(5)?)?,
            link: Link(bytes_32(&link, "an org's link")?),
            tally_floor: seconds(row.get(7)?),
            tally_digest: row.get(8)?,
            coverage_sum: row.get(9)?,
            lanes: number(row.get(10)?)?,
            id,
        };
        match found.sum() == row.get::<_, i64>(11)? {
            true => Ok(found),
            false => Err(mismatch("the state", &found.id)),
        }
    }

    pub(super) fn create(connection: &Connection, id: &OrgId) -> Result<OrgRow, Fault> {
        let meta = Meta::read(connection)?;
        let mut row = OrgRow {
            org: stored(meta.orgs) + 1,
            id: id.clone(),
            revision: 0,
            start: None,
            oldest: 0,
            next: 0,
            link: Link::FIRST,
            tally_floor: None,
            tally_digest: 0,
            coverage_sum: 0,
            lanes: 0,
        };
        connection.execute(
            &format!("INSERT INTO org ({ORG_COLUMNS}) VALUES (?1, ?2, 0, NULL, 0, 0, ?3, NULL, 0, 0, 0, 0)"),
            params![row.org, id.as_str(), row.link.0],
        )?;
        row.set_coverage(connection, &Coverage::default())?;
        row.write(connection)?;
        meta.add_org(connection)?;
        Ok(row)
    }

    pub(super) fn write(&self, connection: &Connection) -> Result<(), Fault> {
        connection
            .prepare_cached(
                "UPDATE org SET revision = ?2, start = ?3, oldest = ?4, next = ?5, link = ?6, tally_floor = ?7, \
                 tally_digest = ?8, coverage_sum = ?9, lanes = ?10, sum = ?11 WHERE org = ?1",
            )?
            .execute(params![
                self.org,
                stored(self.revision),
                self.start.map(|at| at.0),
                stored(self.oldest),
                stored(self.next),
                self.link.0,
                self.tally_floor.map(|at| at.0),
                self.tally_digest,
                self.coverage_sum,
                stored(self.lanes),
                self.sum(),
            ])?;
        Ok(())
    }

    fn sum(&self) -> i64 {
        Checksum::of("org", &self.id)
            .integer(self.org)
            .integer(stored(self.revision))
            .second(self.start)
            .integer(stored(self.oldest))
            .integer(stored(self.next))
            .bytes(&self.link.0)
            .second(self.tally_floor)
            .integer(self.tally_digest)
            .integer(self.coverage_sum)
            .integer(stored(self.lanes))
            .finish()
    }

    pub(super) fn coverage(&self, connection: &Connection) -> Result<Coverage, Fault> {
        let spans: Option<String> = connection
            .prepare_cached("SELECT spans FROM coverage WHERE org = ?1")?
            .query_row([self.org], |row| row.get(0))
            .optional()?;
        let Some(spans) = spans.filter(|spans| self.sum_of_coverage(spans) == self.coverage_sum) else {
            return Err(mismatch("the coverage", &self.id));
        };
        serde_json::from_str::<Vec<Span>>(&spans)
            .ok()
            .and_then(|spans| Coverage::from_spans(spans).ok())
            .ok_or_else(|| Fault::damaged(format!("the coverage of `{}` is out of order", self.id)))
    }

    /// The org's own row must be written afterwards: it holds the checksum.
    pub(super) fn set_coverage(&mut self, connection: &Connection, coverage: &Coverage) -> Result<(), Fault> {
        let spans = serde_json::to_string(coverage)
            .map_err(|error| Fault::conflict(format!("coverage that has no JSON form: {error}")))?;
        connection
            .prepare_cached("INSERT OR REPLACE INTO coverage (org, spans) VALUES (?1, ?2)")?
            .execute(params![self.org, spans])?;
        self.coverage_sum = self.sum_of_coverage(&spans);
        Ok(())
    }

    fn sum_of_coverage(&self, spans: &str) -> i64 {
        Checksum::of("coverage", &self.id).bytes(spans.as_bytes()).finish()
    }
}

/// A lane's row.
#[derive(Clone, Debug)]
pub(super) struct LaneRow {
    pub(super) destination: DestinationName,
    pub(super) checkpoint: u64,
    pub(super) configured: bool,
    pub(super) quarantined: u64,
}

impl LaneRow {
    /// All lanes the org ever had.
    pub(super) fn all(
        connection: &Connection,
        org: &OrgRow,
    ) -> Result<BTreeMap<DestinationName, LaneRow>, Fault> {
        let mut statement = connection.prepare_cached(
            "SELECT destination, checkpoint, configured, quarantined, sum FROM lane WHERE org = ?1",
        )?;
        let mut rows = statement.query([org.org])?;
        let mut lanes = BTreeMap::new();
        while let Some(row) = rows.next()? {
            let name: String = row.get(0)?;
            let destination =
                DestinationName::parse(&name).ok_or_else(|| mismatch("the name of a lane", &org.id))?;
            let lane = LaneRow {
                destination,
                checkpoint: number(row.get(1)?)?,
                configured: row.get(2)?,
                quarantined: number(row.get(3)?)?,
            };
            if lane.sum(&org.id) != row.get::<_, i64>(4)? {
                return Err(mismatch(format_args!("the checkpoint of lane `{destination}`"), &org.id));
            }
            lanes.insert(destination, lane);
        }
        if lanes.len() as u64 != org.lanes {
            return Err(Fault::damaged(format!(
                "`{}` has had {} lanes, and {} are there",
                org.id,
                org.lanes,
                lanes.len()
            )));
        }
        Ok(lanes)
    }

    pub(super) fn write(&self, connection: &Connection, org: &OrgRow) -> Result<(), Fault> {
        connection
            .prepare_cached(
                "INSERT OR REPLACE INTO lane (org, destination, checkpoint, configured, quarantined, sum) \
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
            )?
            .execute(params![
                org.org,
                self.destination.as_str(),
                stored(self.checkpoint),
                self.configured,
                stored(self.quarantined),
                self.sum(&org.id),
            ])?;
        Ok(())
    }

    fn sum(&self, id: &OrgId) -> i64 {
        Checksum::of("lane", id)
            .bytes(self.destination.as_str().as_bytes())
            .integer(stored(self.checkpoint))
            .integer(i64::from(self.configured))
            .integer(stored(self.quarantined))
            .finish()
    }
}

/// What a chunk takes: all that pruning and usage count.
pub(super) fn size(chunk: &Chunk) -> u64 {
    (chunk.body.len() + chunk.claim.len()) as u64
}

pub(super) fn insert_chunk(
    connection: &Connection,
    org: &OrgRow,
    chunk: &Chunk,
    now: Second,
) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO chunk (org, number, appended, name, mode, date, window_from, window_until, count, first, last, \
             sha256, previous, bytes, sum) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15)",
        )?
        .execute(params![
            org.org,
            stored(chunk.number),
            now.0,
            chunk.org,
            chunk.mode.as_str(),
            chunk.date,
            chunk.window.from.0,
            chunk.window.until.0,
            chunk.count,
            chunk.first.map(|at| at.0),
            chunk.last.map(|at| at.0),
            chunk.sha256,
            chunk.previous.0,
            stored(size(chunk)),
            sum_of_chunk(chunk, now, size(chunk)),
        ])?;
    connection
        .prepare_cached("INSERT INTO body (org, number, sum, claim, body) VALUES (?1, ?2, ?3, ?4, ?5)")?
        .execute(params![
            org.org,
            stored(chunk.number),
            sum_of_body(chunk),
            chunk.claim.as_ref(),
            chunk.body.as_ref(),
        ])?;
    Ok(())
}

/// A chunk that must be there.
pub(super) fn read_chunk(connection: &Connection, org: &OrgRow, number: u64) -> Result<Chunk, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT c.appended, c.name, c.mode, c.date, c.window_from, c.window_until, c.count, c.first, c.last, c.sha256, \
         c.previous, c.bytes, c.sum, b.sum, b.claim, b.body \
         FROM chunk c JOIN body b ON b.org = c.org AND b.number = c.number WHERE c.org = ?1 AND c.number = ?2",
    )?;
    let mut rows = statement.query(params![org.org, stored(number)])?;
    let Some(row) = rows.next()? else {
        return Err(Fault::damaged(format!("chunk {number} of `{}` is missing", org.id)));
    };
    let damaged = || mismatch(format_args!("chunk {number}"), &org.id);
    let mode: String = row.get(2)?;
    let sha256: Vec<u8> = row.get(9)?;
    let previous: Vec<u8> = row.get(10)?;
    let chunk = Chunk {
        number,
        id: org.id.clone(),
        org: row.get(1)?,
        mode: Mode::parse(&mode).ok_or_else(damaged)?,
        date: row.get(3)?,
        window: Window::new(Second(row.get(4)?), Second(row.get(5)?)),
        count: row.get(6)?,
        first: seconds(row.get(7)?),
        last: seconds(row.get(8)?),
        sha256: bytes_32(&sha256, "a chunk's SHA-256")?,
        previous: Link(bytes_32(&previous, "a chunk's previous link")?),
        claim: Bytes::from(row.get::<_, Vec<u8>>(14)?),
        body: Bytes::from(row.get::<_, Vec<u8>>(15)?),
    };
    let bytes: i64 = row.get(11)?;
    let whole = sum_of_chunk(&chunk, Second(row.get(0)?), self::number(bytes)?) == row.get::<_, i64>(12)?
        && sum_of_body(&chunk) == row.get::<_, i64>(13)?;
    if whole { Ok(chunk) } else { Err(damaged()) }
}

fn sum_of_chunk(chunk: &Chunk, appended: Second, bytes: u64) -> i64 {
    Checksum::of("chunk", &chunk.id)
        .integer(stored(chunk.number))
        .integer(appended.0)
        .bytes(chunk.org.as_bytes())
        .bytes(chunk.mode.as_str().as_bytes())
        .bytes(chunk.date.as_bytes())
        .integer(chunk.window.from.0)
        .integer(chunk.window.until.0)
        .integer(i64::from(chunk.count))
        .second(chunk.first)
        .second(chunk.last)
        .bytes(&chunk.sha256)
        .bytes(&chunk.previous.0)
        .integer(stored(bytes))
        .finish()
}

fn sum_of_body(chunk: &Chunk) -> i64 {
    Checksum::of("body", &chunk.id)
        .integer(stored(chunk.number))
        .bytes(&chunk.claim)
        .bytes(&chunk.body)
        .finish()
}

pub(super) fn tally(
    connection: &Connection,
    org: &OrgRow,
    from: i64,
    until: i64,
) -> Result<Vec<TallyPage>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT minute, sum, body FROM tally WHERE org = ?1 AND minute >= ?2 AND minute < ?3 ORDER BY minute",
    )?;
    let mut rows = statement.query(params![org.org, from, until])?;
    let mut pages = Vec::new();
    while let Some(row) = rows.next()? {
        pages.push(checked_page(row, org)?);
    }
    Ok(pages)
}

/// Puts a page in place of that of the same minute. The org's own row must be written afterwards.
pub(super) fn put_page(connection: &Connection, org: &mut OrgRow, page: &TallyPage) -> Result<(), Fault> {
    let known: Option<i64> = connection
        .prepare_cached("SELECT sum FROM tally WHERE org = ?1 AND minute = ?2")?
        .query_row(params![org.org, page.minute], |row| row.get(0))
        .optional()?;
    if let Some(known) = known {
        org.tally_digest ^= entry(org, page.minute, known);
    }
    let sum = sum_of_page(&org.id, page);
    org.tally_digest ^= entry(org, page.minute, sum);
    connection
        .prepare_cached("INSERT OR REPLACE INTO tally (org, minute, sum, body) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![org.org, page.minute, sum, page.body])?;
    Ok(())
}

/// Deletes the pages of `first..until`. The org's own row must be written afterwards.
pub(super) fn delete_pages(
    connection: &Connection,
    org: &mut OrgRow,
    first: i64,
    until: i64,
) -> Result<(), Fault> {
    let mut gone = 0;
    {
        let mut statement = connection.prepare_cached(
            "SELECT minute, sum FROM tally WHERE org = ?1 AND minute >= ?2 AND minute < ?3",
        )?;
        let mut rows = statement.query(params![org.org, first, until])?;
        while let Some(row) = rows.next()? {
            gone ^= entry(org, row.get(0)?, row.get(1)?);
        }
    }
    org.tally_digest ^= gone;
    connection
        .prepare_cached("DELETE FROM tally WHERE org = ?1 AND minute >= ?2 AND minute < ?3")?
        .execute(params![org.org, first, until])?;
    Ok(())
}

/// That no page is missing, moved or from another time; bodies are checked when they are read.
pub(super) fn verify_tally(connection: &Connection, org: &OrgRow) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached("SELECT minute, sum FROM tally WHERE org = ?1")?;
    let mut rows = statement.query([org.org])?;
    let mut digest = 0;
    while let Some(row) = rows.next()? {
        digest ^= entry(org, row.get(0)?, row.get(1)?);
    }
    if digest == org.tally_digest { Ok(()) } else { Err(mismatch("the list of tally pages", &org.id)) }
}

fn entry(org: &OrgRow, minute: i64, sum: i64) -> i64 {
    Checksum::of("tally entry", &org.id).integer(minute).integer(sum).finish()
}

fn sum_of_page(id: &OrgId, page: &TallyPage) -> i64 {
    Checksum::of("tally", id).integer(page.minute).bytes(&page.body).finish()
}

/// That every page is as it was written.
pub(super) fn verify_pages(connection: &Connection, org: &OrgRow) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached("SELECT minute, sum, body FROM tally WHERE org = ?1")?;
    let mut rows = statement.query([org.org])?;
    while let Some(row) = rows.next()? {
        checked_page(row, org)?;
    }
    Ok(())
}

/// The columns minute, sum and body of `tally`.
fn checked_page(row: &Row<'_>, org: &OrgRow) -> Result<TallyPage, Fault> {
    let page = TallyPage { minute: row.get(0)?, body: row.get(2)? };
    match sum_of_page(&org.id, &page) == row.get::<_, i64>(1)? {
        true => Ok(page),
        false => Err(mismatch(format_args!("the tally of minute {}", page.minute), &org.id)),
    }
}

/// That exactly the chunks from the oldest to the newest are there, and that the newest is the one the chain ends with.
pub(super) fn verify_chunks(connection: &Connection, org: &OrgRow) -> Result<(), Fault> {
    let (count, low, high): (i64, Option<i64>, Option<i64>) = connection
        .prepare_cached(
            "SELECT count(*), min(number), max(number) FROM chunk INDEXED BY chunk_sizes WHERE org = ?1",
        )?
        .query_row([org.org], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
    let kept = org.next.checked_sub(org.oldest).map(stored);
    let ends = match count {
        0 => true,
        _ => low == Some(stored(org.oldest)) && high == Some(stored(org.next) - 1),
    };
    if kept != Some(count) || !ends {
        return Err(Fault::damaged(format!(
            "`{}` should have the chunks {}..{}, and {count} are there",
            org.id, org.oldest, org.next
        )));
    }
    if count > 0 && Link::of_claim(&read_chunk(connection, org, org.next - 1)?.claim) != org.link {
        return Err(Fault::damaged(format!("the chain of `{}` does not end with its newest chunk", org.id)));
    }
    Ok(())
}

/// The flag is left out of the checksum: it changes for many rows at once.
pub(super) fn insert_refusal(
    connection: &Connection,
    org: &OrgRow,
    destination: DestinationName,
    refusal: &Refusal,
) -> Result<(), Fault> {
    connection
        .prepare_cached(
            "INSERT INTO quarantine (org, destination, chunk, row, key, reason, detail, provisional, sum) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            org.org,
            destination.as_str(),
            stored(refusal.at.chunk),
            refusal.at.row,
            refusal.key,
            refusal.reason.as_str(),
            refusal.detail,
            refusal.provisional,
            sum_of_refusal(&org.id, destination, refusal),
        ])?;
    Ok(())
}

pub(super) fn quarantined(
    connection: &Connection,
    org: &OrgRow,
    destination: DestinationName,
    after: Option<RowId>,
    limit: u32,
) -> Result<Vec<Quarantined>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT q.chunk, q.row, q.key, q.reason, q.detail, q.provisional, q.sum, r.at FROM quarantine q \
         LEFT JOIN receipt r ON r.org = q.org AND r.destination = q.destination AND r.chunk = q.chunk \
         WHERE q.org = ?1 AND q.destination = ?2 AND (q.chunk, q.row) > (?3, ?4) \
         ORDER BY q.chunk, q.row LIMIT ?5",
    )?;
    // Nothing comes before chunk 0.
    let (chunk, row) = after.map_or((-1, 0), |at| (stored(at.chunk), at.row));
    let mut rows = statement.query(params![org.org, destination.as_str(), chunk, row, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let refusal = refusal(row, org, destination)?;
        found.push(Quarantined { refusal, since: seconds(row.get(7)?) });
    }
    Ok(found)
}

pub(super) fn provisional(
    connection: &Connection,
    org: &OrgRow,
    destination: DestinationName,
) -> Result<Vec<Refusal>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT chunk, row, key, reason, detail, provisional, sum FROM quarantine \
         WHERE org = ?1 AND destination = ?2 AND provisional = 1 ORDER BY chunk, row LIMIT ?3",
    )?;
    let mut rows = statement.query(params![org.org, destination.as_str(), PROVISIONAL_ROWS_MAX])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(refusal(row, org, destination)?);
    }
    Ok(found)
}

/// The columns chunk, row, key, reason, detail, provisional and sum of `quarantine`.
fn refusal(row: &Row<'_>, org: &OrgRow, destination: DestinationName) -> Result<Refusal, Fault> {
    let at = RowId { chunk: number(row.get(0)?)?, row: row.get(1)? };
    let damaged = || mismatch(format_args!("row {} of chunk {} in quarantine", at.row, at.chunk), &org.id);
    let reason: String = row.get(3)?;
    let refusal = Refusal {
        at,
        key: row.get(2)?,
        reason: QuarantineReason::parse(&reason).ok_or_else(damaged)?,
        detail: row.get(4)?,
        provisional: row.get(5)?,
    };
    if sum_of_refusal(&org.id, destination, &refusal) != row.get::<_, i64>(6)? {
        return Err(damaged());
    }
    Ok(refusal)
}

fn sum_of_refusal(id: &OrgId, destination: DestinationName, refusal: &Refusal) -> i64 {
    Checksum::of("quarantine", id)
        .bytes(destination.as_str().as_bytes())
        .integer(stored(refusal.at.chunk))
        .integer(i64::from(refusal.at.row))
        .bytes(refusal.key.as_bytes())
        .bytes(refusal.reason.as_str().as_bytes())
        .bytes(refusal.detail.as_bytes())
        .finish()
}

/// Adds a line to the record and takes away the oldest beyond its bound.
pub(super) fn insert_decision(
    connection: &Connection,
    org: &OrgRow,
    decision: &Decision,
) -> Result<(), Fault> {
    let this = after_newest(connection, "decision", org)?;
    connection
        .prepare_cached(
            "INSERT INTO decision (org, number, at, who, action, destination, rows, reason, sum) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?
        .execute(params![
            org.org,
            this,
            decision.at.0,
            decision.who,
            decision.action.as_str(),
            decision.destination.as_str(),
            decision.rows_as_text(),
            decision.reason,
            sum_of_decision(&org.id, this, decision),
        ])?;
    connection
        .prepare_cached("DELETE FROM decision WHERE org = ?1 AND number <= ?2")?
        .execute(params![org.org, this.saturating_sub(i64::from(DECISIONS_KEPT))])?;
    Ok(())
}

/// The number of the next row in a table that numbers an org's rows for people.
pub(super) fn after_newest(connection: &Connection, table: &str, org: &OrgRow) -> Result<i64, Fault> {
    let newest: Option<i64> = connection
        .prepare_cached(&format!("SELECT max(number) FROM {table} WHERE org = ?1"))?
        .query_row([org.org], |row| row.get(0))?;
    match newest.map_or(Some(0), |newest| newest.checked_add(1)) {
        Some(next) if next >= 0 => Ok(next),
        _ => Err(Fault::damaged(format!("`{table}` of `{}` has a row with an impossible number", org.id))),
    }
}

/// Newest first. A database of version 1, which only a reader can meet, has none.
pub(super) fn decisions(connection: &Connection, org: &OrgRow, limit: u32) -> Result<Vec<Decision>, Fault> {
    if !connection.table_exists(None, "decision")? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare_cached(
        "SELECT number, at, who, action, destination, rows, reason, sum FROM decision \
         WHERE org = ?1 ORDER BY number DESC LIMIT ?2",
    )?;
    let mut rows = statement.query(params![org.org, limit])?;
    let mut decisions = Vec::new();
    while let Some(row) = rows.next()? {
        let this: i64 = row.get(0)?;
        let damaged = || mismatch(format_args!("decision {this} about the quarantine"), &org.id);
        let (action, destination, about): (String, String, String) = (row.get(3)?, row.get(4)?, row.get(5)?);
        let decision = Decision {
            at: Second(row.get(1)?),
            who: row.get(2)?,
            action: Action::parse(&action).ok_or_else(damaged)?,
            destination: DestinationName::parse(&destination).ok_or_else(damaged)?,
            rows: Decision::rows_of_text(&about).ok_or_else(damaged)?,
            reason: row.get(6)?,
        };
        if sum_of_decision(&org.id, this, &decision) != row.get::<_, i64>(7)? {
            return Err(damaged());
        }
        decisions.push(decision);
    }
    Ok(decisions)
}

fn sum_of_decision(id: &OrgId, number: i64, decision: &Decision) -> i64 {
    Checksum::of("decision", id)
        .integer(number)
        .integer(decision.at.0)
        .bytes(decision.who.as_bytes())
        .bytes(decision.action.as_str().as_bytes())
        .bytes(decision.destination.as_str().as_bytes())
        .bytes(decision.rows_as_text().as_bytes())
        .bytes(decision.reason.as_bytes())
        .finish()
}

pub(super) fn note(connection: &Connection, org: &OrgRow, name: &str) -> Result<Option<Vec<u8>>, Fault> {
    let found: Option<(Vec<u8>, i64)> = connection
        .prepare_cached("SELECT value, sum FROM note WHERE org = ?1 AND name = ?2")?
        .query_row(params![org.org, name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    match found {
        Some((value, sum)) if sum_of_note(&org.id, name, &value) != sum => {
            Err(mismatch(format_args!("note `{name}`"), &org.id))
        }
        found => Ok(found.map(|(value, _)| value)),
    }
}

/// That every note is as it was written.
pub(super) fn verify_notes(connection: &Connection, org: &OrgRow) -> Result<(), Fault> {
    let mut statement = connection.prepare_cached("SELECT name FROM note WHERE org = ?1")?;
    let mut rows = statement.query([org.org])?;
    while let Some(row) = rows.next()? {
        note(connection, org, &row.get::<_, String>(0)?)?;
    }
    Ok(())
}

pub(super) fn set_note(
    connection: &Connection,
    org: &OrgRow,
    name: &str,
    value: Option<&[u8]>,
) -> Result<(), Fault> {
    match value {
        Some(value) => connection
            .prepare_cached("INSERT OR REPLACE INTO note (org, name, value, sum) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![org.org, name, value, sum_of_note(&org.id, name, value)])?,
        None => connection
            .prepare_cached("DELETE FROM note WHERE org = ?1 AND name = ?2")?
            .execute(params![org.org, name])?,
    };
    Ok(())
}

fn sum_of_note(id: &OrgId, name: &str, value: &[u8]) -> i64 {
    Checksum::of("note", id).bytes(name.as_bytes()).bytes(value).finish()
}
