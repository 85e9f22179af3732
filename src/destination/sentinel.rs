//! Microsoft Sentinel, through Azure's Logs Ingestion API: accepts rows at least once, each removable by its event key where the columns have it.
//!
//! [`rows`] maps a chunk to [`columns`], [`client`] sends one body and reads the answer, [`credential`] has the tokens; this file decides what is sent
//! next. It keeps, between two tries of one chunk, which rows are accepted and which refused, so that a retry sends only the rest;
//! it keeps no rows. It does not wait, and logs nothing: that is the lane's business.
//!
//! *Why refused rows are not simply set aside:* a row that Azure refuses may be bad itself, or the table's configuration may be, and
//! then every row is refused. So a refusal is provisional until a row has been accepted after it. After
//! [`REFUSED_IN_A_ROW`] refusals without an accepted row the lane is paused, and each further try asks first with the oldest refused
//! row, then with one row from elsewhere. Rows that were refused at another time than the one at which the first is accepted again
//! are sent once more before they are given up, so a repaired table leaves nothing behind.

mod check;
pub mod client;
pub mod columns;
pub mod credential;
mod heartbeat;
pub mod rows;

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use credential::Figures;

use self::client::{Client, Verdict};
use self::columns::Column;
use self::credential::{Credential, NoToken};
pub use self::heartbeat::Beats;
use self::rows::{BODY_BYTES_MAX, Rows};
use crate::chunk::Chunk;
use crate::clock::{Clock, whole_seconds};
use crate::config::settings::SentinelSettings;
use crate::destination::{
    Answer, Backlog, Destination, DestinationName, QuarantineReason, Receipt, Refusal, RowId,
};
use crate::http::Transport;
use crate::metrics::OrgMetrics;
use crate::problem::{PauseReason, Problem};
use crate::rotation::Standing;
use crate::secret::Fingerprint;
use crate::trial::{How, Trial};

/// So many refused rows without an accepted one between them mean that the configuration is wrong.
pub const REFUSED_IN_A_ROW: usize = 3;
/// How many chunks after the one in hand are looked at for a row to ask with.
const CHUNKS_AHEAD_MAX: usize = 3;
/// What a 413 may lower the size of bodies to.
const BODY_BYTES_LEAST: usize = 16 * 1024;

/// One stream of one rule, for one org.
pub struct Sentinel {
    client: Client,
    credential: Arc<Credential>,
    /// What `columns` and `raw_event` choose.
    columns: Vec<&'static Column>,
    /// The value of `columns`, for remedies.
    columns_name: &'static str,
    metrics: Arc<OrgMetrics>,
    clock: Clock,
    /// What of the credential's figures is counted already.
    counted: Figures,
    hand: Hand,
    /// Rows refused since the last accepted one, oldest first; at most [`REFUSED_IN_A_ROW`] of them are added before the lane pauses.
    provisional: Vec<Provisional>,
    /// A row of a later chunk that was accepted when asking with it.
    ahead: Option<RowId>,
    /// Lowered by a 413.
    body_bytes_max: usize,
    /// Tries so far, to tell what was refused now from what was refused at another time.
    tries: u64,
    probes: usize,
    /// The last try ended in a pause for credentials, with this secret.
    refused_secret: Option<Option<Fingerprint>>,
    /// Where heartbeats go, to be tried by `check`.
    beats: Option<Beats>,
}

struct Provisional {
    refusal: Refusal,
    /// The try it was refused in; 0 for one of an earlier run.
    tried: u64,
}

/// What has been achieved for the chunk in hand.
#[derive(Default)]
struct Hand {
    chunk: Option<(u64, [u8; 32])>,
    done: bool,
    /// Runs of rows still to be sent; the last one is next.
    pending: Vec<Piece>,
    /// Rows refused earlier that are sent once more, alone.
    again: Vec<Refusal>,
    /// Refused for good.
    refused: Vec<Refusal>,
    /// The last try in which a row was accepted.
    accepted_in: u64,
    receipt: Receipt,
}

/// A run of the chunk's rows.
#[derive(Clone, Debug)]
struct Piece {
    run: Range<usize>,
    /// The first half of a piece that was refused: if it is accepted, the fault is in the piece after it.
    first_half: bool,
    /// Known to hold a refused row: need not be sent whole.
    faulty: bool,
}

impl Piece {
    fn whole(run: Range<usize>) -> Piece {
        Piece { run, first_half: false, faulty: false }
    }

