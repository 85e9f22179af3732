//! Who the daemon is for Azure: each kind of identity that a process can have on loopback, from the configuration to the rows.

use std::os::unix::fs::PermissionsExt;
use std::slice::from_ref;

use crate::delivery::binary;
use crate::forwarder::{command_in, complete, err, out, party, paused, recent, works};
use crate::world::World;
use crate::world::certificates::ClientCertificate;
use crate::world::daemon::Daemon;
use crate::world::pulumi::events::Generator;
use crate::world::setup::{CLIENT_ID, CLIENT_SECRET, OrgSetup, TENANT};

fn start(world: &World, org: &OrgSetup, variables: &[(&str, &str)]) -> Daemon {
    world.write_config(from_ref(org), "");
    let log = world.paths.root.join("log");
    Daemon::start_in(binary(), &world.paths.config, &log, &["run"], variables)
}

/// Who the status says that the lane is.
async fn identity(daemon: &mut Daemon) -> String {
    let lane = party(daemon, "acme", "sentinel").await.expect("the daemon answers");
    lane["identity"].as_str().expect("the lane has an identity").to_owned()
}

/// What `check` says of Sentinel, in whole.
async fn checked(world: &World, variables: &[(&str, &str)]) -> (bool, String) {
    let ended = command_in(world, variables, &["check"]).await;
    let said = format!("{}{}", out(&ended), err(&ended));
    let line = said.lines().find(|line| line.contains("sentinel  ")).unwrap_or(&said);
    (ended.status.success(), line.to_owned())
}

