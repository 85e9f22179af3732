//! Audit events: what one is, and a seeded generator of believable ones.
//!
//! The 169 types and their flags come from the product's catalog; the texts have the shapes the facts page quotes.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::Value;

use super::super::chance::Chance;

/// Who did it, as the service shows it: all of it can change later but the account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Person {
    /// Not shown; what the profile belongs to.
    pub account: String,
    pub name: String,
    pub login: String,
    pub avatar: String,
    pub email: Option<String>,
}

impl Person {
    pub fn new(login: &str, name: &str) -> Self {
        let avatar = format!("https://avatars.example.com/u/{login}?s=460&v=4");
        Self {
            account: login.to_owned(),
            name: name.to_owned(),
            login: login.to_owned(),
            avatar,
            email: None,
        }
    }

    /// As shown for a failed login: nobody.
    pub fn nobody() -> Self {
        Self {
            account: String::new(),
            name: String::new(),
            login: String::new(),
            avatar: String::new(),
            email: None,
        }
    }

    pub(super) fn rendered(&self) -> Vec<u8> {
        let text = |text: &str| Value::from(text).to_string();
        let mut json = format!(
            "{{\"name\":{},\"githubLogin\":{},\"avatarUrl\":{}",
            text(&self.name),
            text(&self.login),
            text(&self.avatar)
        );
        if let Some(email) = &self.email {
            json.push_str(&format!(",\"email\":{}", text(email)));
        }
        json.push('}');
        json.into_bytes()
    }
}

#[derive(Debug, Clone)]
pub struct Event {
    pub timestamp: i64,
    /// When it first appears in the list; [`i64::MIN`] is always.
    pub visible_at: i64,
    pub source_ip: String,
    pub event: String,
    pub description: String,
    pub user: Person,
    pub token_id: Option<String>,
    pub token_name: Option<String>,
    pub actor_name: Option<String>,
    pub actor_urn: Option<String>,
    pub requires_org_admin: bool,
    pub requires_stack_admin: bool,
    pub auth_failure: bool,
    pub unknown: Vec<(String, Value)>,
}

impl Event {
    pub fn at(timestamp: i64) -> Self {
        Self {
            timestamp,
            visible_at: i64::MIN,
            source_ip: "192.0.2.10".to_owned(),
            event: "stack-exported".to_owned(),
            description: "Exported stack shop/prod".to_owned(),
            user: Person::new("ada", "Ada Lovelace"),
            token_id: None,
            token_name: None,
            actor_name: None,
            actor_urn: None,
            requires_org_admin: false,
            requires_stack_admin: false,
            auth_failure: false,
            unknown: Vec::new(),
        }
    }

    /// Appears in the list so many seconds after it happened.
    pub fn late_by(mut self, seconds: i64) -> Self {
        self.visible_at = self.timestamp + seconds;
        self
    }

    pub fn described(mut self, description: &str) -> Self {
        description.clone_into(&mut self.description);
        self
    }

    pub fn with_unknown(mut self, name: &str, value: Value) -> Self {
        self.unknown.push((name.to_owned(), value));
        self
    }

    /// The same bytes so many times.
    pub fn twins(&self, count: usize) -> Vec<Self> {
        vec![self.clone(); count]
    }
}

#[derive(Debug)]
pub struct Kind {
    pub id: String,
    pub display_name: String,
    pub group: String,
    pub requires_org_admin: bool,
    pub requires_stack_admin: bool,
    pub auth_failure: bool,
    /// As listed by the service, `description` made up.
    pub listed: Value,
}

