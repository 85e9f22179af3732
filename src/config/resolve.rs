//! From what is written to what it means: [`Settings`], or the mistakes that stand in the way.
//!
//! Every check runs, so that all mistakes are reported together; a value whose mistake is noted already is passed over.

mod identity;
mod route;
mod source_credentials;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::address::{self, Http, Rule};
use super::layers::View;
use super::quantity::{Period, Size};
use super::settings::{
    Columns, FileSettings, HeartbeatStream, JournalSettings, LogFormat, LogSettings, OrgSettings,
    S3Checksums, S3Credentials, S3Encryption, S3Key, S3LockMode, S3ObjectLock, S3Role, S3Settings,
    SentinelSettings, Settings, SourceAccess, SourceSettings, Start,
};
use super::{
    ChecksumsName, CloudName, ColumnsName, ForwarderFile, LockModeName, LogFormatName, LogLevel,
    ObjectLockSection, OrgFile, S3Section, SecretPlace, Secrets, SentinelSection, SourceSection, SseName,
    Surroundings,
};
use crate::clock::Second;
use crate::event::OrgId;
use crate::http::Clients;
use crate::pulumi::environment::parse_place;
use crate::secret::{EscPlace, Place, SecretError, SecretSource};
use route::Written;

const JOURNAL_BYTES_MIN: Size = Size(1 << 20);
const POLL_INTERVAL_MIN: Period = Period(Duration::from_secs(1));
const HEARTBEAT_INTERVAL_MIN: Period = Period(Duration::from_secs(1));
const RESCAN_AFTER_MIN: Period = Period(Duration::from_secs(1));
const RESCANS_MAX: usize = 24;
const REQUESTS_PER_SECOND_MAX: f64 = 1_000.0;
/// 2015-01-01T00:00:00Z: times before are implausible to the wire module as well.
const START_MIN: Second = Second(1_420_070_400);
const NAME_CHARACTERS_MAX: usize = 256;
const PREFIX_BYTES_MAX: usize = 512;
/// A lock of less is a mistyped unit.
const LOCK_MIN: Period = Period(Duration::from_secs(86_400));
/// How CloudTrail names the sessions of an assumed role.
const SESSION_NAME: &str = "pulumi-audit-forwarder";

const UNSEEN_REMEDY: &str = "names nothing that can be read, and is not shown because it may be the secret itself: give the path of a file, \
                             or the name of an environment variable, that holds the secret";
const SECRET_REMEDY: &str = "give { file = \"…\" } or { env = \"…\" }";
/// For the secrets of destinations.
const SECRET_OR_ESC_REMEDY: &str = "give { file = \"…\" }, { env = \"…\" } or { esc = \"…\" }";
const ESC_REMEDY: &str = "give org/project/environment#path, such as acme/infra/siem#azure.secret; a version stands behind an @ \
                          before the #";

/// What `forwarder.toml` means; `None` where a mistake stands in the way.
pub(super) struct Forwarder {
    /// Made to see whether the files of a route can be used: each route once, however many orgs have it.
    clients: Clients,
    /// As it is shown to people: relative if it was written so in a file that was named relatively.
    pub(super) orgs_dir: Option<PathBuf>,
    group_may_read: bool,
    state_dir: Option<PathBuf>,
    admin: Option<Option<SocketAddr>>,
    log: Option<LogSettings>,
    journal: Option<JournalSettings>,
}

impl Forwarder {
    /// The whole, and the orgs' directory.
    pub(super) fn settings(
        self,
        orgs: Vec<OrgSettings>,
        warnings: Vec<String>,
    ) -> Option<(Settings, PathBuf)> {
        let settings = Settings {
            state_dir: self.state_dir?,
            admin: self.admin?,
            log: self.log?,
            journal: self.journal?,
            orgs,
            warnings,
        };
        Some((settings, self.orgs_dir?))
    }
}

