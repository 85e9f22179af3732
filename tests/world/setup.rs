//! Writes the forwarder's configuration for this world, secrets in files of their own that nobody else may read.

use std::fmt::Write;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::World;
use super::s3::seaweed::REGION;
pub use super::s3::seaweed::{ACCESS_KEY, SECRET_KEY};

pub const TENANT: &str = "11111111-1111-1111-1111-111111111111";
pub const CLIENT_ID: &str = "22222222-2222-2222-2222-222222222222";
pub const CLIENT_SECRET: &str = "simulated~client~secret~canary";
pub const PREFIX: &str = "pulumi";

/// One org's file. `id` is the forwarder's name, `org` is Pulumi's.
#[derive(Debug, Clone)]
pub struct OrgSetup {
    pub id: String,
    pub org: String,
    pub start: Option<String>,
    pub sentinel: bool,
    pub s3: bool,
    /// The forwarder is told the key of [`super::s3::seaweed`]; otherwise it must find one.
    pub s3_key: bool,
    pub file: bool,
    pub columns: Option<String>,
    /// Azure's endpoint over TLS rather than plain HTTP.
    pub https: bool,
    /// A second token is configured too.
    pub next_token: bool,
    /// In place of the stored token: what `oidc` says.
    pub oidc: Option<String>,
    /// In place of the client secret.
    pub identity: Option<String>,
    /// In place of the world's own addresses: of the ingestion, of Entra ID, of S3.
    pub azure_url: Option<String>,
    pub authority: Option<String>,
    pub store_url: Option<String>,
    /// More lines for each section.
    pub more_source: String,
    pub more_sentinel: String,
    pub more_s3: String,
}

impl OrgSetup {
    /// The org under the same id, no destination yet.
    pub fn new(org: &str) -> Self {
        Self {
            id: org.to_owned(),
            org: org.to_owned(),
            start: None,
            sentinel: false,
            s3: false,
            s3_key: true,
            file: false,
            columns: None,
            https: false,
            next_token: false,
            oidc: None,
            identity: None,
            azure_url: None,
            authority: None,
            store_url: None,
            more_source: String::new(),
            more_sentinel: String::new(),
            more_s3: String::new(),
        }
    }

    /// Read with tokens that are exchanged; the value of `oidc`.
    pub fn with_oidc(mut self, oidc: &str) -> Self {
        self.oidc = Some(oidc.to_owned());
        self
    }

    pub fn with_sentinel(mut self) -> Self {
        self.sentinel = true;
        self
    }

    /// Sentinel, as somebody else than the app with the client secret.
    pub fn with_sentinel_as(mut self, identity: &str) -> Self {
        self.identity = Some(identity.to_owned());
        self.with_sentinel()
    }

    /// Other columns than `extended`.
    pub fn with_columns(mut self, columns: &str) -> Self {
        self.columns = Some(columns.to_owned());
        self
    }

    pub fn with_s3(mut self) -> Self {
        self.s3 = true;
        self
    }

    pub fn with_file(mut self) -> Self {
        self.file = true;
        self
    }

    /// An RFC 3339 time.
    pub fn since(mut self, start: &str) -> Self {
        self.start = Some(start.to_owned());
        self
    }
}

/// Where things lie that the forwarder reads and writes.
#[derive(Debug, Clone)]
pub struct Paths {
    pub root: PathBuf,
    /// `--config`.
    pub config: PathBuf,
    pub orgs: PathBuf,
    pub state: PathBuf,
    pub secrets: PathBuf,
    pub archive: PathBuf,
}

impl Paths {
    pub fn below(root: &Path) -> Self {
        let paths = Self {
            root: root.to_path_buf(),
            config: root.join("config/forwarder.toml"),
            orgs: root.join("config/orgs"),
            state: root.join("state"),
            secrets: root.join("secrets"),
            archive: root.join("archive"),
        };
        for directory in [&paths.orgs, &paths.state, &paths.secrets, &paths.archive] {
            fs::create_dir_all(directory).expect("the world's directory can be written");
        }
        paths
    }

    pub fn secret(&self, name: &str) -> PathBuf {
        self.secrets.join(name)
    }

    /// Writes a secret beside its place and renames it in, as careful operators do.
    pub fn write_secret(&self, name: &str, value: &str) -> PathBuf {
        self.write_secret_bytes(name, format!("{value}\n").as_bytes())
    }

    /// The same for one that is not a line of text.
    pub fn write_secret_bytes(&self, name: &str, value: &[u8]) -> PathBuf {
        let (path, beside) = (self.secret(name), self.secret(&format!(".{name}.new")));
        fs::write(&beside, value).expect("a secret can be written");
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).expect("its mode can be set");
        fs::rename(&beside, &path).expect("it can be renamed");
        path
    }

    /// The archive of the `file` destination of one org.
    pub fn archive_of(&self, id: &str) -> PathBuf {
        self.archive.join(id)
    }
}

