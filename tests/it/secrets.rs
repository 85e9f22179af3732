//! No secret comes out anywhere, whatever fails, and nothing is sent to a host that is not configured.

use std::collections::BTreeSet;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::slice::from_ref;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

use crate::delivery::binary;
use crate::forwarder::{command, complete, err, out, paused, recent, start};
use crate::world::World;
use crate::world::certificates::ClientCertificate;
use crate::world::daemon::{Daemon, until};
use crate::world::pulumi::behaviour::{BadGzip, Fault};
use crate::world::pulumi::events::Generator;
use crate::world::s3::proxy::{self, Scope};
use crate::world::s3::seaweed::SECRET_KEY;
use crate::world::script::Times;
use crate::world::setup::{CLIENT_SECRET, TENANT};
use crate::world::verdict::{Cut, RetryAfter};
use crate::world::{entra, ingestion};

const SIGNING_CLIENT_ID: &str = "33333333-3333-3333-3333-333333333333";
const CERTIFICATE_PASSWORD: &str = "simulated~certificate~password~canary";

/// A secret in every form in which it might come out.
struct Canary {
    name: String,
    forms: Vec<Vec<u8>>,
}

impl Canary {
    fn new(name: &str, secret: &str) -> Canary {
        let bytes = secret.as_bytes();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let url: String = secret
            .chars()
            .map(|char| {
                if char.is_ascii_alphanumeric() {
                    char.to_string()
                } else {
                    format!("%{:02X}", u32::from(char))
                }
            })
            .collect();
        let mut forms = vec![secret.to_owned(), hex.to_uppercase(), hex, url.to_lowercase(), url];
        for engine in [STANDARD, URL_SAFE] {
            // Wherever it stands in a longer text: without the characters that its neighbours have a share in.
            for before in 0..3 {
                let encoded = engine.encode([&b"xx"[..before], bytes].concat());
                forms.push(encoded[if before == 0 { 0 } else { 4 }..encoded.len() - 4].to_owned());
            }
        }
        Canary { name: name.to_owned(), forms: forms.into_iter().map(String::into_bytes).collect() }
    }

    #[track_caller]
    fn assert_absent(&self, place: &str, bytes: &[u8]) {
        for form in &self.forms {
            let found = bytes.windows(form.len()).position(|window| window == form);
            if let Some(at) = found {
                let around = &bytes[at.saturating_sub(200)..(at + form.len() + 50).min(bytes.len())];
                panic!("{} is in {place}: …{}…", self.name, String::from_utf8_lossy(around));
            }
        }
    }
}

