//! What only some stores and some machines have: locks, keys of KMS, roles, and all the places that credentials come from.

use std::slice::from_ref;
use std::sync::Arc;

use aws_sdk_s3::types::{ObjectLockMode, ServerSideEncryption};

use crate::forwarder::{command, command_in, complete, err, out, paused, recent, start};
use crate::world::World;
use crate::world::s3::giver::{CONTAINER_TOKEN, Giver, LOGIN_TOKEN};
use crate::world::s3::proxy::{Fault, Proxy, Scope};
use crate::world::s3::seaweed::{ACCESS_KEY, SECRET_KEY};
use crate::world::s3::{Kind, moto};
use crate::world::script::Times;
use crate::world::server::Server;
use crate::world::setup::{OrgSetup, PREFIX};
use crate::world::verdict::Cut;

const DAY: i64 = 86_400;

#[tokio::test(flavor = "multi_thread")]
async fn every_object_and_claim_is_locked_and_encrypted_once_whatever_is_lost_on_the_way() {
    let world = World::builder().with_s3_of(Kind::Locking).events(1_300).start().await;
    world.s3().loses_replies(2);
    world.s3().fault(Scope::puts("date="), Fault::ReplyLost(Cut::Reset), Times::After(1, 1));
    let mut acme = recent(&world, "acme").with_s3();
    acme.more_s3 = "sse = \"AES256\"\nobject_lock = { mode = \"COMPLIANCE\", retain = \"30d\" }\n".into();
    let begun = world.clock.now();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
    let bucket = &world.s3().bucket;
    let keys = bucket.keys(PREFIX).await;
    assert!(keys.len() >= 4, "{keys:?}");
    for key in &keys {
        let kept = bucket.kept(key).await;
        assert_eq!(kept.object_lock_mode, Some(ObjectLockMode::Compliance), "{key}");
        let until = kept.object_lock_retain_until_date.expect("a lock has an end").secs();
        assert!((begun + 30 * DAY..begun + 30 * DAY + 600).contains(&until), "{key}: {until}");
        assert_eq!(kept.server_side_encryption, Some(ServerSideEncryption::Aes256), "{key}");
    }
    assert_eq!(bucket.delete_for_good(&keys[0]).await, 403, "nobody deletes it");
    let ended = command(&world, &["check"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", out(&ended));
    assert!(out(&ended).contains("the bucket has Object Lock"), "{}", out(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_without_object_lock_pauses_and_gets_no_events() {
    let world = World::builder().with_s3().events(50).start().await;
    let mut acme = recent(&world, "acme").with_s3();
    acme.more_s3 = "object_lock = { mode = \"GOVERNANCE\", retain = \"1d\" }\n".into();
    let mut daemon = start(&world, from_ref(&acme));
    let remedy = paused(&mut daemon, "acme", "s3", "configuration").await;
    assert!(remedy.contains("enable Object Lock on bucket"), "{remedy}");
    assert!(daemon.stop().await.success());
    let objects = world.s3().bucket.keys(&format!("{PREFIX}/org=")).await;
    assert!(objects.is_empty(), "{objects:?}");
    let ended = command(&world, &["check"]).await;
    assert_eq!(ended.status.code(), Some(69));
    assert!(out(&ended).contains("enable Object Lock on bucket"), "{}", out(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_there_before_the_lock_was_asked_for_is_locked_late() {
    let world = World::builder().with_s3_of(Kind::Locking).events(50).start().await;
    world.s3().fault(Scope::puts("date="), Fault::access_denied(), Times::UntilCleared);
    let mut acme = recent(&world, "acme").with_s3();
    acme.more_s3 = "checksums = \"when_required\"\n".into();
    let mut daemon = start(&world, from_ref(&acme));
    paused(&mut daemon, "acme", "s3", "permission").await;
    assert!(daemon.stop().await.success());
    for entry in world.s3().proxy.ledger.entries() {
        let odd = entry.headers.iter().find(|(name, _)| name.contains("checksum"));
        assert_eq!(odd, None, "{} {}", entry.method, entry.target);
    }
    let bucket = &world.s3().bucket;
    let [claim] = <[String; 1]>::try_from(bucket.keys(PREFIX).await).expect("a claim and nothing more");
    assert_eq!(bucket.kept(&claim).await.object_lock_mode, None);

    world.s3().recovers();
    acme.more_s3.push_str("object_lock = { mode = \"GOVERNANCE\", retain = \"7d\" }\n");
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
    for key in bucket.keys(PREFIX).await {
        assert_eq!(bucket.kept(&key).await.object_lock_mode, Some(ObjectLockMode::Governance), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_kms_storage_class_and_owner_are_asked_for_and_kept() {
    let key = "arn:aws:kms:us-east-1:123456789012:key/audit";
    let world = World::builder().with_s3_of(Kind::Moto).events(300).start().await;
    let mut acme = recent(&world, "acme").with_s3();
    acme.more_s3 = format!(
        "sse = \"aws:kms\"\nkms_key_id = {key:?}\nstorage_class = \"STANDARD_IA\"\nexpected_bucket_owner = \"123456789012\"\n"
    );
    world.s3().loses_replies(2);
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
    let bucket = &world.s3().bucket;
    for name in bucket.keys(PREFIX).await {
        let kept = bucket.kept(&name).await;
        assert_eq!(kept.server_side_encryption, Some(ServerSideEncryption::AwsKms), "{name}");
        assert_eq!(kept.ssekms_key_id.as_deref(), Some(key), "{name}");
        let class = kept.storage_class.map(|class| class.as_str().to_owned());
        let object = !name.contains("/_chain/");
        assert_eq!(class.as_deref() == Some("STANDARD_IA"), object, "{name} is {class:?}");
    }
    for entry in world.s3().proxy.ledger.entries() {
        let owner = entry.header("x-amz-expected-bucket-owner");
        assert_eq!(owner, Some("123456789012"), "{} {}", entry.method, entry.target);
    }
}

/// STS of moto, seen from the outside.
async fn sts(world: &World) -> (Arc<Proxy>, Server) {
    let proxy = Arc::new(Proxy::new(moto::shared().await.address, world.clock.clone()));
    let server = Server::start(Arc::clone(&proxy), None).await;
    (proxy, server)
}

/// The ids of the keys that the store's requests were signed with.
fn signed_with(world: &World) -> Vec<String> {
    let mut ids: Vec<String> = Vec::new();
    for entry in world.s3().proxy.ledger.entries() {
        let signed = entry.header("authorization").and_then(|text| text.split_once("Credential="));
        let id = signed.and_then(|(_, rest)| rest.split('/').next()).unwrap_or_default().to_owned();
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    ids
}

/// A world whose store takes any signature, and an org that is not told a key.
async fn finding(more: &str) -> (World, OrgSetup) {
    let world = World::builder().with_s3_of(Kind::Moto).events(20).start().await;
    let mut acme = recent(&world, "acme").with_s3();
    acme.s3_key = false;
    acme.more_s3 = more.into();
    world.write_config(from_ref(&acme), "");
    (world, acme)
}

async fn checks(world: &World, variables: &[(&str, &str)]) {
    let ended = command_in(world, variables, &["check"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}{}", out(&ended), err(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_is_assumed_once_with_its_external_id_and_session_name() {
    let world = World::builder().with_s3_of(Kind::Moto).orgs(&["acme", "beta"]).events(200).start().await;
    let (asked, server) = sts(&world).await;
    let setup = |org| {
        let mut setup = recent(&world, org).with_s3();
        setup.more_s3 =
            "role_arn = \"arn:aws:iam::123456789012:role/audit-writer\"\nexternal_id = \"acme:7\"\n\
                         session_name = \"audit@acme\"\n"
                .into();
        setup
    };
    world.write_config(&[setup("acme"), setup("beta")], "");
    let variables = [("AWS_ENDPOINT_URL_STS", server.url())];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    let ended = command_in(&world, &variables, &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    world.check_s3("acme").await.assert_complete();
    world.check_s3("beta").await.assert_complete();

    let [post] = <[String; 1]>::try_from(asked.posts()).expect("both orgs share one session");
    for part in [
        "Action=AssumeRole&",
        "RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Faudit-writer",
        "ExternalId=acme%3A7",
        "RoleSessionName=audit%40acme",
    ] {
        assert!(post.contains(part), "{part} is in {post}");
    }
    let base = asked.ledger.entries()[0].header("authorization").unwrap_or_default().to_owned();
    assert!(base.contains(ACCESS_KEY), "the role is asked for with the configured key: {base}");
    let ids = signed_with(&world);
    assert!(ids.len() == 1 && ids[0].starts_with("ASIA"), "the store sees the role alone: {ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_of_roles_that_is_away_is_waited_for() {
    let world = World::builder().with_s3_of(Kind::Moto).events(20).start().await;
    let (asked, server) = sts(&world).await;
    asked.fault(Scope::any(), Fault::Lost(Cut::Close), Times::Next(4));
    let mut acme = recent(&world, "acme").with_s3();
    acme.more_s3 = "role_arn = \"arn:aws:iam::123456789012:role/audit-writer\"\n".into();
    world.write_config(from_ref(&acme), "");
    let ended = command_in(&world, &[("AWS_ENDPOINT_URL_STS", &server.url())], &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    world.check_s3("acme").await.assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_gives_its_role_through_the_second_version_of_its_metadata() {
    let (world, _) = finding("").await;
    let giver = Arc::new(Giver::of("ASIAINSTANCE", world.clock.clone()));
    let server = Server::start(Arc::clone(&giver), None).await;
    let variables =
        [("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*server.url()), ("AWS_EC2_METADATA_DISABLED", "false")];
    checks(&world, &variables).await;
    assert_eq!(signed_with(&world), ["ASIAINSTANCE"]);
    assert_eq!(giver.asked()[0], "PUT /latest/api/token");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_gives_its_role_through_its_agent() {
    let (world, _) = finding("").await;
    let giver = Arc::new(Giver::of("ASIACONTAINER", world.clock.clone()));
    let server = Server::start(Arc::clone(&giver), None).await;
    let token = world.paths.secret("container-token");
    std::fs::write(&token, CONTAINER_TOKEN).expect("the token can be written");
    let variables = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{}/container", server.url())),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", token.display().to_string()),
    ];
    checks(&world, &variables.each_ref().map(|(name, value)| (*name, value.as_str()))).await;
    assert_eq!(signed_with(&world), ["ASIACONTAINER"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_account_gives_its_role_for_a_token_in_a_file() {
    let (world, _) = finding("").await;
    let (asked, server) = sts(&world).await;
    let token = world.paths.write_secret("service-account-token", "eyJ.simulated.token");
    let variables = [
        ("AWS_ENDPOINT_URL_STS", server.url()),
        ("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/audit-writer".to_owned()),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", token.display().to_string()),
    ];
    checks(&world, &variables.each_ref().map(|(name, value)| (*name, value.as_str()))).await;
    let posts = asked.posts();
    assert!(posts.iter().all(|post| post.contains("Action=AssumeRoleWithWebIdentity")), "{posts:?}");
    let ids = signed_with(&world);
    assert!(ids.len() == 1 && ids[0].starts_with("ASIA"), "{ids:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_is_cached_gives_the_role_of_a_profile() {
    let (world, _) = finding("profile = \"login\"\n").await;
    let giver = Arc::new(Giver::of("ASIALOGIN", world.clock.clone()));
    let server = Server::start(Arc::clone(&giver), None).await;
    let home = &world.paths.root;
    let start_url = "https://login.example/start";
    std::fs::create_dir_all(home.join(".aws/sso/cache")).expect("the home can be written");
    std::fs::write(
        home.join(".aws/config"),
        format!(
            "[profile login]\nsso_start_url = {start_url}\nsso_region = us-east-1\nsso_account_id = 123456789012\n\
             sso_role_name = audit-writer\n"
        ),
    )
    .expect("the home can be written");
    // The cache's file is named after the SHA-1 of the start address.
    let cached = serde_json::json!({"startUrl": start_url, "region": "us-east-1", "accessToken": LOGIN_TOKEN,
        "expiresAt": "2099-01-01T00:00:00Z"});
    let name = "8fee3377e8dba90b93a06d5846d4efed36b41855.json";
    std::fs::write(home.join(".aws/sso/cache").join(name), cached.to_string())
        .expect("the home can be written");
    checks(&world, &[("AWS_ENDPOINT_URL_SSO", &server.url())]).await;
    assert_eq!(giver.asked(), ["GET /federation/credentials"]);
    assert_eq!(signed_with(&world), ["ASIALOGIN"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_is_named_wins_over_the_environment() {
    // The store checks the signature.
    let world = World::builder().with_s3().events(20).start().await;
    let mut acme = recent(&world, "acme").with_s3();
    acme.s3_key = false;
    acme.more_s3 = "profile = \"audit-writer\"\n".into();
    world.write_config(from_ref(&acme), "");
    let variables = [("AWS_ACCESS_KEY_ID", "AKIAOTHER"), ("AWS_SECRET_ACCESS_KEY", "other")];
    let ended = command_in(&world, &variables, &["check"]).await;
    assert_eq!(ended.status.code(), Some(69));
    assert!(out(&ended).contains("see that profile `audit-writer` stands in"), "{}", out(&ended));

    std::fs::create_dir_all(world.paths.root.join(".aws")).expect("the home can be written");
    let text =
        format!("[audit-writer]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n");
    std::fs::write(world.paths.root.join(".aws/credentials"), text).expect("the home can be written");
    let ended = command_in(&world, &variables, &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    world.check_s3("acme").await.assert_complete();
    assert_eq!(signed_with(&world), [ACCESS_KEY]);
}
