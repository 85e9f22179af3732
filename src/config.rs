//! The configuration files as written. The doc comments of the file types are the reference: each says what a key does, what it is
//! by default, and what changing it costs.
//!
//! Defaults ◀ `forwarder.toml` ◀ the org's file ◀ environment; what they come to is [`settings`]. Nothing here opens a connection
//! or a state directory. Every mistake that can be found is reported at once, each with its file and line.
//!
//! *Why nearly every key is optional in these types:* a key may come from any layer, so only the merged whole can lack one.
//! *Why neither `flatten` nor `untagged`:* serde forgets with both where a mistake stood.

mod address;
pub mod changes;
mod document;
mod layers;
mod mistake;
pub mod quantity;
pub mod reference;
mod resolve;
pub mod schema;
pub mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use figment::value::{Dict, Value};
use schemars::JsonSchema;
use serde::Deserialize;

use self::document::Document;
use self::layers::{Layer, Origin, View};
pub use self::mistake::{Invalid, Mistake};
use self::quantity::{Period, Size};
use self::settings::Settings;
use crate::event::OrgId;

/// Variables that begin so are keys of `forwarder.toml`.
pub const ENVIRONMENT_PREFIX: &str = "PAF_";
/// What the platforms and Microsoft's own tools say about identities.
const AZURE_VARIABLES: [&str; 11] = [
    "AZURE_TENANT_ID",
    "AZURE_CLIENT_ID",
    "AZURE_CLIENT_SECRET",
    "AZURE_CLIENT_CERTIFICATE_PATH",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_FEDERATED_TOKEN_FILE",
    "IDENTITY_ENDPOINT",
    "IDENTITY_HEADER",
    "IDENTITY_SERVER_THUMBPRINT",
    "IMDS_ENDPOINT",
    "MSI_ENDPOINT",
];
/// Those of them whose values are secret.
const AZURE_SECRETS: [&str; 3] =
    ["AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PASSWORD", "IDENTITY_HEADER"];
/// Below the working directory.
const LOCAL_FILE: &str = "config/forwarder.toml";
const SYSTEM_FILE: &str = "/etc/pulumi-audit-forwarder/forwarder.toml";
/// Most org files read. Each costs a task and some memory; more belong into a second daemon.
const ORGS_MAX: usize = 10_000;

const DEFAULTS: &str = include_str!("config/defaults.toml");
const ORG_DEFAULTS: &str = "start = \"now\"";
/// The input stream of Pulumi's own rule: the default where the columns are that rule's.
const CONNECTOR_STREAM: &str = "Custom-PulumiAuditLogs";
const DEFAULT: &str = "default";

/// `forwarder.toml`. It may be empty: every key has a default.
///
/// Each key can also be given as an environment variable: `PAF_`, then the key in capitals, with `__` between the levels
/// (`PAF_LOG__LEVEL=debug`). The environment wins over every file.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForwarderFile {
    /// Directory of the journal and of everything else the daemon must remember.
    ///
    /// Default: `$STATE_DIRECTORY` (systemd sets it), else `/var/lib/pulumi-audit-forwarder`. It needs a local file system that
    /// keeps what was synced. Starting with another directory is starting with nothing: every org begins again at its
    /// `start`, and an archive that holds the org already takes nothing from the newcomer.
    pub state_dir: Option<PathBuf>,

    /// Directory with one TOML file for each org.
    ///
    /// Default: `orgs`, beside `forwarder.toml`. Files that do not end in `.toml`, and hidden ones, are passed over.
    pub orgs_dir: Option<PathBuf>,

    /// Whether a secret's file may be readable by its group (mode 0440), as Kubernetes' `fsGroup` makes it.
    ///
    /// Default: `false`. With `true`, everyone in that group can read the secrets.
    pub allow_group_readable_secrets: Option<bool>,

    /// The daemon's own HTTP endpoints.
    #[serde(default)]
    pub admin: AdminSection,

    /// What the daemon says while it runs.
    #[serde(default)]
    pub log: LogSection,

    /// The journal between collecting and delivering.
    #[serde(default)]
    pub journal: JournalSection,

    /// Defaults for every org's `[source]`.
    #[serde(default)]
    pub source: SourceSection,

    /// Defaults for every org's `[sentinel]`. An org delivers to Sentinel only if its own file has the section.
    pub sentinel: Option<SentinelSection>,

    /// Defaults for every org's `[s3]`. An org delivers to S3 only if its own file has the section; there it may be empty.
    pub s3: Option<S3Section>,

    /// Defaults for every org's `[file]`. An org delivers to files only if its own file has the section.
    pub file: Option<FileSection>,
}

/// `[admin]` of `forwarder.toml`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AdminSection {
    /// Address and port of `/metrics`, `/livez`, `/readyz`, `/api/status` and the status page.
    ///
    /// Default: `127.0.0.1:9465`; `off` opens none. There is no password: on another address, everyone who reaches the port can
    /// read the names of orgs and how far each of them is, though never a secret or an event.
    pub listen: Option<String>,
}

