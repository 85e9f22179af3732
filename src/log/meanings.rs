//! What every message means for whoever runs this, and what there is to do. The one place; `docs/logs.md` is made from it.

/// How the page begins.
pub(super) const INTRODUCTION: &str = "\
# Log messages

<!-- Generated from the source and src/log/meanings.rs by RENEW=1 cargo test --lib log::catalogue. Change them, not this page. -->

One line for each happening, on standard error: text on a terminal, else one JSON object (`--log-format`, `[log]`). The message is constant, so it can
be searched for and alerted on; values are fields. In JSON they stand beside `timestamp`, `level`, `target` and `message`. No line holds an event's contents or a
secret. A test reads every place in the source that logs, and fails when this page says anything else.

- **error**: a person must act, or something is not as it should be. **warn**: it goes on by itself, and is worth a look. **info**: what begins and ends.
  **debug**: single windows, chunks and requests.
- What libraries say is written from warn on, under their own `target`; their messages are not listed here.
- A day of healthy running is a handful of lines: after those of the start (two, and one for each org that is new) **none** at info or above in 24 hours,
  for four orgs with token exchanges, an ESC environment, rescans and now and then a 429 of less than a minute. A test counts them.

## Repetition

The same message about the same `org` and `destination` is written ten times at once, and then once every half hour: 58 lines and 24 counts a day where something fails
every second. Lines that answer an act of somebody (they have a `trigger`: a reload) come once a minute instead. This holds for errors, warnings and infos; debug and trace are written whole. What is not written is counted, and a line of the
same level says exactly how many of which `text` were left out: when ten minutes have passed without another, every hour while it goes on, and at the end of the process. Written lines
and counts add up to what happened. Of more than 10,000 different ones at a time, the newest are limited and counted without telling orgs apart.

The status page, the metrics and `audit` miss nothing of what is left out here; `quarantine list` has the rows, `coverage` the seconds.

Standard error that is blocked or closed stops nothing: lines that do not fit into a megabyte are dropped and counted in
`pulumi_audit_log_lines_dropped_total`, which is 0 as long as somebody reads.
";

/// Every field: one word for one idea.
pub(super) const FIELDS: &[(&str, &str)] = &[
    ("org", "id of the org: the name of its configuration file"),
    ("organization", "Pulumi's name of an organization"),
    ("destination", "`sentinel`, `s3` or `file`; `source` for the side that reads from Pulumi"),
    ("archive", "`s3` or `file`: the archive that is read or repaired"),
    ("cause", "what went wrong, or why, in words"),
    ("remedy", "what a person can do about it"),
    ("reason", "which kind of pause, wait or refusal; of a decision, what the person gave as the reason"),
    ("until", "when it is tried again"),
    ("seconds", "how long it lasted"),
    ("life_seconds", "how long a token still lives"),
    ("chunk", "number of a chunk; where an org goes on, of the next one"),
    ("row", "place of a row in its chunk"),
    ("rows", "number of rows"),
    ("which", "rows by chunk and place, the first twenty"),
    ("chunks", "number of chunks"),
    ("archived", "number of the next chunk in the archive"),
    ("claims", "number of claims read so far"),
    ("of", "number of claims there are"),
    ("window", "the span of event time"),
    ("kind", "kind of sweep: `head`, `catchup`, `rescan`"),
    ("seen", "events on the pages of a window"),
    ("new", "those that had not been journaled"),
    ("second", "a second of event time"),
    ("start", "event time from which an org is collected"),
    ("cursor", "everything before it is journaled"),
    ("holes_seconds", "event time that is still to be read"),
    ("now", "the service's time"),
    ("credential", "key of the secret that is in use"),
    ("before", "key of the one before it"),
    ("identity", "kind of Azure identity"),
    ("environment", "name of an ESC environment"),
    ("key", "a key of the configuration"),
    ("keys", "keys of the configuration"),
    (
        "trigger",
        "why the configuration was read: `SIGHUP`, `changed files`, or another look at what was refused",
    ),
    ("added", "orgs that start"),
    ("removed", "orgs that end"),
    ("changed", "orgs and keys that differ"),
    ("rates", "hosts whose rate of requests differs"),
    ("path", "a file"),
    ("state_dir", "the state directory"),
    ("address", "where the admin endpoints are served"),
    ("version", "version of this program"),
    ("orgs", "number of orgs"),
    ("signal", "name of a signal"),
    ("panics", "how often this part has panicked"),
    ("act", "what was done or decided"),
    ("who", "who did it"),
    ("theirs", "chunks of the other instance"),
    ("ours", "chunks of this one that gave way"),
    ("remaining", "events in them that nobody else has: they got new numbers"),
    ("text", "the message that was left out"),
    ("left_out", "how often it came and was not written"),
    ("missed", "heartbeats that were left out"),
    ("at", "a place in the source"),
];