    /// Its halves, the second first, as they are put on the stack. The first is the smaller one, which keeps the number of
    /// questions for one bad row within twice the logarithm of the piece's length.
    fn halves(&self, by_content: bool) -> [Piece; 2] {
        let middle = self.run.start + self.run.len() / 2;
        let first = Piece { run: self.run.start..middle, first_half: by_content, faulty: false };
        [Piece::whole(middle..self.run.end), first]
    }
}

/// What became of one body.
enum Sent {
    Accepted { status: u16, reference: String, bytes: u64 },
    Refused { status: u16, cause: String, detail: String },
}

/// Which row to ask with besides the oldest refused one.
enum Other {
    Pending(usize),
    Ahead(RowId, Vec<u8>),
}

impl Sentinel {
    /// `provisional` are the lane's refusals in the journal that no accepted row has confirmed yet.
    pub fn new(
        settings: &SentinelSettings,
        transport: Arc<dyn Transport>,
        credential: Arc<Credential>,
        clock: Clock,
        metrics: Arc<OrgMetrics>,
        provisional: Vec<Refusal>,
    ) -> Sentinel {
        let SentinelSettings { endpoint, rule_id, stream, .. } = settings;
        let who = Arc::clone(&credential);
        let identity = move || who.identity();
        let mut provisional: Vec<Provisional> = provisional
            .into_iter()
            .filter(|refusal| refusal.provisional)
            .map(|refusal| Provisional { refusal, tried: 0 })
            .collect();
        provisional.sort_by_key(|provisional| provisional.refusal.at);
        let beats = settings.heartbeat.as_ref().map(|heartbeat| {
            let (transport, credential) = (Arc::clone(&transport), Arc::clone(&credential));
            Beats::new(settings, &heartbeat.stream, transport, credential, clock.clone())
        });
        Sentinel {
            client: Client::new(endpoint, rule_id, stream, identity, transport, clock.clone()),
            credential,
            columns: columns::chosen(settings.columns, settings.raw_event),
            columns_name: settings.columns.as_str(),
            metrics,
            clock,
            counted: Figures::default(),
            hand: Hand::default(),
            provisional,
            ahead: None,
            body_bytes_max: BODY_BYTES_MAX,
            tries: 0,
            probes: 0,
            refused_secret: None,
            beats,
        }
    }

    /// Orgs may share a credential; each counts what it sees of it.
    fn count_credential(&mut self) {
        let figures = self.credential.figures();
        let name = DestinationName::Sentinel.as_str();
        for (now, before, ok) in
            [(figures.refreshed, self.counted.refreshed, true), (figures.failed, self.counted.failed, false)]
        {
            for _ in before..now {
                self.metrics.credential_refresh(name, ok);
            }
        }
        if let Some(life) = figures.life {
            self.metrics.credential_expiry(name, self.clock.now().saturating_add(whole_seconds(life)));
        }
        self.counted = figures;
    }

    async fn try_deliver(&mut self, chunk: &Chunk, backlog: &dyn Backlog) -> Result<Receipt, Answer> {
        self.tries += 1;
        let rows = self.rows(chunk)?;
        self.take_in_hand(chunk, &rows);
        if self.provisional.len() >= REFUSED_IN_A_ROW {
            self.probe(chunk, &rows, backlog).await?;
        }
        // Nothing is taken off a list before its answer is there: a dropped try has lost nothing.
        while let Some(piece) = self.hand.pending.last().cloned() {
            if piece.faulty && piece.run.len() > 1 {
                self.hand.pending.pop();
                self.hand.pending.extend(piece.halves(true));
                continue;
            }
            let body = rows.body(piece.run.clone());
            match self.send(&body).await? {
                Sent::Accepted { status, reference, bytes } => {
                    self.hand.pending.pop();
                    if let (true, Some(next)) = (piece.first_half, self.hand.pending.last_mut()) {
                        next.faulty = true;
                    }
                    self.accepted(piece.run.len(), status, reference, bytes);
                }
                Sent::Refused { status, .. } if piece.run.len() > 1 => {
                    if status == 413 {
                        self.body_bytes_max = self.body_bytes_max.min((body.len() / 2).max(BODY_BYTES_LEAST));
                    }
                    self.hand.pending.pop();
                    self.hand.pending.extend(piece.halves(status == 400));
                }
                Sent::Refused { status, cause, detail } => {
                    self.hand.pending.pop();
                    let reason =
                        if status == 413 { QuarantineReason::TooLarge } else { QuarantineReason::Refused };
                    let index = piece.run.start;
                    let at = RowId { chunk: chunk.number, row: rows.line(index) };
                    let key = rows.key(index).to_owned();
                    let refusal = Refusal { at, key, reason, detail, provisional: true };
                    self.refused(refusal, &cause)?;
                }
            }
        }
        self.send_again(chunk, &rows, backlog).await?;
        Ok(self.finish(rows))
    }

