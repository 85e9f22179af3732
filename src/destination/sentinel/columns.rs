//! The columns a row may have, each defined once: its name, its type, with which settings it is sent, and what it holds.
//!
//! Rows are written from [`COLUMNS`]; the table in `docs/formats.md`, and `data/columns.json`, from which streams can be declared, are
//! compared with it. The module decides what a cell holds. How it is written, and what is cut, is the rows' business.
//!
//! *Why `event` stays as received for Pulumi's own rule:* there the forwarder stands in for the poller of Pulumi's connector, so its
//! rows are what the poller's would be; in a column of ours a display name becomes the id that queries ask for.

use crate::chunk::Chunk;
use crate::clock::Second;
use crate::config::settings::Columns;
use crate::pulumi::wire::Fields;

/// A column of a stream.
pub struct Column {
    pub name: &'static str,
    pub kind: ColumnKind,
    pub with: With,
    /// Which field of the event, or what of ours, it holds.
    pub from: &'static str,
    pub(super) cell: for<'a> fn(&'a Source<'a>) -> Cell<'a>,
}

/// A column's type, as a stream declares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColumnKind {
    DateTime,
    Long,
    String,
    Boolean,
    Dynamic,
}

impl ColumnKind {
    pub fn as_str(self) -> &'static str {
        match self {
            ColumnKind::DateTime => "datetime",
            ColumnKind::Long => "long",
            ColumnKind::String => "string",
            ColumnKind::Boolean => "boolean",
            ColumnKind::Dynamic => "dynamic",
        }
    }
}

/// With which settings a column is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum With {
    OfficialAndExtended,
    Extended,
    /// `extended`, and `raw_event = true`.
    RawEvent,
    Connector,
}

impl With {
    fn is_chosen(self, columns: Columns, raw_event: bool) -> bool {
        match self {
            With::OfficialAndExtended => columns != Columns::Connector,
            With::Extended => columns == Columns::Extended,
            With::RawEvent => columns == Columns::Extended && raw_event,
            With::Connector => columns == Columns::Connector,
        }
    }
}

/// The columns that are sent, in their order.
pub fn chosen(columns: Columns, raw_event: bool) -> Vec<&'static Column> {
    COLUMNS.iter().filter(|column| column.with.is_chosen(columns, raw_event)).collect()
}

