//! What each command answers, and with which exit code.

use std::net::TcpListener;
use std::slice::from_ref;
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::forwarder::{again, bare, command, complete, err, out, paused, recent, start, works};
use crate::world::World;
use crate::world::daemon::until;
use crate::world::pulumi::behaviour::Fault;
use crate::world::s3::proxy::{self, Scope};
use crate::world::script::Times;

#[tokio::test(flavor = "multi_thread")]
async fn run_once_delivers_everything_and_ends_with_0() {
    let world = World::builder().with_s3().events(700).start().await;
    let acme = recent(&world, "acme").with_s3().with_sentinel().with_file();
    world.write_config(&[acme], "");
    let ended = command(&world, &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    world.check_sentinel("acme").assert_complete();
    world.check_file("acme").assert_complete();
    world.check_s3("acme").await.assert_complete();
    // Again, with nothing to do.
    let ended = command(&world, &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    world.check_s3("acme").await.assert_complete();
    assert_eq!(world.check_sentinel("acme").removable, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_once_ends_with_1_where_something_is_paused_and_says_what() {
    let world = World::builder().orgs(&["acme", "revoked"]).events(100).start().await;
    let acme = recent(&world, "acme").with_sentinel().with_file();
    let revoked = recent(&world, "revoked").with_file();
    world.write_config(&[acme, revoked], "");
    world.azure().denies_the_role();
    world.pulumi().org("revoked").rotate_token();
    let ended = command(&world, &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}", err(&ended));
    let said = err(&ended);
    for part in [
        "acme: sentinel paused: grant",
        "acme: 100 events are not delivered to sentinel",
        "revoked: source paused: put a valid access token into",
    ] {
        assert!(said.contains(part), "`{part}` is in: {said}");
    }
    assert!(!said.contains("acme: file"), "what was delivered is not complained of: {said}");
    world.check_file("acme").assert_complete();

    world.azure().grants_the_role();
    world.paths.write_secret("revoked-token", &world.pulumi().org("revoked").token());
    let ended = command(&world, &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
    world.check_sentinel("acme").assert_complete();
    world.check_file("revoked").assert_complete();
}

#[tokio::test(flavor = "multi_thread")]
async fn run_once_ends_with_1_where_a_row_is_in_quarantine() {
    let world = World::builder().events(50).start().await;
    world.pulumi().org("acme").add_verbatim(world.clock.now() - 60, b"{\"event\":\"user-login\"}");
    world.write_config(&[recent(&world, "acme").with_sentinel()], "");
    let ended = command(&world, &["run", "--once"]).await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(err(&ended).contains("acme: 1 rows are in quarantine for sentinel"), "{}", err(&ended));
    assert_eq!(world.rows("acme").len(), 50);
}

#[tokio::test(flavor = "multi_thread")]
async fn run_once_gives_up_at_its_time_limit_and_says_what_is_left() {
    let world = World::builder().events(50).start().await;
    world.azure().goes_away().await;
    world.write_config(&[recent(&world, "acme").with_sentinel()], "");
    let begun = Instant::now();
    let ended = command(&world, &["run", "--once", "--timeout", "2s"]).await;
    assert_eq!(ended.status.code(), Some(1));
    assert!(begun.elapsed() < Duration::from_secs(20));
    for part in ["the time limit", "acme: 50 events are not delivered to sentinel"] {
        assert!(err(&ended).contains(part), "`{part}` is in: {}", err(&ended));
    }

    // With nothing read yet, nothing seems to be left; that is no success either.
    let world = World::builder().events(50).start().await;
    world.pulumi().fault("acme", Fault::Stall, Times::UntilCleared);
    world.write_config(&[recent(&world, "acme").with_file()], "");
    let ended = command(&world, &["run", "--once", "--timeout", "2s"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}", err(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_ends_the_daemon_with_0_within_ten_seconds_even_while_a_store_never_answers() {
    let world = World::builder().with_s3().events(100).start().await;
    world.s3().fault(Scope::puts(""), proxy::Fault::Stall, Times::UntilCleared);
    let acme = recent(&world, "acme").with_s3().with_sentinel();
    let mut daemon = start(&world, from_ref(&acme));
    until("the store has a request that it never answers", async || !world.s3().proxy.puts().is_empty())
        .await;
    until("the other lane is done", async || world.check_sentinel("acme").is_complete()).await;
    let begun = Instant::now();
    let status = daemon.stop().await;
    assert_eq!(status.code(), Some(0));
    // The deadline, and what a busy machine takes to end a process.
    assert!(begun.elapsed() < Duration::from_secs(13), "{:?}", begun.elapsed());
    assert!(daemon.log().contains("stopped"));

    // A second signal does not wait.
    let mut daemon = again(&world);
    let before = world.s3().proxy.puts().len();
    until("the store has another one", async || world.s3().proxy.puts().len() > before).await;
    let begun = Instant::now();
    daemon.signal("TERM");
    until("it says that it is stopping", async || daemon.log().contains("\"stopping")).await;
    daemon.signal("INT");
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());

    world.s3().recovers();
    let mut daemon = again(&world);
    complete(&world, &acme).await;
    let begun = Instant::now();
    assert_eq!(daemon.stop().await.code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(5), "nothing was under way: {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_process_on_the_same_state_directory_ends_with_75_and_names_the_first() {
    let world = World::builder().events(10).start().await;
    let acme = recent(&world, "acme").with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let requests = world.pulumi().ledger.total();
    let ended = command(&world, &["run"]).await;
    assert_eq!(ended.status.code(), Some(75));
    assert!(err(&ended).contains(&daemon.pid().to_string()), "it names {}: {}", daemon.pid(), err(&ended));
    assert!(daemon.has_ended().is_none());
    until("the first goes on", async || world.pulumi().ledger.total() > requests + 1).await;
    daemon.kill();
    let mut daemon = again(&world);
    works(&mut daemon, "acme", "source").await;
    complete(&world, &acme).await;
    assert!(daemon.stop().await.success(), "a killed process leaves no lock");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_configuration_ends_with_78_and_says_where_and_what_to_do() {
    let world = World::start().await;
    let mut acme = recent(&world, "acme").with_file();
    acme.more_source = "tokn = \"x\"\n".to_owned();
    world.write_config(&[acme], "");
    for arguments in [&["run"][..], &["run", "--once"], &["check"], &["status"]] {
        let ended = command(&world, arguments).await;
        assert_eq!(ended.status.code(), Some(78), "{arguments:?}: {}", err(&ended));
        assert!(err(&ended).contains("acme.toml:") && err(&ended).contains("tokn"), "{}", err(&ended));
    }
    assert_eq!(world.pulumi().ledger.total(), 0, "nobody was asked anything");

    let ended = bare(&["--config", "/nowhere/forwarder.toml", "run"]).await;
    assert_eq!(ended.status.code(), Some(78));
    assert!(err(&ended).contains("/nowhere/forwarder.toml"), "{}", err(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_ends_with_2_and_help_with_0() {
    for arguments in [
        &[][..],
        &["walk"],
        &["run", "--twice"],
        &["run", "--timeout", "5m"],
        &["status", "--json", "--healthcheck"],
    ] {
        let ended = bare(arguments).await;
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}");
        assert!(out(&ended).is_empty() && !ended.stderr.is_empty(), "{arguments:?}");
    }
    for arguments in [&["--help"][..], &["--version"], &["run", "--help"]] {
        let ended = bare(arguments).await;
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}");
        assert!(ended.stderr.is_empty() && out(&ended).contains("pulumi-audit-forwarder"), "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_explains_the_command_needs_no_configuration_and_a_reader_may_leave_early() {
    let schema = async |file: &[&str]| {
        let ended = bare(&[&["config", "schema"], file].concat()).await;
        assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
        serde_json::from_str::<Value>(&out(&ended)).expect("it is JSON")
    };
    assert!(schema(&["forwarder"]).await["properties"]["state_dir"].is_object());
    assert!(schema(&["org"]).await["properties"]["org"].is_object());
    assert!(schema(&[]).await["$defs"]["ForwarderFile"].is_object());
    for (arguments, part) in [
        (&["config", "reference"][..], "#### `source.poll_interval`"),
        (&["man"], ".TH pulumi"),
        (&["completions", "bash"], "complete -F"),
        (&["completions", "fish"], "complete -c pulumi-audit-forwarder"),
        (&["completions", "zsh"], "#compdef pulumi-audit-forwarder"),
    ] {
        let ended = bare(arguments).await;
        assert_eq!((ended.status.code(), err(&ended)), (Some(0), String::new()), "{arguments:?}");
        assert!(out(&ended).contains(part), "{arguments:?}");
    }
    assert_eq!(bare(&["completions", "tcsh"]).await.status.code(), Some(2));
    assert_eq!(bare(&["config", "schema", "other"]).await.status.code(), Some(2));

    // As `| head -1` does it: nobody reads any more, and nothing failed.
    let mut child = std::process::Command::new(crate::delivery::binary())
        .args(["config", "reference"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the binary starts");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!((ended.status.code(), ended.stderr.len()), (Some(0), 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_or_newer_state_directory_ends_with_1() {
    let world = World::start().await;
    world.write_config(&[recent(&world, "acme").with_file()], "");
    std::fs::remove_dir_all(&world.paths.state).expect("it can be removed");
    std::fs::write(&world.paths.state, "a file stands in the way").expect("it can be written");
    let ended = command(&world, &["run"]).await;
    assert_eq!(ended.status.code(), Some(1), "{}", err(&ended));
    assert!(err(&ended).contains(&*world.paths.state.to_string_lossy()), "{}", err(&ended));
    assert_eq!(world.pulumi().ledger.total(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_tells_the_same_of_a_running_daemon_and_of_a_stopped_one() {
    let world = World::builder().orgs(&["acme", "revoked"]).events(40).start().await;
    let acme = recent(&world, "acme").with_sentinel().with_file();
    world.pulumi().org("revoked").rotate_token();
    world.write_config(&[acme.clone(), recent(&world, "revoked").with_file()], "");
    world.paths.write_secret("revoked-token", "pul-0000000000000000000000000000000000000000");
    // The command asks at the configured address, so this one is known beforehand.
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port is free");
    let config = std::fs::read_to_string(&world.paths.config).expect("it was written");
    let config = config.replace("\"127.0.0.1:0\"", &format!("\"{port}\""));
    std::fs::write(&world.paths.config, config).expect("it can be written");

    let mut daemon = again(&world);
    complete(&world, &acme).await;
    paused(&mut daemon, "revoked", "source", "credentials").await;
    let json = async || {
        let ended = command(&world, &["status", "--json"]).await;
        assert_eq!(ended.status.code(), Some(0), "{}", err(&ended));
        serde_json::from_str::<Value>(&out(&ended)).expect("it is JSON")
    };
    let mut running = json().await;
    until("the figures have followed", async || {
        running = json().await;
        running["orgs"][0]["lanes"][0]["backlog_events"] == 0
            && running["orgs"][0]["lanes"][0]["delivered_until"].is_string()
    })
    .await;
    let shape =
        |value: &Value| -> Vec<String> { value.as_object().expect("an object").keys().cloned().collect() };
    assert_eq!(shape(&running), shape(&daemon.status().await.expect("it is served")));
    assert_eq!(running["orgs"][1]["source"]["state"], "paused");
    assert_eq!(running["orgs"][1]["source"]["reason"], "credentials");
    let table = out(&command(&world, &["status"]).await);
    for part in ["acme", "revoked", "sentinel", "paused", "credentials", "revoked-token"] {
        assert!(table.contains(part), "`{part}` is in: {table}");
    }
    assert_eq!(command(&world, &["status", "--healthcheck"]).await.status.code(), Some(0));

    assert!(daemon.stop().await.success());
    let stopped = json().await;
    assert_eq!(shape(&stopped), shape(&running));
    for (index, id) in ["acme", "revoked"].iter().enumerate() {
        assert_eq!(stopped["orgs"][index]["id"], *id);
        assert_eq!(stopped["orgs"][index]["start"], running["orgs"][index]["start"]);
    }
    let checkpoint = |status: &Value| status["orgs"][0]["lanes"][0]["checkpoint"].as_u64();
    assert_eq!(checkpoint(&stopped), checkpoint(&running));
    assert_eq!(stopped["orgs"][0]["lanes"][0]["backlog_events"], 0);
    let table = command(&world, &["status"]).await;
    assert_eq!(table.status.code(), Some(0));
    assert!(out(&table).contains("acme") && out(&table).contains(&port.to_string()), "{}", out(&table));
    let health = command(&world, &["status", "--healthcheck"]).await;
    assert_eq!(health.status.code(), Some(1));
    assert!(health.stdout.is_empty() && health.stderr.is_empty(), "a health check says nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tries_everything_once_writes_nothing_and_ends_with_0_or_69() {
    let world = World::builder().orgs(&["acme", "other"]).with_s3().events(5).start().await;
    let acme = recent(&world, "acme").with_sentinel().with_s3().with_file();
    let other = recent(&world, "other").with_file();
    world.write_config(&[acme, other], "");
    let ended = command(&world, &["check"]).await;
    assert_eq!(ended.status.code(), Some(0), "{}{}", out(&ended), err(&ended));
    let said = out(&ended);
    let lines = |id: &str, what: &str| -> Vec<String> {
        let fits = |line: &&str| line.starts_with(id) && line[id.len()..].trim_start().starts_with(what);
        said.lines().filter(fits).map(str::to_owned).collect()
    };
    let source = &["audit log", "token", "clock"][..];
    for (id, what, tried) in [
        ("acme", "source", source),
        ("acme", "sentinel", &["token", "rows", "clock"]),
        ("acme", "s3", &["list", "read", "object lock", "clock"]),
        ("acme", "file", &["directory"]),
        ("other", "source", source),
        ("other", "file", &["directory"]),
    ] {
        let lines = lines(id, what);
        assert_eq!(lines.len(), tried.len(), "one line for each thing tried of {what} of {id}: {said}");
        for (line, tried) in lines.iter().zip(tried) {
            assert!(line.contains(tried) && line.contains("  ok  "), "{line}");
        }
    }
    assert!(said.contains("organization token `audit-forwarder` of `acme`"), "{said}");
    assert!(world.rows("acme").is_empty() && world.archive().await.files.is_empty());
    let left = |path: &std::path::Path| std::fs::read_dir(path).map_or(0, Iterator::count);
    assert_eq!(
        (left(&world.paths.state), left(&world.paths.archive_of("acme"))),
        (0, 0),
        "nothing is written"
    );

    world.azure().denies_the_role();
    world.s3().fault(Scope::any(), proxy::Fault::access_denied(), Times::UntilCleared);
    world.pulumi().fault("other", Fault::Unauthorized, Times::UntilCleared);
    let ended = command(&world, &["check"]).await;
    assert_eq!(ended.status.code(), Some(69), "{}", out(&ended));
    let said = out(&ended);
    for part in ["Monitoring Metrics Publisher", "other-token", "3 of "] {
        assert!(said.contains(part), "`{part}` is in: {said}");
    }
    let only = command(&world, &["check", "--org", "other", "--json"]).await;
    assert_eq!(only.status.code(), Some(69));
    let answer: Value = serde_json::from_str(&out(&only)).expect("it is JSON");
    assert_eq!(answer["ok"], false);
    let probes = answer["probes"].as_array().expect("a list");
    assert!(probes.iter().all(|probe| probe["org"] == "other"), "{answer}");
    assert_eq!((&probes[0]["tried"], &probes[0]["reason"]), (&"audit log".into(), &"credentials".into()));
    let requests = world.pulumi().ledger.total();
    assert_eq!(command(&world, &["check", "--offline"]).await.status.code(), Some(0));
    assert_eq!(world.pulumi().ledger.total(), requests, "offline means that nobody is asked");
}