pub(super) fn forwarder(view: &mut View, file: &ForwarderFile, surroundings: &Surroundings) -> Forwarder {
    let admin = required(view, &["admin", "listen"], file.admin.listen.as_deref(), "").and_then(|listen| {
        if listen == "off" {
            return Some(None);
        }
        let address = listen.parse().ok();
        if address.is_none() {
            view.refuse(
                &["admin", "listen"],
                "give an address with its port, such as 127.0.0.1:9465, or off",
            );
        }
        address.map(Some)
    });
    let level = required(view, &["log", "level"], file.log.level, "");
    let format = required(view, &["log", "format"], file.log.format, "");
    let log = level.zip(format).map(|(level, format)| log_settings(level, format));
    Forwarder {
        clients: Clients::default(),
        orgs_dir: path(view, &["orgs_dir"], file.orgs_dir.as_deref(), ""),
        group_may_read: file.allow_group_readable_secrets.unwrap_or_default(),
        state_dir: path(view, &["state_dir"], file.state_dir.as_deref(), "")
            .map(|path| surroundings.directory.join(path)),
        admin,
        log,
        journal: journal(view, file),
    }
}

fn log_settings(level: LogLevel, format: LogFormatName) -> LogSettings {
    let format = match format {
        LogFormatName::Auto => LogFormat::Auto,
        LogFormatName::Text => LogFormat::Text,
        LogFormatName::Json => LogFormat::Json,
    };
    LogSettings { level: level.as_str().to_owned(), format }
}

fn journal(view: &mut View, file: &ForwarderFile) -> Option<JournalSettings> {
    let limit = &["journal", "max_bytes_per_org"];
    let max_bytes_per_org = required(view, limit, file.journal.max_bytes_per_org, "").filter(|size| {
        if *size < JOURNAL_BYTES_MIN {
            view.refuse(limit, "the smallest accepted is 1MiB, or a single window would not fit");
        }
        *size >= JOURNAL_BYTES_MIN
    });
    let retain = required(view, &["journal", "retain"], file.journal.retain, "");
    Some(JournalSettings { max_bytes_per_org: max_bytes_per_org?.0, retain: retain?.0 })
}

/// What an org's file means.
pub(super) fn org(
    view: &mut View,
    file: &OrgFile,
    id: &OrgId,
    forwarder: &Forwarder,
    surroundings: &Surroundings,
    secrets: Secrets,
) -> Option<OrgSettings> {
    let group_may_read = forwarder.group_may_read;
    let clients = &forwarder.clients;
    let mut reader = Reader { view, surroundings, secrets, group_may_read, clients, access: None };
    let org = reader.name(&["org"], file.org.as_deref(), "give Pulumi's current name of the organization");
    let start = reader.start(file.start.as_deref());
    let source = reader.source(&file.source, org.as_deref());
    reader.access = source.as_ref().map(SourceSettings::access);
    let sentinel = file.sentinel.as_ref().map(|section| reader.sentinel(section));
    let s3 = file.s3.as_ref().map(|section| reader.s3(section));
    let archive = file.file.as_ref().map(|section| {
        let key = &["file", "path"];
        let path = reader.path(key, section.path.as_deref(), "give the directory to write into");
        path.map(|path| FileSettings { path })
    });
    let none = sentinel.is_none() && s3.is_none() && archive.is_none();
    let damaged = ["sentinel", "s3", "file"].into_iter().any(|name| reader.view.found_wrong(&[name]));
    if none && !damaged {
        reader.view.refuse_whole(
            "this org has no destination: add a section [sentinel], [s3] or [file]; \
             sections of forwarder.toml are defaults only",
        );
    }
    // An enabled destination that cannot be resolved makes the org unusable, rather than an org without it.
    Some(OrgSettings {
        id: id.clone(),
        org: org?,
        start: start?,
        source: source?,
        sentinel: sentinel.map_or(Some(None), |resolved| resolved.map(Some))?,
        s3: s3.map_or(Some(None), |resolved| resolved.map(Some))?,
        file: archive.map_or(Some(None), |resolved| resolved.map(Some))?,
    })
    .filter(|_| !none)
}

fn required<T>(view: &mut View, key: &[&str], value: Option<T>, remedy: &str) -> Option<T> {
    if value.is_none() {
        view.missing(key, remedy);
    }
    value
}

/// A path, relative to the file it stands in; from the environment, to the working directory.
fn path(view: &mut View, key: &[&str], value: Option<&Path>, remedy: &str) -> Option<PathBuf> {
    let path = required(view, key, value, remedy)?;
    if path.as_os_str().is_empty() {
        view.refuse(key, "give a path");
        return None;
    }
    let beside = view.file_of(key).or_else(|| view.default_beside(key)).and_then(Path::parent);
    Some(beside.map_or_else(|| path.to_owned(), |directory| directory.join(path)))
}