/// First the fifteen of Pulumi's own connector, same names and types, then what they lack, then what the connector's data
/// collection rule takes in.
pub static COLUMNS: [Column; 34] = {
    use ColumnKind::{Boolean, DateTime, Dynamic, Long, String};
    use With::{Connector, Extended, OfficialAndExtended, RawEvent};
    [
        column(OfficialAndExtended, "TimeGenerated", DateTime, "timestamp", |s| Cell::Time(s.time)),
        column(OfficialAndExtended, "Timestamp_d", Long, "timestamp", |s| Cell::Long(s.at.0)),
        column(OfficialAndExtended, "SourceIP_s", String, "sourceIP", |s| Cell::Text(&s.fields.source_ip)),
        column(OfficialAndExtended, "Event_s", String, "event", |s| Cell::Text(s.event)),
        column(OfficialAndExtended, "Description_s", String, "description", |s| {
            Cell::Text(&s.fields.description)
        }),
        column(OfficialAndExtended, "UserName_s", String, "user.name", |s| Cell::Text(&s.fields.user_name)),
        column(OfficialAndExtended, "UserLogin_s", String, "user.githubLogin", |s| {
            Cell::Text(&s.fields.user_login)
        }),
        column(OfficialAndExtended, "UserAvatarUrl_s", String, "user.avatarUrl", |s| {
            Cell::Text(&s.fields.user_avatar_url)
        }),
        column(OfficialAndExtended, "TokenID_s", String, "tokenID", |s| Cell::Text(&s.fields.token_id)),
        column(OfficialAndExtended, "TokenName_s", String, "tokenName", |s| Cell::Text(&s.fields.token_name)),
        column(OfficialAndExtended, "ActorName_s", String, "actorName", |s| Cell::Text(&s.fields.actor_name)),
        column(OfficialAndExtended, "ActorUrn_s", String, "actorUrn", |s| Cell::Text(&s.fields.actor_urn)),
        column(OfficialAndExtended, "RequireOrgAdmin_b", Boolean, "reqOrgAdmin", |s| {
            Cell::Boolean(s.fields.require_org_admin)
        }),
        column(OfficialAndExtended, "RequireStackAdmin_b", Boolean, "reqStackAdmin", |s| {
            Cell::Boolean(s.fields.require_stack_admin)
        }),
        column(OfficialAndExtended, "AuthFailure_b", Boolean, "authFailure", |s| {
            Cell::Boolean(s.fields.auth_failure)
        }),
        column(Extended, "EventKey_s", String, "the event key", |s| Cell::Name(s.key)),
        column(Extended, "OrgName_s", String, "Pulumi's name of the organization at collection", |s| {
            Cell::Name(&s.chunk.org)
        }),
        column(Extended, "OrgId_s", String, "the org's id", |s| Cell::Name(s.chunk.id.as_str())),
        column(Extended, "EventTime_t", DateTime, "timestamp", |s| Cell::Time(s.time)),
        column(Extended, "IngestMode_s", String, "how it was collected", |s| {
            Cell::Name(s.chunk.mode.as_str())
        }),
        column(Extended, "Chunk_d", Long, "the chunk's number", |s| Cell::Count(s.chunk.number)),
        column(RawEvent, "RawEvent", Dynamic, "the event as received", |s| Cell::Raw(s.raw)),
        column(Connector, "timestamp", Long, "timestamp", |s| Cell::Long(s.at.0)),
        column(Connector, "sourceIP", String, "sourceIP", |s| Cell::Text(&s.fields.source_ip)),
        column(Connector, "event", String, "event", |s| Cell::Text(&s.fields.event)),
        column(Connector, "description", String, "description", |s| Cell::Text(&s.fields.description)),
        column(Connector, "user", Dynamic, "user", |s| Cell::User(s.fields)),
        column(Connector, "tokenID", String, "tokenID", |s| Cell::Text(&s.fields.token_id)),
        column(Connector, "tokenName", String, "tokenName", |s| Cell::Text(&s.fields.token_name)),
        column(Connector, "actorName", String, "actorName", |s| Cell::Text(&s.fields.actor_name)),
        column(Connector, "actorUrn", String, "actorUrn", |s| Cell::Text(&s.fields.actor_urn)),
        column(Connector, "reqOrgAdmin", Boolean, "reqOrgAdmin", |s| {
            Cell::Boolean(s.fields.require_org_admin)
        }),
        column(Connector, "reqStackAdmin", Boolean, "reqStackAdmin", |s| {
            Cell::Boolean(s.fields.require_stack_admin)
        }),
        column(Connector, "authFailure", Boolean, "authFailure", |s| Cell::Boolean(s.fields.auth_failure)),
    ]
};

const fn column(
    with: With,
    name: &'static str,
    kind: ColumnKind,
    from: &'static str,
    cell: for<'a> fn(&'a Source<'a>) -> Cell<'a>,
) -> Column {
    Column { name, kind, with, from, cell }
}

/// What a row is made from.
pub(super) struct Source<'a> {
    pub(super) chunk: &'a Chunk,
    pub(super) key: &'a str,
    pub(super) at: Second,
    /// RFC 3339 without the `Z`.
    pub(super) time: &'a str,
    /// The event type's id, where it is known.
    pub(super) event: &'a str,
    pub(super) fields: &'a Fields<'a>,
    pub(super) raw: Raw<'a>,
}