/// `[log]` of `forwarder.toml`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogSection {
    /// `error`, `warn`, `info`, `debug` or `trace`.
    ///
    /// Default: `info`, a few lines an hour. `debug` writes several lines for each chunk.
    pub level: Option<LogLevel>,

    /// `text`, `json`, or `auto`: text on a terminal, one JSON object a line otherwise.
    ///
    /// Default: `auto`.
    pub format: Option<LogFormatName>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogLevel {
    pub fn as_str(self) -> &'static str {
        match self {
            LogLevel::Error => "error",
            LogLevel::Warn => "warn",
            LogLevel::Info => "info",
            LogLevel::Debug => "debug",
            LogLevel::Trace => "trace",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogFormatName {
    Auto,
    Text,
    Json,
}

/// `[journal]` of `forwarder.toml`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct JournalSection {
    /// Most bytes the journal keeps of one org.
    ///
    /// Default: `2GiB`, at least `1MiB`. At the limit acknowledged chunks go first, whatever their age; then collecting waits
    /// until a destination has taken something. Nothing is dropped, but the longer it waits, the nearer the service's own
    /// retention comes. The disk must hold this much for every org.
    pub max_bytes_per_org: Option<Size>,

    /// How long a chunk is kept after every destination has acknowledged it.
    ///
    /// Default: `7d`. It is what a destination added later begins with; more costs disk only.
    pub retain: Option<Period>,
}

/// `[source]`: how an org is read from Pulumi. In `forwarder.toml` the default for every org; each org may override each key.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SourceSection {
    /// Address of the Pulumi service.
    ///
    /// Default: `https://api.pulumi.com`. Change it for a self-hosted service only. `http://` is accepted for loopback addresses.
    pub api_url: Option<String>,

    /// Pulumi access token of someone who may read the organization's audit logs: `{ file = "…" }` or `{ env = "…" }`.
    ///
    /// Required, unless there is `oidc`. The file must be readable by the daemon's user alone; replacing it is enough. What it holds
    /// then is tried with the next request, and is in use once Pulumi has accepted it; until then, and if it is refused, the old token
    /// stays in use.
    pub token: Option<SecretPlace>,

    /// A second token, so that tokens can be exchanged without a gap.
    ///
    /// It is taken over when the one in use is refused or is about to end, and on SIGHUP or when its file changes. Either of the two
    /// may be the one in use: the status says which.
    pub next_token: Option<SecretPlace>,

    /// In place of `token`: a token of the platform (Kubernetes, GitLab, …) is exchanged for one of Pulumi's, so that no secret is
    /// stored. In an org's file it replaces a `token` of `forwarder.toml`, and the reverse.
    pub oidc: Option<OidcSection>,

    /// How often the newest events are fetched.
    ///
    /// Default: `5m`, at least `1s`. A shorter interval brings events sooner and costs one request more each time, of a limit
    /// that Pulumi does not publish.
    pub poll_interval: Option<Period>,

    /// How much of the time before the newest known event is read again each time, because events may become visible late.
    ///
    /// Default: `15m`. Less finds late events later (see `rescan_after`); more costs requests where an org is busy.
    pub overlap: Option<Period>,

    /// How long an event is left alone before it is fetched.
    ///
    /// Default: `0s`. A few seconds spare some rereading where the service is often late, and delay every event by as much.
    pub settle: Option<Period>,

    /// The ages at which every span of time is read once more. After the last it is settled and not read again.
    ///
    /// Default: `["1h", "6h", "24h"]`, each at least `1s`. What becomes visible later than the last age is lost, and an empty list
    /// leaves only `overlap`. A quiet org costs one request for each.
    pub rescan_after: Option<Vec<Period>>,

    /// Most requests a second for this org.
    ///
    /// Default: `2`. Fractions are possible. More catches up faster after an absence and risks being throttled.
    pub requests_per_second: Option<f64>,

    /// Most requests a second to the service's host, all orgs together.
    ///
    /// Default: `10`. Pulumi limits by the address that asks, so this is what protects one org from the others.
    pub host_requests_per_second: Option<f64>,

    /// File with further certificate authorities (PEM), for a self-hosted service. The system's remain trusted.
    pub ca_file: Option<PathBuf>,

    /// What the daemon shows to a self-hosted service that asks for a client certificate: PEM, the certificate with its chain and its
    /// private key. The file is read again when it changes.
    pub client_certificate: Option<SecretPlace>,

    /// The private key of `client_certificate`, PEM and not encrypted, where it has a file of its own; others may read the
    /// certificate then.
    pub client_key: Option<SecretPlace>,

    /// The proxy to these services: `http://HOST:PORT`, or `off` for none. Without it, the variables `HTTPS_PROXY`, `HTTP_PROXY` and
    /// `NO_PROXY` count; with it, they do not. All that a proxy is told is which host to connect to. Only for `https://` addresses.
    pub proxy: Option<String>,

    /// Who the daemon is for `proxy`, where that asks. Together with `proxy_password`.
    pub proxy_username: Option<String>,

    /// The password for `proxy`. Its file is read again when it changes.
    pub proxy_password: Option<SecretPlace>,

    /// Accept `http://` to other machines. Default: `false`. Whoever listens on the way reads the token and every event.
    pub allow_http: Option<bool>,
}