/// Every message.
pub(super) const MEANINGS: &[(&str, &str)] = &[
    // The process.
    ("started", "The daemon runs. Nothing to do."),
    ("stopped", "Everything ended in order. Nothing to do."),
    (
        "admin endpoints are served",
        "`/metrics`, `/livez`, `/readyz`, `/api/status` and `/` answer there. Nothing to do.",
    ),
    (
        "no progress; the service manager's watchdog is not fed, so that it starts this process again",
        "The cause names what stands still: the runtime, the journal, the admin endpoints, the supervisor, or a part of an org. systemd ends the process \
         (`WatchdogSec=`) and starts it again, which loses nothing. If it comes again, look at the disk, then report it.",
    ),
    (
        "every part makes progress again; the service manager's watchdog is fed",
        "What stood still goes on, before systemd lost its patience. Nothing to do.",
    ),
    (
        "the service manager cannot be told how this process is",
        "What `$NOTIFY_SOCKET` names does not take messages. Under systemd the unit never becomes ready: see `RestrictAddressFamilies=` of drop-ins.",
    ),
    (
        "the admin endpoints have stopped",
        "Metrics and probes are not answered any more; deliveries go on. Restart the daemon.",
    ),
    (
        "the status page cannot be made",
        "A defect: `/` answers 500, deliveries go on, and `status` says the same. Report it.",
    ),
    (
        "panicked; this is a bug, please report it",
        "Says where; what becomes of it is said by another line, or the process ends. Report it.",
    ),
    (
        "a heartbeat was not sent; events are delivered all the same",
        "Whoever watches heartbeats hears nothing of this org. See the cause: often a stream that the rule does not declare, or a permission.",
    ),
    ("heartbeats are sent again", "Nothing to do."),
    (
        "stopping; deliveries under way are finished first",
        "A signal came; at most ten seconds until the end. Nothing to do.",
    ),
    (
        "aborted; what was under way is sent again at the next start",
        "A second signal came. Nothing is lost; rows may be in Sentinel twice, under one key.",
    ),
    (
        "not everything under way ended in time; it is sent again at the next start",
        "A destination did not answer within ten seconds of the end. Nothing is lost.",
    ),
    (
        "the time limit of --once is reached",
        "`run --once` ended before everything was delivered. Run it again, or with a longer `--timeout`.",
    ),
    ("metrics cannot be encoded", "A bug: `/metrics` is empty or cut. Report it."),
    (
        "not in the audit record",
        "Something was done and could not be written to `audit.jsonl`. Look at the disk; this line is the only trace.",
    ),
    (
        "left out: the same error again",
        "More of an error than was written. Look at the lines with the `text`.",
    ),
    (
        "left out: the same warning again",
        "More of a warning than was written. Look at the lines with the `text`.",
    ),
    ("left out: the same line again", "More of a line than was written. Nothing to do."),
    // Configuration.
    (
        "the configuration is in force, with a warning",
        "It works, and something in it is dangerous or useless. Read the cause; `check --offline` lists all of them.",
    ),
    (
        "the configuration is refused; the one before stays in force",
        "A file has a mistake. Correct it; it is read again by itself.",
    ),
    ("the configuration is valid again; nothing has changed", "A mistake was undone. Nothing to do."),
    (
        "the configuration was read again; nothing has changed",
        "SIGHUP came, and there was nothing new. Nothing to do.",
    ),
    (
        "files of the configuration were looked at again; nothing has changed",
        "A file was written with the same contents. Nothing to do.",
    ),
    ("the configuration was reloaded", "What is named counts from now on. Nothing to do."),
    (
        "these settings count from the next start of the process on",
        "They differ from what is in force. Restart the daemon when it suits.",
    ),
    (
        "no longer configured; its state is kept",
        "At the start: an org that the state directory knows has no file. Put the file back if that was not meant.",
    ),
    (
        "removed from the configuration; its state is kept, and it goes on where it stands when it comes back",
        "The org's file went away while the daemon ran. Put it back if that was not meant.",
    ),
    (
        "not everything under way ended in time; it is sent again",
        "A changed or removed org had a request that did not end. Nothing is lost.",
    ),
    (
        "not everything that is journaled could be delivered at once; it is kept",
        "A removed org has undelivered events. They wait for its file to come back.",
    ),
    (
        "a changed file cannot be used; what it held before stays in use",
        "A CA file, a client certificate or a proxy setting was replaced by something unusable. Correct the file of that key.",
    ),
    (
        "connections are kept for longer than they should be",
        "New connections could not be prepared, so old ones stay open. Look at the cause if it comes again.",
    ),
    // Waits and pauses.
    (
        "waiting",
        "A source or lane waits, and nobody is needed: reason and cause say for what. Look at that if it lasts.",
    ),
    ("waiting for a moment", "A service asked to slow down for less than a minute. Nothing to do."),
    ("still waiting", "Another try failed. Nothing to do."),
    ("waiting during a pause", "A try during a pause had no answer. The pause counts."),
    ("wait ended", "It works again. Nothing to do."),
    ("short wait ended", "It works again. Nothing to do."),
    ("paused", "**A person must act**: the remedy says how. Nothing is lost; once that is done it goes on."),
    ("paused for another reason", "**A person must act**: the reason has changed, and the remedy with it."),
    ("still paused", "Another try failed in the same way. The first line counts."),
    ("pause ended", "What was asked for was done. Nothing to do."),
    // Credentials.
    (
        "another credential is in use",
        "The next secret, or a new value, was accepted. The one before can be withdrawn.",
    ),
    (
        "a changed secret cannot be used",
        "The new value is refused or no secret; the old one stays in use. Correct it before the old one ends.",
    ),
    (
        "cannot note which token is in use",
        "After a restart the other token is tried first. Look at the disk.",
    ),
    (
        "no new access token; the present one is used on",
        "An exchange failed before it was needed, and is tried again. Look at the cause if it lasts until the present one ends.",
    ),
    ("OIDC token exchanged", "A short-lived access token was had. Nothing to do."),
    ("ESC environment opened and read", "Secrets were read from Pulumi ESC. Nothing to do."),
    (
        "ESC environment not opened",
        "Secrets could not be read from Pulumi ESC; those that were read before stay in use. Look at the cause.",
    ),
    (
        "`default` found an Azure identity",
        "Says which identity `kind = \"default\"` came to. Name it in the configuration to be sure.",
    ),
    (
        "`default` found an Azure identity in the environment",
        "Says which identity the environment's variables gave. Name it in the configuration to be sure.",
    ),
    // Collecting.
    ("collection starts", "An org's first answer fixed its start. Nothing to do."),
    (
        "catching up",
        "There is time to be read again, after an absence or for a `start` in the past; said every half minute at first. Nothing to do.",
    ),
    ("caught up", "No time is missing any more. Nothing to do."),
    ("window journaled", "A window was read and committed. Nothing to do."),
    ("window halved", "A window held too much, and is read in two halves. Nothing to do."),
    (
        "a second is too dense to be proven whole: it is marked damaged, and what was read of it is kept",
        "More events happened in that second than one page holds. Compare it with Pulumi's own export; every rescan tries again.",
    ),
    (
        "more events without a plausible time than can be told apart: they may be doubled",
        "The service sends events with impossible times. Tell Pulumi; readers remove doubles by their key.",
    ),
    (
        "the service sends no date: the local clock decides what time it is",
        "Something between here and Pulumi takes the `Date` header away. See to it that this machine's clock is right.",
    ),
    (
        "the service's time is not what the journal was read by; waiting whether it holds",
        "The service's clock or the state directory is from another time. Nothing to do unless it stays.",
    ),
    (
        "the service's time has jumped",
        "The new time has held for a poll interval and counts now; what lay beyond it is read again. Nothing to do.",
    ),
    (
        "a second organization was throttled: its host is paused",
        "Pulumi limits this address, so all orgs of the host wait. Lower `host_requests_per_second` if it comes often.",
    ),
    (
        "cannot keep when the source was last refused",
        "After a restart the source is asked earlier than need be. Look at the disk.",
    ),
    (
        "cannot forget when the source was last refused",
        "After a restart the source is asked later than need be. Look at the disk.",
    ),
    (
        "cannot read the org's state again",
        "After a failed commit the journal does not answer; the org is paused or waits. Look at the disk.",
    ),
    // Journal.
    (
        "the journal is damaged; stopping, so that the next start reads all of it",
        "The disk or the memory changed stored bytes. Look at the disk; the service manager starts it again.",
    ),
    (
        "the journal is damaged and was moved aside; every org starts again from its archive. Look at the disk, then delete the file",
        "What was not archived is read again. Look at the disk.",
    ),
    (
        "an older damaged journal was deleted to make room",
        "Only the newest damaged journals are kept. Nothing to do.",
    ),
    (
        "the journal seemed damaged when it was last used; all of it is read now",
        "The start takes longer. Look at the disk.",
    ),
    (
        "no damage was found in the journal; its disk or this machine's memory may fail",
        "A read went wrong and did not the second time. Test the disk and the memory.",
    ),
    (
        "cannot note in the state directory that its journal is damaged",
        "The next start does not read all of it. Look at the disk.",
    ),
    ("acknowledged chunks pruned", "Chunks past `journal.retain` were deleted. Nothing to do."),
    ("cannot prune", "Delivered chunks take space for longer. Look at the disk if it comes again."),
    // Delivering.
    ("chunk delivered", "A destination has it for good. Nothing to do."),
    ("no definitive answer", "Perhaps stored, perhaps not: the same bytes are sent again. Nothing to do."),
    (
        "the lane goes on from its stored checkpoint",
        "An acknowledgement could not be committed, so a chunk is sent again. Look at the disk.",
    ),
    (
        "row put into quarantine; the archive has it whole",
        "A destination refuses this row for good. See `quarantine list`, then `quarantine retry` or `drop`.",
    ),
    ("decided about rows in quarantine", "A person did; the journal's record has all of it. Nothing to do."),
    (
        "a new lane starts at the oldest chunk kept; earlier events are not delivered there",
        "A destination was added to an org with a history. Nothing to do if that was meant.",
    ),
    (
        "cannot remove a partial file",
        "A leftover of the `file` destination stays until the next start. Nothing to do.",
    ),
    (
        "a part of the org panicked and is started again; this is a bug, please report it",
        "It goes on from what is stored. Report it, with the lines before.",
    ),
    // Recovery.
    ("recovering from the archive", "Says how far it is. Nothing to do."),
    (
        "not known whether the archive knows more than the journal",
        "The archive did not answer at the start, so the journal is believed. Nothing to do.",
    ),
    (
        "the state directory is older than the archive: going on from the archive",
        "It was restored from a backup, or belongs to another machine. See that only one forwarder runs.",
    ),
    (
        "the journal of this org is empty, and the archive is not: going on from the archive",
        "The state directory was lost. See that only one forwarder runs.",
    ),
    (
        "the org goes on from its archive; what was not archived is read again",
        "Recovery ended; rows may be in Sentinel twice, under one key. Nothing to do.",
    ),
    (
        "an object was missing, and is there again from another archive",
        "Somebody or something removed it. Find out who.",
    ),
    (
        "a claim's object had not been written: its number stays empty, and its window is read again",
        "The forwarder before this one died between two writes. Nothing to do.",
    ),
    (
        "an object is missing from the archive although later ones were written: somebody removed it. Its number stays empty, and its window is \
         read again as far as the source still has it; restore the object from a copy if there is one",
        "Archived events are gone. Find out who removed them, and restore the object.",
    ),
    (
        "adopted the chunks of another instance",
        "A person ended a `fenced` pause with `adopt`. Nothing to do.",
    ),
];
