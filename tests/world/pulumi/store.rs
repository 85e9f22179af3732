//! What one org's audit log holds, in the order of its list.
//!
//! An event's fixed part is rendered once, when it happens; what the service resolves when it is read (the person's profile, the
//! names of tokens and actors, fields that a new version adds) is put in at every reading. So a renamed person changes how old
//! events look, as with the real service, and a million events stay cheap to serve.

use std::collections::{BTreeSet, HashMap};

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::super::lexemes;
use super::events::{Event, Person};

/// Fields the service resolves at reading time, which therefore say nothing about which event this is.
pub const VOLATILE: [&str; 3] = ["user", "tokenName", "actorName"];

const NOBODY: u32 = u32::MAX;

#[derive(Debug, Default)]
pub struct Log {
    /// By place in the list, oldest first.
    stored: Vec<Stored>,
    forgotten: Vec<Stored>,
    people: Vec<Person>,
    rendered_people: Vec<Vec<u8>>,
    person_of: HashMap<String, u32>,
    names: Vec<String>,
    name_of: HashMap<String, u32>,
    /// Fields that every event shows since some moment, though it happened without them.
    decorations: Vec<(String, Value)>,
    /// Every rendition of a volatile value ever shown, and whose it is.
    shown: HashMap<Vec<u8>, String>,
    sequence: u64,
    changes: u64,
}

#[derive(Debug, Clone)]
pub struct Stored {
    pub time: i64,
    pub visible_at: i64,
    /// Unique; breaks ties within a second.
    pub sequence: u64,
    kind: u16,
    person: u32,
    token_name: u32,
    actor_name: u32,
    before_user: u32,
    before_names: u32,
    bytes: Box<[u8]>,
}

impl Stored {
    fn verbatim(&self) -> bool {
        self.person == NOBODY
    }
}

/// One event of the truth: whatever was in the log at any time.
#[derive(Debug, Clone)]
pub struct TruthEvent {
    /// Its place in the list; for an ordinary event its timestamp.
    pub timestamp: i64,
    pub visible_at: i64,
    /// Without white space, volatile fields as they are now.
    pub bytes: Vec<u8>,
    /// Which event this is, whatever became of the profiles: see [`Shown::key`].
    pub key: String,
    /// No longer in the list (retention).
    pub forgotten: bool,
}

/// Recognises an event that arrived somewhere: all renditions the log has ever shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    renditions: HashMap<Vec<u8>, String>,
    ignored: BTreeSet<String>,
}

impl Shown {
    /// The same for two renditions of one event, and for byte-identical twins; different for anything else. A person, token name or
    /// actor name that was never shown gives a key that no event of the source has.
    pub fn key(&self, raw: &[u8]) -> String {
        self.key_of(&lexemes::minify(raw))
    }

    /// The same of bytes without white space.
    pub fn key_of(&self, minified: &[u8]) -> String {
        let members = lexemes::members(minified);
        let mut key = fingerprint_without(minified, members.as_deref(), &self.ignored);
        for field in VOLATILE {
            let of_field = |(key, _): &&(&[u8], &[u8])| *key == field.as_bytes();
            let value = members.iter().flatten().find(of_field).map(|(_, value)| *value);
            let label =
                value.map(|value| self.renditions.get(&labelled(field, value)).map_or("?", String::as_str));
            key.push('|');
            key.push_str(label.unwrap_or("-"));
        }
        key
    }
}

/// SHA-256 over the fixed fields, unknown ones included, in their order and as they stand. What is no object is hashed whole.
pub fn fingerprint(raw: &[u8]) -> String {
    let minified = lexemes::minify(raw);
    fingerprint_without(&minified, lexemes::members(&minified).as_deref(), &BTreeSet::new())
}

fn fingerprint_without(
    minified: &[u8],
    members: Option<&[(&[u8], &[u8])]>,
    ignored: &BTreeSet<String>,
) -> String {
    let mut hash = Sha256::new();
    match members {
        None => hash.update(minified),
        Some(members) => {
            let fixed = |key: &[u8]| {
                !VOLATILE.iter().any(|name| name.as_bytes() == key)
                    && !std::str::from_utf8(key).is_ok_and(|key| ignored.contains(key))
            };
            for (key, value) in members.iter().filter(|(key, _)| fixed(key)) {
                hash.update((key.len() as u64).to_be_bytes());
                hash.update(key);
                hash.update((value.len() as u64).to_be_bytes());
                hash.update(value);
            }
        }
    }
    hex(&hash.finalize())
}