    fn rows(&self, chunk: &Chunk) -> Result<Rows, Answer> {
        Rows::of(chunk, &self.columns).map_err(|damaged| {
            Answer::Paused(Problem {
                reason: PauseReason::Disk,
                cause: damaged.to_string(),
                remedy: "restore the state directory from a copy".into(),
            })
        })
    }

    fn take_in_hand(&mut self, chunk: &Chunk, rows: &Rows) {
        let name = Some((chunk.number, chunk.sha256));
        if self.hand.chunk == name {
            return;
        }
        let old = std::mem::take(&mut self.hand);
        if let (Some((number, _)), false) = (old.chunk, old.done) {
            // The chunk was given up unfinished: what is known of its rows goes with it, what concerns earlier ones stays.
            self.provisional.retain(|provisional| provisional.refusal.at.chunk != number);
            let earlier = old.again.into_iter().filter(|refusal| refusal.at.chunk != number);
            self.provisional.splice(0..0, earlier.map(|refusal| Provisional { refusal, tried: 0 }));
        }
        self.hand.chunk = name;
        self.hand.pending = rows.packed(self.body_bytes_max).into_iter().rev().map(Piece::whole).collect();
        if let Some(ahead) = self.ahead.take_if(|ahead| ahead.chunk == chunk.number)
            && let Some(index) = rows.index_of(ahead.row)
        {
            self.take_out(index);
            self.hand.receipt.rows += 1;
        }
    }

    /// Takes one row off the pending ones.
    fn take_out(&mut self, index: usize) {
        let Some(place) = self.hand.pending.iter().position(|piece| piece.run.contains(&index)) else {
            return;
        };
        let run = self.hand.pending[place].run.clone();
        let parts = [index + 1..run.end, run.start..index];
        let rest = parts.into_iter().filter(|part| !part.is_empty()).map(Piece::whole);
        self.hand.pending.splice(place..=place, rest);
    }

    /// A row is refused, provisionally; with the last of [`REFUSED_IN_A_ROW`] the lane pauses.
    fn refused(&mut self, refusal: Refusal, cause: &str) -> Result<(), Answer> {
        self.provisional.push(Provisional { refusal, tried: self.tries });
        if self.provisional.len() < REFUSED_IN_A_ROW { Ok(()) } else { Err(self.refuses_everything(cause)) }
    }

    /// Some rows are accepted. Those refused before them in this try are refused for good; those refused at another time are sent
    /// once more.
    fn accepted(&mut self, rows: usize, status: u16, reference: String, bytes: u64) {
        let receipt = &mut self.hand.receipt;
        receipt.status = status;
        receipt.reference = reference;
        receipt.rows = receipt.rows.saturating_add(u32::try_from(rows).unwrap_or(u32::MAX));
        receipt.bytes += bytes;
        self.hand.accepted_in = self.tries;
        for Provisional { refusal, tried } in std::mem::take(&mut self.provisional) {
            if tried == self.tries {
                self.refused_for_good(refusal);
            } else {
                self.hand.again.push(refusal);
            }
        }
    }

    fn refused_for_good(&mut self, refusal: Refusal) {
        if self.hand.chunk.is_some_and(|(number, _)| number == refusal.at.chunk) {
            self.hand.refused.push(Refusal { provisional: false, ..refusal });
        } else {
            // It is in the journal already.
            self.hand.receipt.confirms = true;
        }
    }

