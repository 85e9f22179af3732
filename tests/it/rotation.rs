//! Secrets are exchanged under a running daemon, as people and platforms do it.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::slice::from_ref;

use crate::forwarder::{asked, command, complete, metric, out, party, paused, recent, start, works};
use crate::world::World;
use crate::world::certificates::ClientCertificate;
use crate::world::daemon::{Daemon, until};
use crate::world::pulumi::behaviour::Fault;
use crate::world::pulumi::events::{Event, Generator};
use crate::world::script::Times;
use crate::world::setup::{CLIENT_ID, OrgSetup, TENANT};

async fn slot(daemon: &mut Daemon, name: &str) -> String {
    let party = party(daemon, "acme", name).await.unwrap_or_default();
    let known = if name == "source" { &party["token"] } else { &party["credential"] };
    known["slot"].as_str().unwrap_or_default().to_owned()
}

/// How many lines say that another secret is in use.
fn switches(daemon: &Daemon) -> usize {
    daemon.log().lines().filter(|line| line.contains("another credential is in use")).count()
}

/// Waits until the source was asked with this token and has accepted it.
async fn used(world: &World, token: &str) {
    let header = format!("token {token}");
    until("the new token is in use", async || {
        let entries = world.pulumi().ledger.entries();
        entries
            .iter()
            .rev()
            .take(50)
            .any(|entry| entry.status == Some(200) && entry.header("authorization") == Some(header.as_str()))
    })
    .await;
}

