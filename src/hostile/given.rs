//! What properties are given, and what they ask of a message: the ground that [`super::PROPERTIES`] and the modules with a property
//! both stand on.

use bytes::Bytes;

use crate::event::OrgId;

/// Stands for a secret that was sent: no message may repeat it.
pub(crate) const CANARY: &str = "simulated-canary-secret";

pub(crate) fn org() -> OrgId {
    OrgId::new("acme").expect("a good id")
}

/// Words of others are cut, on one line, and without what was sent.
#[track_caller]
pub(crate) fn assert_fit_to_print(text: &str) {
    assert!(!text.contains(CANARY), "a secret is in: {text}");
    assert!(!text.chars().any(char::is_control), "a control character is in {text:?}");
    assert!(text.chars().count() < 2_000, "{} characters", text.chars().count());
}

/// The first two bytes choose a status, the rest is split in two at the first NUL: the value of a header, and the body.
pub(crate) fn response(bytes: &[u8], header: &'static str) -> crate::http::Response {
    const STATUSES: [u16; 24] = [
        200, 200, 200, 202, 204, 206, 301, 307, 400, 400, 401, 402, 403, 404, 405, 408, 409, 410, 412, 413,
        429, 500, 503, 504,
    ];
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    let status = STATUSES[usize::from(*first) % STATUSES.len()];
    let mut parts = rest.splitn(2, |byte| *byte == 0);
    let (value, body) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let mut headers = http::HeaderMap::new();
    if let Ok(value) = http::HeaderValue::from_bytes(value) {
        headers.insert(header, value);
    }
    headers.insert("date", http::HeaderValue::from_static("Sat, 21 Nov 2026 10:15:00 GMT"));
    crate::http::Response { status, headers, body: Bytes::copy_from_slice(body) }
}

/// Runs what is asynchronous to its end.
pub(crate) fn block_on<T>(done: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: tokio::runtime::Runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made");
    }
    RUNTIME.with(|runtime| runtime.block_on(done))
}
