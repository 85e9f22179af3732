//! Copies every audit event of many Pulumi organizations into Microsoft Sentinel and S3, loses none, and can prove it.
//!
//! # The picture
//!
//! ```text
//!                      supervisor: one keeper per org; reload, drain
//! ┌──────────────────────────────────── org ─────────────────────────────────────┐
//! │                collect                                  deliver               │
//! │  Pulumi   ──pages──▶ sweep ──▶ tally ──▶ journal ──▶ lane: sentinel ──▶ Azure │
//! │  Cloud                (pure     (pure      (SQLite) ├▶ lane: s3       ──▶ S3  │
//! │    ▲                   parse)    diff)        │     └▶ lane: file     ──▶ disk│
//! │    └──── plan (pure): which window next? ◀────┘            │                  │
//! │                                              checkpoint ◀──┘ (one per lane)   │
//! └───────────────────────────────────────────────────────────────────────────────┘
//!  cli ▶ config ▶ settings                            metrics ▶ admin: /metrics /livez /readyz /
//! ```
//!
//! One event's life: it is read on a [page](pulumi::wire::Page) of a [sweep](collect::sweep) over a [window](clock::Window); the
//! [tally](collect::tally) decides whether this occurrence is new; it is written into a [chunk](chunk::Chunk) of the org's
//! [journal] in the same transaction ([`append`](journal::Journal::append)) that adds the window to the org's
//! [coverage]; each [lane] reads the journal at its own pace, [delivers](destination::Destination::deliver) the chunk to its
//! [destination], and moves its own checkpoint ([`acknowledge`](journal::Journal::acknowledge)) when, and only when, the
//! destination has answered definitively.
//!
//! # Where to look
//!
//! | To follow | Read |
//! |---|---|
//! | one event with a finger | [`pulumi::client`], [`pulumi::wire`], [`collect`], [`journal`], [`lane`], [`destination`] |
//! | which window is next, and why | [`collect::plan`] |
//! | why bounds are moved and tokens are not followed | [`collect::sweep`] |
//! | what an event is, and its key | [`event`] |
//! | what each destination's answer leads to | [`destination::Answer`], [`lane`], [`retry`] |
//! | what a row of Sentinel's table holds | [`destination::sentinel::columns`] |
//! | how an org is put together | [`org`], [`supervisor`] |
//! | how settings change while it runs | [`reload`], [`fleet`], [`stop`] |
//! | what the service manager is told, and how it is known that everything turns | [`systemd`], [`liveness`] |
//! | what `check` tries, and where a new trial goes | [`probe`], [`trial`], [`destination::Destination::check`] |
//! | how an archive is proven to be whole | [`verify`] |
//! | how lost state comes back from the archive | [`recovery`] |
//! | who did what to this forwarder, and how that is proven | [`audit`] |
//! | what a crash may leave behind | [`crash`] |
//! | how secrets are exchanged with overlap | [`rotation`], [`pulumi::token`], [`secret`] |
//! | the sign of life at the destinations | [`heartbeat`] |
//! | what a pause is, and what it looks like from outside | [`problem`], [`report`], [`metrics`], [`admin`] |
//!
//! # What is deliberately absent
//!
//! - [`collect::plan`], [`collect::sweep`], [`collect::tally`], [`chunk`], [`coverage`], rows and [`retry`] do no IO, read no clock and
//!   draw no random numbers: time, chance and network are arguments.
//! - Only [`pulumi::wire`] knows Pulumi's field names; only [`destination::sentinel`] knows Azure's.
//! - A checkpoint never passes a chunk that is not durable at its destination. Coverage never holds a window that is not journaled.
//! - There is no unbounded queue, loop, body or wait. Nothing is dropped on purpose. No secret can be printed.
//! - One org never delays another, and one destination never delays another.
//!
//! # What must be durable before what
//!
//! 1. A chunk (its append committed) before the first byte of its delivery.
//! 2. A claim before its object; a definitive answer before the acknowledgement.
//! 3. Acknowledgement and receipt in one transaction; the checkpoint moves with it, and so does the quarantine of a row left out.
//! 4. A window's coverage in the same transaction as all of its chunks.
//! 5. A failed commit is never believed or retried on the same handle.

pub mod admin;
pub mod audit;
pub mod chunk;
pub mod cli;
pub mod clock;
pub mod collect;
pub mod config;
pub mod coverage;
pub mod crash;
pub mod destination;
pub mod event;
pub mod fleet;
pub mod heartbeat;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod hostile;
pub mod http;
pub mod journal;
pub mod lane;
pub mod liveness;
pub mod log;
pub mod metrics;
pub mod mutant;
pub mod org;
pub mod probe;
pub mod problem;
pub mod pulumi;
pub mod recovery;
pub mod reload;
pub mod report;
pub mod retry;
pub mod rotation;
pub mod secret;
pub mod stop;
pub mod supervisor;
pub mod systemd;
pub mod trial;
pub mod verify;