/// `forwarder.toml` with short intervals, then `more`, and a file for each org. Answers the path for `--config`.
pub fn write_config(world: &World, orgs: &[OrgSetup], more: &str) -> PathBuf {
    let paths = &world.paths;
    let text = format!(
        "state_dir = {state:?}\norgs_dir = \"orgs\"\n\n[admin]\nlisten = \"127.0.0.1:0\"\n\n[source]\napi_url = {api:?}\n\
         poll_interval = \"1s\"\noverlap = \"15m\"\nrescan_after = [\"2s\"]\nrequests_per_second = 200\nhost_requests_per_second = 1000\n\n{more}",
        state = paths.state,
        api = world.pulumi_url(),
    );
    fs::write(&paths.config, text).expect("the configuration can be written");
    for org in orgs {
        write_org(world, org);
    }
    paths.config.clone()
}

/// One org's file and its secrets; also how a test adds an org to a running forwarder.
pub fn write_org(world: &World, setup: &OrgSetup) {
    let paths = &world.paths;
    let id = &setup.id;
    let mut text = format!("org = {:?}\n", setup.org);
    if let Some(start) = &setup.start {
        writeln!(text, "start = {start:?}").expect("memory takes it");
    }
    match &setup.oidc {
        Some(oidc) => writeln!(text, "\n[source]\noidc = {oidc}").expect("memory takes it"),
        None => {
            let token = paths.write_secret(&format!("{id}-token"), &world.pulumi().org(&setup.org).token());
            writeln!(text, "\n[source]\ntoken = {{ file = {token:?} }}").expect("memory takes it");
        }
    }
    if setup.next_token {
        writeln!(text, "next_token = {{ file = {:?} }}", paths.secret(&format!("{id}-token-next")))
            .expect("memory takes it");
    }
    text.push_str(&setup.more_source);
    if setup.sentinel {
        let secret = paths.write_secret("client-secret", CLIENT_SECRET);
        let identity = setup.identity.clone().unwrap_or_else(|| {
            format!(
                "{{ kind = \"client_secret\", tenant_id = {TENANT:?}, client_id = {CLIENT_ID:?}, secret = {{ file = {secret:?} }} }}"
            )
        });
        let rule = rule_of(&setup.org);
        let columns = setup.columns.as_deref().unwrap_or("extended");
        let endpoint = if setup.https { world.ingestion_tls_url() } else { world.ingestion_url() };
        let endpoint = setup.azure_url.clone().unwrap_or(endpoint);
        writeln!(
            text,
            "\n[sentinel]\nendpoint = {endpoint:?}\nrule_id = {rule:?}\ncolumns = {columns:?}\n\
             authority = {authority:?}\nca_file = {ca:?}\nidentity = {identity}",
            authority = setup.authority.clone().unwrap_or_else(|| world.entra_url()),
            ca = world.ca_pem(),
        )
        .expect("memory takes it");
        text.push_str(&setup.more_sentinel);
    }
    if setup.s3 {
        let s3 = world.s3();
        writeln!(
            text,
            "\n[s3]\nbucket = {bucket:?}\nprefix = {PREFIX:?}\nregion = {REGION:?}\nendpoint_url = {endpoint:?}\n\
             force_path_style = true",
            bucket = s3.bucket.name,
            endpoint = setup.store_url.clone().unwrap_or_else(|| s3.endpoint()),
        )
        .expect("memory takes it");
        if setup.s3_key {
            let secret = paths.write_secret("s3-secret-access-key", SECRET_KEY);
            writeln!(text, "access_key_id = {ACCESS_KEY:?}\nsecret_access_key = {{ file = {secret:?} }}")
                .expect("memory takes it");
        }
        text.push_str(&setup.more_s3);
    }
    if setup.file {
        let archive = paths.archive_of(id);
        fs::create_dir_all(&archive).expect("the archive's directory can be made");
        writeln!(text, "\n[file]\npath = {archive:?}").expect("memory takes it");
    }
    // Written whole under another name first, because a running forwarder watches this directory.
    let beside = paths.root.join(format!("{id}.toml.new"));
    fs::write(&beside, text).expect("the org's file can be written");
    fs::rename(&beside, paths.orgs.join(format!("{id}.toml"))).expect("it can be renamed");
}

/// The data collection rule that the world keeps for an org: made of its name, so that tables are told apart.
pub fn rule_of(org: &str) -> String {
    use sha2::{Digest, Sha256};
    format!("dcr-{}", &super::pulumi::store::hex(&Sha256::digest(org))[..32])
}
