//! Keys and values that the interface promises and this version does not know.
//!
//! They are refused by name rather than ignored: a bucket without the encryption somebody asked for is worse than a daemon that does
//! not start.

const KEYS: [(&str, &str, &str); 0] = [
];

const VALUES: [(&str, &str, &str); 2] = [
    (
        "sentinel.columns",
        "official",
        "not supported by this version: use `extended`, which has the official columns and more",
    ),
    ("sentinel.columns", "connector", "not supported by this version: use `extended`"),
];

/// The remedy for a key that a later version will know.
pub(super) fn key(path: &[String]) -> Option<String> {
    let (name, table) = path.split_last()?;
    let table = table.join(".");
    KEYS.iter().find(|(at, key, _)| *at == table && key == name).map(|(_, _, remedy)| (*remedy).to_owned())
}

/// The remedy for a value that a later version will know.
pub(super) fn value(path: &[String], given: &str) -> Option<String> {
    let path = path.join(".");
    VALUES
        .iter()
        .find(|(at, value, _)| *at == path && *value == given)
        .map(|(_, _, remedy)| (*remedy).to_owned())
}