/// Reads one org's sections.
struct Reader<'a> {
    view: &'a mut View,
    surroundings: &'a Surroundings,
    secrets: Secrets,
    clients: &'a Clients,
    group_may_read: bool,
    /// Who opens ESC environments; `None` until the source is read, and where it cannot be.
    access: Option<SourceAccess>,
}

impl Reader<'_> {
    fn path(&mut self, key: &[&str], value: Option<&Path>, remedy: &str) -> Option<PathBuf> {
        path(self.view, key, value, remedy).map(|path| self.surroundings.directory.join(path))
    }

    /// One word of text: a name, an id.
    fn name(&mut self, key: &[&str], value: Option<&str>, remedy: &str) -> Option<String> {
        let name = required(self.view, key, value, remedy)?;
        let odd = |c: char| c.is_whitespace() || c.is_control() || c == '/';
        if name.is_empty() || name.chars().count() > NAME_CHARACTERS_MAX || name.contains(odd) {
            self.view.refuse(key, format!("{remedy}: without spaces and slashes"));
            return None;
        }
        Some(name.to_owned())
    }

    fn start(&mut self, value: Option<&str>) -> Option<Start> {
        let text = required(self.view, &["start"], value, "")?;
        if text == "now" {
            return Some(Start::Now);
        }
        match Second::parse_rfc3339(text) {
            Some(second) if second >= START_MIN => Some(Start::At(second)),
            Some(_) => {
                self.view.refuse(&["start"], "Pulumi has no events that old: give a time since 2015");
                None
            }
            None => {
                let remedy = "give now, or a time with its zone, such as 2026-01-01T00:00:00Z";
                self.view.refuse(&["start"], remedy);
                None
            }
        }
    }

    fn address(&mut self, key: [&str; 2], value: Option<&str>, rule: Rule) -> Option<String> {
        let text =
            required(self.view, &key, value, &format!("give an address such as https://{}", rule.example))?;
        match address::check(text, &rule) {
            Ok(address) => {
                if address.exposed {
                    self.view.warn(
                        &key,
                        "is not encrypted: whoever listens on the way reads what is sent, credentials too; use https://",
                    );
                }
                Some(address.url)
            }
            // The address is not shown where it may hold a password.
            Err(error) if text.contains('@') || text.contains('?') => {
                self.view.refuse_unseen(&key, error.to_string());
                None
            }
            Err(error) => {
                self.view.refuse(&key, error.to_string());
                None
            }
        }
    }

    /// `None` when it is wrong or missing.
    fn secret(&mut self, key: &[&str], place: Option<&SecretPlace>) -> Option<SecretSource> {
        let (source, key) = self.secret_source(key, place)?;
        let read = |source: &SecretSource| source.read().map(drop);
        self.readable(&key, source, place.is_some_and(may_be_a_secret), read)
    }

    /// The same for one that need not be a word.
    fn secret_bytes(&mut self, key: &[&str], place: Option<&SecretPlace>) -> Option<SecretSource> {
        let (source, key) = self.secret_source(key, place)?;
        let read = |source: &SecretSource| source.read_bytes().map(drop);
        self.readable(&key, source, place.is_some_and(may_be_a_secret), read)
    }

    fn readable(
        &mut self,
        key: &[&str],
        source: SecretSource,
        may_be_a_secret: bool,
        read: impl FnOnce(&SecretSource) -> Result<(), SecretError>,
    ) -> Option<SecretSource> {
        if self.secrets == Secrets::MustBeReadable
            // Opening an environment is recorded, and it may be closed at the moment.
            && !matches!(source.place, Place::Esc(_))
            && let Err(error) = read(&source)
        {
            match error {
                SecretError::Unreadable { .. } if may_be_a_secret => {
                    self.view.refuse_unseen(key, UNSEEN_REMEDY)
                }
                error => self.view.refuse(key, error.to_string()),
            }
            return None;
        }
        Some(source)
    }

    /// Where a secret is, and the key that says so.
    fn secret_source<'k>(
        &mut self,
        key: &[&'k str],
        place: Option<&SecretPlace>,
    ) -> Option<(SecretSource, Vec<&'k str>)> {
        let remedy = if key.first() == Some(&"source") { SECRET_REMEDY } else { SECRET_OR_ESC_REMEDY };
        let written = required(self.view, key, place, remedy)?;
        let below = |name| [key, &[name]].concat();
        let place = match (&written.file, &written.env, &written.esc) {
            (Some(file), None, None) => Place::File(self.path(&below("file"), Some(file), "")?),
            (None, Some(name), None) => {
                if name.is_empty() || name.contains(['=', '\0']) {
                    self.view.refuse(&below("env"), "give the name of an environment variable");
                    return None;
                }
                Place::Env(name.clone())
            }
            (None, None, Some(esc)) => self.esc(&below("esc"), esc)?,
            _ if self.view.found_wrong_below(key) => return None,
            (None, None, None) => {
                self.view.refuse_unseen(key, remedy);
                return None;
            }
            _ => {
                self.view.refuse_unseen(key, "give one of `file`, `env` and `esc`, not more");
                return None;
            }
        };
        let name = match place {
            Place::File(_) => "file",
            Place::Env(_) => "env",
            Place::Esc(_) => "esc",
        };
        Some((SecretSource { place, group_may_read: self.group_may_read }, below(name)))
    }

    /// A value of an ESC environment, opened by the org's own source.
    fn esc(&mut self, key: &[&str], text: &str) -> Option<Place> {
        if key.first() == Some(&"source") {
            let text = "the token of [source] is what opens environments, so it cannot come out of one: give { file = \"…\" } or \
                        { env = \"…\" }, or set `oidc` in its place, which needs no stored token";
            self.view.refuse(key, text);
            return None;
        }
        let Some((environment, path)) = parse_place(text) else {
            self.view.refuse(key, ESC_REMEDY);
            return None;
        };
        // Without a source that can be used there is a mistake already.
        let access = self.access.clone()?;
        Some(Place::Esc(Arc::new(EscPlace { environment, path, access })))
    }

    fn optional_secret(&mut self, key: &[&str], place: Option<&SecretPlace>) -> Option<Option<SecretSource>> {
        if place.is_none() {
            return (!self.view.found_wrong(key)).then_some(None);
        }
        self.secret(key, place).map(Some)
    }

    fn rate(&mut self, key: &[&str], value: Option<f64>) -> Option<f64> {
        let rate = required(self.view, key, value, "")?;
        // Not a number fails every comparison.
        if rate > 0.0 && rate <= REQUESTS_PER_SECOND_MAX {
            return Some(rate);
        }
        self.view.refuse(key, format!("give a number above 0, at most {REQUESTS_PER_SECOND_MAX}"));
        None
    }

    fn source(&mut self, section: &SourceSection, org: Option<&str>) -> Option<SourceSettings> {
        let allow_http = section.allow_http.unwrap_or_default();
        let rule = Rule {
            section: "source",
            example: "api.pulumi.com",
            path: true,
            http: if allow_http { Http::Anywhere } else { Http::Loopback },
        };
        let api_url = self.address(["source", "api_url"], section.api_url.as_deref(), rule);
        let key = &["source", "poll_interval"];
        let poll_interval = required(self.view, key, section.poll_interval, "").filter(|interval| {
            if *interval < POLL_INTERVAL_MIN {
                self.view.refuse(key, format!("the smallest accepted is {POLL_INTERVAL_MIN}"));
            }
            *interval >= POLL_INTERVAL_MIN
        });
        let overlap = required(self.view, &["source", "overlap"], section.overlap, "");
        let settle = required(self.view, &["source", "settle"], section.settle, "");
        let rescan_after = self.rescan_after(section.rescan_after.as_deref());
        let requests_per_second = self.rate(&["source", "requests_per_second"], section.requests_per_second);
        let host_requests_per_second =
            self.rate(&["source", "host_requests_per_second"], section.host_requests_per_second);
        let route = self.route(&Written::of_source(section), api_url.as_deref());
        let credentials = self.source_credentials(section, org);
        Some(SourceSettings {
            api_url: api_url?,
            poll_interval: poll_interval?.0,
            overlap: overlap?.0,
            settle: settle?.0,
            rescan_after: rescan_after?,
            requests_per_second: requests_per_second?,
            host_requests_per_second: host_requests_per_second?,
            route: route?,
            credentials: credentials?,
        })
    }

    fn rescan_after(&mut self, ages: Option<&[Period]>) -> Option<Vec<Duration>> {
        let key = &["source", "rescan_after"];
        let ages = required(self.view, key, ages, "")?;
        if ages.iter().any(|age| *age < RESCAN_AFTER_MIN) {
            self.view.refuse(key, format!("the smallest age accepted is {RESCAN_AFTER_MIN}"));
            return None;
        }
        if ages.len() > RESCANS_MAX {
            self.view.refuse(key, format!("give at most {RESCANS_MAX} ages"));
            return None;
        }
        let mut ages: Vec<Duration> = ages.iter().map(|age| age.0).collect();
        ages.sort();
        ages.dedup();
        Some(ages)
    }

    fn sentinel(&mut self, section: &SentinelSection) -> Option<SentinelSettings> {
        const ENDPOINT: &str = "acme-x1y2.westeurope-1.ingest.monitor.azure.com";
        let allow_http = section.allow_http.unwrap_or_default();
        let http = if allow_http { Http::Anywhere } else { Http::Loopback };
        let rule = Rule { section: "sentinel", example: ENDPOINT, path: false, http };
        let endpoint = self.address(["sentinel", "endpoint"], section.endpoint.as_deref(), rule);
        let rule_id = self.rule_id(section.rule_id.as_deref());
        let key = &["sentinel", "stream"];
        let stream =
            required(self.view, key, section.stream.as_deref(), "").and_then(|name| self.stream(key, name));
        let heartbeat = self.heartbeat_stream(section);
        let columns = required(self.view, &["sentinel", "columns"], section.columns, "");
        let cloud = required(self.view, &["sentinel", "cloud"], section.cloud, "");
        let authority = self.authority(section.authority.as_deref(), cloud);
        let scope = self.scope(section.scope.as_deref(), cloud);
        let identity = self.identity(section.identity.as_ref());
        let route = self.route(&Written::of_sentinel(section), endpoint.as_deref());
        let columns = match columns? {
            ColumnsName::Official => Columns::Official,
            ColumnsName::Extended => Columns::Extended,
            ColumnsName::Connector => Columns::Connector,
        };
        let raw_event = section.raw_event.unwrap_or_default();
        if raw_event && columns != Columns::Extended {
            let text = format!(
                "the column RawEvent belongs to columns = \"extended\", and this org has \"{}\": set this to false, or choose \"extended\"",
                columns.as_str()
            );
            self.view.refuse(&["sentinel", "raw_event"], text);
            return None;
        }
        Some(SentinelSettings {
            endpoint: endpoint?,
            rule_id: rule_id?,
            stream: stream?,
            columns,
            raw_event,
            heartbeat: heartbeat?,
            authority: authority?,
            scope: scope?,
            identity: identity?,
            route: route?,
        })
    }

    fn rule_id(&mut self, value: Option<&str>) -> Option<String> {
        let key = &["sentinel", "rule_id"];
        let remedy = "give the data collection rule's immutable id: dcr- and 32 hexadecimal digits \
                      (`immutableId` in the rule's JSON view)";
        let id = required(self.view, key, value, remedy)?;
        let good = |id: &str| {
            !id.is_empty() && id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !id.strip_prefix("dcr-").is_some_and(good) {
            self.view.refuse(key, remedy);
            return None;
        }
        Some(id.to_owned())
    }

    fn heartbeat_stream(&mut self, section: &SentinelSection) -> Option<Option<HeartbeatStream>> {
        let key = &["sentinel", "heartbeat_stream"];
        let interval = self.heartbeat_interval("sentinel", section.heartbeat_interval);
        let Some(name) = section.heartbeat_stream.as_deref() else {
            return (!self.view.found_wrong(key)).then_some(None);
        };
        if section.stream.as_deref() == Some(name) {
            self.view
                .refuse(key, "is the stream of the events: declare another one in the rule for heartbeats");
            return None;
        }
        let stream = self.stream(key, name)?;
        Some(Some(HeartbeatStream { stream, interval: interval?? }))
    }

    fn heartbeat_interval(&mut self, section: &str, value: Option<Period>) -> Option<Option<Duration>> {
        let key = &[section, "heartbeat_interval"];
        match value {
            None => (!self.view.found_wrong(key)).then_some(None),
            Some(interval) if interval < HEARTBEAT_INTERVAL_MIN => {
                self.view.refuse(key, format!("the smallest accepted is {HEARTBEAT_INTERVAL_MIN}"));
                None
            }
            Some(interval) => Some(Some(interval.0)),
        }
    }

    fn stream(&mut self, key: &[&str], name: &str) -> Option<String> {
        let good = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
        if !good || !name.starts_with("Custom-") || name.len() > NAME_CHARACTERS_MAX {
            let remedy =
                "give the input stream's name as in the rule's streamDeclarations: it begins with Custom-";
            self.view.refuse(key, remedy);
            return None;
        }
        Some(name.to_owned())
    }

    fn authority(&mut self, value: Option<&str>, cloud: Option<CloudName>) -> Option<String> {
        let key = ["sentinel", "authority"];
        if value.is_none() {
            return cloud.map(|cloud| cloud.authority().to_owned()).filter(|_| !self.view.found_wrong(&key));
        }
        // Microsoft's identity library refuses everything else, on loopback too.
        let http = Http::Never;
        let rule = Rule { section: "sentinel", example: "login.microsoftonline.com", path: false, http };
        self.address(key, value, rule)
    }

    fn scope(&mut self, value: Option<&str>, cloud: Option<CloudName>) -> Option<String> {
        let key = &["sentinel", "scope"];
        let Some(scope) = value else {
            return cloud.map(|cloud| cloud.scope().to_owned()).filter(|_| !self.view.found_wrong(key));
        };
        if !scope.ends_with("/.default") || scope.chars().any(|c| c.is_whitespace() || c.is_control()) {
            self.view.refuse(
                key,
                "give a scope that ends in /.default, such as https://monitor.azure.com/.default",
            );
            return None;
        }
        Some(scope.to_owned())
    }

    fn s3(&mut self, section: &S3Section) -> Option<S3Settings> {
        let bucket = self.bucket(section.bucket.as_deref());
        let prefix = self.prefix(section.prefix.as_deref());
        let region = match section.region.as_deref() {
            None => (!self.view.found_wrong(&["s3", "region"])).then_some(None),
            given => self.name(&["s3", "region"], given, "give a region's name, such as eu-west-1").map(Some),
        };
        let endpoint_url = match section.endpoint_url.as_deref() {
            None => (!self.view.found_wrong(&["s3", "endpoint_url"])).then_some(None),
            given => {
                let allow_http = section.allow_http.unwrap_or_default();
                let http = if allow_http { Http::Anywhere } else { Http::Loopback };
                let rule = Rule { section: "s3", example: "minio.example.com", path: true, http };
                self.address(["s3", "endpoint_url"], given, rule).map(Some)
            }
        };
        for (name, given) in [("fips", section.fips), ("dual_stack", section.dual_stack)] {
            if given == Some(true) && section.endpoint_url.is_some() {
                let text = "chooses among Amazon's endpoints: remove it, or remove endpoint_url";
                self.view.refuse(&["s3", name], text);
            }
        }
        let credentials = self.s3_credentials(section);
        let role = self.s3_role(section);
        let encryption = self.s3_encryption(section);
        let object_lock = self.s3_object_lock(section.object_lock.as_ref());
        let storage_class = self.s3_word(
            "storage_class",
            section.storage_class.as_deref(),
            "give a storage class as S3 writes it, such as STANDARD_IA",
            |class| {
                class.len() <= 64
                    && class.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
            },
        );
        let expected_bucket_owner = self.s3_word(
            "expected_bucket_owner",
            section.expected_bucket_owner.as_deref(),
            "give the id of the AWS account that owns the bucket, 12 digits in quotes",
            |owner| owner.len() == 12 && owner.bytes().all(|b| b.is_ascii_digit()),
        );
        let heartbeat_interval = self.heartbeat_interval("s3", section.heartbeat_interval);
        let checksums = required(self.view, &["s3", "checksums"], section.checksums, "");
        let route = self.route(&Written::of_s3(section), endpoint_url.as_ref().and_then(Option::as_deref));
        Some(S3Settings {
            bucket: bucket?,
            prefix: prefix?,
            region: region?,
            endpoint_url: endpoint_url?,
            force_path_style: section.force_path_style.unwrap_or_default(),
            fips: section.fips.unwrap_or_default(),
            dual_stack: section.dual_stack.unwrap_or_default(),
            credentials: credentials?,
            role: role?,
            encryption: encryption?,
            object_lock: object_lock?,
            storage_class: storage_class?,
            expected_bucket_owner: expected_bucket_owner?,
            heartbeat_interval: heartbeat_interval?,
            checksums: match checksums? {
                ChecksumsName::WhenSupported => S3Checksums::WhenSupported,
                ChecksumsName::WhenRequired => S3Checksums::WhenRequired,
            },
            route: route?,
        })
    }

    /// An optional text of `[s3]` that has a form of its own.
    fn s3_word(
        &mut self,
        name: &str,
        value: Option<&str>,
        remedy: &str,
        fits: impl Fn(&str) -> bool,
    ) -> Option<Option<String>> {
        let key = &["s3", name];
        let Some(word) = value else {
            return (!self.view.found_wrong(key)).then_some(None);
        };
        if word.is_empty() || !fits(word) {
            self.view.refuse(key, remedy);
            return None;
        }
        Some(Some(word.to_owned()))
    }

    fn s3_role(&mut self, section: &S3Section) -> Option<Option<S3Role>> {
        let of = |symbols: &'static [u8]| {
            move |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || symbols.contains(&b))
        };
        let arn = self.s3_word(
            "role_arn",
            section.role_arn.as_deref(),
            "give a role's ARN, such as arn:aws:iam::123456789012:role/audit-writer",
            is_role_arn,
        );
        let external_id = self.s3_word(
            "external_id",
            section.external_id.as_deref(),
            "give 2 to 1224 letters, digits and any of +=,.@:/_- as the role's trust policy has them",
            |id| (2..=1_224).contains(&id.len()) && of(b"+=,.@:/_-")(id),
        );
        let session_name = self.s3_word(
            "session_name",
            section.session_name.as_deref(),
            "give 2 to 64 letters, digits and any of +=,.@_-",
            |name| (2..=64).contains(&name.len()) && of(b"+=,.@_-")(name),
        );
        let Some(arn) = arn? else {
            let given = [("external_id", &external_id), ("session_name", &session_name)];
            for (name, _) in given.into_iter().filter(|(_, value)| matches!(value, Some(Some(_)))) {
                self.view.refuse(&["s3", name], "belongs to a role: set role_arn too, or remove it");
            }
            return Some(None);
        };
        Some(Some(S3Role {
            arn,
            external_id: external_id?,
            session_name: session_name?.unwrap_or_else(|| SESSION_NAME.to_owned()),
        }))
    }

    fn s3_encryption(&mut self, section: &S3Section) -> Option<Option<S3Encryption>> {
        let key_id = self.s3_word(
            "kms_key_id",
            section.kms_key_id.as_deref(),
            "give the key's id, its ARN or alias/…, without spaces",
            |id| id.len() <= 2_048 && !id.contains(|c: char| c.is_whitespace() || c.is_control()),
        )?;
        if self.view.found_wrong(&["s3", "sse"]) {
            return None;
        }
        match (section.sse, key_id) {
            (Some(SseName::Kms), key_id) => Some(Some(S3Encryption::Kms { key_id })),
            (_, Some(_)) => {
                let text = "belongs to sse = \"aws:kms\": set that too, or remove the key";
                self.view.refuse(&["s3", "kms_key_id"], text);
                None
            }
            (Some(SseName::Aes256), None) => Some(Some(S3Encryption::Store)),
            (None, None) => Some(None),
        }
    }

    fn s3_object_lock(&mut self, section: Option<&ObjectLockSection>) -> Option<Option<S3ObjectLock>> {
        let Some(section) = section else {
            return (!self.view.found_wrong(&["s3", "object_lock"])).then_some(None);
        };
        let (mode, retain) = (&["s3", "object_lock", "mode"], &["s3", "object_lock", "retain"]);
        let given_mode = required(self.view, mode, section.mode, "give GOVERNANCE or COMPLIANCE");
        let given_retain = required(self.view, retain, section.retain, "give how long, such as \"2555d\"");
        if given_retain.is_some_and(|period| period < LOCK_MIN) {
            self.view.refuse(retain, format!("the smallest accepted is {LOCK_MIN}"));
            return None;
        }
        let mode = match given_mode? {
            LockModeName::Governance => S3LockMode::Governance,
            LockModeName::Compliance => S3LockMode::Compliance,
        };
        Some(Some(S3ObjectLock { mode, retain: given_retain?.0 }))
    }

    fn bucket(&mut self, value: Option<&str>) -> Option<String> {
        let key = &["s3", "bucket"];
        let bucket =
            required(self.view, key, value, "give the bucket's name, here or in [s3] of forwarder.toml")?;
        let refusal = if bucket.contains("://") || bucket.contains('/') {
            Some(
                "give the bucket's name alone, without `s3://` and slashes; what follows it belongs into prefix",
            )
        } else if !(3..=63).contains(&bucket.len())
            || !bucket.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b))
        {
            Some("give a bucket's name: 3 to 63 letters, digits, `-` and `.`")
        } else {
            None
        };
        if let Some(text) = refusal {
            self.view.refuse(key, text);
            return None;
        }
        Some(bucket.to_owned())
    }

    fn prefix(&mut self, value: Option<&str>) -> Option<String> {
        let key = &["s3", "prefix"];
        let prefix = required(self.view, key, value, "")?.trim_matches('/');
        let odd_part = |part: &str| part.is_empty() || part == "." || part == "..";
        let odd = !prefix.is_empty() && prefix.split('/').any(odd_part);
        if odd || prefix.len() > PREFIX_BYTES_MAX || prefix.chars().any(char::is_control) {
            let text = format!(
                "give at most {PREFIX_BYTES_MAX} bytes, parts separated by single slashes, without `.` and `..`"
            );
            self.view.refuse(key, text);
            return None;
        }
        Some(prefix.to_owned())
    }

    fn s3_credentials(&mut self, section: &S3Section) -> Option<S3Credentials> {
        let (id, secret) = (&["s3", "access_key_id"], &["s3", "secret_access_key"]);
        let profile = self.s3_word(
            "profile",
            section.profile.as_deref(),
            "give the name of a profile in the AWS configuration files",
            |name| name.chars().count() <= NAME_CHARACTERS_MAX && !name.contains(char::is_control),
        )?;
        if let Some(profile) = profile {
            let first = section.access_key_id.is_some() || section.secret_access_key.is_some();
            if first || section.next_access_key_id.is_some() || section.next_secret_access_key.is_some() {
                let text = "names credentials, and so does access_key_id: remove one of the two";
                self.view.refuse(&["s3", "profile"], text);
                return None;
            }
            return Some(S3Credentials::Profile(profile));
        }
        let next = self.s3_key(
            ["next_access_key_id", "next_secret_access_key"],
            section.next_access_key_id.as_deref(),
            section.next_secret_access_key.as_ref(),
            "next_access_key_id and next_secret_access_key belong together; without both, there is no second key",
        );
        if section.access_key_id.is_none() && section.secret_access_key.is_none() {
            let wrong = self.view.found_wrong(id) || self.view.found_wrong(secret);
            if next?.is_some() {
                let text = "is the second of two keys: give access_key_id and secret_access_key too";
                self.view.refuse(&["s3", "next_access_key_id"], text);
                return None;
            }
            return (!wrong).then_some(S3Credentials::Default);
        }
        let key = self.s3_key(
            ["access_key_id", "secret_access_key"],
            section.access_key_id.as_deref(),
            section.secret_access_key.as_ref(),
            "access_key_id and secret_access_key belong together; without both, the AWS SDK's own search is used",
        );
        let next = next?;
        Some(S3Credentials::Static { key: key??, next })
    }

    /// A fixed key, where one of its halves is given.
    fn s3_key(
        &mut self,
        names: [&str; 2],
        access_key_id: Option<&str>,
        secret_access_key: Option<&SecretPlace>,
        both: &str,
    ) -> Option<Option<S3Key>> {
        let [id, secret] = names.map(|name| ["s3", name]);
        if access_key_id.is_none() && secret_access_key.is_none() {
            let wrong = self.view.found_wrong(&id) || self.view.found_wrong(&secret);
            return (!wrong).then_some(None);
        }
        let access_key_id = self.name(&id, access_key_id, both);
        let secret_access_key = match secret_access_key {
            Some(place) => self.secret(&secret, Some(place)),
            None => required(self.view, &secret, None, both),
        };
        Some(Some(S3Key { access_key_id: access_key_id?, secret_access_key: secret_access_key? }))
    }
}

/// `arn:PARTITION:iam::ACCOUNT:role/PATH`.
fn is_role_arn(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(6, ':').collect();
    let [arn, partition, service, region, account, role] = parts[..] else { return false };
    (arn, service, region) == ("arn", "iam", "")
        && !partition.is_empty()
        && account.len() == 12
        && account.bytes().all(|b| b.is_ascii_digit())
        && role.strip_prefix("role/").is_some_and(|name| !name.is_empty())
        && text.len() <= 2_048
        && text.bytes().all(|b| b.is_ascii_graphic())
}

/// Somebody may have written the secret where the name of its place belongs: it is no path, or not what variables are called.
fn may_be_a_secret(place: &SecretPlace) -> bool {
    let is_no_path = |file: &PathBuf| file.components().count() == 1;
    let is_no_name =
        |name: &String| !name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
    place.file.as_ref().is_some_and(is_no_path) || place.env.as_ref().is_some_and(is_no_name)
}