#[derive(Clone, Copy)]
pub(super) enum Raw<'a> {
    Json(&'a str),
    /// Base64 of an event that is not UTF-8.
    Base64(&'a str),
}

#[derive(Clone, Copy)]
pub(super) enum Cell<'a> {
    Time(&'a str),
    Long(i64),
    Count(u64),
    /// May be cut.
    Text(&'a str),
    /// Never cut.
    Name(&'a str),
    Boolean(bool),
    /// Left out of a row that would be too large.
    Raw(Raw<'a>),
    /// The user's object as it stands; where that cannot be sent, its [`texts_of_user`], which may be cut.
    User(&'a Fields<'a>),
}

/// What Pulumi's own rule takes out of a user.
pub(super) fn texts_of_user<'a>(fields: &'a Fields<'_>) -> [(&'static str, &'a str); 3] {
    [("name", &fields.user_name), ("githubLogin", &fields.user_login), ("avatarUrl", &fields.user_avatar_url)]
}

#[cfg(test)]
mod tests {
    use super::*;

    impl With {
        fn settings(self) -> &'static [&'static str] {
            match self {
                With::OfficialAndExtended => &["official", "extended"],
                With::Extended => &["extended"],
                With::RawEvent => &["extended with raw_event"],
                With::Connector => &["connector"],
            }
        }
    }

    fn names(columns: Columns, raw_event: bool) -> Vec<&'static str> {
        chosen(columns, raw_event).iter().map(|column| column.name).collect()
    }

    #[test]
    fn names_are_what_azure_takes_and_none_is_sent_twice() {
        for choice in [Columns::Official, Columns::Extended, Columns::Connector] {
            let names = names(choice, true);
            for name in &names {
                assert!((2..=45).contains(&name.len()));
                assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
                assert_eq!(names.iter().filter(|other| other.eq_ignore_ascii_case(name)).count(), 1);
            }
        }
    }

    #[test]
    fn official_has_the_connectors_fifteen_and_extended_begins_with_them() {
        let official = names(Columns::Official, false);
        assert_eq!(
            official,
            [
                "TimeGenerated",
                "Timestamp_d",
                "SourceIP_s",
                "Event_s",
                "Description_s",
                "UserName_s",
                "UserLogin_s",
                "UserAvatarUrl_s",
                "TokenID_s",
                "TokenName_s",
                "ActorName_s",
                "ActorUrn_s",
                "RequireOrgAdmin_b",
                "RequireStackAdmin_b",
                "AuthFailure_b"
            ]
        );
        let added = ["EventKey_s", "OrgName_s", "OrgId_s", "EventTime_t", "IngestMode_s", "Chunk_d"];
        assert_eq!(names(Columns::Extended, false), [&official[..], &added].concat());
        assert_eq!(names(Columns::Extended, true), [&official[..], &added, &["RawEvent"]].concat());
        assert_eq!(names(Columns::Official, true), official, "the raw event belongs to `extended`");
    }

    #[test]
    fn connector_has_the_fields_that_pulumis_own_rule_declares() {
        let stream: Vec<_> = chosen(Columns::Connector, false)
            .into_iter()
            .map(|column| format!("{} {}", column.name, column.kind.as_str()))
            .collect();
        assert_eq!(
            stream.join(", "),
            "timestamp long, sourceIP string, event string, description string, user dynamic, tokenID string, \
             tokenName string, actorName string, actorUrn string, reqOrgAdmin boolean, reqStackAdmin boolean, \
             authFailure boolean"
        );
    }

    #[test]
    fn the_documentation_lists_these_columns() {
        let mut table = String::from("| Column | Type | Sent with | Holds |\n|---|---|---|---|\n");
        for Column { name, kind, with, from, .. } in &COLUMNS {
            let with = with.settings().join(", ");
            let from = if from.contains(' ') { (*from).to_owned() } else { format!("`{from}`") };
            table.push_str(&format!("| `{name}` | {} | {with} | {from} |\n", kind.as_str()));
        }
        let page = include_str!("../../../docs/formats.md");
        assert!(page.contains(&format!("\n\n{table}\n")), "docs/formats.md must have this table:\n{table}");
    }

    #[test]
    fn the_columns_for_other_programs_are_these_columns() {
        let lines: Vec<String> = COLUMNS
            .iter()
            .map(|Column { name, kind, with, from, .. }| {
                let with = serde_json::json!(with.settings());
                let from = serde_json::json!(from);
                let kind = kind.as_str();
                format!("{{\"name\":\"{name}\",\"type\":\"{kind}\",\"with\":{with},\"from\":{from}}}")
            })
            .collect();
        let text = format!("[\n{}\n]\n", lines.join(",\n"));
        let file = include_str!("../../../data/columns.json");
        assert!(file == text, "data/columns.json must be:\n{text}");
    }
}