/// `oidc` of `[source]`: a token of an OIDC issuer that the organization trusts is exchanged for an access token that ends by itself.
///
/// The issuer must be registered at Pulumi, with a policy that allows the exchange. A new access token is fetched when three quarters
/// of the old one's life are over. Each exchange writes an audit event, so orgs for which all of this is the same share one.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OidcSection {
    /// File with the issuer's token, which the platform keeps fresh. Required.
    ///
    /// It is read again for each exchange. Its audience must be `urn:pulumi:org:` and the organization's name. Unlike a secret's file
    /// it may be readable by others: that is the platform's choice.
    pub subject_token_file: Option<PathBuf>,

    /// Whose access token to ask for: `organization`, `team` or `personal`.
    ///
    /// Default: `organization`, whose role the issuer's policy chooses: one with `audit_logs:read` is enough.
    pub token_type: Option<TokenTypeName>,

    /// For a team `team:` and its name, for a person `user:` and the login; for an organization nothing, or `admin`.
    ///
    /// Default: empty.
    pub scope: Option<String>,

    /// How long the access token is to live.
    ///
    /// Default: what Pulumi gives, `2h`. From `5m` to `7d`; the issuer's own limit (by default 25 h) holds as well. A longer life
    /// means fewer exchanges, and a longer use for whoever gets hold of the token.
    pub expiration: Option<Period>,

    /// The organization at which the token is exchanged.
    ///
    /// Default: the org's own. Another one makes sense for a personal token that reads several organizations: those orgs then share
    /// one token.
    pub organization: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum TokenTypeName {
    Organization,
    Team,
    Personal,
}

/// Where a secret is: exactly one of the keys. A secret never stands in a configuration file itself.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SecretPlace {
    /// A file with the secret and nothing else. One newline at its end is cut.
    pub file: Option<PathBuf>,

    /// The name of an environment variable. It is read when the daemon starts, so changing it takes a restart.
    pub env: Option<String>,

    /// A property of a Pulumi ESC environment: `org/project/environment#path.to.property`, with a version or tag
    /// `org/project/environment@version#path.to.property`.
    ///
    /// For the secrets of destinations. The environment is opened with the token of the org's `[source]`, which needs the permission
    /// `environment:open`, and once for all secrets in it: each opening writes two audit events. It is opened anew when its session
    /// ends, after two hours, and, at most every five minutes, while a destination refuses a secret of it.
    pub esc: Option<String>,
}

/// An org's file. Its name without `.toml` is the org's id: lower-case letters, digits, `-` and `_`. State, event keys and objects
/// are named after it, so it never changes; a new name is a new org that begins at its `start`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OrgFile {
    /// Pulumi's current name of the organization. Required. After a rename at Pulumi, change it here and leave the file's name.
    pub org: Option<String>,

    /// Where collecting begins: `now`, or a time such as `2026-01-01T00:00:00Z`.
    ///
    /// Default: `now`, the moment of the first start. With a time, everything since then is fetched, oldest first, while the
    /// present is polled as usual. Moving it earlier later on fetches what is missing; moving it later has no effect.
    pub start: Option<String>,

    /// How the org is read.
    #[serde(default)]
    pub source: SourceSection,

    /// Deliver to Microsoft Sentinel. The section's presence enables it.
    pub sentinel: Option<SentinelSection>,

    /// Deliver to S3. The section's presence enables it.
    pub s3: Option<S3Section>,

    /// Deliver to files on this machine. The section's presence enables it.
    pub file: Option<FileSection>,
}

/// `[sentinel]`: rows in a Log Analytics table through Azure's Logs Ingestion API.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SentinelSection {
    /// The logs ingestion endpoint of the data collection endpoint or rule. Required.
    pub endpoint: Option<String>,

    /// The immutable id of the data collection rule: `dcr-` and 32 hexadecimal digits. Required.
    pub rule_id: Option<String>,

    /// The rule's input stream.
    ///
    /// Default: `Custom-PulumiAuditLogs_CL`; with `columns = "connector"` that of Pulumi's own rule, `Custom-PulumiAuditLogs`.
    pub stream: Option<String>,

    /// Which columns a row has: `official` has the fifteen of Pulumi's own table, `extended` those and ours, `connector` the fields
    /// that Pulumi's own data collection rule takes in, so that nothing in Azure need be touched.
    ///
    /// Default: `extended`. The other two have no `EventKey_s`: should an answer of Azure be lost, the rows that are then sent again
    /// cannot be told from events that happened twice. Nor do they say which org a row is of. Rows sent before a change stay as
    /// they are.
    pub columns: Option<ColumnsName>,

    /// Adds the event as received in the column `RawEvent`.
    ///
    /// Default: `false`. About doubles what Azure bills. Only with `columns = "extended"`.
    pub raw_event: Option<bool>,

    /// A second input stream of the rule, for heartbeats: a row of each org in every interval, so that silence can be told from an
    /// organization in which nothing happens. Its columns are in `data/heartbeat-columns.json`.
    ///
    /// Default: none, and no heartbeats. Not sent by `run --once`.
    pub heartbeat_stream: Option<String>,

    /// How often a heartbeat is sent to `heartbeat_stream`.
    ///
    /// Default: `5m`, at least `1s`. At the default an org's heartbeats are about 100 KB a day.
    pub heartbeat_interval: Option<Period>,

    /// `public`, `usgov` or `china`: sets `authority` and `scope`.
    ///
    /// Default: `public`.
    pub cloud: Option<CloudName>,

    /// Where tokens are issued, instead of what `cloud` says. Always `https://`. The variable `AZURE_AUTHORITY_HOST` is not looked at.
    pub authority: Option<String>,

    /// For what tokens are issued, instead of what `cloud` says. Ends in `/.default`.
    pub scope: Option<String>,

    /// Who the daemon is for Azure. Required. It needs the role Monitoring Metrics Publisher on the data collection rule.
    pub identity: Option<IdentitySection>,

    /// File with further certificate authorities (PEM). The system's remain trusted.
    pub ca_file: Option<PathBuf>,

    /// The proxy to these services: `http://HOST:PORT`, or `off` for none. Without it, the variables `HTTPS_PROXY`, `HTTP_PROXY` and
    /// `NO_PROXY` count; with it, they do not. All that a proxy is told is which host to connect to. Only for `https://` addresses.
    pub proxy: Option<String>,

    /// Who the daemon is for `proxy`, where that asks. Together with `proxy_password`.
    pub proxy_username: Option<String>,

    /// The password for `proxy`. Its file is read again when it changes.
    pub proxy_password: Option<SecretPlace>,

    /// Accept `http://` to other machines. Default: `false`. Whoever listens on the way reads the token and every event.
    pub allow_http: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ColumnsName {
    Official,
    Extended,
    Connector,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum CloudName {
    Public,
    Usgov,
    China,
}

impl CloudName {
    fn authority(self) -> &'static str {
        match self {
            CloudName::Public => "https://login.microsoftonline.com",
            CloudName::Usgov => "https://login.microsoftonline.us",
            CloudName::China => "https://login.chinacloudapi.cn",
        }
    }

    fn scope(self) -> &'static str {
        match self {
            CloudName::Public => "https://monitor.azure.com/.default",
            CloudName::Usgov => "https://monitor.azure.us/.default",
            CloudName::China => "https://monitor.azure.cn/.default",
        }
    }
}