    /// Sends rows once more that were refused before another was accepted.
    async fn send_again(&mut self, chunk: &Chunk, rows: &Rows, backlog: &dyn Backlog) -> Result<(), Answer> {
        while let Some(refusal) = self.hand.again.last().cloned() {
            let sent = match self.row_alone(refusal.at, chunk, rows, backlog).await? {
                Some(body) => Some(self.send(&body).await?),
                None => None,
            };
            self.hand.again.pop();
            match sent {
                Some(Sent::Accepted { status, reference, bytes }) => {
                    self.released(refusal.at, chunk);
                    self.accepted(1, status, reference, bytes);
                }
                Some(Sent::Refused { cause, .. }) if self.hand.accepted_in != self.tries => {
                    // Nothing was accepted in this try: perhaps it is the configuration again.
                    self.refused(refusal, &cause)?;
                }
                // The row is refused beside accepted ones, or its chunk is no longer in the journal.
                None | Some(Sent::Refused { .. }) => self.refused_for_good(refusal),
            }
        }
        Ok(())
    }

    fn released(&mut self, at: RowId, chunk: &Chunk) {
        if at.chunk != chunk.number {
            self.hand.receipt.released.push(at);
        }
    }

    /// Asks whether the configuration is still wrong: with the oldest refused row, and if that is refused with one from elsewhere.
    /// Returns when one was accepted.
    async fn probe(&mut self, chunk: &Chunk, rows: &Rows, backlog: &dyn Backlog) -> Result<(), Answer> {
        let mut cause = "no refused row is left to ask with".to_owned();
        let mut refused_again = None;
        let asked: Vec<RowId> = self.provisional.iter().map(|provisional| provisional.refusal.at).collect();
        for at in asked {
            let Some(body) = self.row_alone(at, chunk, rows, backlog).await? else { continue };
            match self.send(&body).await? {
                Sent::Accepted { status, reference, bytes } => {
                    self.provisional.retain(|provisional| provisional.refusal.at != at);
                    self.released(at, chunk);
                    self.accepted(1, status, reference, bytes);
                    return Ok(());
                }
                Sent::Refused { cause: refused, .. } => {
                    cause = refused;
                    refused_again = Some(at);
                }
            }
            break;
        }
        let other = self.other_row(chunk, backlog).await?;
        self.probes += 1;
        let Some(other) = other else { return Err(self.refuses_everything(&cause)) };
        let body = match &other {
            Other::Pending(index) => rows.body(*index..index + 1),
            Other::Ahead(_, body) => body.clone(),
        };
        match self.send(&body).await? {
            Sent::Accepted { status, reference, bytes } => {
                let accepted = match other {
                    Other::Pending(index) => {
                        self.take_out(index);
                        1
                    }
                    Other::Ahead(at, _) => {
                        self.ahead = Some(at);
                        0
                    }
                };
                // The oldest was refused beside an accepted one: that is its own fault.
                for provisional in &mut self.provisional {
                    if Some(provisional.refusal.at) == refused_again {
                        provisional.tried = self.tries;
                    }
                }
                self.accepted(accepted, status, reference, bytes);
                Ok(())
            }
            Sent::Refused { cause, .. } => Err(self.refuses_everything(&cause)),
        }
    }

    /// A row that is neither refused nor sent: of this chunk, else of one after it; another one each time.
    async fn other_row(&self, chunk: &Chunk, backlog: &dyn Backlog) -> Result<Option<Other>, Answer> {
        let pending: Vec<usize> = self.hand.pending.iter().flat_map(|piece| piece.run.clone()).collect();
        if !pending.is_empty() {
            return Ok(Some(Other::Pending(pending[self.probes % pending.len()])));
        }
        let mut number = chunk.number;
        for _ in 0..CHUNKS_AHEAD_MAX {
            let Some(next) = backlog.after(number).await else { break };
            let rows = self.rows(&next)?;
            if !rows.is_empty() {
                let index = self.probes % rows.len();
                let at = RowId { chunk: next.number, row: rows.line(index) };
                return Ok(Some(Other::Ahead(at, rows.body(index..index + 1))));
            }
            number = next.number;
        }
        Ok(None)
    }

    /// The body of one row, of this chunk or of an earlier one; `None` when that is no longer in the journal.
    async fn row_alone(
        &self,
        at: RowId,
        chunk: &Chunk,
        rows: &Rows,
        backlog: &dyn Backlog,
    ) -> Result<Option<Vec<u8>>, Answer> {
        if at.chunk == chunk.number {
            return Ok(rows.index_of(at.row).map(|index| rows.body(index..index + 1)));
        }
        let Some(earlier) = backlog.chunk(at.chunk).await else { return Ok(None) };
        let rows = self.rows(&earlier)?;
        Ok(rows.index_of(at.row).map(|index| rows.body(index..index + 1)))
    }

