//! How an org's audit log answers where the real service's behaviour is undocumented, has changed, or differs between stores.

use super::super::verdict::RetryAfter;
use bytes::Bytes;
use std::time::Duration;

use super::super::verdict::Cut;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    Inclusive,
    Exclusive,
}

/// What a continuation token is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenStyle {
    /// `"1615413365"`: the second of the last event on the page.
    Decimal,
    /// Base64 of `{"timestamp":1756399900}`.
    Base64,
    /// The same second as a JSON number.
    Number,
    /// The exact place in the list: what one would wish for.
    Keyset,
}

/// What a token that is a whole second lets through next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cursor {
    /// `<`: the rest of that second is lost.
    Before,
    /// `<=`: that second is repeated.
    UpTo,
}

/// The order of events within one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Any, but always the same.
    Stable,
    /// Another one for every request.
    Random,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastToken {
    Absent,
    Null,
    Empty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoEvents {
    Null,
    Empty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum More {
    /// A token says that there is more.
    Exact,
    /// A token says that the page is full.
    WhenFull,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gzip {
    Never,
    WhenAsked,
    Always,
    /// Packed, but a proxy has taken the header away.
    HeaderStripped,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DateHeader {
    Present,
    Absent,
    Shifted(i64),
    Raw(String),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filtering {
    BeforePaging,
    /// As DynamoDB does it: pages get short or empty and still carry a token.
    AfterPaging,
}

#[derive(Debug, Clone)]
pub struct Behaviour {
    pub page_size: usize,
    pub lower: Bound,
    pub upper: Bound,
    pub token: TokenStyle,
    pub cursor: Cursor,
    pub order: Order,
    pub last_token: LastToken,
    pub no_events: NoEvents,
    pub more: More,
    pub filtering: Filtering,
    /// Every answer with a token carries this one.
    pub stalled_token: Option<String>,
    /// White space that means nothing.
    pub spread: bool,
    pub gzip: Gzip,
    pub date: DateHeader,
    /// Whether the second list, and the catalog of event types, exist (old self-hosted services).
    pub v2: bool,
    pub event_types: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::mysql()
    }
}

impl Behaviour {
    pub fn mysql() -> Self {
        Self {
            page_size: 100,
            lower: Bound::Inclusive,
            upper: Bound::Exclusive,
            token: TokenStyle::Decimal,
            cursor: Cursor::Before,
            order: Order::Random,
            last_token: LastToken::Absent,
            no_events: NoEvents::Null,
            more: More::Exact,
            filtering: Filtering::BeforePaging,
            stalled_token: None,
            spread: false,
            gzip: Gzip::WhenAsked,
            date: DateHeader::Present,
            v2: true,
            event_types: true,
        }
    }

    pub fn dynamo() -> Self {
        Self {
            token: TokenStyle::Base64,
            cursor: Cursor::UpTo,
            filtering: Filtering::AfterPaging,
            more: More::WhenFull,
            ..Self::mysql()
        }
    }

    /// A service with nothing to complain of, which a client that trusts tokens can read whole.
    pub fn ideal() -> Self {
        Self { token: TokenStyle::Keyset, order: Order::Stable, upper: Bound::Inclusive, ..Self::mysql() }
    }
}

/// What goes wrong with a request about an org.
#[derive(Debug, Clone)]
pub enum Fault {
    /// An error of the service itself, in its JSON shape.
    Status {
        code: u16,
        message: String,
        retry_after: RetryAfter,
    },
    /// An error of something in front of it.
    Html {
        code: u16,
        retry_after: RetryAfter,
    },
    /// 400: the edition has no audit logs.
    Edition,
    Unauthorized,
    Saml,
    /// 403, and an event that says so.
    Role,
    ExpiryPolicy {
        days: u32,
    },
    Firewall,
    Throttled(RetryAfter),
    /// The right answer, cut off or reset on its way.
    Lost(Cut),
    /// The right answer, late.
    Late(Duration),
    /// Never an answer.
    Stall,
    /// The right answer, so many bytes at a time.
    Drip {
        bytes: usize,
        every: Duration,
    },
    /// The right body under this content type.
    ContentType(&'static str),
    /// This body with status 200.
    Body(Bytes),
    /// The right answer, packed, and the packing damaged.
    BadGzip(BadGzip),
    Redirect(String),
    /// A page without events that carries a token all the same.
    EmptyPage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BadGzip {
    Truncated,
    WrongChecksum,
    TrailingBytes,
    TwoMembers,
    /// Says gzip and is not.
    Mislabelled,
}

impl Fault {
    pub fn status(code: u16) -> Self {
        Self::Status { code, message: format!("simulated {code}"), retry_after: RetryAfter::None }
    }

    pub fn html(code: u16) -> Self {
        Self::Html { code, retry_after: RetryAfter::None }
    }

    /// A few hundred kilobytes that become so many mebibytes of zeros.
    pub fn bomb(mebibytes: usize) -> Bytes {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        for _ in 0..mebibytes {
            std::io::Write::write_all(&mut packer, &[0; 1 << 20]).expect("memory takes it");
        }
        packer.finish().expect("memory takes it").into()
    }
}