/// `identity` of `[sentinel]`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IdentitySection {
    /// How the daemon proves who it is. Required.
    ///
    /// - `workload_identity`: the token that Kubernetes projects into the pod. Takes `client_id`, `tenant_id` and `token_file`;
    ///   on AKS none is needed.
    /// - `managed_identity`: that of the virtual machine, App Service or Container App. The system-assigned one, or the one that
    ///   `client_id`, `object_id` or `resource_id` names.
    /// - `client_certificate`: an app registration with a certificate. Needs `tenant_id`, `client_id` and `certificate`.
    /// - `client_secret`: an app registration with a client secret. Needs `tenant_id`, `client_id` and `secret`.
    /// - `azure_cli`: whoever is signed in to `az`. For trying things out by hand; takes `tenant_id`.
    /// - `default`: the first of these that is set up here, said in the log: `AZURE_TENANT_ID` and `AZURE_CLIENT_ID` with
    ///   `AZURE_CLIENT_SECRET`, or with `AZURE_CLIENT_CERTIFICATE_PATH` (and `AZURE_CLIENT_CERTIFICATE_PASSWORD`); the same two with
    ///   `AZURE_FEDERATED_TOKEN_FILE` (workload identity); the managed identity (that of `AZURE_CLIENT_ID`, where it is set); the
    ///   Azure CLI. Name one kind instead where it matters who the daemon is.
    pub kind: Option<IdentityKind>,

    /// Id of the Entra tenant.
    ///
    /// Required for `client_secret` and `client_certificate`. For `workload_identity` by default `$AZURE_TENANT_ID`, for `azure_cli`
    /// the tenant that `az` is signed in to.
    pub tenant_id: Option<String>,

    /// Application (client) id.
    ///
    /// Required for `client_secret` and `client_certificate`. For `workload_identity` by default `$AZURE_CLIENT_ID`. For
    /// `managed_identity` it chooses a user-assigned identity.
    pub client_id: Option<String>,

    /// Object (principal) id of a user-assigned managed identity.
    pub object_id: Option<String>,

    /// Azure's resource id of a user-assigned managed identity: `/subscriptions/…/userAssignedIdentities/…`.
    pub resource_id: Option<String>,

    /// File with the token of `workload_identity`. It is read again for each token of Entra's.
    ///
    /// Default: `$AZURE_FEDERATED_TOKEN_FILE`.
    pub token_file: Option<PathBuf>,

    /// The client secret: `{ file = "…" }`, `{ env = "…" }` or `{ esc = "…" }`. Required for `client_secret`.
    pub secret: Option<SecretPlace>,

    /// A second client secret of the same app, so that secrets can be exchanged without a gap: taken over when Entra ID refuses the
    /// one in use (expired, deleted), and on SIGHUP or when its file changes.
    pub next_secret: Option<SecretPlace>,

    /// The certificate with its RSA private key: `{ file = "…" }`, `{ env = "…" }` or `{ esc = "…" }`. Required for
    /// `client_certificate`.
    ///
    /// PEM (key not encrypted), or PKCS#12, as it is or in base64 as Key Vault hands it out. Further certificates of the chain may
    /// follow. It is read again for each token, so replacing the file is enough.
    pub certificate: Option<SecretPlace>,

    /// The password of a certificate in PKCS#12 form.
    ///
    /// Default: the empty password.
    pub password: Option<SecretPlace>,

    /// A second certificate with its key, of the same app: as `next_secret`, and also on the last day of the one in use.
    pub next_certificate: Option<SecretPlace>,

    /// The password of `next_certificate`, in PKCS#12 form.
    ///
    /// Default: the empty password.
    pub next_password: Option<SecretPlace>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum IdentityKind {
    WorkloadIdentity,
    ManagedIdentity,
    ClientCertificate,
    ClientSecret,
    AzureCli,
    Default,
}

