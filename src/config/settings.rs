//! Settings: what the configuration files mean, once resolved and validated.
//!
//! Nothing here is optional that has a default, every path is absolute, every duration is a duration. Secrets stay where they are:
//! settings hold their sources.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::chunk::Packing;
use crate::clock::Second;
use crate::destination::DestinationName;
use crate::event::OrgId;
use crate::http::Route;
use crate::secret::{Place, SecretSource};

/// The whole configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    pub state_dir: PathBuf,
    /// `None`: `listen = "off"`.
    pub admin: Option<SocketAddr>,
    pub log: LogSettings,
    pub journal: JournalSettings,
    /// In the order of their ids; never empty.
    pub orgs: Vec<OrgSettings>,
    /// Said once at start: what is allowed but unwise.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// `error`, `warn`, `info`, `debug`, `trace`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal, JSON otherwise.
    Auto,
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalSettings {
    pub max_bytes_per_org: u64,
    pub retain: Duration,
}

/// One org.
#[derive(Clone, Debug, PartialEq)]
pub struct OrgSettings {
    pub id: OrgId,
    /// Pulumi's current name of the organization.
    pub org: String,
    pub start: Start,
    pub source: SourceSettings,
    pub sentinel: Option<SentinelSettings>,
    pub s3: Option<S3Settings>,
    pub file: Option<FileSettings>,
}

impl OrgSettings {
    /// The configured destinations; never empty.
    pub fn destinations(&self) -> Vec<DestinationName> {
        let mut names = Vec::new();
        if self.sentinel.is_some() {
            names.push(DestinationName::Sentinel);
        }
        if self.s3.is_some() {
            names.push(DestinationName::S3);
        }
        if self.file.is_some() {
            names.push(DestinationName::File);
        }
        names
    }

    /// The secrets of ours that a destination needs.
    pub fn secrets_of(&self, name: DestinationName) -> Vec<&SecretSource> {
        match (name, &self.sentinel, &self.s3) {
            (DestinationName::Sentinel, Some(sentinel), _) => sentinel.identity.secrets(),
            (DestinationName::S3, _, Some(s3)) => match &s3.credentials {
                S3Credentials::Static { key, next } => {
                    std::iter::once(key).chain(next).map(|key| &key.secret_access_key).collect()
                }
                S3Credentials::Default | S3Credentials::Profile(_) => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// The certificate authority files that its connections are made with.
    pub fn certificate_files(&self) -> Vec<&Path> {
        self.routes().filter_map(|route| route.ca_file.as_deref()).collect()
    }

    fn routes(&self) -> impl Iterator<Item = &Route> {
        let sentinel = self.sentinel.as_ref().map(|sentinel| &sentinel.route);
        let s3 = self.s3.as_ref().map(|s3| &s3.route);
        [Some(&self.source.route), sentinel, s3].into_iter().flatten()
    }

    /// The files that its secrets are read from.
    pub fn secret_files(&self) -> Vec<&Path> {
        let mut secrets = self.source.credentials.secrets();
        for name in self.destinations() {
            secrets.extend(self.secrets_of(name));
        }
        secrets.extend(self.routes().flat_map(Route::secrets));
        secrets.into_iter().filter_map(file_of).collect()
    }

    /// How chunks are compressed. A destination configured later gets the older chunks as they are: larger, and no less right.
    pub fn packing(&self) -> Packing {
        if self.s3.is_some() || self.file.is_some() { Packing::Stored } else { Packing::Passing }
    }
}

fn file_of(secret: &SecretSource) -> Option<&Path> {
    if let Place::File(path) = &secret.place { Some(path) } else { None }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Fixed by the first answer that carries a `Date`.
    Now,
    At(Second),
}

#[derive(Clone, Debug, PartialEq)]
pub struct SourceSettings {
    /// Without a trailing slash.
    pub api_url: String,
    pub poll_interval: Duration,
    pub overlap: Duration,
    pub settle: Duration,
    /// Ascending, without repeats; may be empty.
    pub rescan_after: Vec<Duration>,
    pub requests_per_second: f64,
    pub host_requests_per_second: f64,
    pub route: Route,
    pub credentials: SourceCredentials,
}

impl SourceSettings {
    pub fn access(&self) -> SourceAccess {
        let SourceSettings { api_url, route, credentials, .. } = self;
        SourceAccess { api_url: api_url.clone(), route: route.clone(), credentials: credentials.clone() }
    }
}

/// Who the daemon is for Pulumi.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SourceCredentials {
    Stored { token: SecretSource, next_token: Option<SecretSource> },
    Exchanged(Oidc),
}

impl SourceCredentials {
    /// The secrets of ours among them.
    pub fn secrets(&self) -> Vec<&SecretSource> {
        match self {
            SourceCredentials::Stored { token, next_token } => {
                std::iter::once(token).chain(next_token).collect()
            }
            SourceCredentials::Exchanged(_) => Vec::new(),
        }
    }
}

/// A token of the platform, and what it is exchanged for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Oidc {
    /// Pulumi's name of the organization at which it is exchanged.
    pub organization: String,
    pub subject_token_file: PathBuf,
    pub token_type: TokenType,
    /// Fits the type.
    pub scope: String,
    /// `None`: Pulumi's default.
    pub expiration: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TokenType {
    Organization,
    Team,
    Personal,
}

impl TokenType {
    pub fn as_str(self) -> &'static str {
        match self {
            TokenType::Organization => "organization",
            TokenType::Team => "team",
            TokenType::Personal => "personal",
        }
    }
}

/// Where a Pulumi service is, and who the daemon is there.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceAccess {
    pub api_url: String,
    pub route: Route,
    pub credentials: SourceCredentials,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentinelSettings {
    /// Without a trailing slash.
    pub endpoint: String,
    pub rule_id: String,
    pub stream: String,
    pub columns: Columns,
    /// Adds `RawEvent` to the `extended` columns; never with others.
    pub raw_event: bool,
    pub heartbeat: Option<HeartbeatStream>,
    /// `https://login.microsoftonline.com` for the public cloud.
    pub authority: String,
    /// `https://monitor.azure.com/.default` for the public cloud.
    pub scope: String,
    pub identity: AzureIdentity,
    pub route: Route,
}

/// Where heartbeats go, and how often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeartbeatStream {
    pub stream: String,
    pub interval: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// The fifteen of Pulumi's own table.
    Official,
    /// Those, and what makes repeated rows removable.
    Extended,
    /// What Pulumi's own data collection rule takes in.
    Connector,
}