fn add_one(world: &World, what: &str) {
    world.pulumi().org("acme").add([Event::at(world.clock.now() - 1).described(what)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_replaced_with_overlap_costs_no_refused_call_and_one_line() {
    let world = World::builder().events(150).start().await;
    let acme = recent(&world, "acme").with_file();
    let old = world.pulumi().org("acme").token();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let new = world.pulumi().org("acme").add_token();
    world.paths.write_secret("acme-token", &new);
    used(&world, &new).await;
    world.pulumi().org("acme").revoke_token(&old);
    add_one(&world, "after the exchange");
    complete(&world, &acme).await;
    assert_eq!(world.pulumi().ledger.answered("acme", 401), 0);
    assert_eq!(slot(&mut daemon, "source").await, "token");
    let labels = [("org", "acme"), ("credential", "source"), ("outcome", "ok")];
    assert_eq!(metric(&mut daemon, "credential_refreshes_total", &labels).await, Some(1.0));
    assert!(daemon.stop().await.success());
    assert_eq!(switches(&daemon), 1);
    assert!(!daemon.log().contains(&old) && !daemon.log().contains(&new));
    let shown = command(&world, &["audit", "--json"]).await;
    let recorded: Vec<String> = out(&shown).lines().map(str::to_owned).collect();
    assert_eq!(recorded.len(), 3, "a start, the exchange, a stop: {recorded:?}");
    assert!(
        recorded[1].contains("credential_switch") && recorded[1].contains("source: token"),
        "{recorded:?}"
    );
    assert!(!recorded[1].contains(&old) && !recorded[1].contains(&new));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_a_kubernetes_volume_is_followed_from_one_generation_to_the_next() {
    let world = World::builder().events(50).start().await;
    let mut acme = recent(&world, "acme").with_file();
    let volume = world.paths.root.join("volume");
    std::fs::create_dir(&volume).expect("it can be made");
    let generation = |number: u32, token: &str| {
        let name = format!("..2026_11_21_10_00_0{number}.1");
        std::fs::create_dir(volume.join(&name)).expect("it can be made");
        let written = world.paths.write_secret("generation", token);
        std::fs::rename(written, volume.join(&name).join("token")).expect("it can be moved");
        let beside = volume.join("..data_tmp");
        symlink(&name, &beside).expect("a link can be made");
        std::fs::rename(beside, volume.join("..data")).expect("it can be swapped");
        if number > 1 {
            let before = volume.join(format!("..2026_11_21_10_00_0{}.1", number - 1));
            std::fs::remove_dir_all(before).expect("it can be removed");
        }
    };
    let mut old = world.pulumi().org("acme").token();
    generation(1, &old);
    symlink("..data/token", volume.join("token")).expect("a link can be made");
    acme.more_source = format!("next_token = {{ file = {:?} }}\n", volume.join("token"));
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    for number in 2..=5 {
        let new = world.pulumi().org("acme").add_token();
        generation(number, &new);
        used(&world, &new).await;
        world.pulumi().org("acme").revoke_token(&old);
        add_one(&world, &format!("generation {number}"));
        complete(&world, &acme).await;
        old = new;
    }
    assert_eq!(slot(&mut daemon, "source").await, "next_token");
    assert!(daemon.stop().await.success());
    assert_eq!(world.pulumi().ledger.answered("acme", 401), 0);
    assert_eq!(switches(&daemon), 4);
}

/// Leaves what a program leaves that writes in place and is seen half way.
fn write_over(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("it can be written");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_holds_no_token_or_half_of_one_leaves_the_old_one_in_use() {
    let world = World::builder().events(50).start().await;
    let acme = recent(&world, "acme").with_file();
    let token = world.pulumi().org("acme").token();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let place = world.paths.secret("acme-token");
    for bytes in [&b""[..], b"\n", b"two\nlines\n", b"pul-\xff", &token.as_bytes()[..10]] {
        write_over(&place, bytes);
        until("the status says what is wrong", async || {
            let source = party(&mut daemon, "acme", "source").await.unwrap_or_default();
            source["token"]["warning"].is_string()
        })
        .await;
        asked(&world, "acme", 2).await;
        add_one(&world, "meanwhile");
        complete(&world, &acme).await;
        let source = party(&mut daemon, "acme", "source").await.expect("it is in the status");
        assert_eq!(source["state"], "ok", "{source}");
        write_over(&place, format!("\u{feff}{token}\r\n").as_bytes());
        until("all is well again", async || {
            let source = party(&mut daemon, "acme", "source").await.unwrap_or_default();
            source["token"].is_object() && source["token"]["warning"].is_null()
        })
        .await;
    }
    assert_eq!(world.pulumi().ledger.answered("acme", 401), 1, "half a token was tried once");
    assert!(daemon.stop().await.success());
    let warned = daemon.log().lines().filter(|line| line.contains("a changed secret cannot be used")).count();
    assert_eq!(warned, 5, "each once: {}", daemon.log());
    assert!(!daemon.log().contains(&token[..10]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_lives_too_long_gives_way_to_the_next_and_is_not_sent_again_after_a_restart() {
    let world = World::builder().events(100).start().await;
    let mut acme = recent(&world, "acme").with_file();
    acme.next_token = true;
    let next = world.pulumi().org("acme").add_token();
    world.paths.write_secret("acme-token-next", &next);
    // The first is the one that the configuration names first.
    let first = world.pulumi().org("acme").add_token();
    world.pulumi().fault("acme", Fault::ExpiryPolicy { days: 90 }, Times::Next(1));
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    works(&mut daemon, "acme", "source").await;
    assert_eq!(slot(&mut daemon, "source").await, "next_token");
    let labels = [("org", "acme"), ("credential", "source"), ("slot", "next")];
    assert_eq!(metric(&mut daemon, "credential_in_use", &labels).await, Some(1.0));
    daemon.kill();
    let sent = world.pulumi().ledger.requests("acme");
    let mut daemon = crate::forwarder::again(&world);
    add_one(&world, "after the restart");
    complete(&world, &acme).await;
    let entries = world.pulumi().ledger.entries();
    let header = format!("token {first}");
    let after =
        entries.iter().filter(|entry| entry.about == "acme").skip(usize::try_from(sent).expect("few"));
    assert_eq!(after.filter(|entry| entry.header("authorization") == Some(header.as_str())).count(), 0);
    assert_eq!(world.pulumi().ledger.answered("acme", 403), 1);
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_refused_tokens_pause_the_org_until_either_is_replaced() {
    let world = World::builder().events(100).start().await;
    let mut acme = recent(&world, "acme").with_file();
    acme.next_token = true;
    world.paths.write_secret("acme-token-next", "pul-never-known");
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let new = world.pulumi().org("acme").rotate_token();
    let remedy = paused(&mut daemon, "acme", "source", "credentials").await;
    assert!(remedy.contains("acme-token ") && remedy.contains("acme-token-next"), "{remedy}");
    add_one(&world, "during the pause");
    let begun = tokio::time::Instant::now();
    world.paths.write_secret("acme-token-next", &new);
    works(&mut daemon, "acme", "source").await;
    complete(&world, &acme).await;
    assert!(begun.elapsed() < std::time::Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(slot(&mut daemon, "source").await, "next_token");
    assert!(daemon.stop().await.success());
}

async fn with_second_secret(second: &str) -> (World, OrgSetup, Daemon) {
    let world = World::builder().events(100).start().await;
    let acme = recent(&world, "acme").with_sentinel();
    let place = world.paths.write_secret("next-client-secret", second);
    let secret = world.paths.secret("client-secret");
    let acme = acme.with_sentinel_as(&format!(
        "{{ kind = \"client_secret\", tenant_id = {TENANT:?}, client_id = {CLIENT_ID:?}, secret = {{ file = {secret:?} }}, \
         next_secret = {{ file = {place:?} }} }}"
    ));
    let daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    (world, acme, daemon)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_client_secret_takes_over_without_a_pause() {
    let (world, acme, mut daemon) = with_second_secret("the~second").await;
    assert_eq!(slot(&mut daemon, "sentinel").await, "secret");
    world.entra().rotate_secret(TENANT, CLIENT_ID, "the~second");
    world.entra().book.revoke_all();
    world.pulumi().org("acme").add(Generator::seeded(8).burst(world.clock.now() - 1, 20));
    complete(&world, &acme).await;
    assert_eq!(slot(&mut daemon, "sentinel").await, "next_secret");
    assert!(daemon.stop().await.success());
    assert_eq!(switches(&daemon), 1);
    assert!(!daemon.log().contains("\"message\":\"paused\"") && !daemon.log().contains("the~second"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_certificate_takes_over_when_the_first_is_removed_from_the_app() {
    let world = World::builder().events(60).start().await;
    let (first, second) = (ClientCertificate::create(), ClientCertificate::create());
    world.entra().trusts(TENANT, CLIENT_ID, &first);
    let pem = world.paths.write_secret_bytes("first.pem", first.pem.as_bytes());
    let pair = world.paths.write_secret_bytes("second.p12", &second.pkcs12("the~password"));
    let password = world.paths.write_secret("second-password", "the~password");
    let acme = recent(&world, "acme").with_sentinel_as(&format!(
        "{{ kind = \"client_certificate\", tenant_id = {TENANT:?}, client_id = {CLIENT_ID:?}, certificate = {{ file = {pem:?} }}, \
         next_certificate = {{ file = {pair:?} }}, next_password = {{ file = {password:?} }} }}"
    ));
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    assert_eq!(slot(&mut daemon, "sentinel").await, "certificate");
    world.entra().trusts(TENANT, CLIENT_ID, &second);
    world.entra().book.revoke_all();
    world.pulumi().org("acme").add(Generator::seeded(9).burst(world.clock.now() - 1, 20));
    complete(&world, &acme).await;
    assert_eq!(slot(&mut daemon, "sentinel").await, "next_certificate");
    assert!(daemon.stop().await.success());
    assert_eq!(switches(&daemon), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tries_both_client_secrets_and_one_that_works_makes_the_other_a_warning() {
    let (world, _, mut daemon) = with_second_secret("never~known").await;
    assert!(daemon.stop().await.success());
    let ended = command(&world, &["check"]).await;
    let said = out(&ended);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert!(said.contains("other secret") && said.contains("next_secret is refused"), "{said}");
    // The other way round: the second is right and the first is not.
    world.entra().rotate_secret(TENANT, CLIENT_ID, "never~known");
    let ended = command(&world, &["check"]).await;
    let said = out(&ended);
    assert_eq!(ended.status.code(), Some(0), "{said}");
    assert!(said.contains("other secret") && said.contains("next_secret is used meanwhile"), "{said}");
    assert!(!said.contains("never~known"));
}