/// The catalog of event types.
pub fn kinds() -> &'static [Kind] {
    static KINDS: OnceLock<Vec<Kind>> = OnceLock::new();
    KINDS.get_or_init(|| {
        let catalog: Value = serde_json::from_str(include_str!("../../../data/event-types.json"))
            .expect("the catalog is JSON");
        let types = catalog["eventTypes"].as_array().expect("the catalog lists types");
        types
            .iter()
            .map(|entry| {
                let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
                let mut listed = entry.clone();
                if let Some(listed) = listed.as_object_mut() {
                    listed.remove("group");
                    listed.insert("description".to_owned(), Value::from(format!("{}.", text("displayName"))));
                }
                Kind {
                    id: text("event"),
                    display_name: text("displayName"),
                    group: text("group"),
                    requires_org_admin: entry["requiresOrgAdmin"] == true,
                    requires_stack_admin: entry["requiresStackAdmin"] == true,
                    auth_failure: entry["authenticationFailure"] == true,
                    listed,
                }
            })
            .collect()
    })
}

/// The number of a type, for quick filtering; [`u16::MAX`] for one that the catalog does not know.
pub(super) fn kind_number(id: &str) -> u16 {
    static NUMBERS: OnceLock<HashMap<&'static str, u16>> = OnceLock::new();
    let numbers = NUMBERS.get_or_init(|| {
        kinds().iter().enumerate().map(|(number, kind)| (kind.id.as_str(), number as u16)).collect()
    });
    numbers.get(id).copied().unwrap_or(u16::MAX)
}

/// Draws events. The same seed draws the same events.
#[derive(Debug, Clone)]
pub struct Generator {
    chance: Chance,
    people: Vec<Person>,
    tokens: Vec<(String, String)>,
    /// One in so many events is odd in a harmless way: unknown field or type, display name, IPv6, empty user, long text.
    pub odd_one_in: u64,
}

const STACKS: [&str; 8] = [
    "shop/prod",
    "shop/staging",
    "billing/prod",
    "network/hub",
    "identity/prod",
    "data-lake/eu",
    "website/preview",
    "ops/shared",
];
const REPOS: [&str; 4] = ["eks-cluster", "vpc", "postgres", "landing-zone"];
const TEAMS: [&str; 4] = ["platform", "security", "data", "frontend"];

impl Generator {
    pub fn seeded(seed: u64) -> Self {
        let mut chance = Chance::seeded(seed);
        let people = [
            ("ada", "Ada Lovelace"),
            ("grace-h", "Grace Hopper"),
            ("edsger", "Edsger W. Dijkstra"),
            ("barbara", "Barbara Liskov"),
            ("lin-wei", "林 薇"),
            ("jose_m", "José Muñoz"),
            ("zoe", "Zoë Œuvrard"),
            ("acme-ci", "Acme CI"),
        ]
        .map(|(login, name)| Person::new(login, name))
        .to_vec();
        let tokens = ["ci-main", "terraform-import", "nightly drift", "backup \"cold\""]
            .map(|name| (chance.uuid(), name.to_owned()))
            .to_vec();
        Self { chance, people, tokens, odd_one_in: 25 }
    }

    /// Without anything odd.
    pub fn plain(mut self) -> Self {
        self.odd_one_in = 0;
        self
    }

    pub fn event(&mut self, timestamp: i64) -> Event {
        let common = [
            "stack-update-started",
            "stack-update-completed",
            "environment-read-open",
            "user-login",
            "secret-decrypted",
        ];
        let kinds = kinds();
        let kind = if self.chance.one_in(2) {
            let id = *self.chance.pick(&common);
            kinds.iter().find(|kind| kind.id == id).unwrap_or(&kinds[0])
        } else {
            self.chance.pick(kinds)
        };
        let mut event = Event::at(timestamp);
        event.event.clone_from(&kind.id);
        event.description = self.describe(kind);
        event.user = self.chance.pick(&self.people).clone();
        event.source_ip = format!("203.0.113.{}", self.chance.below(254) + 1);
        event.requires_org_admin = kind.requires_org_admin;
        event.requires_stack_admin = kind.requires_stack_admin;
        event.auth_failure = kind.auth_failure;
        if self.chance.one_in(3) {
            let (id, name) = self.chance.pick(&self.tokens).clone();
            (event.token_id, event.token_name) = (Some(id), Some(name));
        }
        if self.chance.one_in(12) {
            let number = self.chance.below(3);
            event.actor_name = Some(format!("deployment runner {number}"));
            event.actor_urn = Some(format!("urn:pulumi:runner:pool-{number}"));
        }
        if kind.id == "user-login-failed" {
            event.user = Person::nobody();
        }
        if self.odd_one_in > 0 && self.chance.one_in(self.odd_one_in) {
            self.make_odd(&mut event, kind);
        }
        event
    }

