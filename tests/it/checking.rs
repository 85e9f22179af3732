//! What `check` finds out: each thing that may be wrong, told apart from the others, and from what passes by itself.

use serde_json::Value;

use crate::forwarder::{command, err, out, recent};
use crate::world::World;
use crate::world::pulumi::Owner;
use crate::world::pulumi::behaviour::{DateHeader, Fault};
use crate::world::s3::proxy::{self, Scope};
use crate::world::script::Times;
use crate::world::setup::{OrgSetup, PREFIX};
use crate::world::verdict::RetryAfter;

/// Asks `check --json`, and answers the exit code and what was tried.
async fn checked(world: &World, more: &[&str]) -> (Option<i32>, Vec<Value>) {
    let ended = command(world, &[&["check", "--json"], more].concat()).await;
    let answer: Value = serde_json::from_str(&out(&ended)).unwrap_or_else(|_| panic!("{}", err(&ended)));
    let exit = ended.status.code();
    assert_eq!(exit == Some(0), answer["ok"] == true, "{answer:#}");
    (exit, answer["probes"].as_array().cloned().unwrap_or_default())
}

fn of<'a>(probes: &'a [Value], what: &str, tried: &str) -> &'a Value {
    let found = probes.iter().find(|probe| probe["what"] == what && probe["tried"] == tried);
    found.unwrap_or_else(|| panic!("{tried} of {what} was tried: {probes:#?}"))
}

#[track_caller]
fn says(probe: &Value, outcome: &str, parts: &[&str]) {
    assert_eq!(probe["outcome"], outcome, "{probe:#}");
    let text = probe.to_string();
    for part in parts {
        assert!(text.contains(part), "`{part}` is in: {probe:#}");
    }
}