    fn refuses_everything(&self, cause: &str) -> Answer {
        Answer::Paused(Problem {
            reason: PauseReason::Configuration,
            cause: format!(
                "{REFUSED_IN_A_ROW} rows were refused one after the other, each standing alone: {cause}"
            ),
            remedy: format!(
                "compare {} with the columns this forwarder sends (`columns = \"{}\"`); nothing is lost: once a row is accepted, the refused ones are sent again",
                self.client.target(),
                self.columns_name
            ),
        })
    }

    /// The receipt of a chunk of which nothing is left to send. Asked again, it gives the same.
    fn finish(&mut self, rows: Rows) -> Receipt {
        if !std::mem::replace(&mut self.hand.done, true) {
            self.metrics.anomaly("unknown_event", rows.oddities.unknown_event);
            self.metrics.anomaly("cut_text", rows.oddities.cut_text);
        }
        let mut receipt = self.hand.receipt.clone();
        let number = self.hand.chunk.map(|(number, _)| number);
        receipt.quarantined = rows.unsendable;
        receipt.quarantined.extend(self.hand.refused.iter().cloned());
        let provisional = self.provisional.iter().map(|provisional| &provisional.refusal);
        receipt.quarantined.extend(provisional.filter(|refusal| Some(refusal.at.chunk) == number).cloned());
        receipt.quarantined.sort_by_key(|refusal| refusal.at);
        receipt
    }

    /// Sends one body. A token that is refused is replaced once.
    async fn send(&mut self, plain: &[u8]) -> Result<Sent, Answer> {
        // In a pause for credentials every try begins with a new token, and one question is enough.
        let mut may_replace = self.refused_secret.is_none();
        loop {
            let token = match self.credential.token().await {
                Ok(token) => token,
                Err(none) => {
                    if matches!(&none, NoToken::Refused(problem) if problem.reason == PauseReason::Credentials)
                    {
                        self.refused_secret = Some(self.credential.last_secret());
                    }
                    return Err(none.into());
                }
            };
            let cause = match self.client.post(token.secret(), plain).await {
                Verdict::Unauthorized { cause } => cause,
                verdict => {
                    self.refused_secret = None;
                    return sent(verdict);
                }
            };
            self.credential.reject(&token);
            if !std::mem::replace(&mut may_replace, false) {
                self.refused_secret = Some(self.credential.last_secret());
                return Err(Answer::Paused(Problem {
                    reason: PauseReason::Credentials,
                    cause: format!("{cause}, also with a new token"),
                    remedy: format!(
                        "check that {} belongs to the tenant of {}, and that `cloud` (or `scope`) is that of `endpoint`",
                        self.credential.identity(),
                        self.client.target()
                    ),
                }));
            }
        }
    }
}

fn sent(verdict: Verdict) -> Result<Sent, Answer> {
    match verdict {
        Verdict::Accepted { status, reference, bytes } => Ok(Sent::Accepted { status, reference, bytes }),
        Verdict::Refused { status, cause, detail } => Ok(Sent::Refused { status, cause, detail }),
        Verdict::Ambiguous(cause) | Verdict::Unauthorized { cause } => Err(Answer::Ambiguous(cause)),
        Verdict::Throttled { wait, cause } => Err(Answer::Throttled { wait, cause }),
        Verdict::Paused(problem) => Err(Answer::Paused(problem)),
    }
}

#[async_trait]
impl Destination for Sentinel {
    fn name(&self) -> DestinationName {
        DestinationName::Sentinel
    }

    async fn deliver(&mut self, chunk: &Chunk, backlog: &dyn Backlog) -> Answer {
        let answer = match self.try_deliver(chunk, backlog).await {
            Ok(receipt) => Answer::Durable(receipt),
            Err(answer) => answer,
        };
        self.count_credential();
        answer
    }

    async fn secret_changed(&mut self) -> bool {
        self.refused_secret.is_some_and(|refused| self.credential.present_secret() != refused)
    }

    async fn look_at_secrets(&mut self) {
        self.credential.look_at_secrets().await;
        self.count_credential();
    }

    fn standing(&self) -> Option<Standing> {
        self.credential.standing()
    }

    async fn check(&mut self, _: &How) -> Vec<Trial> {
        self.tried().await
    }
}

#[cfg(test)]
mod tests;