/// `[s3]`: every event, unmapped, as gzipped JSON lines, each object once.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct S3Section {
    /// Bucket to write to. The name alone, without `s3://`. Required.
    pub bucket: Option<String>,

    /// What every object's name begins with, before `/`.
    ///
    /// Default: empty, the bucket's root. Changing it begins a second archive and leaves the first where it is.
    pub prefix: Option<String>,

    /// The bucket's region.
    ///
    /// Default: what the AWS SDK finds (`AWS_REGION`, profile).
    pub region: Option<String>,

    /// Address of an S3 that is not Amazon's. `http://` is accepted for loopback addresses.
    pub endpoint_url: Option<String>,

    /// Ask for `endpoint/bucket/key` instead of `bucket.endpoint/key`, as most stores other than Amazon's need it.
    ///
    /// Default: `false`.
    pub force_path_style: Option<bool>,

    /// Use Amazon's FIPS 140 endpoints, for S3 and for the services that give credentials.
    ///
    /// Default: `false`. Only regions that have such endpoints work. Not together with `endpoint_url`, which names an endpoint
    /// itself.
    pub fips: Option<bool>,

    /// Use Amazon's dual-stack endpoints, which are reached over IPv6 as well, for S3 and for the services that give credentials.
    ///
    /// Default: `false`. Not together with `endpoint_url`.
    pub dual_stack: Option<bool>,

    /// Profile of the AWS configuration files (`~/.aws/config`, `~/.aws/credentials`) that credentials come from. It wins over the
    /// environment's credentials; it may name a source profile and a role, an SSO session or a process.
    ///
    /// Default: none, and the AWS SDK's usual search. Not together with `access_key_id`.
    pub profile: Option<String>,

    /// Role to assume with the credentials found: `arn:aws:iam::123456789012:role/audit-writer`.
    ///
    /// Default: none. The session lasts an hour and is renewed before it ends. The credentials below need `sts:AssumeRole` on the
    /// role, and the role's trust policy must name them.
    pub role_arn: Option<String>,

    /// What the role's trust policy asks for in `sts:ExternalId`. Needs `role_arn`.
    pub external_id: Option<String>,

    /// Name of the role's session, as CloudTrail shows it. Needs `role_arn`.
    ///
    /// Default: `pulumi-audit-forwarder`.
    pub session_name: Option<String>,

    /// A fixed access key, with `secret_access_key`.
    ///
    /// Default: none, and the AWS SDK's usual search (environment, profile, web identity, container, instance) finds credentials
    /// that expire, which is better.
    pub access_key_id: Option<String>,

    /// The key's secret: `{ file = "…" }`, `{ env = "…" }` or `{ esc = "…" }`.
    pub secret_access_key: Option<SecretPlace>,

    /// A second fixed access key, with `next_secret_access_key`, so that keys can be exchanged without a gap: taken over when the store
    /// refuses the one in use, and on SIGHUP or when its secret's file changes.
    pub next_access_key_id: Option<String>,

    /// The second key's secret: `{ file = "…" }` or `{ env = "…" }`.
    pub next_secret_access_key: Option<SecretPlace>,

    /// Encryption to ask for: `AES256` (the store's own keys) or `aws:kms`.
    ///
    /// Default: what the bucket does by itself. A store that does not answer that it has encrypted so is not written to any further.
    pub sse: Option<SseName>,

    /// The KMS key: an id, an ARN or `alias/…`. Needs `sse = "aws:kms"`.
    ///
    /// Default: the account's own key for S3. Writing needs `kms:GenerateDataKey` on the key, and `kms:Decrypt` to compare what is
    /// there already with what was to be written.
    pub kms_key_id: Option<String>,

    /// Locks every object and claim against deletion, from its upload on.
    ///
    /// Default: what the bucket does by itself. The bucket must have Object Lock: the lock is read back once, and without one the
    /// lane pauses. It needs `s3:PutObjectRetention` and `s3:GetObjectRetention` as well.
    pub object_lock: Option<ObjectLockSection>,

    /// Storage class of the objects with events, such as `STANDARD_IA` or `GLACIER_IR`. Claims are small and read again, so they stay
    /// in the bucket's own.
    ///
    /// Default: the bucket's own.
    pub storage_class: Option<String>,

    /// Id of the AWS account that must own the bucket: 12 digits. Requests to a bucket of someone else are refused.
    ///
    /// Default: not looked at.
    pub expected_bucket_owner: Option<String>,

    /// How often a heartbeat of the org is written below `_heartbeat/`: a small object in every interval, so that silence can be told
    /// from an organization in which nothing happens.
    ///
    /// Default: none, and no heartbeats; at least `1s`. Not written by `run --once`. Nothing reads or removes them: let the bucket's
    /// lifecycle end them. They are not locked by `object_lock`.
    pub heartbeat_interval: Option<Period>,

    /// `when_supported` sends a SHA-256 checksum that the store verifies and keeps; `when_required` sends one only with
    /// `object_lock`, for stores that dislike the header.
    ///
    /// Default: `when_supported`. In both cases the signature covers the bytes.
    pub checksums: Option<ChecksumsName>,

    /// File with further certificate authorities (PEM). The system's remain trusted.
    pub ca_file: Option<PathBuf>,

    /// The proxy to these services: `http://HOST:PORT`, or `off` for none. Without it, the variables `HTTPS_PROXY`, `HTTP_PROXY` and
    /// `NO_PROXY` count; with it, they do not. All that a proxy is told is which host to connect to. Only for `https://` addresses.
    pub proxy: Option<String>,

    /// Who the daemon is for `proxy`, where that asks. Together with `proxy_password`.
    pub proxy_username: Option<String>,

    /// The password for `proxy`. Its file is read again when it changes.
    pub proxy_password: Option<SecretPlace>,

    /// Accept `http://` to other machines. Default: `false`. Whoever listens on the way reads every event.
    pub allow_http: Option<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