fn more_events(world: &World, seed: u64) {
    world.pulumi().org("acme").add(Generator::seeded(seed).burst(world.clock.now() - 1, 10));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_workload_identity_follows_the_token_that_the_platform_exchanges() {
    let world = World::with_events(40).await;
    world.entra().federates(TENANT, CLIENT_ID, "projected-token-1");
    // As Kubernetes writes it: readable by others.
    let token = world.paths.write_secret("projected", "projected-token-1");
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o644)).expect("its mode can be set");
    let token_file = token.to_string_lossy().into_owned();
    let variables = [
        ("AZURE_CLIENT_ID", CLIENT_ID),
        ("AZURE_TENANT_ID", TENANT),
        ("AZURE_FEDERATED_TOKEN_FILE", token_file.as_str()),
    ];
    let acme = recent(&world, "acme").with_sentinel_as("{ kind = \"workload_identity\" }");
    let mut daemon = start(&world, &acme, &variables);
    complete(&world, &acme).await;
    let named = format!("app `{CLIENT_ID}` of tenant `{TENANT}` (workload identity)");
    assert_eq!(identity(&mut daemon).await, named);
    let (good, said) = checked(&world, &variables).await;
    assert!(good && said.contains(&named), "{said}");

    // The platform is late with the exchange: a pause that says what is wrong, and ends by itself.
    world.entra().federates(TENANT, CLIENT_ID, "projected-token-2");
    world.entra().book.revoke_all();
    more_events(&world, 2);
    let remedy = paused(&mut daemon, "acme", "sentinel", "credentials").await;
    for part in ["federated credential", CLIENT_ID, TENANT, token_file.as_str()] {
        assert!(remedy.contains(part), "`{part}` is in: {remedy}");
    }
    world.paths.write_secret("projected", "projected-token-2");
    works(&mut daemon, "acme", "sentinel").await;
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
    assert!(!daemon.log().contains("projected-token"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_managed_identity_of_app_service_is_asked_past_every_proxy() {
    let world = World::with_events(40).await;
    let (endpoint, header) = (world.managed_identity_url(), world.entra().identity_header());
    let variables = [
        ("IDENTITY_ENDPOINT", endpoint.as_str()),
        ("IDENTITY_HEADER", header.as_str()),
        ("HTTP_PROXY", "http://127.0.0.1:9"),
        ("http_proxy", "http://127.0.0.1:9"),
    ];
    let system = recent(&world, "acme").with_sentinel_as("{ kind = \"managed_identity\" }");
    let mut daemon = start(&world, &system, &variables);
    complete(&world, &system).await;
    assert_eq!(identity(&mut daemon).await, "the system-assigned managed identity of this machine");
    assert!(daemon.stop().await.success());
    assert!(!daemon.log().contains(&header));

    let resource =
        "/subscriptions/0/resourcegroups/r/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u";
    for (key, shown, id) in [
        ("client_id", "client_id", "client-7"),
        ("object_id", "object_id", "object-7"),
        ("resource_id", "mi_res_id", resource),
    ] {
        let kind = format!("{{ kind = \"managed_identity\", {key} = {id:?} }}");
        let assigned = recent(&world, "acme").with_sentinel_as(&kind);
        world.write_config(from_ref(&assigned), "");
        let (good, said) = checked(&world, &variables).await;
        assert!(!good, "{said}");
        for part in [id, "answered 400", "assign the managed identity"] {
            assert!(said.contains(part), "`{part}` is in: {said}");
        }
        world.entra().assign(shown, id);
        let (good, said) = checked(&world, &variables).await;
        assert!(good && said.contains(id), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_signs_and_can_be_exchanged_while_the_daemon_runs() {
    let world = World::with_events(40).await;
    let (first, second) = (ClientCertificate::create(), ClientCertificate::create());
    world.entra().trusts(TENANT, CLIENT_ID, &first);
    let pair = world.paths.write_secret("pair", &first.pem);
    let kind = format!(
        "{{ kind = \"client_certificate\", tenant_id = {TENANT:?}, client_id = {CLIENT_ID:?}, certificate = {{ file = {pair:?} }} }}"
    );
    let acme = recent(&world, "acme").with_sentinel_as(&kind);
    let mut daemon = start(&world, &acme, &[]);
    complete(&world, &acme).await;
    let named = format!("app `{CLIENT_ID}` of tenant `{TENANT}` (certificate)");
    assert_eq!(identity(&mut daemon).await, named);

    world.entra().trusts(TENANT, CLIENT_ID, &second);
    world.entra().book.revoke_all();
    more_events(&world, 2);
    let remedy = paused(&mut daemon, "acme", "sentinel", "credentials").await;
    assert!(remedy.starts_with("upload the certificate ") && remedy.contains(CLIENT_ID), "{remedy}");
    let (good, said) = checked(&world, &[]).await;
    assert!(!good && said.contains(&named) && said.contains("AADSTS700027"), "{said}");
    // What is wrong with the file itself is said too.
    world.paths.write_secret(
        "pair",
        second.pem.split_inclusive("-----END CERTIFICATE-----\n").next().expect("a part"),
    );
    let (good, said) = checked(&world, &[]).await;
    assert!(!good && said.contains("holds no private key"), "{said}");
    world.paths.write_secret_bytes("pair", &second.pkcs12(""));
    works(&mut daemon, "acme", "sentinel").await;
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_azure_cli_is_run_for_a_token() {
    let world = World::with_events(40).await;
    let directory = world.paths.root.join("bin");
    std::fs::create_dir_all(&directory).expect("a directory can be made");
    let az = directory.join("az");
    let script = |lines: &str| {
        std::fs::write(&az, format!("#!/bin/sh\n{lines}\n")).expect("a script can be written");
        std::fs::set_permissions(&az, std::fs::Permissions::from_mode(0o700)).expect("its mode can be set");
    };
    let path = format!("{}:{}", directory.display(), std::env::var("PATH").unwrap_or_default());
    let from_environment = "simulated~secret~of~the~environment~canary";
    let variables = [("PATH", path.as_str()), ("TOKEN_TO_COME", from_environment)];
    let mut acme = recent(&world, "acme").with_sentinel_as("{ kind = \"azure_cli\" }");
    acme.more_source = "next_token = { env = \"TOKEN_TO_COME\" }\n".to_owned();
    world.write_config(from_ref(&acme), "");
    script("echo \"ERROR: Please run 'az login' to setup account.\" >&2; exit 1");
    let (good, said) = checked(&world, &variables).await;
    assert!(!good && said.contains("as the daemon's user run `az login`"), "{said}");

    let token = world.entra().token_for("https://monitor.azure.com");
    let until = world.clock.now() + 3_000;
    let inherited = directory.join("inherited");
    script(&format!(
        "{{ env; readlink /proc/$$/fd/*; }} >{inherited:?}.new\nmv {inherited:?}.new {inherited:?}\n\
         echo '{{\"accessToken\":\"{token}\",\"expires_on\":{until},\"tokenType\":\"Bearer\"}}'"
    ));
    let mut daemon = start(&world, &acme, &variables);
    complete(&world, &acme).await;
    assert_eq!(identity(&mut daemon).await, "the account signed in to the Azure CLI");
    // The program is given neither the secrets, from files or from the environment, nor what the daemon has open. No message shows this environment.
    let inherited = std::fs::read_to_string(&inherited).expect("it was run");
    assert!(inherited.contains("PATH=") && inherited.contains("/dev/null"), "it said what it inherits");
    assert!(!inherited.contains(&world.pulumi().org("acme").token()), "it inherits the access token");
    assert!(!inherited.contains(from_environment), "it inherits a secret of the environment");
    let (root, own) = (world.paths.root.display().to_string(), directory.display().to_string());
    for open in inherited.lines().filter(|line| line.starts_with(&root)) {
        assert!(open.starts_with(&own), "it inherits {open}");
    }
    assert!(daemon.stop().await.success());
    assert!(!daemon.log().contains(&token));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_identity_is_said_in_the_log_once() {
    let world = World::with_events(40).await;
    let variables =
        [("AZURE_TENANT_ID", TENANT), ("AZURE_CLIENT_ID", CLIENT_ID), ("AZURE_CLIENT_SECRET", CLIENT_SECRET)];
    let acme = recent(&world, "acme").with_sentinel_as("{ kind = \"default\" }");
    let mut daemon = start(&world, &acme, &variables);
    complete(&world, &acme).await;
    world.entra().book.revoke_all();
    more_events(&world, 2);
    complete(&world, &acme).await;
    let named = format!("app `{CLIENT_ID}` of tenant `{TENANT}`");
    assert_eq!(identity(&mut daemon).await, named);
    assert!(daemon.stop().await.success());
    let log = daemon.log();
    let said: Vec<&str> = log.lines().filter(|line| line.contains("`default` found")).collect();
    assert!(matches!(said[..], [line] if line.contains(&named)), "{said:?}");
    assert!(!log.contains(CLIENT_SECRET));
}

#[tokio::test(flavor = "multi_thread")]
async fn each_cloud_is_asked_for_a_token_for_its_own_ingestion() {
    let world = World::start().await;
    let mut acme = recent(&world, "acme").with_sentinel();
    for (more, audience) in [
        ("cloud = \"public\"\n", "https://monitor.azure.com"),
        ("cloud = \"usgov\"\n", "https://monitor.azure.us"),
        ("cloud = \"china\"\n", "https://monitor.azure.cn"),
        ("cloud = \"china\"\nscope = \"https://monitor.azure.us/.default\"\n", "https://monitor.azure.us"),
    ] {
        acme.more_sentinel = more.to_owned();
        world.write_config(from_ref(&acme), "");
        let (good, said) = checked(&world, &[]).await;
        assert!(good, "{said}");
        let last = world.ingestion().ledger.entries().pop().expect("it was asked");
        let token =
            last.header("authorization").and_then(|value| value.strip_prefix("Bearer ")).expect("a token");
        let grant = world.entra().book.find(token).expect("it is one of Entra's");
        assert_eq!(grant.audience, audience, "{more}");
    }
}
