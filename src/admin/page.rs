//! The status page for people: what `/api/status` says, as plain HTML. Everything shown is escaped, and the page runs no scripts.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

use crate::clock::Second;
use crate::report::status::{CredentialStatus, LaneStatus, Moment, OrgStatus, SourceStatus, State, Status};

const STYLE: &str = "
:root { color-scheme: light dark; font: 15px/1.45 system-ui, sans-serif }
body { margin: 2rem auto; max-width: 72rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100% }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; vertical-align: top; font-variant-numeric: tabular-nums }
tr { border-bottom: 1px solid #8884 }
td.number, th.number { text-align: right }
.ok { color: #1a7f37 } .waiting { color: #9a6700 } .paused { color: #cf222e; font-weight: 600 } .retired { color: #777 }
.remedy { max-width: 40rem }
";

/// Nothing may be loaded or run; the one style sheet is known by its hash.
pub(super) fn content_security_policy() -> String {
    let hash = STANDARD.encode(Sha256::digest(STYLE.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

pub(super) fn page(status: &Status, now: Second) -> String {
    let mut html = String::with_capacity(2_048 + status.orgs.len() * 1_024);
    let out = &mut html;
    add(
        out,
        format_args!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>pulumi-audit-forwarder</title>\
             <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\
             <h1>pulumi-audit-forwarder</h1><p>Version {}, as of {now}. {}</p>",
            Escaped(&status.version),
            Counted(status),
        ),
    );
    if !status.config.ok {
        let error = status.config.error.as_deref().unwrap_or("not loaded");
        add(out, format_args!("<p class=\"paused\">Configuration: {}</p>", Escaped(error)));
    }
    if !status.config.needs_restart.is_empty() {
        let keys = status.config.needs_restart.join(", ");
        add(
            out,
            format_args!(
                "<p class=\"waiting\">In force from the next start of the daemon on: {}</p>",
                Escaped(&keys)
            ),
        );
    }
    let mut orgs: Vec<&OrgStatus> = status.orgs.iter().collect();
    orgs.sort_by_key(|org| std::cmp::Reverse(org.state));
    for org in orgs {
        add_org(out, org, now);
    }
    out.push_str("<p><a href=\"/metrics\">metrics</a> · <a href=\"/api/status\">status as JSON</a></p></body></html>\n");
    html
}

fn add_org(out: &mut String, org: &OrgStatus, now: Second) {
    let state = org.state.as_str();
    add(
        out,
        format_args!(
            "<h2>{} <small>{}</small> <span class=\"{state}\">{state}</span></h2><p>Everything before {} is journaled; read up to {}.",
            Escaped(org.id.as_str()),
            Escaped(&org.org),
            Shown(org.cursor),
            Shown(org.tip),
        ),
    );
    for (seconds, what) in [
        (org.coverage.holes, "not read yet"),
        (org.coverage.damaged, "too dense to be read whole"),
        (org.coverage.unsettled, "due another look"),
    ] {
        if seconds > 0 {
            add(out, format_args!(" {seconds} s {what}."));
        }
    }
    out.push_str(
        "</p><table><thead><tr><th>part<th>state<th>since<th>delivered until<th class=\"number\">behind\
         <th class=\"number\">chunks<th class=\"number\">events<th class=\"number\">quarantined<th>what to do</tr></thead><tbody>",
    );
    add_source(out, &org.source);
    for lane in &org.lanes {
        add_lane(out, lane, now);
    }
    out.push_str("</tbody></table>");
}

fn add_source(out: &mut String, source: &SourceStatus) {
    let state = source.state.as_str();
    add(
        out,
        format_args!(
            "<tr><td>source<td class=\"{state}\">{state} {}<td>{}<td><td><td><td><td><td class=\"remedy\">{}{}</tr>",
            Escaped(source.reason.as_deref().unwrap_or_default()),
            Shown(source.since),
            Escaped(source.remedy.as_deref().unwrap_or_default()),
            Escaped(&credential(source.token.as_ref())),
        ),
    );
}

fn add_lane(out: &mut String, lane: &LaneStatus, now: Second) {
    let state = lane.state.as_str();
    let behind =
        lane.delivered_until.map(|Moment(at)| format!("{} s", (now - at).max(0))).unwrap_or_default();
    add(
        out,
        format_args!(
            "<tr><td>{}<td class=\"{state}\">{state} {}<td>{}<td>{}<td class=\"number\">{behind}<td class=\"number\">{}\
             <td class=\"number\">{}<td class=\"number\">{}<td class=\"remedy\">{}{}</tr>",
            lane.destination,
            Escaped(lane.reason.as_deref().unwrap_or_default()),
            Shown(lane.since),
            Shown(lane.delivered_until),
            lane.backlog_chunks,
            lane.backlog_events,
            lane.quarantined,
            Escaped(lane.remedy.as_deref().unwrap_or_default()),
            Escaped(&credential(lane.credential.as_ref())),
        ),
    );
}

/// Which secret is in use, where that is not the first, or where another could not be used.
fn credential(credential: Option<&CredentialStatus>) -> String {
    let Some(CredentialStatus { slot, since, warning }) = credential else { return String::new() };
    match warning {
        Some(warning) => format!(" {slot} is in use since {since}: {warning}"),
        None if slot.starts_with("next_") => format!(" {slot} is in use since {since}"),
        None => String::new(),
    }
}

fn add(out: &mut String, text: std::fmt::Arguments<'_>) {
    #[expect(clippy::expect_used, reason = "a string takes whatever it is given")]
    out.write_fmt(text).expect("writing to a string does not fail");
}

/// Text with everything escaped that means something in HTML, in an element or a quoted attribute.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                other => f.write_char(other)?,
            }
        }
        Ok(())
    }
}

struct Shown(Option<Moment>);

impl std::fmt::Display for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            Some(moment) => moment.fmt(f),
            None => f.write_str("not known yet"),
        }
    }
}

/// How many orgs are in which state, the worst first.
struct Counted<'a>(&'a Status);

impl std::fmt::Display for Counted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counts = [State::Paused, State::Waiting, State::Ok, State::Retired]
            .map(|state| (state, self.0.orgs.iter().filter(|org| org.state == state).count()));
        let mut first = true;
        for (state, count) in counts.into_iter().filter(|(_, count)| *count > 0) {
            write!(f, "{}{count} {}", if first { "Orgs: " } else { ", " }, state.as_str())?;
            first = false;
        }
        if first { f.write_str("No orgs yet.") } else { f.write_str(".") }
    }
}