pub enum SseName {
    #[serde(rename = "AES256")]
    Aes256,
    #[serde(rename = "aws:kms")]
    Kms,
}

/// `object_lock` of `[s3]`.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ObjectLockSection {
    /// `GOVERNANCE`: who has `s3:BypassGovernanceRetention` may end a lock. `COMPLIANCE`: nobody may, whatever it costs. Required.
    pub mode: Option<LockModeName>,

    /// How long, from the upload of each object: `"2555d"`. Required, at least `1d`.
    pub retain: Option<Period>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub enum LockModeName {
    Governance,
    Compliance,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ChecksumsName {
    WhenSupported,
    WhenRequired,
}

/// `[file]`: the same names and bytes as in S3, in a directory.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileSection {
    /// Directory to write into. Required. Several orgs may share one.
    pub path: Option<PathBuf>,
}

/// A configuration that can be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub settings: Settings,
    /// The `forwarder.toml` in use.
    pub file: PathBuf,
    /// The directory of the orgs' files.
    pub orgs_dir: PathBuf,
    /// The merged values of `forwarder.toml`, without the sections that are every org's defaults.
    pub forwarder_values: Vec<ShownValue>,
    /// Each org's merged values and its file; nothing when it was loaded with secrets, to be run.
    pub org_values: Vec<(OrgId, PathBuf, Vec<ShownValue>)>,
}

/// A merged value and where it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownValue {
    pub key: Vec<String>,
    /// As TOML. Secrets are shown as their sources, since that is all a configuration holds of them.
    pub value: String,
    /// `file:line`, an environment variable, or `default`.
    pub origin: String,
}

/// Loads and checks the configuration: `path`, else `$PAF_CONFIG`, else `config/forwarder.toml` below the working directory, else
/// `/etc/pulumi-audit-forwarder/forwarder.toml`. Secrets and certificate files are read once, to see that they can be.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: Option<&Path>) -> Result<Loaded, Invalid> {
    load_in(path, &Surroundings::of_process()?, Secrets::MustBeReadable)
}

/// The same for commands that use no secret, and may be run by someone who cannot read them.
///
/// # Errors
/// As [`load`], but for secrets.
pub fn load_without_secrets(path: Option<&Path>) -> Result<Loaded, Invalid> {
    load_in(path, &Surroundings::of_process()?, Secrets::Unread)
}

