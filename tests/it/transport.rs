//! How the daemon reaches its services: through proxies, good and bad, with a certificate of its own, over no old TLS, and never
//! where a redirect leads.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use crate::delivery::binary;
use crate::forwarder::{
    command, command_in, complete, err, is_complete, out, party, paused, recent, start, works,
};
use crate::world::certificates::Leaf;
use crate::world::daemon::{Daemon, until_within};
use crate::world::pulumi::behaviour::Fault;
use crate::world::pulumi::events::Generator;
use crate::world::s3::proxy::{self, Scope};
use crate::world::script::Times;
use crate::world::server::Server;
use crate::world::setup::{CLIENT_SECRET, OrgSetup, SECRET_KEY};
use crate::world::tunnel::{Doing, TinyProxy, Tunnel};
use crate::world::{World, entra, ingestion};

/// The longest wait after so few failures, with what a busy test machine adds.
const RECOVERY: Duration = Duration::from_secs(180);
const USER: &str = "forwarder";
const PASSWORD: &str = "simulated-proxy-password";

/// An org all of whose services are reached over TLS, with more lines in each section. The second is S3 over TLS, as long as it is kept.
pub(crate) async fn over_tls(world: &World, name: &str, lines: &str) -> (OrgSetup, Server) {
    let store =
        Server::start(Arc::clone(&world.s3().proxy), Some(world.certificates().server(Leaf::Good))).await;
    let ca = format!("ca_file = {:?}\n", world.ca_pem());
    let mut setup = recent(world, name).with_sentinel().with_s3();
    setup.https = true;
    setup.store_url = Some(store.url());
    setup.more_source = format!("api_url = {:?}\n{ca}{lines}", world.pulumi_tls_url());
    setup.more_sentinel = lines.to_owned();
    setup.more_s3 = format!("{ca}{lines}");
    (setup, store)
}

fn more_events(world: &World, org: &str, seed: u64) {
    world.pulumi().org(org).add(Generator::seeded(seed).burst(world.clock.now() - 1, 10));
}

pub(crate) async fn waits(daemon: &mut Daemon, id: &str, name: &str) {
    until_within(RECOVERY, &format!("{name} of {id} waits"), async || {
        party(daemon, id, name).await.is_some_and(|party| party["state"] == "waiting")
    })
    .await;
}

pub(crate) async fn recovers(world: &World, setup: &OrgSetup) {
    until_within(RECOVERY, &format!("everything of {} has arrived", setup.org), async || {
        is_complete(world, setup).await
    })
    .await;
}