impl Columns {
    pub fn as_str(self) -> &'static str {
        match self {
            Columns::Official => "official",
            Columns::Extended => "extended",
            Columns::Connector => "connector",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AzureIdentity {
    ClientSecret {
        tenant_id: String,
        client_id: String,
        secret: SecretSource,
        next_secret: Option<SecretSource>,
    },
    ClientCertificate {
        tenant_id: String,
        client_id: String,
        /// The certificate with its key: PEM, or PKCS#12 as it is or in base64.
        certificate: SecretSource,
        /// Of PKCS#12.
        password: Option<SecretSource>,
        next: Option<NextCertificate>,
    },
    /// The platform's own token, exchanged for one of Entra's.
    WorkloadIdentity {
        tenant_id: String,
        client_id: String,
        token_file: PathBuf,
    },
    ManagedIdentity {
        host: ManagedHost,
        id: ManagedId,
    },
    AzureCli {
        tenant_id: Option<String>,
    },
    /// `kind = "default"`, and the environment names this one.
    Found(Box<AzureIdentity>),
    /// `kind = "default"`, and the environment names none: the managed identity where the machine's metadata service answers, else
    /// the Azure CLI.
    ManagedOrCli {
        id: ManagedId,
    },
}

/// A second certificate, and its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextCertificate {
    pub certificate: SecretSource,
    pub password: Option<SecretSource>,
}

impl AzureIdentity {
    /// What proves it, where that is a secret of ours.
    fn secrets(&self) -> Vec<&SecretSource> {
        match self {
            AzureIdentity::ClientSecret { secret, next_secret, .. } => {
                std::iter::once(secret).chain(next_secret).collect()
            }
            AzureIdentity::ClientCertificate { certificate, password, next, .. } => {
                let next =
                    next.iter().flat_map(|next| std::iter::once(&next.certificate).chain(&next.password));
                std::iter::once(certificate).chain(password).chain(next).collect()
            }
            AzureIdentity::Found(identity) => identity.secrets(),
            // A projected token is exchanged for another by the platform, several times a day, and read for each use.
            AzureIdentity::WorkloadIdentity { .. }
            | AzureIdentity::ManagedIdentity { .. }
            | AzureIdentity::AzureCli { .. }
            | AzureIdentity::ManagedOrCli { .. } => Vec::new(),
        }
    }
}

/// Who answers for managed identities.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManagedHost {
    /// The metadata service of a virtual machine or a Kubernetes node.
    Machine,
    /// App Service, Functions, Container Apps.
    AppService { endpoint: String, header: SecretSource },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ManagedId {
    System,
    Client(String),
    Object(String),
    Resource(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Settings {
    pub bucket: String,
    /// Without slashes at its ends; empty for the bucket's root.
    pub prefix: String,
    pub region: Option<String>,
    /// Never together with `fips` or `dual_stack`.
    pub endpoint_url: Option<String>,
    pub force_path_style: bool,
    pub fips: bool,
    pub dual_stack: bool,
    pub credentials: S3Credentials,
    /// Assumed with `credentials`.
    pub role: Option<S3Role>,
    pub encryption: Option<S3Encryption>,
    pub object_lock: Option<S3ObjectLock>,
    /// Of objects; claims have the bucket's own.
    pub storage_class: Option<String>,
    pub expected_bucket_owner: Option<String>,
    /// How often a heartbeat is written, if at all.
    pub heartbeat_interval: Option<Duration>,
    pub checksums: S3Checksums,
    pub route: Route,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum S3Credentials {
    /// The SDK's default chain: environment, profile, SSO, web identity, container, instance.
    Default,
    /// This profile and nothing else.
    Profile(String),
    Static {
        key: S3Key,
        next: Option<S3Key>,
    },
}

/// A fixed access key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct S3Key {
    pub access_key_id: String,
    pub secret_access_key: SecretSource,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct S3Role {
    pub arn: String,
    pub external_id: Option<String>,
    pub session_name: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum S3Encryption {
    /// SSE-S3, `AES256`.
    Store,
    /// SSE-KMS, `aws:kms`; without an id the account's own key for S3.
    Kms { key_id: Option<String> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct S3ObjectLock {
    pub mode: S3LockMode,
    /// Counted from each upload.
    pub retain: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum S3LockMode {
    Governance,
    Compliance,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum S3Checksums {
    WhenSupported,
    WhenRequired,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    pub path: PathBuf,
}