/// Where a daemon's admin endpoints are as far as the files tell when they no longer load: its probe still has to find it. `None`
/// when they are off or nothing can be told.
pub fn admin_listen(path: Option<&Path>) -> Option<SocketAddr> {
    let surroundings = Surroundings::of_process().ok()?;
    let listen = |text: &str| {
        let table: toml::Table = text.parse().ok()?;
        Some(table.get("admin")?.get("listen")?.as_str()?.to_owned())
    };
    let written = || {
        let file = surroundings.directory.join(surroundings.find(path).ok()?);
        listen(&std::fs::read_to_string(file).ok()?)
    };
    let variable = surroundings.variable("PAF_ADMIN__LISTEN").map(str::to_owned);
    variable.or_else(written).or_else(|| listen(DEFAULTS))?.parse().ok()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Secrets {
    MustBeReadable,
    Unread,
}

/// What the process finds itself in; a value, so that tests can choose it.
#[derive(Clone, Debug)]
struct Surroundings {
    directory: PathBuf,
    variables: Vec<(String, String)>,
}

impl Surroundings {
    fn of_process() -> Result<Surroundings, Invalid> {
        let directory = std::env::current_dir().map_err(|error| {
            let text = format!("cannot be told ({error}): start in a directory that exists");
            Invalid { mistakes: vec![Mistake::new("working directory", text)] }
        })?;
        let ours = |name: &str| {
            name.starts_with(ENVIRONMENT_PREFIX)
                || name == "STATE_DIRECTORY"
                || AZURE_VARIABLES.contains(&name)
        };
        let mut variables = Vec::new();
        let mut mistakes = Vec::new();
        for (name, value) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            match value.into_string() {
                _ if !ours(&name) => {}
                // Only that it is there is looked at: a secret is read where it is used.
                _ if AZURE_SECRETS.contains(&name.as_str()) => variables.push((name, "set".into())),
                Ok(value) => variables.push((name, value)),
                Err(_) => mistakes.push(Mistake::new("environment", "give UTF-8").at_key(&name)),
            }
        }
        variables.sort();
        if mistakes.is_empty() {
            Ok(Surroundings { directory, variables })
        } else {
            Err(Invalid { mistakes })
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// The file to load.
    fn find(&self, asked: Option<&Path>) -> Result<PathBuf, Invalid> {
        if let Some(path) =
            asked.map(Path::to_owned).or_else(|| self.variable("PAF_CONFIG").map(PathBuf::from))
        {
            return Ok(path);
        }
        let places = [LOCAL_FILE, SYSTEM_FILE];
        places.iter().map(PathBuf::from).find(|path| self.directory.join(path).exists()).ok_or_else(|| {
            let text = format!(
                "none found: neither $PAF_CONFIG is set nor is there {} or {SYSTEM_FILE}; \
                 name one with --config, or write a first one with `pulumi-audit-forwarder config init`",
                self.directory.join(LOCAL_FILE).display()
            );
            Invalid { mistakes: vec![Mistake::new("configuration", text)] }
        })
    }
}

fn load_in(path: Option<&Path>, surroundings: &Surroundings, secrets: Secrets) -> Result<Loaded, Invalid> {
    let path = surroundings.find(path)?;
    let invalid = |mistakes| Invalid { mistakes };
    let document = Arc::new(Document::read(&path, &surroundings.directory).map_err(invalid)?);
    let defaults = built_in(DEFAULTS).map_err(invalid)?;
    let org_defaults = built_in(ORG_DEFAULTS).map_err(invalid)?;
    let environment = layers::environment(&surroundings.variables);

    let mut bottom = vec![Layer { origin: Origin::Default(DEFAULT), values: defaults }];
    if let Some(directory) = surroundings.variable("STATE_DIRECTORY") {
        // systemd separates several with a colon; the first is the one the unit names first.
        let first = directory.split(':').next().unwrap_or(directory);
        let values = Dict::from([("state_dir".to_owned(), Value::from(first))]);
        bottom.push(Layer { origin: Origin::Default("default, from $STATE_DIRECTORY"), values });
    }
    let written = Layer { origin: Origin::File(document.clone()), values: document.values.clone() };
    let shared: Vec<Layer> = bottom.iter().cloned().chain([written, environment]).collect();

    let mut view = View::new(shared.clone(), Some(document.clone()));
    let values: ForwarderFile = view.read();
    let forwarder = resolve::forwarder(&mut view, &values, surroundings);
    let mut mistakes = std::mem::take(&mut view.mistakes);
    Mistake::sort(&mut mistakes);
    let mut forwarder_values = view.shown();
    forwarder_values.retain(|value| !matches!(value.key[0].as_str(), "source" | "sentinel" | "s3" | "file"));

    let mut orgs = Vec::new();
    let mut org_values = Vec::new();
    let mut warnings = Vec::new();
    let mut known: BTreeMap<(String, String), (OrgId, PathBuf)> = BTreeMap::new();
    let files = match &forwarder.orgs_dir {
        Some(orgs_dir) => match org_files(&surroundings.directory.join(orgs_dir), orgs_dir) {
            Ok(files) => files,
            Err(text) => {
                view.refuse(&["orgs_dir"], text);
                mistakes.append(&mut view.mistakes);
                Vec::new()
            }
        },
        None => Vec::new(),
    };
    for file in files {
        let (id, document) = match org_document(&file, surroundings) {
            Ok(found) => found,
            Err(mut found) => {
                mistakes.append(&mut found);
                continue;
            }
        };
        let mut view = View::new(org_layers(&shared, &org_defaults, &document), Some(document));
        let values: OrgFile = view.read();
        let settings = resolve::org(&mut view, &values, &id, &forwarder, surroundings, secrets);
        if let Some(settings) = settings {
            let same = (settings.source.api_url.clone(), settings.org.to_lowercase());
            if let Some((other, other_file)) = known.get(&same) {
                view.refuse(
                    &["org"],
                    format!(
                        "this organization is configured as `{other}` already ({}): remove one of the two files, \
                         or every event arrives twice",
                        other_file.display()
                    ),
                );
            }
            known.entry(same).or_insert((id.clone(), file.clone()));
            orgs.push(settings);
        }
        for warning in std::mem::take(&mut view.warnings) {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        // Only who looks needs them, and a thousand orgs have sixty thousand.
        if secrets == Secrets::Unread {
            org_values.push((id, file, view.shown()));
        }
        Mistake::sort(&mut view.mistakes);
        for mistake in view.mistakes {
            // A shared section is read once for each org.
            if !mistakes.contains(&mistake) {
                mistakes.push(mistake);
            }
        }
    }
    match forwarder.settings(orgs, warnings) {
        Some((settings, orgs_dir)) if mistakes.is_empty() => Ok(Loaded {
            settings,
            file: surroundings.directory.join(&path),
            orgs_dir: surroundings.directory.join(orgs_dir),
            forwarder_values,
            org_values,
        }),
        _ => Err(Invalid { mistakes }),
    }
}

fn built_in(text: &str) -> Result<Dict, Vec<Mistake>> {
    Document::parse(Path::new("built-in defaults"), text).map(|document| document.values)
}

/// An org's layers: of the shared ones only the sections it may inherit, and of destinations only those its own file has.
fn org_layers(shared: &[Layer], org_defaults: &Dict, document: &Arc<Document>) -> Vec<Layer> {
    let inherits =
        |name: &str| name == "source" || (is_destination(name) && document.values.contains_key(name));
    let mut layers: Vec<Layer> = shared
        .iter()
        .map(|layer| {
            let mut values = layer.values.clone();
            values.retain(|name, _| inherits(name));
            Layer { origin: layer.origin.clone(), values }
        })
        .collect();
    layers[0].values.extend(org_defaults.clone());
    let own = Layer { origin: Origin::File(document.clone()), values: document.values.clone() };
    // Only the environment is above the org's own file.
    layers.insert(layers.len() - 1, own);
    let columns = ["sentinel", "columns"].map(str::to_owned);
    let chosen = layers.iter().rev().find_map(|layer| layers::find(&layer.values, &columns));
    if chosen.and_then(Value::as_str) == Some("connector")
        && let Some(Value::Dict(_, sentinel)) = layers[0].values.get_mut("sentinel")
    {
        sentinel.insert("stream".to_owned(), Value::from(CONNECTOR_STREAM));
    }
    layers
}

fn is_destination(name: &str) -> bool {
    crate::destination::DestinationName::parse(name).is_some()
}

/// The orgs' files in the directory `real` in the order of their names, below `orgs_dir`, as that is shown to people.
pub(crate) fn org_files(real: &Path, orgs_dir: &Path) -> Result<Vec<PathBuf>, String> {
    let remedy = "put a file for each org there, such as acme.toml";
    let unreadable = |error: std::io::Error| {
        format!("the orgs directory {} cannot be read ({error}): {remedy}", orgs_dir.display())
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(real).map_err(unreadable)? {
        let name = entry.map_err(unreadable)?.file_name();
        let name = Path::new(&name);
        let hidden = name.to_string_lossy().starts_with('.');
        if !hidden && name.extension().is_some_and(|extension| extension == "toml") {
            files.push(orgs_dir.join(name));
        }
        if files.len() > ORGS_MAX {
            return Err(format!(
                "more than {ORGS_MAX} orgs in {}: share them among several daemons",
                real.display()
            ));
        }
    }
    if files.is_empty() {
        return Err(format!("no org in {}: {remedy}", orgs_dir.display()));
    }
    files.sort();
    Ok(files)
}

fn org_document(file: &Path, surroundings: &Surroundings) -> Result<(OrgId, Arc<Document>), Vec<Mistake>> {
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let id = OrgId::new(&stem)
        .map_err(|error| vec![Mistake::new(file.display().to_string(), error.to_string())])?;
    Ok((id, Arc::new(Document::read(file, &surroundings.directory)?)))
}

/// Any text of `forwarder.toml`, of an org's file and of variables (`NAME=value` lines), apart by NULs. Nothing is asked of the disk.
#[cfg(any(test, fuzzing))]
pub(crate) fn property(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let mut parts = text.splitn(3, '\0');
    let (written, org, variables) = (
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default(),
    );
    let pairs = variables.lines().filter_map(|line| line.split_once('='));
    let surroundings = Surroundings {
        directory: PathBuf::from("/nonexistent"),
        variables: pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
    };
    let parsed = |name: &str, text: &str| Document::parse(Path::new(name), text).map(Arc::new);
    let shown = |mistakes: Vec<Mistake>| {
        let text = Invalid { mistakes }.to_string();
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
    };
    let document = match parsed("forwarder.toml", written) {
        Ok(document) => document,
        Err(mistakes) => return shown(mistakes),
    };
    let defaults = built_in(DEFAULTS).unwrap_or_default();
    let shared: Vec<Layer> = vec![
        Layer { origin: Origin::Default(DEFAULT), values: defaults },
        Layer { origin: Origin::File(document.clone()), values: document.values.clone() },
        layers::environment(&surroundings.variables),
    ];
    let mut view = View::new(shared.clone(), Some(document));
    let values: ForwarderFile = view.read();
    let forwarder = resolve::forwarder(&mut view, &values, &surroundings);
    view.shown();
    shown(view.mistakes);
    let document = match parsed("orgs/acme.toml", org) {
        Ok(document) => document,
        Err(mistakes) => return shown(mistakes),
    };
    let org_defaults = built_in(ORG_DEFAULTS).unwrap_or_default();
    let mut view = View::new(org_layers(&shared, &org_defaults, &document), Some(document));
    let values: OrgFile = view.read();
    let id = crate::hostile::given::org();
    let settings = resolve::org(&mut view, &values, &id, &forwarder, &surroundings, Secrets::Unread);
    view.shown();
    assert!(settings.is_some() || !view.mistakes.is_empty(), "what is not usable is said");
    shown(view.mistakes);
    for text in text.split(['\0', '\n', '"']) {
        if let Some(period) = quantity::Period::parse(text) {
            assert_eq!(quantity::Period::parse(&period.to_string()), Some(period));
        }
        if let Some(size) = quantity::Size::parse(text) {
            assert!(i64::try_from(size.0).is_ok());
        }
    }
}