    fn make_odd(&mut self, event: &mut Event, kind: &Kind) {
        match self.chance.below(7) {
            0 => event.event.clone_from(&kind.display_name),
            1 => event.event = format!("quantum-stack-{}", self.chance.hex(4)),
            2 => event.source_ip = format!("2001:db8::{}", self.chance.hex(4)),
            3 => event.source_ip.clear(),
            4 => event.user = Person::nobody(),
            5 => event.unknown.push(("riskScore".to_owned(), Value::from(self.chance.below(100)))),
            _ => {
                let long =
                    "ünïcödé | a=b, c=\"d\" \\ \n\r\t\u{2028}<script>${jndi:x}</script> \u{1b}[31m 試験 😀 "
                        .repeat(20);
                event.description.push_str(&long);
            }
        }
    }

    fn describe(&mut self, kind: &Kind) -> String {
        let stack = *self.chance.pick(&STACKS);
        let login = self.chance.pick(&self.people).login.clone();
        let (id, short) = (self.chance.uuid(), self.chance.hex(7));
        let team = *self.chance.pick(&TEAMS);
        match kind.id.as_str() {
            "user-login" => format!("User \"{login}\" logged into the Pulumi Console."),
            "user-login-failed" => format!("Login of user \"{login}\" failed."),
            "stack-update-started" => format!("Started update \"{id}\" for stack \"{stack}\""),
            "stack-update-completed" => format!("Completed update \"{id}\" for stack \"{stack}\""),
            "stack-exported" => format!("Exported stack {stack}"),
            "stack-deleted" => format!("Deleted stack \"{stack}\""),
            "secret-decrypted" => {
                format!("Decrypted secret value for stack \"{stack}\" (cipher text suffix: \"{short}=\")")
            }
            "member-role-changed" => format!("Changed organization role for \"{login}\" to admin"),
            "member-added" => format!("Added member \"{login}\" to the organization"),
            "member-removed" => format!("Removed member \"{login}\" from the organization"),
            _ => {
                let object = match kind.group.as_str() {
                    "environments" => format!("environment \"{team}/{}\"", self.chance.pick(&REPOS)),
                    "stacks" | "deployments" => format!("stack \"{stack}\""),
                    "teams" => format!("team \"{team}\""),
                    "access-tokens" => format!("token \"{team}-{short}\""),
                    "policy" => format!("policy group {team}-{short}"),
                    "registry" => format!(
                        "package \"{}\" version 1.{}.0",
                        self.chance.pick(&REPOS),
                        self.chance.below(40)
                    ),
                    _ => format!("\"{login}\""),
                };
                format!("{}: {object}", kind.display_name)
            }
        }
    }

    /// So many events in one second.
    pub fn burst(&mut self, second: i64, count: usize) -> Vec<Event> {
        (0..count).map(|_| self.event(second)).collect()
    }

    /// So many byte-identical events in one second.
    pub fn twins(&mut self, second: i64, count: usize) -> Vec<Event> {
        self.event(second).twins(count)
    }

    /// A steady trickle over `[from, until)`, so many an hour on average, gaps as chance has them, oldest first.
    pub fn background(&mut self, from: i64, until: i64, per_hour: f64) -> Vec<Event> {
        let mut events = Vec::new();
        let mut at = from as f64;
        if per_hour <= 0.0 {
            return events;
        }
        loop {
            at += -(1.0 - self.chance.unit()).ln() * 3600.0 / per_hour;
            if at >= until as f64 {
                return events;
            }
            events.push(self.event(at as i64));
        }
    }

