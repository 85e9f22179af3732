//! No secret comes out anywhere, whatever fails, and nothing is sent to a host that is not configured.
//!
//! One run goes through every family of faults with marked secrets of every kind; then everything that was said, written and sent is
//! searched. So that nothing is searched in vain, a word that is no secret is looked for in the same way, and has to be found.

mod canary;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::slice::from_ref;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use crate::delivery::binary;
use crate::forwarder::{complete, err, out, party, paused, recent};
use crate::transport::{over_tls, recovers, waits};
use crate::world::certificates::{ClientCertificate, Leaf};
use crate::world::daemon::{Daemon, until};
use crate::world::pulumi::behaviour::{BadGzip, DateHeader, Fault};
use crate::world::pulumi::events::{Generator, dreadful};
use crate::world::pulumi::oauth::Issuer;
use crate::world::s3::proxy::{self, Scope};
use crate::world::s3::seaweed::{NEXT_ACCESS_KEY, NEXT_SECRET_KEY, SECRET_KEY};
use crate::world::script::Times;
use crate::world::server::Server;
use crate::world::setup::{CLIENT_ID, CLIENT_SECRET, OrgSetup, TENANT};
use crate::world::tunnel::{Doing, Tunnel};
use crate::world::verdict::{Cut, RetryAfter};
use crate::world::{World, entra, ingestion};
use canary::Canaries;
use told::{Place, Told};

/// For whom a secret is: nobody else may get it.
type For = &'static [Place];

const NOBODY: For = &[];

/// Every key of the configuration that names a secret, and where its value may go. A new one joins here, with a value in
/// [`Stage::begin`].
const KEYS: [(&str, For); 16] = [
    ("source.token", &[Place::Pulumi]),
    ("source.next_token", &[Place::Pulumi]),
    ("source.client_certificate", NOBODY),
    ("source.client_key", NOBODY),
    ("source.proxy_password", &[Place::Proxy]),
    ("sentinel.proxy_password", &[Place::Proxy]),
    ("sentinel.identity.secret", &[Place::Entra]),
    ("sentinel.identity.next_secret", &[Place::Entra]),
    ("sentinel.identity.certificate", NOBODY),
    ("sentinel.identity.password", NOBODY),
    ("sentinel.identity.next_certificate", NOBODY),
    ("sentinel.identity.next_password", NOBODY),
    ("s3.secret_access_key", NOBODY),
    ("s3.next_secret_access_key", NOBODY),
    ("s3.proxy_password", &[Place::Proxy]),
    // A secret in a variable is in the environment of the process that was given it, and nowhere else.
    (IN_A_VARIABLE, &[Place::Pulumi, Place::Environment]),
];

const SUBJECT_TOKEN: &str = "a platform's token that is exchanged";
const IN_AN_ENVIRONMENT: &str = "a value of an environment";
const IN_A_VARIABLE: &str = "source.next_token in a variable";

/// What platforms and services give, and what is made of the keys above. What else is exchanged for a secret or opened with one has its
/// line here.
const GIVEN: [(&str, For); 9] = [
    (SUBJECT_TOKEN, &[Place::Pulumi]),
    ("an access token in exchange", &[Place::Pulumi]),
    (IN_AN_ENVIRONMENT, &[Place::Entra]),
    ("an access token of Entra's", &[Place::Azure]),
    ("an access token of the Azure CLI's", &[Place::Azure]),
    ("the signature of an assertion", &[Place::Entra]),
    ("the password in HTTPS_PROXY", &[Place::Proxy, Place::Environment, Place::EnvironmentOfChild]),
    ("AWS_SECRET_ACCESS_KEY", &[Place::Environment]),
    ("AZURE_CLIENT_SECRET", &[Place::Environment]),
];

/// What is no secret, and has to be found by the same search, or it is no search.
const WITNESSES: [(Place, &str); 21] = [
    (Place::Log, ACME),
    (Place::Metrics, ACME),
    (Place::Status, ACME),
    (Place::Page, ACME),
    (Place::State, ACME),
    (Place::AuditRecord, ACME),
    (Place::Folder, ACME),
    (Place::Bucket, ACME),
    (Place::TemporaryFiles, IN_TEMPORARY_FILES),
    (Place::Configuration, ACME),
    (Place::CommandLine, "config/forwarder.toml"),
    (Place::Environment, IN_THE_ENVIRONMENT),
    (Place::EnvironmentOfChild, IN_THE_ENVIRONMENT),
    (Place::CommandLineOfChild, "get-access-token"),
    (Place::OpenFiles, ACME),
    (Place::Commands, ACME),
    (Place::Pulumi, ACME),
    (Place::Entra, CLIENT_ID),
    (Place::Azure, ACME),
    (Place::Store, ACME),
    (Place::Proxy, USER),
];

/// Places of a line or none, where no word of ours can stand: that they are searched is shown by [`what_is_planted_anywhere_is_found`].
const WITHOUT_WITNESS: [Place; 4] = [Place::StandardOutput, Place::Livez, Place::Readyz, Place::Stranger];

const IN_THE_ENVIRONMENT: &str = "witness-of-the-environment";
const IN_TEMPORARY_FILES: &str = "witness-of-temporary-files";

const ACME: &str = "witness-acme";
const SIGNING: &str = "signing";
const HOSTED: &str = "hosted";
const MUTUAL: &str = "mutual";
const CLI: &str = "cli";
const STRANGE: &str = "strange";
const SLOW: &str = "slow";
const KEYLESS: &str = "keyless";

const SIGNING_CLIENT_ID: &str = "33333333-3333-3333-3333-333333333333";
const KEYLESS_CLIENT_ID: &str = "44444444-4444-4444-4444-444444444444";
const SUBJECT: &str = "system:serviceaccount:audit:forwarder";
const SIEM: &str = "infra/siem";
const USER: &str = "witness-forwarder";
const REFUSED: &str = "reload_refused";

/// A secret that nobody else has.
fn marked(number: u64) -> String {
    format!("mark{}", crate::world::chance::Chance::seeded(number ^ 0x6361_6e61_7279).hex(36))
}