pub fn hex(bytes: &[u8]) -> String {
    let digit = |half: u8| char::from(b"0123456789abcdef"[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn labelled(field: &str, value: &[u8]) -> Vec<u8> {
    [field.as_bytes(), b"=", value].concat()
}

impl Log {
    pub fn add(&mut self, events: impl IntoIterator<Item = Event>) -> usize {
        self.changes += 1;
        let old = self.stored.len();
        for event in events {
            let stored = self.keep(event);
            self.stored.push(stored);
        }
        self.in_order(old);
        self.stored.len() - old
    }

    /// Puts bytes into the list as they are, at the place an event of this time would have.
    pub fn add_verbatim(&mut self, place: i64, visible_at: i64, bytes: &[u8]) {
        self.changes += 1;
        let minified = lexemes::minify(bytes);
        for field in VOLATILE {
            if let Some(value) = lexemes::member(&minified, field) {
                let label = format!("verbatim {}", hex(&Sha256::digest(value)));
                self.shown.entry(labelled(field, value)).or_insert(label);
            }
        }
        let old = self.stored.len();
        self.sequence += 1;
        self.stored.push(Stored {
            time: place,
            visible_at,
            sequence: self.sequence,
            kind: u16::MAX,
            person: NOBODY,
            token_name: NOBODY,
            actor_name: NOBODY,
            before_user: 0,
            before_names: 0,
            bytes: bytes.into(),
        });
        self.in_order(old);
    }

    fn in_order(&mut self, old: usize) {
        let sorted = self.stored[old.saturating_sub(1)..].is_sorted_by_key(|stored| stored.time);
        if !sorted {
            self.stored.sort_by_key(|stored| stored.time);
        }
    }

    fn keep(&mut self, event: Event) -> Stored {
        let person = self.person(&event.user);
        let token_name = event.token_name.as_deref().map_or(NOBODY, |name| self.name("tokenName", name));
        let actor_name = event.actor_name.as_deref().map_or(NOBODY, |name| self.name("actorName", name));
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(format!("{{\"timestamp\":{}", event.timestamp).as_bytes());
        put(&mut bytes, "sourceIP", &Value::from(event.source_ip.as_str()));
        put(&mut bytes, "event", &Value::from(event.event.as_str()));
        put(&mut bytes, "description", &Value::from(event.description.as_str()));
        let before_user = bytes.len() as u32;
        if let Some(id) = &event.token_id {
            put(&mut bytes, "tokenID", &Value::from(id.as_str()));
        }
        let before_names = bytes.len() as u32;
        if let Some(urn) = &event.actor_urn {
            put(&mut bytes, "actorUrn", &Value::from(urn.as_str()));
        }
        for (name, set) in [
            ("reqOrgAdmin", event.requires_org_admin),
            ("reqStackAdmin", event.requires_stack_admin),
            ("authFailure", event.auth_failure),
        ] {
            if set {
                put(&mut bytes, name, &Value::Bool(true));
            }
        }
        for (name, value) in &event.unknown {
            put(&mut bytes, name, value);
        }
        self.sequence += 1;
        Stored {
            time: event.timestamp,
            visible_at: event.visible_at,
            sequence: self.sequence,
            kind: super::events::kind_number(&event.event),
            person,
            token_name,
            actor_name,
            before_user,
            before_names,
            bytes: bytes.into_boxed_slice(),
        }
    }

    fn person(&mut self, person: &Person) -> u32 {
        // A profile is found by the account it belongs to, so that changing one changes it on every event.
        if let Some(&known) = self.person_of.get(&person.account) {
            return known;
        }
        let number = self.people.len() as u32;
        self.people.push(person.clone());
        self.rendered_people.push(Vec::new());
        self.person_of.insert(person.account.clone(), number);
        self.render_person(number as usize);
        number
    }

    fn render_person(&mut self, number: usize) {
        let rendered = self.people[number].rendered();
        self.shown.entry(labelled("user", &rendered)).or_insert_with(|| format!("person {number}"));
        self.rendered_people[number] = rendered;
    }

    fn name(&mut self, field: &str, name: &str) -> u32 {
        let handle = format!("{field} {name}");
        if let Some(&known) = self.name_of.get(&handle) {
            return known;
        }
        let number = self.names.len() as u32;
        self.names.push(name.to_owned());
        self.name_of.insert(handle, number);
        self.show_name(field, number);
        number
    }

    fn show_name(&mut self, field: &str, number: u32) {
        let rendered = Value::from(self.names[number as usize].as_str()).to_string();
        self.shown.entry(labelled(field, rendered.as_bytes())).or_insert_with(|| format!("name {number}"));
    }

    /// Changes the profile of an account, on old events too. Answers whether there is such an account.
    pub fn change_person(&mut self, account: &str, change: impl FnOnce(&mut Person)) -> bool {
        self.changes += 1;
        let Some(&number) = self.person_of.get(account) else { return false };
        change(&mut self.people[number as usize]);
        self.render_person(number as usize);
        true
    }

    pub fn accounts(&self) -> Vec<String> {
        self.people.iter().map(|person| person.account.clone()).collect()
    }

    /// Renames a token or an actor (`field` is `tokenName` or `actorName`), on old events too.
    pub fn rename(&mut self, field: &str, first_name: &str, new_name: &str) -> bool {
        self.changes += 1;
        let Some(&number) = self.name_of.get(&format!("{field} {first_name}")) else { return false };
        self.names[number as usize] = new_name.to_owned();
        self.show_name(field, number);
        true
    }

    /// From now on every event shows this field too, as after an upgrade of the service.
    pub fn decorate(&mut self, name: &str, value: Value) {
        self.changes += 1;
        self.decorations.retain(|(known, _)| known != name);
        self.decorations.push((name.to_owned(), value));
    }

    pub fn knows_login(&self, login: &str) -> bool {
        self.people.iter().any(|person| person.login == login)
    }

    /// Retention: events older than this leave the list, not the truth.
    pub fn forget_before(&mut self, time: i64) {
        self.changes += 1;
        let keep = self.stored.partition_point(|stored| stored.time < time);
        self.forgotten.extend(self.stored.drain(..keep));
    }

    pub fn len(&self) -> usize {
        self.stored.len()
    }

    /// The events from the first second on, up to and with the last.
    pub fn span(&self, first: i64, last: i64) -> &[Stored] {
        let from = self.stored.partition_point(|stored| stored.time < first);
        let until = self.stored.partition_point(|stored| stored.time <= last);
        &self.stored[from.min(until)..until]
    }

    pub fn is_kind(&self, stored: &Stored, kind: u16, id: &str) -> bool {
        match stored.verbatim() {
            true => {
                lexemes::member(&lexemes::minify(&stored.bytes), "event")
                    == Some(format!("\"{id}\"").as_bytes())
            }
            false if kind == u16::MAX => {
                let needle = format!("\"event\":{},", Value::from(id));
                stored.bytes[..stored.before_user as usize]
                    .windows(needle.len())
                    .any(|window| window == needle.as_bytes())
            }
            false => stored.kind == kind,
        }
    }

    pub fn is_by(&self, stored: &Stored, login: &str) -> bool {
        !stored.verbatim() && self.people[stored.person as usize].login == login
    }

    pub fn render(&self, stored: &Stored, out: &mut Vec<u8>) {
        if stored.verbatim() {
            out.extend_from_slice(&stored.bytes);
            return;
        }
        let (user, names) = (stored.before_user as usize, stored.before_names as usize);
        out.extend_from_slice(&stored.bytes[..user]);
        out.extend_from_slice(b",\"user\":");
        out.extend_from_slice(&self.rendered_people[stored.person as usize]);
        out.extend_from_slice(&stored.bytes[user..names]);
        for (field, number) in [("tokenName", stored.token_name), ("actorName", stored.actor_name)] {
            if number != NOBODY {
                put(out, field, &Value::from(self.names[number as usize].as_str()));
            }
        }
        out.extend_from_slice(&stored.bytes[names..]);
        for (name, value) in &self.decorations {
            put(out, name, value);
        }
        out.push(b'}');
    }

    pub fn shown(&self) -> Shown {
        Shown {
            renditions: self.shown.clone(),
            ignored: self.decorations.iter().map(|(name, _)| name.clone()).collect(),
        }
    }

    /// How often anything in the log has changed: what was read of it is still so while this is.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    pub fn truth(&self) -> Vec<TruthEvent> {
        let shown = self.shown();
        let all = self
            .forgotten
            .iter()
            .map(|stored| (stored, true))
            .chain(self.stored.iter().map(|stored| (stored, false)));
        all.map(|(stored, forgotten)| {
            let mut bytes = Vec::new();
            self.render(stored, &mut bytes);
            let bytes = lexemes::minify(&bytes);
            let key = shown.key_of(&bytes);
            TruthEvent { timestamp: stored.time, visible_at: stored.visible_at, bytes, key, forgotten }
        })
        .collect()
    }
}

fn put(out: &mut Vec<u8>, name: &str, value: &Value) {
    out.extend_from_slice(format!(",\"{name}\":{value}").as_bytes());
}