    /// Exactly so many events spread over `[from, until)`, oldest first.
    pub fn spread(&mut self, from: i64, until: i64, count: usize) -> Vec<Event> {
        let length = (until - from).max(1) as u64;
        let mut seconds: Vec<i64> = (0..count).map(|_| from + self.chance.below(length) as i64).collect();
        seconds.sort_unstable();
        seconds.into_iter().map(|second| self.event(second)).collect()
    }

    /// What a day in the life of an org looks like to a reader of its log: a trickle, bursts, twins, and stragglers.
    pub fn lively(&mut self, from: i64, until: i64, per_hour: f64) -> Vec<Event> {
        let mut events = self.background(from, until, per_hour);
        let length = (until - from).max(1) as u64;
        for _ in 0..1 + events.len() / 200 {
            let second = from + self.chance.below(length) as i64;
            let size = 2 + self.chance.below(60) as usize;
            events.extend(self.burst(second, size));
            let second = from + self.chance.below(length) as i64;
            let size = 2 + self.chance.below(5) as usize;
            events.extend(self.twins(second, size));
        }
        for event in &mut events {
            if self.chance.one_in(50) {
                event.visible_at = event.timestamp + self.chance.below(1800) as i64;
            }
        }
        events.sort_by_key(|event| event.timestamp);
        events
    }
}

/// Events no generator would dare, each a name and the bytes as the service would send them. `at` is a believable time for
/// those that have one.
pub fn dreadful(at: i64) -> Vec<(&'static str, Vec<u8>)> {
    let with = |fields: &str| {
        format!("{{\"timestamp\":{at},\"sourceIP\":\"192.0.2.1\",\"event\":\"user-login\",{fields},\"user\":{{\"name\":\"\",\"githubLogin\":\"x\",\"avatarUrl\":\"\"}}}}").into_bytes()
    };
    let timed = |timestamp: &str| {
        format!("{{{timestamp}\"sourceIP\":\"192.0.2.1\",\"event\":\"user-login\",\"description\":\"odd time\",\"user\":{{\"name\":\"\",\"githubLogin\":\"x\",\"avatarUrl\":\"\"}}}}").into_bytes()
    };
    let mut invalid = with("\"description\":\"bad @@ byte\"");
    for byte in invalid.iter_mut().filter(|byte| **byte == b'@') {
        *byte = 0xff;
    }
    let mut overlong = with("\"description\":\"over@@long\"");
    let place = overlong.iter().position(|byte| *byte == b'@').expect("the mark stands there");
    overlong[place..place + 2].copy_from_slice(&[0xc0, 0xaf]);
    vec![
        ("invalid UTF-8", invalid),
        ("overlong UTF-8", overlong),
        ("lone surrogate", with(r#""description":"half \ud800 pair""#)),
        ("escaped NUL", with(r#""description":"nul \u0000 end""#)),
        ("line separator", with("\"description\":\"a\u{2028}b\"")),
        ("too large a float", with(r#""description":"x","risk":1e999"#)),
        ("too large an integer", with(r#""description":"x","risk":18446744073709551617"#)),
        ("too precise a number", with(r#""description":"x","risk":1.0000000000000000001"#)),
        ("negative zero", with(r#""description":"x","risk":-0"#)),
        ("duplicate key", with(r#""description":"x","risk":1,"risk":2"#)),
        (
            "deep nesting",
            with(&format!(r#""description":"x","deep":{}1{}"#, "[".repeat(10_000), "]".repeat(10_000))),
        ),
        ("known field of another type", with(r#""description":{"text":"x"}"#)),
        ("no time", timed("")),
        ("null time", timed("\"timestamp\":null,")),
        ("time as a string", timed(&format!("\"timestamp\":\"{at}\","))),
        ("time as a float", timed(&format!("\"timestamp\":{at}.5,"))),
        ("time in milliseconds", timed(&format!("\"timestamp\":{at}000,"))),
        ("negative time", timed("\"timestamp\":-1,")),
        ("year 9999", timed("\"timestamp\":253402300799,")),
        ("a number too large for time", timed("\"timestamp\":1e400,")),
    ]
}