/// The world, the daemon in it, all that was met, and which secret has which values.
struct Stage {
    world: World,
    acme: OrgSetup,
    others: Vec<OrgSetup>,
    proxies: Vec<Tunnel>,
    /// Ports of Pulumi's beside the world's own, and one that nobody should trust.
    hosted: Server,
    strange: Server,
    store: Server,
    trap: tokio::net::TcpListener,
    /// The app's other certificate.
    second: ClientCertificate,
    daemon: Option<Daemon>,
    starts: usize,
    variables: Vec<(&'static str, String)>,
    told: Told,
    values: Vec<(&'static str, String)>,
    families: BTreeSet<char>,
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_comes_out_anywhere_through_every_family_of_faults() {
    let mut stage = Stage::begin().await;
    stage.services_fail_in_passing().await;
    stage.secrets_are_exchanged().await;
    stage.the_configuration_is_broken().await;
    stage.everything_is_refused().await;
    stage.proxies_refuse().await;
    stage.it_is_killed_and_somebody_else_takes_its_place().await;
    stage.the_journal_is_damaged().await;
    stage.end().await;
    stage.families_are_complete();
    stage.nothing_is_found();
}

impl Stage {
    async fn begin() -> Stage {
        let names = [ACME, SIGNING, HOSTED, MUTUAL, CLI, STRANGE, SLOW, KEYLESS];
        let world = World::builder().orgs(&names).with_s3().events(60).start().await;
        world.listens_in();
        let mut proxies = Vec::new();
        for _ in 0..4 {
            proxies.push(Tunnel::start(Doing::Tunnels).await);
        }
        let mut values: Vec<(&'static str, String)> = Vec::new();
        let account = |section: usize, values: &mut Vec<(&'static str, String)>| {
            let key = ["source.proxy_password", "sentinel.proxy_password", "s3.proxy_password"][section];
            let password = marked(section as u64);
            let place = world.paths.write_secret(key, &password);
            values.push((key, password));
            let url = proxies[section].url();
            format!("proxy = {url:?}\nproxy_username = {USER:?}\nproxy_password = {{ file = {place:?} }}\n")
        };

        // Two of everything that can be exchanged, through a proxy for each section.
        let (mut acme, store) = over_tls(&world, ACME, "").await;
        store.listens_in();
        acme = acme.with_file();
        let next = world.pulumi().org(ACME).add_token();
        world.paths.write_secret(&format!("{ACME}-token-next"), &next);
        let first = world.pulumi().org(ACME).add_token();
        acme.next_token = true;
        acme.more_source += &account(0, &mut values);
        acme.more_sentinel += &account(1, &mut values);
        acme.more_s3 += &account(2, &mut values);
        let next_secret = marked(10);
        world.entra().add_secret(TENANT, CLIENT_ID, &next_secret, None);
        let secrets = [("client-secret", CLIENT_SECRET), ("client-secret-next", &next_secret)]
            .map(|(name, value)| world.paths.write_secret(name, value));
        acme.identity = Some(format!(
            "{{ kind = \"client_secret\", tenant_id = {TENANT:?}, client_id = {CLIENT_ID:?}, secret = {{ file = {:?} }}, \
             next_secret = {{ file = {:?} }} }}",
            secrets[0], secrets[1]
        ));
        let place = world.paths.write_secret("s3-next", NEXT_SECRET_KEY);
        acme.more_s3 += &format!(
            "next_access_key_id = {NEXT_ACCESS_KEY:?}\nnext_secret_access_key = {{ file = {place:?} }}\n"
        );
        values.extend([
            ("source.token", first),
            ("source.next_token", next),
            ("sentinel.identity.secret", CLIENT_SECRET.to_owned()),
            ("sentinel.identity.next_secret", next_secret),
            ("s3.secret_access_key", SECRET_KEY.to_owned()),
            ("s3.next_secret_access_key", NEXT_SECRET_KEY.to_owned()),
        ]);

        // An app that signs, and asks for its tokens through the environment's proxy.
        world.entra().register(TENANT, SIGNING_CLIENT_ID, "unused");
        let mut pairs = Vec::new();
        let keys = [
            ("sentinel.identity.certificate", "sentinel.identity.password"),
            ("sentinel.identity.next_certificate", "sentinel.identity.next_password"),
        ];
        for (number, (certificate, password)) in keys.into_iter().enumerate() {
            let (pair, word) = (ClientCertificate::create(), marked(20 + number as u64));
            let places = [
                world.paths.write_secret_bytes(certificate, &pair.pkcs12(&word)),
                world.paths.write_secret(password, &word),
            ];
            world.entra().trusts(TENANT, SIGNING_CLIENT_ID, &pair);
            values.extend([(certificate, pair.pem.clone()), (password, word)]);
            pairs.push((pair, places));
        }
        world.entra().trusts(TENANT, SIGNING_CLIENT_ID, &pairs[0].0);
        let signing = recent(&world, SIGNING).with_file().with_sentinel_as(&format!(
            "{{ kind = \"client_certificate\", tenant_id = {TENANT:?}, client_id = {SIGNING_CLIENT_ID:?}, \
             certificate = {{ file = {:?} }}, password = {{ file = {:?} }}, next_certificate = {{ file = {:?} }}, \
             next_password = {{ file = {:?} }} }}",
            pairs[0].1[0], pairs[0].1[1], pairs[1].1[0], pairs[1].1[1]
        ));

        // Self-hosted, behind a port that asks for a certificate: with its key beside it, and with both in one.
        let hosted = world.pulumi_behind(world.certificates().server_that_asks()).await;
        hosted.listens_in();
        let own = |name: &str, lines: &str| {
            let mut setup = recent(&world, name).with_file();
            setup.more_source =
                format!("api_url = {:?}\nca_file = {:?}\n{lines}", hosted.url(), world.ca_pem());
            setup
        };
        let (pem, both) = (world.certificates().client(), world.certificates().client());
        let key = pem.find("-----BEGIN PRIVATE KEY").expect("the key comes last");
        let certificate = world.paths.write_secret("own.pem", &pem[..key]);
        let place = world.paths.write_secret("own.key", &pem[key..]);
        let mut hosting = own(
            HOSTED,
            &format!(
                "client_certificate = {{ file = {certificate:?} }}\nclient_key = {{ file = {place:?} }}\n"
            ),
        );
        hosting.more_source += "proxy = \"off\"\n";
        let place = world.paths.write_secret("both.pem", &both);
        let mut mutual = own(MUTUAL, &format!("client_certificate = {{ file = {place:?} }}\n"));
        mutual.more_source += "proxy = \"off\"\n";
        values.extend([("source.client_key", pem), ("source.client_certificate", both)]);

        // Whoever is signed in to `az`, and a secret in a variable.
        let in_a_variable = world.pulumi().org(CLI).add_token();
        let token = world.entra().token_for("https://monitor.azure.com");
        az(&world, &token);
        values.push(("an access token of the Azure CLI's", token));
        let mut cli = recent(&world, CLI).with_file().with_sentinel_as("{ kind = \"azure_cli\" }");
        cli.more_source = "next_token = { env = \"TOKEN_TO_COME\" }\n".to_owned();

        // Nothing is stored: a token in exchange, and with that an environment.
        let pulumi = world.pulumi().org(KEYLESS);
        pulumi.trust(Issuer::for_organization(SUBJECT));
        let subject = pulumi.issue(SUBJECT, 3_600);
        let file = world.paths.write_secret(SUBJECT_TOKEN, &subject);
        let opened = marked(40);
        world.entra().register(TENANT, KEYLESS_CLIENT_ID, &opened);
        pulumi.write_environment(SIEM, json!({"azure": {"secret": opened}}));
        values.extend([(SUBJECT_TOKEN, subject), (IN_AN_ENVIRONMENT, opened)]);
        let keyless = recent(&world, KEYLESS)
            .with_file()
            .with_oidc(&format!("{{ subject_token_file = {file:?} }}"))
            .with_sentinel_as(&format!(
                "{{ kind = \"client_secret\", tenant_id = {TENANT:?}, client_id = {KEYLESS_CLIENT_ID:?}, \
                 secret = {{ esc = \"{KEYLESS}/{SIEM}#azure.secret\" }} }}"
            ));

        // A service whose certificate is nobody's, and one that never answers.
        let strange = world.pulumi_behind(world.certificates().server(Leaf::UnknownAuthority)).await;
        strange.listens_in();
        let mut stranger = recent(&world, STRANGE).with_file();
        stranger.more_source = format!("api_url = {:?}\nproxy = \"off\"\n", strange.url());
        let slow = recent(&world, SLOW).with_file();
        world.pulumi().fault(SLOW, Fault::Stall, Times::UntilCleared);

        let [proxy_password, aws, azure] = [30, 31, 32].map(marked);
        let proxy = proxies[3].url().replace("http://", &format!("http://{USER}:{proxy_password}@"));
        let temporary = world.paths.root.join("temporary");
        std::fs::create_dir(&temporary).expect("it is new");
        std::fs::write(temporary.join("witness"), IN_TEMPORARY_FILES).expect("it can be written");
        let path =
            format!("{}:{}", az_directory(&world).display(), std::env::var("PATH").unwrap_or_default());
        let variables = vec![
            ("PATH", path),
            ("TMPDIR", temporary.display().to_string()),
            ("WITNESS", IN_THE_ENVIRONMENT.to_owned()),
            ("TOKEN_TO_COME", in_a_variable.clone()),
            ("HTTPS_PROXY", proxy),
            ("AWS_SECRET_ACCESS_KEY", aws.clone()),
            ("AZURE_CLIENT_SECRET", azure.clone()),
        ];
        values.extend([
            (IN_A_VARIABLE, in_a_variable),
            ("the password in HTTPS_PROXY", proxy_password),
            ("AWS_SECRET_ACCESS_KEY", aws),
            ("AZURE_CLIENT_SECRET", azure),
        ]);
        let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let others = vec![signing, hosting, mutual, cli, stranger, slow, keyless];
        let all: Vec<OrgSetup> = std::iter::once(&acme).chain(&others).cloned().collect();
        world.write_config(&all, "");
        Stage {
            world,
            acme,
            others,
            proxies,
            hosted,
            strange,
            store,
            trap,
            second: pairs.pop().expect("there are two").0,
            daemon: None,
            starts: 0,
            variables,
            told: Told::default(),
            values,
            families: BTreeSet::new(),
        }
    }

    /// Families of `docs/faults.md` that a step belongs to.
    fn goes_through(&mut self, families: &str) {
        self.families.extend(families.chars());
    }
    fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("it runs")
    }

    /// With every line that it can log, and leave for a core dump of any size.
    fn start(&mut self) {
        let config = self.world.paths.config.clone();
        self.start_on(&config);
    }

    fn start_on(&mut self, config: &Path) {
        self.starts += 1;
        let log = self.world.paths.root.join(format!("{ACME}-log-{}", self.starts));
        let variables: Vec<(&str, &str)> =
            self.variables.iter().map(|(name, value)| (*name, value.as_str())).collect();
        let program = with_cores(&self.world.paths.root, binary());
        let arguments = ["--log-level", "trace", "run"];
        self.daemon = Some(Daemon::start_in(&program, config, &log, &arguments, &variables));
    }

    async fn stop(&mut self) {
        self.tell().await;
        assert!(self.daemon().stop().await.success());
        self.logged();
    }

    /// What the process has written, which has ended.
    fn logged(&mut self) {
        let daemon = self.daemon.take().expect("it ran");
        self.told.add(Place::Log, "the log", daemon.log());
        self.told.add(Place::StandardOutput, "standard output", daemon.out());
    }

    /// What the daemon says of itself now, and what Linux says of it.
    async fn tell(&mut self) {
        let places = [
            ("/", Place::Page),
            ("/metrics", Place::Metrics),
            ("/api/status", Place::Status),
            ("/readyz", Place::Readyz),
            ("/livez", Place::Livez),
        ];
        for (path, place) in places {
            let mut said = None;
            until(&format!("{path} is served"), async || {
                said = self.daemon().get(path).await;
                said.is_some()
            })
            .await;
            self.told.add(place, path, said.expect("it was served").1);
        }
        let pid = self.daemon().pid();
        self.told.add_process(pid);
    }

    async fn command(&mut self, arguments: &[&str], more: &[(&str, &str)]) -> bool {
        let mut command = tokio::process::Command::new(binary());
        command.arg("--config").arg(&self.world.paths.config).args(["--log-level", "trace"]).args(arguments);
        command.envs(self.variables.iter().map(|(name, value)| (*name, value)));
        let ended = command.envs(more.iter().copied()).kill_on_drop(true).output().await;
        let ended = ended.expect("the binary starts");
        self.told.add(Place::Commands, format!("{arguments:?}"), format!("{}{}", out(&ended), err(&ended)));
        ended.status.success()
    }

    /// What every command says that may be asked while the daemon runs.
    async fn commands(&mut self) {
        // Nobody waits a minute for the one that never answers.
        for org in [ACME, SIGNING, HOSTED, MUTUAL, CLI, STRANGE, KEYLESS] {
            self.command(&["check", "--org", org], &[]).await;
        }
        let commands: [&[&str]; 11] = [
            &["check", "--json", "--org", ACME],
            &["check", "--offline"],
            &["config", "show"],
            &["status"],
            &["status", "--json"],
            &["audit", "--all"],
            &["audit", "--json"],
            &["coverage"],
            &["quarantine", "list"],
            &["verify", "--org", ACME],
            &["run", "--once"],
        ];
        for arguments in commands {
            self.command(arguments, &[]).await;
        }
    }

    fn more_events(&self, org: &str, seed: u64) {
        let now = self.world.clock.now();
        self.world.pulumi().org(org).add(Generator::seeded(seed).burst(now - 1, 10));
    }

    async fn complete(&self, orgs: &[&str]) {
        let all = std::iter::once(&self.acme).chain(&self.others);
        for setup in all.filter(|setup| orgs.contains(&setup.org.as_str())) {
            recovers(&self.world, setup).await;
        }
    }

    fn value(&self, name: &str) -> String {
        let known = self.values.iter().rev().find(|(known, _)| *known == name);
        known.expect("it has a value").1.clone()
    }

    /// Every service errs once or twice in its own way, some with what they were told.
    async fn services_fail_in_passing(&mut self) {
        self.goes_through("CDEGH");
        let (pulumi, azure, s3) = (self.world.pulumi(), self.world.ingestion(), self.world.s3());
        let (token, secret) = (self.value("source.token"), self.value("sentinel.identity.secret"));
        let says = |code, message: String| Fault::Status { code, message, retry_after: RetryAfter::None };
        let once = [
            (ACME, says(500, format!("cannot handle `Authorization: token {token}`"))),
            (ACME, Fault::html(502)),
            (HOSTED, Fault::BadGzip(BadGzip::Truncated)),
            (HOSTED, Fault::Lost(Cut::ResetAfter(40))),
            (MUTUAL, Fault::Body(Bytes::from(format!("{{\"auditLogEvents\":\"token {token}\"}}")))),
            (MUTUAL, Fault::EmptyPage),
            (SIGNING, Fault::Throttled(RetryAfter::Raw(format!("soon, {token}")))),
            (SIGNING, Fault::Lost(Cut::BodyAfter(100))),
            (CLI, says(408, token.clone())),
            (CLI, Fault::Lost(Cut::Reset)),
        ];
        for (org, fault) in once {
            pulumi.fault(org, fault, Times::Next(1));
        }
        // What was shown comes back in what is said of it.
        let (subject, opens) = (self.value(SUBJECT_TOKEN), self.value(IN_AN_ENVIRONMENT));
        pulumi.org(KEYLESS).exchange_fault(says(500, format!("cannot exchange {subject}")), Times::Next(1));
        let complaint = format!("cannot open it for {subject}");
        pulumi.org(KEYLESS).environment_fault(says(503, complaint), Times::Next(1));
        pulumi.org(KEYLESS).environment_fault(Fault::Lost(Cut::BodyAfter(20)), Times::Next(1));
        let refusal = format!("{{\"error\":\"temporarily_unavailable\",\"error_description\":\"{opens}\"}}");
        self.world.entra().fault(entra::Fault::Body(Bytes::from(refusal)), Times::Next(1));
        for (_, event) in dreadful(self.world.clock.now() - 600) {
            pulumi.org(HOSTED).add_verbatim(self.world.clock.now() - 600, &event);
        }
        pulumi.org(MUTUAL).behave(|behaviour| behaviour.date = DateHeader::Raw("yesterday".to_owned()));
        let echo = format!("{{\"error\":\"x\",\"error_description\":\"AADSTS1: {secret} is wrong\"}}");
        for fault in [
            entra::Fault::EmptyToken,
            entra::Fault::Html(503),
            entra::Fault::Lost(Cut::BodyAfter(30)),
            entra::Fault::Body(Bytes::from(echo)),
        ] {
            self.world.entra().fault(fault, Times::Next(1));
        }
        azure.fault(ingestion::Fault::Html(500), Times::Next(1));
        azure.fault(ingestion::Fault::Unauthorized, Times::Next(1));
        azure.fault(ingestion::Fault::AnswerLost(Cut::Reset), Times::Next(1));
        s3.fault(Scope::any(), proxy::Fault::internal_error(), Times::Next(1));
        s3.fault(Scope::any(), proxy::Fault::Lost(Cut::Reset), Times::Next(1));
        s3.fault(Scope::puts("date="), proxy::Fault::ErrorInSuccess("InternalError"), Times::Next(1));
        s3.loses_replies(1);

        self.start();
        self.complete(&[ACME, SIGNING, HOSTED, MUTUAL, CLI, KEYLESS]).await;
        paused(self.daemon(), STRANGE, "source", "configuration").await;
        self.world.pulumi().org(MUTUAL).behave(|behaviour| behaviour.date = DateHeader::Present);
        self.tell().await;
    }

    /// The second of everything takes over from the first.
    async fn secrets_are_exchanged(&mut self) {
        self.goes_through("F");
        let pulumi = self.world.pulumi();
        pulumi.org(ACME).revoke_all_but(&self.value("source.next_token"));
        self.world.entra().rotate_secret(TENANT, CLIENT_ID, &self.value("sentinel.identity.next_secret"));
        self.world.entra().trusts(TENANT, SIGNING_CLIENT_ID, &self.second);
        self.world.entra().book.revoke_all();
        self.world.s3().fault(Scope::any(), proxy::Fault::invalid_access_key(), Times::Next(1));
        pulumi.org(CLI).revoke_all_but(&self.value(IN_A_VARIABLE));
        for org in [ACME, SIGNING, CLI] {
            self.more_events(org, 2);
        }
        let keyless = pulumi.org(KEYLESS);
        let subject = keyless.issue(SUBJECT, 3_600);
        self.world.paths.write_secret(SUBJECT_TOKEN, &subject);
        self.values.push((SUBJECT_TOKEN, subject));
        keyless.revoke_token(&keyless.exchanges().last().expect("there was one").access_token);
        self.more_events(KEYLESS, 2);
        // What `az` has given was revoked with the others.
        let token = self.world.entra().token_for("https://monitor.azure.com");
        az(&self.world, &token);
        self.values.push(("an access token of the Azure CLI's", token));
        self.complete(&[ACME, SIGNING, CLI, KEYLESS]).await;
        self.tell().await;

        // Half of one, and then a whole one.
        let place = self.world.paths.secret(&format!("{ACME}-token"));
        std::fs::write(&place, &self.value("source.token")[..20]).expect("it can be written");
        until("the status says what is wrong", async || {
            let source = party(self.daemon(), ACME, "source").await.unwrap_or_default();
            source["token"]["warning"].is_string()
        })
        .await;
        self.tell().await;
        self.exchange_token();
        self.more_events(ACME, 3);
        self.complete(&[ACME]).await;
    }

    /// Makes a token, which everybody is told of.
    fn exchange_token(&mut self) {
        let token = self.world.pulumi().org(ACME).add_token();
        self.world.paths.write_secret(&format!("{ACME}-token"), &token);
        self.values.push(("source.token", token));
    }

    /// Somebody writes secrets where they do not belong, and reloads.
    async fn the_configuration_is_broken(&mut self) {
        self.goes_through("J");
        let place = self.world.paths.orgs.join(format!("{ACME}.toml"));
        let good = std::fs::read_to_string(&place).expect("it is there");
        let (token, password) = (self.value("source.token"), self.value("source.proxy_password"));
        let line = good.lines().find(|line| line.starts_with("token = ")).expect("it has a token").to_owned();
        let instead = |other: String| good.replacen(&line, &other, 1);
        let broken = [
            instead(format!("token = \"{token}\"")),
            instead(format!("token = \"{token}")),
            instead(format!("token = {token}")),
            instead(format!("tokne = \"{token}\"\n{line}")),
            instead(format!("token = {{ file = \"{token}\", env = 3 }}")),
            instead(format!("token = {{ file = \"{token}\" }}")),
            instead(format!("token = {{ env = \"{token}\" }}")),
            instead(format!("token = {{ value = \"{token}\" }}")),
            instead(token.clone()),
            good.replacen("proxy = \"http://", &format!("proxy = \"http://{USER}:{password}@"), 1),
            good.replacen("api_url = \"https://", &format!("api_url = \"https://{USER}:{token}@"), 1),
            format!("{good}[source]\ntoken = \"{token}\"\n"),
            good.replacen("secret = {", &format!("secret = \"{password}\", more = {{"), 1),
        ];
        for (number, text) in broken.into_iter().enumerate() {
            assert_ne!(text, good, "case {number}");
            let in_a_place =
                ["file", "env"].iter().any(|place| text.contains(&format!("{place} = \"{token}\"")));
            std::fs::write(&place, text).expect("it can be written");
            // The log does not repeat itself for ever; the audit record does.
            let record = self.world.paths.state.join("audit.jsonl");
            let refused = || {
                let record = std::fs::read_to_string(&record).expect("it is there");
                record.matches(REFUSED).count()
            };
            let before = refused();
            self.daemon().signal("HUP");
            until(&format!("case {number} is refused"), async || refused() > before).await;
            self.tell().await;
            for arguments in [&["check", "--offline"][..], &["status"]] {
                self.command(arguments, &[]).await;
            }
            // It is asked what is written as the place of a secret, and says that, whatever it is.
            if !in_a_place {
                self.command(&["config", "show"], &[]).await;
            }
        }
        std::fs::write(&place, &good).expect("it can be written");
        for variable in
            ["PAF_SOURCE__TOKEN", "PAF_SOURCE__TOKEN__FILE", "PAF_SENTINEL__IDENTITY__SECRET", "PAF_TOKEN"]
        {
            let taken = self.command(&["check", "--offline"], &[(variable, &token)]).await;
            assert!(!taken, "{variable} is refused");
        }
        self.daemon().signal("HUP");
        until("it is in force again", async || {
            self.daemon().status().await.unwrap_or_default()["config"]["ok"] == true
        })
        .await;
        self.more_events(ACME, 4);
        self.complete(&[ACME]).await;
    }

    /// For good, each in its own words; and redirects, which are never followed.
    async fn everything_is_refused(&mut self) {
        self.goes_through("CFGH");
        let says = |code, message: String| Fault::Status { code, message, retry_after: RetryAfter::None };
        let words =
            format!("{} and {} were revoked", self.value("source.token"), self.value("source.next_token"));
        self.world.pulumi().fault(ACME, says(401, words), Times::UntilCleared);
        paused(self.daemon(), ACME, "source", "credentials").await;
        self.tell().await;
        self.world.pulumi().org(ACME).clear_faults();
        self.exchange_token();
        self.more_events(ACME, 5);
        self.complete(&[ACME]).await;

        let elsewhere = format!("http://{}/", self.trap.local_addr().expect("it has an address"));
        self.world.entra().fault(entra::Fault::invalid_client(), Times::UntilCleared);
        self.world.entra().book.revoke_all();
        self.world.s3().fault(Scope::any(), proxy::Fault::wrong_signature(), Times::UntilCleared);
        self.more_events(ACME, 6);
        paused(self.daemon(), ACME, "sentinel", "credentials").await;
        paused(self.daemon(), ACME, "s3", "credentials").await;
        self.world.pulumi().fault(ACME, Fault::Redirect(elsewhere.clone()), Times::UntilCleared);
        paused(self.daemon(), ACME, "source", "configuration").await;
        self.tell().await;
        self.commands().await;
        self.stop().await;

        self.world.entra().clear_faults();
        self.world.s3().recovers();
        self.world.pulumi().org(ACME).clear_faults();
        self.world.s3().fault(Scope::any(), proxy::Fault::Redirect(elsewhere.clone()), Times::UntilCleared);
        self.world.ingestion().fault(ingestion::Fault::Redirect(elsewhere), Times::UntilCleared);
        self.start();
        paused(self.daemon(), ACME, "sentinel", "configuration").await;
        paused(self.daemon(), ACME, "s3", "configuration").await;
        self.stop().await;
        self.world.s3().recovers();
        self.world.ingestion().clear_faults();
    }

    /// Each section's own, in other ways.
    async fn proxies_refuse(&mut self) {
        self.goes_through("C");
        for (proxy, doing) in
            self.proxies.iter().zip([Doing::Forbids, Doing::WantsCredentials, Doing::InjectsHttp])
        {
            proxy.does(doing);
        }
        self.start();
        paused(self.daemon(), ACME, "source", "configuration").await;
        paused(self.daemon(), ACME, "sentinel", "configuration").await;
        waits(self.daemon(), ACME, "s3").await;
        waits(self.daemon(), SLOW, "source").await;
        self.tell().await;
        self.commands().await;
        self.stop().await;
        self.proxies.iter().for_each(|proxy| proxy.does(Doing::Tunnels));
    }

    async fn it_is_killed_and_somebody_else_takes_its_place(&mut self) {
        self.goes_through("AM");
        self.start();
        self.complete(&[ACME]).await;
        self.daemon().kill();
        self.logged();
        let text = std::fs::read_to_string(&self.world.paths.config).expect("it is there");
        let state = self.world.paths.root.join("state-2");
        let second = self.world.paths.config.with_file_name("second.toml");
        let text = text.replace(&format!("{:?}", self.world.paths.state), &format!("{state:?}"));
        std::fs::write(&second, text).expect("it can be written");
        self.start_on(&second);
        self.more_events(ACME, 7);
        self.complete(&[ACME]).await;
        self.stop().await;
        self.start();
        self.more_events(ACME, 8);
        paused(self.daemon(), ACME, "s3", "fenced").await;
        self.stop().await;
        assert!(self.command(&["adopt", "--org", ACME], &[]).await);
        assert!(self.command(&["adopt", "--org", ACME, "--yes"], &[]).await);
        self.start();
        self.complete(&[ACME]).await;
        self.stop().await;
        self.told.add_files(Place::State, &state);
    }

    async fn the_journal_is_damaged(&mut self) {
        self.goes_through("B");
        let journal = self.world.paths.state.join("journal.db");
        let mut bytes = std::fs::read(&journal).expect("it is there");
        self.told.add_files(Place::State, &self.world.paths.state);
        let half = bytes.len() / 2;
        bytes[half..].fill(0);
        std::fs::write(&journal, bytes).expect("it can be written");
        self.start();
        self.more_events(ACME, 9);
        self.complete(&[ACME]).await;
        assert!(self.daemon().log().contains("was moved aside"), "{}", self.daemon().log());
        self.tell().await;
    }

    /// It crashes with all its secrets in memory; then everything that it leaves is gathered.
    async fn end(&mut self) {
        self.goes_through("K");
        let limits = format!("/proc/{}/limits", self.daemon().pid());
        let limits = std::fs::read_to_string(limits).expect("Linux tells");
        assert!(
            limits.lines().any(|line| line.starts_with("Max core file size        0                    0 "))
        );
        let status = ended_by(self.daemon(), "SEGV").await;
        assert_eq!((status.signal(), status.core_dumped()), (Some(11), false));
        self.logged();

        let root = self.world.paths.root.clone();
        let directories = [
            (Place::State, self.world.paths.state.clone()),
            (Place::Folder, self.world.paths.archive.clone()),
            (Place::Configuration, root.join("config")),
            // A core would lie here, too.
            (Place::TemporaryFiles, root.join("temporary")),
        ];
        for (place, directory) in directories {
            self.told.add_files(place, &directory);
        }
        for (name, body) in self.world.archive().await.files {
            self.told.add(Place::Bucket, name, body);
        }
        for (service, said) in self.world.heard() {
            let place = match service {
                "pulumi" => Place::Pulumi,
                "entra" => Place::Entra,
                "azure" => Place::Azure,
                _ => Place::Store,
            };
            self.told.add(place, format!("what was said to {service}"), said);
        }
        self.told.add(Place::Pulumi, "what was said to a self-hosted service", self.hosted.heard());
        self.told.add(Place::Store, "what was said to the store", self.store.heard());
        self.told.add(Place::Stranger, "what was said to a stranger", self.strange.heard());
        let passwords = [
            "source.proxy_password",
            "sentinel.proxy_password",
            "s3.proxy_password",
            "the password in HTTPS_PROXY",
        ];
        for (proxy, password) in self.proxies.iter().zip(passwords) {
            self.told.add(Place::Proxy, password, proxy.told());
        }
        let inherited = az_directory(&self.world);
        for (place, file) in [(Place::EnvironmentOfChild, "environ"), (Place::CommandLineOfChild, "cmdline")]
        {
            let bytes = std::fs::read(inherited.join(file)).expect("`az` was run");
            self.told.add(place, file, bytes);
        }
        let nobody = tokio::time::timeout(Duration::ZERO, self.trap.accept()).await;
        assert!(nobody.is_err(), "nobody followed a redirect");
    }

    /// What services gave for the secrets, and what was made of them.
    fn given(&self) -> Vec<(&'static str, String)> {
        let mut given = Vec::new();
        for entry in self.world.ingestion().ledger.entries() {
            let token = entry.header("authorization").and_then(|value| value.strip_prefix("Bearer "));
            given.extend(token.map(|token| ("an access token of Entra's", token.to_owned())));
        }
        for assertion in self.world.entra().assertions() {
            let signature = assertion.rsplit('.').next().expect("it has parts");
            given.push(("the signature of an assertion", signature.to_owned()));
        }
        for exchange in self.world.pulumi().org(KEYLESS).exchanges() {
            given.push(("an access token in exchange", exchange.access_token));
        }
        given.sort();
        given.dedup();
        given
    }

    fn families_are_complete(&self) {
        let page = include_str!("../../docs/faults.md");
        let letter = |line: &str| line.strip_prefix("## ")?.split_once(". ")?.0.parse::<char>().ok();
        let all: BTreeSet<char> = page.lines().filter_map(letter).collect();
        assert_eq!(self.families, all, "every family of faults is gone through");
    }

    fn nothing_is_found(&self) {
        let allowed: BTreeMap<&str, For> = KEYS.into_iter().chain(GIVEN).collect();
        let mut canaries = Canaries::default();
        for (name, value) in self.values.iter().cloned().chain(self.given()) {
            assert!(allowed.contains_key(name), "{name} is in a table");
            match name {
                _ if value.contains("PRIVATE KEY-----") => canaries.mark_key(name, &value),
                // They begin alike, and so does what is signed with certificates.
                "an access token of Entra's" | "an access token of the Azure CLI's" | SUBJECT_TOKEN => {
                    canaries.mark_whole(name, &value);
                    canaries.mark(name, value.rsplit('.').next().unwrap_or_default());
                }
                _ => canaries.mark(name, &value),
            }
        }
        for name in allowed.keys() {
            assert!(canaries.names().iter().any(|known| known == name), "{name} has a value");
        }
        for (place, word) in WITNESSES {
            let mut witness = Canaries::default();
            witness.mark(word, word);
            let found = self.told.all().any(|(at, _, bytes)| at == place && !witness.find(bytes).is_empty());
            assert!(found, "the search finds {word} in {place:?}");
        }
        let sizes = self.told.sizes();
        for place in WITHOUT_WITNESS {
            assert!(sizes.contains_key(&place), "{place:?} was looked at");
        }

        let (mut leaks, mut used) = (Vec::new(), BTreeSet::new());
        for (place, what, bytes) in self.told.all() {
            for find in canaries.find(bytes) {
                let is_its_own = place != Place::Proxy || what == find.name;
                if allowed[find.name.as_str()].contains(&place) && is_its_own {
                    used.insert((find.name, place));
                } else {
                    leaks.push(format!("{} is in {place:?} ({what}): …{}…", find.name, find.around));
                }
            }
        }
        println!("{} secrets, {sizes:?}", canaries.names().len());
        assert!(leaks.is_empty(), "{} finds:\n{}", leaks.len(), leaks.join("\n"));
        self.every_secret_was_used(&allowed, &used);
    }

    /// Who does not use a secret cannot give it away.
    fn every_secret_was_used(&self, allowed: &BTreeMap<&str, For>, used: &BTreeSet<(String, Place)>) {
        for (name, places) in allowed {
            for place in *places {
                assert!(used.contains(&((*name).to_owned(), *place)), "{name} was seen in {place:?}");
            }
        }
        // What goes nowhere has signed, or opened what has signed.
        let headers: BTreeSet<String> = self
            .world
            .entra()
            .assertions()
            .iter()
            .map(|assertion| assertion.split('.').next().expect("it has parts").to_owned())
            .collect();
        assert_eq!(headers.len(), 2, "both certificates of the app have signed");
        for id in [crate::world::setup::ACCESS_KEY, NEXT_ACCESS_KEY] {
            let signed = |entry: &crate::world::ledger::Entry| {
                let credential = format!("Credential={id}/");
                entry.header("authorization").is_some_and(|value| value.contains(&credential))
            };
            assert!(self.world.s3().proxy.ledger.entries().iter().any(signed), "{id} has signed");
        }
        for org in [HOSTED, MUTUAL] {
            assert!(self.world.pulumi().ledger.answered(org, 200) > 0, "{org} was let in");
        }
    }
}

/// A program that looks whether its stack is full lets the first such signal pass, since a real fault would come again.
async fn ended_by(daemon: &mut Daemon, signal: &str) -> ExitStatus {
    let mut status = None;
    until("the daemon ends", async || {
        status = daemon.has_ended();
        if status.is_none() {
            daemon.signal(signal);
        }
        status.is_some()
    })
    .await;
    status.expect("it has ended")
}

/// A program that runs `program` where a core dump of any size may be left, in a directory of its own.
fn with_cores(root: &Path, program: &Path) -> PathBuf {
    let (script, directory) = (root.join("with-cores"), root.join("temporary"));
    if !script.exists() {
        std::fs::create_dir_all(&directory).expect("a directory can be made");
        let text = format!("#!/bin/sh\nulimit -c unlimited\ncd {directory:?}\nexec {program:?} \"$@\"\n");
        std::fs::write(&script, text).expect("a script can be written");
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o700))
            .expect("its mode can be set");
    }
    script
}

fn az_directory(world: &World) -> PathBuf {
    world.paths.root.join("bin")
}

/// An Azure CLI that gives this token, and writes down what it was started with.
fn az(world: &World, token: &str) {
    let directory = az_directory(world);
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    let until = world.clock.now() + 3_000;
    let text = format!(
        "#!/bin/sh\ncat /proc/$$/environ >>{directory:?}/environ\ncat /proc/$$/cmdline >>{directory:?}/cmdline\n\
         echo '{{\"accessToken\":\"{token}\",\"expires_on\":{until},\"tokenType\":\"Bearer\"}}'\n"
    );
    let (beside, place) = (directory.join("az.new"), directory.join("az"));
    std::fs::write(&beside, text).expect("a script can be written");
    std::fs::set_permissions(&beside, std::fs::Permissions::from_mode(0o700)).expect("its mode can be set");
    std::fs::rename(beside, place).expect("it can be renamed");
}

#[test]
fn every_secret_of_the_configuration_is_a_canary() {
    let page = include_str!("../../docs/configuration.md");
    let mut heading = "";
    let mut secret = BTreeSet::new();
    for line in page.lines() {
        if let Some(key) = line.strip_prefix("#### `").and_then(|rest| rest.strip_suffix('`')) {
            heading = key;
        } else if line.starts_with("*[the place of a secret]") {
            secret.insert(heading);
        }
    }
    let known: BTreeSet<&str> =
        KEYS.iter().map(|(key, _)| *key).filter(|key| *key != IN_A_VARIABLE).collect();
    assert!(secret.len() > 10 && secret == known, "of the reference: {secret:?}\nof the canary: {known:?}");
}

/// Processes that are ended when this is dropped.
struct Ending(std::process::Child);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.kill().expect("it can be killed");
        self.0.wait().expect("it can be waited for");
    }
}