fn files_below(directory: &Path, files: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            files_below(&path, files);
        } else if let Ok(body) = std::fs::read(&path) {
            files.push((path.display().to_string(), body));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_comes_out_anywhere_through_failures_of_every_endpoint() {
    let world = World::builder().orgs(&["acme", "signing"]).with_s3().events(400).start().await;
    let (pulumi, azure, s3) = (world.pulumi(), world.ingestion(), world.s3());
    let token = pulumi.org("acme").token();
    // Where a redirect leads: nobody may come.
    let trap = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
    let elsewhere = format!("http://{}/", trap.local_addr().expect("it has an address"));

    let echo = Fault::Status {
        code: 500,
        message: format!("cannot handle `Authorization: token {token}`"),
        retry_after: RetryAfter::None,
    };
    let closed = Fault::Lost(Cut::ResetAfter(40));
    for fault in [echo, Fault::html(502), Fault::BadGzip(BadGzip::Truncated), closed] {
        pulumi.fault("acme", fault, Times::Next(1));
    }
    world.entra().fault(entra::Fault::EmptyToken, Times::Next(1));
    world.entra().fault(entra::Fault::Html(503), Times::Next(1));
    world.entra().fault(entra::Fault::Lost(Cut::BodyAfter(30)), Times::Next(1));
    azure.fault(ingestion::Fault::Html(500), Times::Next(1));
    azure.fault(ingestion::Fault::Unauthorized, Times::Next(1));
    azure.fault(ingestion::Fault::AnswerLost(Cut::Reset), Times::Next(1));
    s3.fault(Scope::any(), proxy::Fault::internal_error(), Times::Next(1));
    s3.fault(Scope::any(), proxy::Fault::Lost(Cut::Reset), Times::Next(1));
    s3.loses_replies(1);

    let acme = recent(&world, "acme").with_s3().with_sentinel().with_file();
    // An org whose app signs with a certificate.
    world.entra().register(TENANT, SIGNING_CLIENT_ID, "unused");
    let certificate = ClientCertificate::create();
    world.entra().trusts(TENANT, SIGNING_CLIENT_ID, &certificate);
    let pair = world.paths.write_secret_bytes("pair.p12", &certificate.pkcs12(CERTIFICATE_PASSWORD));
    let password = world.paths.write_secret("pair-password", CERTIFICATE_PASSWORD);
    let signing = recent(&world, "signing").with_sentinel_as(&format!(
        "{{ kind = \"client_certificate\", tenant_id = {TENANT:?}, client_id = {SIGNING_CLIENT_ID:?}, \
         certificate = {{ file = {pair:?} }}, password = {{ file = {password:?} }} }}"
    ));
    world.write_config(&[acme.clone(), signing.clone()], "");
    let log = world.paths.root.join("log");
    let mut daemon =
        Daemon::start_with(binary(), &world.paths.config, &log, &["--log-level", "trace", "run"]);
    complete(&world, &acme).await;
    complete(&world, &signing).await;

    let mut told: Vec<(String, Vec<u8>)> = Vec::new();
    tell(&mut daemon, &mut told).await;
    let proc = format!("/proc/{}", daemon.pid());
    for file in ["cmdline", "environ"] {
        told.push((file.to_owned(), std::fs::read(format!("{proc}/{file}")).expect("it is ours to read")));
    }
    // What is open has been read from the start by whoever can follow these links.
    for open in std::fs::read_dir(format!("{proc}/fd")).expect("it is ours to read").flatten() {
        let Ok(path) = std::fs::read_link(open.path()) else { continue };
        if path.is_file() {
            told.push((path.display().to_string(), std::fs::read(&path).unwrap_or_default()));
        }
    }
    told.push(("log".to_owned(), daemon.log().into_bytes()));

    // Refused for good, each in its own words, with what a person reads then; the redirects come last, as they are never left.
    let new_token = pulumi.org("acme").rotate_token();
    pulumi.fault(
        "acme",
        Fault::Status { code: 401, message: format!("{token} was revoked"), retry_after: RetryAfter::None },
        Times::UntilCleared,
    );
    paused(&mut daemon, "acme", "source", "credentials").await;
    tell(&mut daemon, &mut told).await;
    world.paths.write_secret("acme-token", &new_token);
    pulumi.org("acme").clear_faults();
    pulumi.org("acme").add(Generator::seeded(4).burst(world.clock.now() - 1, 10));
    complete(&world, &acme).await;

    world.entra().fault(entra::Fault::invalid_client(), Times::UntilCleared);
    world.entra().book.revoke_all();
    s3.fault(Scope::any(), proxy::Fault::wrong_signature(), Times::UntilCleared);
    pulumi.org("acme").add(Generator::seeded(5).burst(world.clock.now() - 1, 10));
    paused(&mut daemon, "acme", "sentinel", "credentials").await;
    paused(&mut daemon, "acme", "s3", "credentials").await;
    pulumi.fault("acme", Fault::Redirect(elsewhere.clone()), Times::UntilCleared);
    paused(&mut daemon, "acme", "source", "configuration").await;
    tell(&mut daemon, &mut told).await;
    for arguments in
        [&["check"][..], &["check", "--json"], &["config", "show"], &["status"], &["status", "--json"]]
    {
        let ended = command(&world, arguments).await;
        told.push((format!("{arguments:?}"), format!("{}{}", out(&ended), err(&ended)).into_bytes()));
    }
    assert!(daemon.stop().await.success());

    world.entra().clear_faults();
    s3.recovers();
    azure.fault(ingestion::Fault::Redirect(elsewhere), Times::UntilCleared);
    let second = world.paths.root.join("second-log");
    told.push(("log until the restart".to_owned(), daemon.log().into_bytes()));
    told.push(("standard output until the restart".to_owned(), daemon.out().into_bytes()));
    let mut daemon =
        Daemon::start_with(binary(), &world.paths.config, &second, &["--log-level", "trace", "run"]);
    paused(&mut daemon, "acme", "sentinel", "configuration").await;
    tell(&mut daemon, &mut told).await;
    assert!(daemon.stop().await.success());
    told.push(("log".to_owned(), daemon.log().into_bytes()));
    told.push(("standard output".to_owned(), daemon.out().into_bytes()));

    files_below(&world.paths.state, &mut told);
    files_below(&world.paths.archive, &mut told);
    files_below(&world.paths.root.join("config"), &mut told);
    told.extend(world.archive().await.files);
    assert!(told.iter().any(|(_, bytes)| bytes.starts_with(b"SQLite format 3")), "the state was looked at");

    let mut canaries = vec![
        Canary::new("the access token of Pulumi", &token),
        Canary::new("the new access token of Pulumi", &new_token),
        Canary::new("the client secret", CLIENT_SECRET),
        Canary::new("the secret access key", SECRET_KEY),
        Canary::new("the certificate's password", CERTIFICATE_PASSWORD),
    ];
    // A key may come out as PEM, in hexadecimal, or as a list of bytes.
    let middle = certificate.private_key.len() / 2;
    let part = &certificate.private_key[middle..middle + 24];
    let hex: String = part.iter().map(|byte| format!("{byte:02x}")).collect();
    let list: Vec<String> = part.iter().map(u8::to_string).collect();
    let pem = certificate.pem.lines().rev().nth(8).expect("a key has many lines");
    for form in [hex.to_uppercase(), hex, list.join(", "), list.join(","), pem.to_owned()] {
        canaries.push(Canary::new("the certificate's key", &form));
    }
    let assertions = world.entra().assertions();
    assert!(!assertions.is_empty(), "the certificate was used");
    for assertion in &assertions {
        let signature = assertion.rsplit('.').next().expect("it has parts");
        canaries.push(Canary::new("the signature of an assertion", signature));
    }
    let sent: BTreeSet<String> = azure
        .ledger
        .entries()
        .iter()
        .filter_map(|entry| entry.header("authorization")?.strip_prefix("Bearer ").map(str::to_owned))
        .collect();
    assert!(sent.len() >= 2, "access tokens were used");
    for access_token in &sent {
        canaries.push(Canary::new("an access token of Entra", access_token));
        // Its signature alone would do harm enough.
        let signature = access_token.rsplit('.').next().expect("it has parts");
        canaries.push(Canary::new("the signature of an access token", signature));
    }
    for (place, bytes) in &told {
        for canary in &canaries {
            canary.assert_absent(place, bytes);
        }
    }

    // Each secret went to its own service only, and to no other host.
    let host = |url: String| url.split("://").nth(1).expect("a URL").to_owned();
    let services = [
        (pulumi.ledger.entries(), host(world.pulumi_url()), format!("token {token}")),
        (azure.ledger.entries(), host(world.ingestion_url()), "Bearer ".to_owned()),
        (s3.proxy.ledger.entries(), host(s3.endpoint()), "AWS4-HMAC-SHA256 ".to_owned()),
    ];
    for (entries, host, credential) in services {
        assert!(entries.iter().any(|entry| {
            entry.header("authorization").is_some_and(|value| value.starts_with(&credential))
        }));
        for entry in entries {
            assert_eq!(entry.header("host"), Some(host.as_str()), "{} {}", entry.method, entry.target);
            assert!(!entry.target.contains(&token) && !entry.target.contains(&new_token));
            let value = entry.header("authorization").unwrap_or_default();
            assert_eq!(value.split(' ').next(), credential.split(' ').next(), "{}", entry.target);
        }
    }
    let nobody = tokio::time::timeout(std::time::Duration::ZERO, trap.accept()).await;
    assert!(nobody.is_err(), "nobody followed a redirect");
}

/// Adds what the admin endpoints say now.
async fn tell(daemon: &mut Daemon, told: &mut Vec<(String, Vec<u8>)>) {
    for path in ["/", "/metrics", "/api/status", "/readyz", "/livez"] {
        let mut said = None;
        until(&format!("{path} is served"), async || {
            said = daemon.get(path).await;
            said.is_some()
        })
        .await;
        let (_, body) = said.expect("it was served");
        told.push((path.to_owned(), body.into_bytes()));
    }
}

#[test]
fn a_canary_is_found_in_every_form() {
    let canary = Canary::new("it", "pul-0123456789abcdef~x");
    let found =
        |text: String| std::panic::catch_unwind(|| canary.assert_absent("a text", text.as_bytes())).is_err();
    assert!(found("token pul-0123456789abcdef~x,".to_owned()));
    assert!(found("t=pul%2D0123456789abcdef%7Ex&".to_owned()));
    for around in ["", "a", "ab", "abc"] {
        assert!(found(STANDARD.encode(format!("{around}pul-0123456789abcdef~x{around}"))), "{around}");
    }
    assert!(!found("pul-0123456789abcdef".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_crashes_leaves_no_core_dump() {
    let world = World::builder().events(5).start().await;
    let acme = recent(&world, "acme").with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).expect("Linux tells");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("it has this limit");
    let values: Vec<&str> = core["Max core file size".len()..].split_whitespace().collect();
    assert_eq!(values, ["0", "0", "bytes"], "neither now nor later");
    daemon.signal("ABRT");
    let status = daemon.ended().await;
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
}