async fn with_sentinel() -> (World, OrgSetup) {
    let world = World::builder().events(3).start().await;
    let acme = recent(&world, "acme").with_sentinel();
    world.write_config(std::slice::from_ref(&acme), "");
    (world, acme)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_token_is_told_from_one_that_may_not_read_and_from_an_org_that_is_not_there() {
    let (world, _) = with_sentinel().await;
    let token = world.pulumi().org("acme").token();

    world.pulumi().org("acme").revoke_token(&token);
    let (exit, probes) = checked(&world, &[]).await;
    assert_eq!(exit, Some(69));
    says(of(&probes, "source", "audit log"), "failed", &["credentials", "(401)", "acme-token"]);
    assert!(
        probes.iter().all(|probe| probe["tried"] != "token" || probe["what"] != "source"),
        "it is nobody's"
    );
    says(of(&probes, "sentinel", "rows"), "ok", &[]);

    world.pulumi().org("acme").accept_token(&token).allow(&token, false);
    let (exit, probes) = checked(&world, &[]).await;
    assert_eq!(exit, Some(69));
    says(of(&probes, "source", "audit log"), "failed", &["permission", "audit_logs:read"]);
    says(of(&probes, "source", "token"), "ok", &["organization token `audit-forwarder` of `acme`"]);

    world.pulumi().org("acme").allow(&token, true).rename("acme-new");
    let (exit, probes) = checked(&world, &[]).await;
    assert_eq!(exit, Some(69));
    says(
        of(&probes, "source", "audit log"),
        "failed",
        &["configuration", "(was the organization renamed?", "sees `acme-new`"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_may_do_more_than_it_is_needed_for_is_a_warning_and_no_failure() {
    let (world, _) = with_sentinel().await;
    let token = world.pulumi().org("acme").token();
    for (owner, part) in [
        (Owner::Person("alice".to_owned()), "personal token of `alice`"),
        (Owner::Team("ops".to_owned()), "team `ops`"),
        (Owner::OrganizationAdmin, "an admin of the organization"),
    ] {
        world.pulumi().org("acme").own(&token, owner);
        let (exit, probes) = checked(&world, &[]).await;
        assert_eq!(exit, Some(0));
        says(of(&probes, "source", "token"), "warning", &[part, "audit_logs:read"]);
    }
    // A service that does not say whose a token is takes nothing from its use.
    world
        .pulumi()
        .org("acme")
        .side_fault(Fault::Html { code: 500, retry_after: RetryAfter::None }, Times::UntilCleared);
    let (exit, probes) = checked(&world, &[]).await;
    assert_eq!(exit, Some(0));
    says(of(&probes, "source", "token"), "ok", &["does not say whose it is"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn both_tokens_are_tried_and_one_that_works_makes_the_other_a_warning() {
    let world = World::builder().events(3).start().await;
    let mut acme = recent(&world, "acme").with_file();
    acme.next_token = true;
    world.write_config(&[acme], "");
    let token = world.pulumi().org("acme").token();
    world.paths.write_secret("acme-token-next", "pul-0000000000000000000000000000000000000000");
    let (exit, probes) = checked(&world, &[]).await;
    assert_eq!(exit, Some(0), "{probes:#?}");
    says(of(&probes, "source", "audit log"), "ok", &[]);
    says(
        of(&probes, "source", "audit log by next_token"),
        "warning",
        &["(401)", "the other token is used meanwhile"],
    );
    world.pulumi().org("acme").revoke_token(&token);
    let (exit, probes) = checked(&world, &[]).await;
    assert_eq!(exit, Some(69));
    says(of(&probes, "source", "audit log"), "failed", &["credentials"]);
    says(of(&probes, "source", "audit log by next_token"), "failed", &["credentials"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_role_is_told_from_a_wrong_secret() {
    let (world, _) = with_sentinel().await;
    world.azure().denies_the_role();
    let (exit, probes) = checked(&world, &[]).await;
    assert_eq!(exit, Some(69));
    says(of(&probes, "sentinel", "token"), "ok", &["app `"]);
    says(of(&probes, "sentinel", "rows"), "failed", &["permission", "Monitoring Metrics Publisher", "403"]);

    world.azure().grants_the_role();
    world.azure().rotate_secret("another-secret");
    let (exit, probes) = checked(&world, &[]).await;
    assert_eq!(exit, Some(69));
    says(of(&probes, "sentinel", "token"), "failed", &["credentials"]);
    assert!(probes.iter().all(|probe| probe["tried"] != "rows"), "nothing can be asked without a token");
    assert!(world.rows("acme").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_reached_is_unreachable_and_no_mistake_of_the_configuration() {
    let world = World::builder().with_s3().events(3).start().await;
    world.write_config(&[recent(&world, "acme").with_sentinel().with_s3()], "");
    world.pulumi_goes_away().await;
    world.azure().identity_goes_away().await;
    world.s3().goes_away().await;
    let (exit, probes) = checked(&world, &[]).await;
    assert_eq!(exit, Some(69));
    for (what, tried) in [("source", "audit log"), ("sentinel", "token"), ("s3", "list")] {
        says(of(&probes, what, tried), "unreachable", &["try again"]);
        assert!(of(&probes, what, tried)["reason"].is_null());
    }
    assert_eq!(probes.len(), 3, "nothing more is worth trying: {probes:#?}");

    world.pulumi_comes_back();
    world.azure().identity_comes_back();
    world.azure().goes_away().await;
    world.s3().comes_back();
    world.pulumi().fault("acme", Fault::Throttled(RetryAfter::Seconds(7)), Times::Next(1));
    world.s3().fault(Scope::any(), proxy::Fault::slow_down(), Times::Next(1));
    let (exit, probes) = checked(&world, &[]).await;
    assert_eq!(exit, Some(69));
    says(of(&probes, "source", "audit log"), "unreachable", &["slow down"]);
    says(of(&probes, "sentinel", "token"), "ok", &[]);
    says(of(&probes, "sentinel", "rows"), "unreachable", &[]);
    says(of(&probes, "s3", "list"), "unreachable", &["slow down"]);
    let said = out(&command(&world, &["check"]).await);
    assert!(said.contains("UNREACHABLE") && said.contains("1 of "), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_bucket_is_named_and_so_is_a_store_that_refuses() {
    let world = World::builder().with_s3().events(3).start().await;
    world.write_config(&[recent(&world, "acme").with_s3()], "");
    let file = world.paths.orgs.join("acme.toml");
    let text = std::fs::read_to_string(&file).expect("it was written");
    let bucket = &world.s3().bucket.name;
    std::fs::write(&file, text.replace(bucket.as_str(), "no-such-bucket")).expect("it can be written");
    let (exit, probes) = checked(&world, &[]).await;
    assert_eq!(exit, Some(69));
    says(of(&probes, "s3", "list"), "failed", &["no-such-bucket", "create bucket"]);

    std::fs::write(&file, &text).expect("it can be written");
    world.s3().fault(Scope::any(), proxy::Fault::access_denied(), Times::UntilCleared);
    let (_, probes) = checked(&world, &[]).await;
    says(of(&probes, "s3", "list"), "failed", &["permission", "s3:ListBucket"]);

    world.s3().recovers();
    world.s3().fault(Scope::any(), proxy::Fault::wrong_signature(), Times::UntilCleared);
    let (_, probes) = checked(&world, &[]).await;
    says(of(&probes, "s3", "list"), "failed", &["credentials", "s3-secret-access-key"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_probe_creates_one_object_once_and_nothing_in_azure() {
    let world = World::builder().with_s3().events(3).start().await;
    let acme = recent(&world, "acme").with_s3().with_sentinel().with_file();
    world.write_config(&[acme], "");
    for time in ["the first time", "again"] {
        let (exit, probes) = checked(&world, &["--write-probe"]).await;
        assert_eq!(exit, Some(0), "{time}: {probes:#?}");
        for what in ["s3", "file"] {
            says(of(&probes, what, "write"), "ok", &["_probe/", "was not overwritten"]);
        }
        assert!(probes.iter().all(|probe| probe["what"] != "sentinel" || probe["tried"] != "write"));
    }
    let files: Vec<String> = world.archive().await.files.keys().cloned().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    assert!(files[0].contains("_probe/"), "{files:?} below {PREFIX}");
    assert!(world.s3().proxy.puts().iter().all(|(_, create_only, _)| *create_only));
    assert!(world.rows("acme").is_empty());

    // The archive is none the worse for it.
    let ended = command(&world, &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    world.check_s3("acme").await.assert_complete();
    world.check_file("acme").assert_complete();

    // A store that stores the same name twice.
    world.s3().fault(Scope::puts("_probe/"), proxy::Fault::Overwrites, Times::UntilCleared);
    let (exit, probes) = checked(&world, &["--write-probe"]).await;
    assert_eq!(exit, Some(69));
    says(of(&probes, "s3", "write"), "failed", &["If-None-Match"]);
    assert_eq!(command(&world, &["check", "--offline", "--write-probe"]).await.status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_wrong_is_a_warning() {
    let (world, _) = with_sentinel().await;
    world.pulumi().org("acme").behave(|pulumi| pulumi.date = DateHeader::Shifted(3_600));
    let (exit, probes) = checked(&world, &[]).await;
    assert_eq!(exit, Some(0));
    says(of(&probes, "source", "clock"), "warning", &["behind", "NTP"]);
    says(of(&probes, "sentinel", "clock"), "ok", &["within 30 s"]);
}