/// What the long test relies on: it finds a secret in each kind of place, however it is packed there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_planted_anywhere_is_found() {
    let world = World::start().await;
    world.listens_in();
    let secret = marked(1);
    let mut canaries = Canaries::default();
    canaries.mark("it", &secret);
    let pack = |text: &str| {
        let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut packer, text.as_bytes()).expect("memory takes it");
        packer.finish().expect("memory takes it")
    };
    let found = |told: &Told| -> BTreeSet<Place> {
        told.all().filter(|(.., bytes)| !canaries.find(bytes).is_empty()).map(|(place, ..)| place).collect()
    };

    // Said.
    for place in [Place::StandardOutput, Place::Log, Place::Livez, Place::Readyz, Place::Commands] {
        let mut told = Told::default();
        told.add(place, "a text", format!("before {secret} behind"));
        assert_eq!(found(&told), [place].into());
    }

    // Written: as it is, packed, and in a database, packed as well.
    let directory = world.paths.root.join("planted");
    let plant = |name: &str, bytes: &[u8]| {
        let inner = directory.join(name).join("inner");
        std::fs::create_dir_all(&inner).expect("it is new");
        std::fs::write(inner.join("file"), bytes).expect("it can be written");
    };
    plant("plain", format!("\u{0}{secret}").as_bytes());
    plant("packed", &pack(&secret));
    let database = directory.join("database");
    std::fs::create_dir_all(&database).expect("it is new");
    let connection = rusqlite::Connection::open(database.join("journal.db")).expect("it can be made");
    connection.execute_batch("CREATE TABLE body (number INTEGER, body BLOB)").expect("a table can be made");
    // Longer than a page, so that it lies in pieces, and between others.
    let long: String = (0..40_000).map(|number| format!("{number} ")).collect::<String>() + &secret;
    for text in ["nothing", &long, "nothing"] {
        let row = rusqlite::params![1, pack(text)];
        connection.execute("INSERT INTO body VALUES (?1, ?2)", row).expect("it can be written");
    }
    drop(connection);
    for name in ["plain", "packed", "database"] {
        let mut told = Told::default();
        told.add_files(Place::State, &directory.join(name));
        assert_eq!(found(&told), [Place::State].into(), "{name}");
    }
    std::fs::write(database.join("audit.jsonl"), format!("{{\"who\":\"{secret}\"}}"))
        .expect("it can be written");
    let mut told = Told::default();
    told.add_files(Place::State, &database);
    assert_eq!(found(&told), [Place::State, Place::AuditRecord].into());

    // Shown by Linux.
    let open = directory.join("open");
    std::fs::write(&open, &secret).expect("it can be written");
    let sleeper = |argument: &str, variable: &str, input: std::process::Stdio| {
        let mut command = std::process::Command::new("sleep");
        Ending(
            command.args(["600", argument]).env("V", variable).stdin(input).spawn().expect("sleep is there"),
        )
    };
    let nothing = std::process::Stdio::null;
    let cases = [
        (sleeper("0", &secret, nothing()), Place::Environment),
        (sleeper("0", "", std::fs::File::open(&open).expect("it is there").into()), Place::OpenFiles),
    ];
    for (process, place) in cases {
        let mut told = Told::default();
        until("it is another program", async || {
            std::fs::read(format!("/proc/{}/cmdline", process.0.id()))
                .is_ok_and(|line| line.starts_with(b"sleep"))
        })
        .await;
        told.add_process(process.0.id());
        assert_eq!(found(&told), [place].into());
    }
    let mut shell = std::process::Command::new("sh");
    let shell =
        shell.args(["-c", "while read -r _; do :; done", &secret]).stdin(std::process::Stdio::piped());
    let shell = Ending(shell.spawn().expect("a shell is there"));
    until("it is another program", async || {
        std::fs::read(format!("/proc/{}/cmdline", shell.0.id())).is_ok_and(|line| line.starts_with(b"sh\0"))
    })
    .await;
    let mut told = Told::default();
    told.add_process(shell.0.id());
    assert_eq!(found(&told), [Place::CommandLine].into());

    // Sent: in a header, in an address, and in a body that is packed, in plain and over TLS.
    let authority = std::fs::read(world.ca_pem()).expect("it is there");
    let authority = reqwest::Certificate::from_pem(&authority).expect("it is one");
    let client = reqwest::Client::builder().tls_certs_only([authority]).no_proxy().build();
    let client = client.expect("a client can be made");
    let heard = || world.heard().into_iter().filter(|(_, said)| !canaries.find(said).is_empty()).count();
    let urls = [world.pulumi_url(), world.pulumi_tls_url(), world.entra_url(), world.ingestion_url()];
    for (number, url) in urls.iter().enumerate() {
        assert_eq!(heard(), number, "{url}");
        let request = match number {
            0 => client.get(url).header("x-anything", &secret),
            1 => client.get(format!("{url}/?t={secret}")),
            2 => client.post(url).body(secret.clone()),
            _ => client.post(url).header("content-encoding", "gzip").body(pack(&secret)),
        };
        request.send().await.expect("it answers");
    }
    assert_eq!(heard(), urls.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_crashes_leaves_no_core_dump_whatever_its_limit_was() {
    let world = World::builder().events(5).start().await;
    let acme = recent(&world, "acme").with_file();
    world.write_config(from_ref(&acme), "");
    let left = || {
        let found = std::fs::read_dir(world.paths.root.join("temporary")).expect("it is there");
        found.flatten().map(|entry| entry.path()).collect::<Vec<_>>()
    };
    // Not SIGQUIT: a shell has what it starts in the background ignore that one.
    for (signal, number) in [("ABRT", 6), ("SEGV", 11), ("TRAP", 5)] {
        let program = with_cores(&world.paths.root, binary());
        let mut daemon = Daemon::start(&program, &world.paths.config, &world.paths.root.join("log"));
        until("it is up", async || daemon.get("/livez").await.is_some()).await;
        complete(&world, &acme).await;
        let status = ended_by(&mut daemon, signal).await;
        assert_eq!((status.signal(), status.core_dumped()), (Some(number), false));
        assert_eq!(left(), Vec::<PathBuf>::new());
    }
    // Another program leaves one in the same place, if this machine's own limit lets anybody.
    std::fs::remove_file(world.paths.root.join("with-cores")).expect("it is there");
    let program = with_cores(&world.paths.root, Path::new("/bin/sleep"));
    let mut other = std::process::Command::new(program).arg("600").spawn().expect("it starts");
    let line = format!("/proc/{}/cmdline", other.id());
    until("it is another program", async || {
        std::fs::read(&line).is_ok_and(|line| line.starts_with(b"/bin/sleep"))
    })
    .await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", other.id())).expect("Linux tells");
    let may = limits.lines().any(|line| line.starts_with("Max core file size        unlimited"));
    let status = std::process::Command::new("kill").args(["-ABRT", &other.id().to_string()]).status();
    assert!(status.expect("kill runs").success());
    let ended = other.wait().expect("it can be waited for");
    assert!(!may || ended.core_dumped(), "nothing is ever dumped here, so this shows nothing: {ended}");
}