fn port(url: &str) -> &str {
    url.rsplit(':').next().expect("a port")
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_goes_through_a_real_proxy_in_tunnels_and_nothing_is_lost_while_it_is_away_or_refuses() {
    let world = World::builder().with_s3().events(40).start().await;
    let mut tinyproxy = TinyProxy::start(&world.paths.root, USER, PASSWORD).await;
    let password = world.paths.write_secret("proxy-password", PASSWORD);
    let lines = format!(
        "proxy = {:?}\nproxy_username = {USER:?}\nproxy_password = {{ file = {password:?} }}\n",
        tinyproxy.url()
    );
    let (acme, store) = over_tls(&world, "acme", &lines).await;
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    for url in [world.pulumi_tls_url(), world.entra_url(), world.ingestion_tls_url(), store.url()] {
        let tunnel = format!("CONNECT localhost:{}", port(&url));
        assert!(tinyproxy.log().contains(&tunnel), "{tunnel} is in: {}", tinyproxy.log());
    }

    tinyproxy.goes_away();
    more_events(&world, "acme", 2);
    waits(&mut daemon, "acme", "source").await;
    tinyproxy.comes_back(USER, PASSWORD).await;
    recovers(&world, &acme).await;

    tinyproxy.comes_back(USER, "another-password").await;
    more_events(&world, "acme", 3);
    let remedy = paused(&mut daemon, "acme", "source", "configuration").await;
    assert!(remedy.contains(&tinyproxy.url()) && remedy.contains("proxy_password"), "{remedy}");
    let ended = command(&world, &["check"]).await;
    assert_eq!(ended.status.code(), Some(69));
    // tinyproxy says 407 to whoever shows nothing, and this to whoever is wrong.
    assert!(
        out(&ended).contains("401 Unauthorized") && out(&ended).contains(&tinyproxy.url()),
        "{}",
        out(&ended)
    );
    world.paths.write_secret("proxy-password", "another-password");
    recovers(&world, &acme).await;
    works(&mut daemon, "acme", "source").await;

    let status = daemon.status().await.expect("it is served").to_string();
    assert!(daemon.stop().await.success());
    let token = world.pulumi().org("acme").token();
    for secret in [&token, PASSWORD, "another-password", CLIENT_SECRET, SECRET_KEY] {
        for told in [&tinyproxy.log(), &daemon.log(), &status, &out(&ended), &err(&ended)] {
            assert!(!told.contains(secret), "{secret}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_dies_lies_or_injects_gets_no_token_and_delays_nobody_and_all_arrives_once_it_relents()
 {
    let cases = [
        ("wants-credentials", Doing::WantsCredentials),
        ("forbids", Doing::Forbids),
        ("cut-off", Doing::IsCutOff),
        ("dies", Doing::Dies),
        ("says-yes", Doing::SaysYesAndCloses),
        ("injects", Doing::InjectsHttp),
        ("cuts", Doing::CutsTunnels),
    ];
    let names: Vec<&str> = cases.iter().map(|(name, _)| *name).chain(["healthy"]).collect();
    let world = World::builder().orgs(&names).with_s3().events(40).start().await;
    let (mut proxies, mut setups, mut stores) = (Vec::new(), Vec::new(), Vec::new());
    for (name, doing) in cases {
        let proxy = Tunnel::start(doing).await;
        let (mut setup, store) = over_tls(&world, name, &format!("proxy = {:?}\n", proxy.url())).await;
        // All lanes of two: of one that pauses, and of one that waits.
        if !["wants-credentials", "dies"].contains(&name) {
            (setup.sentinel, setup.s3, setup.file) = (false, false, true);
        }
        proxies.push(proxy);
        stores.push(store);
        setups.push(setup);
    }
    let healthy = recent(&world, "healthy").with_file();
    let all: Vec<OrgSetup> = setups.iter().chain([&healthy]).cloned().collect();
    let mut daemon = start(&world, &all);
    complete(&world, &healthy).await;
    for ((name, doing), proxy) in cases.iter().zip(&proxies) {
        if matches!(doing, Doing::WantsCredentials | Doing::Forbids) {
            let remedy = paused(&mut daemon, name, "source", "configuration").await;
            assert!(remedy.contains(&proxy.url()) && remedy.contains("`proxy`"), "{name}: {remedy}");
        } else {
            waits(&mut daemon, name, "source").await;
        }
        assert!(proxy.met() > 0, "{name}");
        assert_eq!(world.pulumi().ledger.requests(name), 0, "{name}: nothing went around the proxy");
    }
    more_events(&world, "healthy", 9);
    complete(&world, &healthy).await;
    // The source's way is free, and that of the lanes is not yet: theirs are other tunnels of the same proxy.
    for proxy in &proxies {
        proxy.does(Doing::Tunnels);
    }
    for setup in &setups {
        recovers(&world, setup).await;
        works(&mut daemon, &setup.id, "source").await;
    }
    for (index, doing) in [(0, Doing::WantsCredentials), (3, Doing::Dies)] {
        // What is open is closed by the change.
        proxies[index].does(doing);
        more_events(&world, &setups[index].org, 10);
    }
    waits(&mut daemon, "dies", "source").await;
    paused(&mut daemon, "wants-credentials", "source", "configuration").await;
    assert!(daemon.stop().await.success());
    for (setup, proxy) in setups.iter().zip(&proxies) {
        let (token, told) = (world.pulumi().org(&setup.org).token(), proxy.told());
        for secret in [token.as_str(), CLIENT_SECRET, SECRET_KEY, "authorization: ", "Bearer "] {
            let found = told.windows(secret.len()).any(|window| window == secret.as_bytes());
            assert!(!found, "{}: `{secret}` went to the proxy in plain", setup.org);
        }
        assert!(told.starts_with(b"CONNECT localhost:"), "{}", setup.org);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lane_whose_proxy_refuses_is_paused_with_the_proxys_name_and_goes_on_by_itself() {
    let world = World::builder().with_s3().events(40).start().await;
    let proxy = Tunnel::start(Doing::Tunnels).await;
    let (mut acme, _store) = over_tls(&world, "acme", &format!("proxy = {:?}\n", proxy.url())).await;
    acme.more_source = acme
        .more_source
        .lines()
        .filter(|line| !line.starts_with("proxy"))
        .fold(String::new(), |text, line| text + line + "\n");
    // A new org looks at its archive before it begins: the way is free at first.
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    proxy.does(Doing::WantsCredentials);
    more_events(&world, "acme", 2);
    for lane in ["sentinel", "s3"] {
        let remedy = paused(&mut daemon, "acme", lane, "configuration").await;
        assert!(remedy.contains(&proxy.url()) && remedy.contains(&format!("[{lane}]")), "{lane}: {remedy}");
    }
    proxy.does(Doing::Tunnels);
    recovers(&world, &acme).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_environments_proxy_counts_unless_it_is_excepted_or_the_section_says_otherwise() {
    let world = World::builder().events(3).start().await;
    let (everybodys, own) = (Tunnel::start(Doing::Tunnels).await, Tunnel::start(Doing::Tunnels).await);
    let everybodys_url = everybodys.url();
    // Loopback is no exception over TLS; in plain it goes past every proxy.
    let configure = |lines: &str| {
        let mut acme = recent(&world, "acme").with_file();
        acme.more_source =
            format!("api_url = {:?}\nca_file = {:?}\n{lines}", world.pulumi_tls_url(), world.ca_pem());
        world.write_config(&[acme], "");
    };
    let met = || (everybodys.met() > 0, own.met() > 0);
    let own_line = format!("proxy = {:?}\n", own.url());
    /// Lines of `[source]`, the environment, and which of the two proxies has been met then.
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], (bool, bool));
    let cases: [Case<'_>; 6] = [
        ("", &[], (false, false)),
        ("", &[("HTTPS_PROXY", &everybodys_url), ("NO_PROXY", "localhost")], (false, false)),
        ("proxy = \"off\"\n", &[("HTTPS_PROXY", &everybodys_url)], (false, false)),
        (&own_line, &[("HTTPS_PROXY", &everybodys_url), ("NO_PROXY", "localhost")], (false, true)),
        // From here on it has been met.
        ("", &[("https_proxy", &everybodys_url), ("no_proxy", "elsewhere.example")], (true, true)),
        ("", &[("HTTPS_PROXY", "http://127.0.0.1:9")], (true, true)),
    ];
    for (number, (lines, variables, expected)) in cases.into_iter().enumerate() {
        configure(lines);
        let ended = command_in(&world, variables, &["check"]).await;
        let reachable = number < 5;
        assert_eq!(ended.status.success(), reachable, "{lines}{variables:?}: {}", out(&ended));
        assert_eq!(met(), expected, "{lines}{variables:?}");
        assert!(reachable || out(&ended).contains("through proxy http://127.0.0.1:9"), "{}", out(&ended));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_hosted_service_that_asks_for_a_certificate_is_shown_the_configured_one() {
    let world = World::with_events(40).await;
    let service = world.pulumi_behind(world.certificates().server_that_asks()).await;
    let mut acme = recent(&world, "acme").with_file();
    acme.more_source = format!("api_url = {:?}\nca_file = {:?}\n", service.url(), world.ca_pem());
    let mut daemon = start(&world, from_ref(&acme));
    let remedy = paused(&mut daemon, "acme", "source", "configuration").await;
    assert!(remedy.contains("`client_certificate` under [source]"), "{remedy}");
    assert!(daemon.stop().await.success());
    assert_eq!(world.pulumi().ledger.requests("acme"), 0, "no token was sent");

    let pair = world.paths.write_secret("client.pem", &world.certificates().client());
    acme.more_source.push_str(&format!("client_certificate = {{ file = {pair:?} }}\n"));
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    // Taken from it and given back while it runs.
    service.goes_away().await;
    world.paths.write_secret("client.pem", &world.certificates().client());
    service.comes_back();
    more_events(&world, "acme", 2);
    recovers(&world, &acme).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_1_is_not_spoken() {
    let world = World::with_events(3).await;
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools/venv/bin/python");
    assert!(python.exists(), "{} is missing: run `make tools`", python.display());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/referees/old_tls.py");
    let (certificate, key) = world.certificates().files(&world.paths.root);
    let mut server = Command::new(&python)
        .arg(&script)
        .args([&certificate, &key])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python can be started");
    let mut said = BufReader::new(server.stdout.take().expect("it is piped")).lines();
    let mut line = || said.next().expect("the server goes on").expect("it is text");
    let port = line();
    let client = Command::new(&python).arg(&script).args(["--client", &port]).output().expect("python runs");
    assert_eq!(String::from_utf8_lossy(&client.stdout).trim(), "TLSv1.1", "the server speaks it: {client:?}");
    assert!(line().starts_with("heard TLSv1.1"));

    let mut acme = recent(&world, "acme").with_file();
    acme.more_source = format!("api_url = \"https://localhost:{port}\"\nca_file = {:?}\n", world.ca_pem());
    world.write_config(from_ref(&acme), "");
    let ended = command(&world, &["check"]).await;
    assert_eq!(ended.status.code(), Some(69));
    assert!(out(&ended).contains("ProtocolVersion"), "{}", out(&ended));
    let heard = line();
    assert!(heard.starts_with("refused"), "{heard}");
    drop(server.stdin.take());
    server.wait().expect("it can be waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_endpoint_of_any_service_is_followed_to_where_a_redirect_leads() {
    let world = World::builder().orgs(&["acme", "other"]).with_s3().events(40).start().await;
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let elsewhere = format!("http://{}/", trap.local_addr().expect("it has an address"));
    let acme = recent(&world, "acme").with_sentinel().with_s3();
    let other = recent(&world, "other").with_file();
    // A new org looks at its archive before it begins.
    let mut daemon = start(&world, &[acme.clone(), other.clone()]);
    complete(&world, &acme).await;
    complete(&world, &other).await;
    world.pulumi().fault("other", Fault::Redirect(elsewhere.clone()), Times::UntilCleared);
    world.entra().fault(entra::Fault::Redirect(elsewhere.clone()), Times::UntilCleared);
    world.s3().fault(Scope::any(), proxy::Fault::Redirect(elsewhere.clone()), Times::UntilCleared);
    world.ingestion().fault(ingestion::Fault::Redirect(elsewhere.clone()), Times::UntilCleared);
    more_events(&world, "acme", 2);
    paused(&mut daemon, "other", "source", "configuration").await;
    paused(&mut daemon, "acme", "sentinel", "configuration").await;
    paused(&mut daemon, "acme", "s3", "configuration").await;
    // Another process has no token of Entra's yet, and asks for whose the tokens of Pulumi are.
    let asked = world.entra().ledger.entries().len();
    let ended = command(&world, &["check"]).await;
    assert_eq!(ended.status.code(), Some(69), "{}", out(&ended));
    assert!(world.entra().ledger.entries().len() > asked, "it was asked");
    assert!(daemon.stop().await.success());
    let nobody = tokio::time::timeout(Duration::ZERO, trap.accept()).await;
    assert!(nobody.is_err(), "nobody followed a redirect");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_to_every_service_says_who_asks() {
    let world = World::builder().with_s3().events(40).start().await;
    let acme = recent(&world, "acme").with_sentinel().with_s3();
    world.write_config(from_ref(&acme), "");
    let log = world.paths.root.join("log");
    let mut daemon = Daemon::start(binary(), &world.paths.config, &log);
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
    let expected = concat!("pulumi-audit-forwarder/", env!("CARGO_PKG_VERSION"));
    let ledgers =
        [&world.pulumi().ledger, &world.entra().ledger, &world.ingestion().ledger, &world.s3().proxy.ledger];
    for ledger in ledgers {
        let entries = ledger.entries();
        assert!(!entries.is_empty());
        for entry in entries {
            let agent = entry.header("user-agent").unwrap_or_default();
            assert!(agent.split(' ').next() == Some(expected), "{} {}: {agent}", entry.method, entry.target);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_certificate_authorities_is_told_where_they_come_from() {
    let world = World::builder().orgs(&["acme"]).start().await;
    let empty = world.paths.root.join("no-authorities");
    std::fs::write(&empty, "").expect("a file");
    let file = empty.to_string_lossy();
    world.write_config(&[recent(&world, "acme").with_sentinel()], "");
    let variables = [("SSL_CERT_FILE", &*file), ("SSL_CERT_DIR", "/nonexistent")];
    let ended = command_in(&world, &variables, &["check"]).await;
    assert!(!ended.status.success(), "{}", out(&ended));
    let said = format!("{}{}", out(&ended), err(&ended));
    assert!(said.contains("certificate authorities") && said.contains("ca-certificates"), "{said}");
    assert!(said.contains("`ca_file`"), "{said}");
}
