//! The configuration changes while the daemon runs.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::slice::from_ref;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::Instant;

use crate::forwarder::{
    asked, command, complete, metric, org, out, party, paused, recent, sample, start, works,
};
use crate::world::World;
use crate::world::certificates::Certificates;
use crate::world::daemon::{Daemon, until, until_within};
use crate::world::pulumi::events::Generator;
use crate::world::setup::OrgSetup;

/// Logged once for each change.
const RELOADED: &str = "the configuration was reloaded";
const READ_AGAIN: &str = "the configuration was read again";
const REFUSED: &str = "the configuration is refused";

fn count(daemon: &Daemon, line: &str) -> usize {
    daemon.log().matches(line).count()
}

/// The lines of the log that say so.
fn lines(daemon: &Daemon, message: &str) -> Vec<Value> {
    let log = daemon.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["message"] == message).collect()
}

async fn reloaded(daemon: &Daemon, times: usize) {
    until("the configuration is reloaded", async || count(daemon, RELOADED) >= times).await;
}

async fn state(daemon: &mut Daemon, id: &str) -> String {
    let org = org(daemon, id).await.unwrap_or_default();
    org["state"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_comes_goes_and_comes_back_is_an_org_that_starts_retires_and_goes_on() {
    let world = World::builder().orgs(&["acme", "beta"]).events(40).start().await;
    let [acme, beta] = ["acme", "beta"].map(|name| recent(&world, name).with_sentinel().with_file());
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    world.write_org(&beta);
    // What editors leave beside it.
    for name in [".beta.toml.swp", "beta.toml~", "4913", "#beta.toml#"] {
        fs::write(world.paths.orgs.join(name), "org = ").expect("it can be written");
    }
    complete(&world, &beta).await;

    fs::remove_file(world.paths.orgs.join("acme.toml")).expect("it is there");
    until("acme is retired", async || state(&mut daemon, "acme").await == "retired").await;
    until("its series are gone", async || {
        let page = daemon.get("/metrics").await;
        page.is_some_and(|(_, page)| sample(&page, "cursor_timestamp_seconds", &[("org", "acme")]).is_none())
    })
    .await;
    let before = world.pulumi().ledger.requests("acme");
    world.pulumi().org("acme").add(Generator::seeded(1).burst(world.clock.now() - 1, 5));
    asked(&world, "beta", 4).await;
    assert_eq!(world.pulumi().ledger.requests("acme"), before, "nobody asks for it");
    works(&mut daemon, "beta", "source").await;

    world.write_org(&acme);
    complete(&world, &acme).await;
    until("acme works", async || state(&mut daemon, "acme").await == "ok").await;
    until("the configuration is in force", async || {
        metric(&mut daemon, "config_last_reload_successful", &[]).await == Some(1.0)
    })
    .await;
    assert!(daemon.stop().await.success());
    for org in ["acme", "beta"] {
        world.check_file(org).assert_complete();
        assert_eq!(world.check_sentinel(org).removable, 0);
    }
    let said = lines(&daemon, RELOADED);
    let fields: Vec<_> =
        said.iter().map(|line| [&line["added"], &line["removed"], &line["changed"]]).collect();
    assert_eq!(fields, [["beta", "", ""], ["", "acme", ""], ["acme", "", ""]]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_file_changes_nothing_and_is_said_everywhere_until_it_is_valid() {
    let world = World::builder().events(20).start().await;
    let acme = recent(&world, "acme").with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let place = world.paths.orgs.join("acme.toml");
    let good = fs::read_to_string(&place).expect("it is there");

    fs::write(&place, format!("tokne = \"canary\"\n{good}")).expect("it can be written");
    until("it is refused", async || {
        metric(&mut daemon, "config_last_reload_successful", &[]).await == Some(0.0)
    })
    .await;
    let config = daemon.status().await.expect("it is served")["config"].clone();
    assert_eq!(config["ok"], false);
    assert!(config["error"].as_str().is_some_and(|error| error.contains("acme.toml:1")), "{config}");
    // Half of a file, as a slow editor leaves it, and many reminders.
    fs::write(&place, &good[..good.find("token").expect("it has one") + 10]).expect("it can be written");
    daemon.signal("HUP");
    until("it is refused for that", async || count(&daemon, REFUSED) == 2).await;
    for _ in 0..20 {
        daemon.signal("HUP");
    }
    world.pulumi().org("acme").add(Generator::seeded(2).burst(world.clock.now() - 1, 5));
    complete(&world, &acme).await;
    works(&mut daemon, "acme", "source").await;
    let again = daemon.status().await.expect("it is served")["config"].clone();
    assert_eq!(again["since"], config["since"], "it has been refused since then");
    let shown = out(&command(&world, &["status"]).await);
    assert!(!shown.contains("canary"), "{shown}");
    let (ready, _) = daemon.get("/readyz").await.expect("it is served");
    assert_eq!(ready, 200, "the one before is in force");

    fs::write(&place, &good).expect("it can be written");
    until("it is in force", async || {
        metric(&mut daemon, "config_last_reload_successful", &[]).await == Some(1.0)
    })
    .await;
    let config = daemon.status().await.expect("it is served")["config"].clone();
    assert_eq!((&config["ok"], &config["error"]), (&Value::Bool(true), &Value::Null));
    assert!(daemon.stop().await.success());
    assert_eq!(lines(&daemon, "the configuration is refused; the one before stays in force").len(), 2);
    assert_eq!(count(&daemon, RELOADED), 0);
    assert!(!daemon.log().contains("canary"), "{}", daemon.log());
    world.check_file("acme").assert_complete();
}

fn resident_kib(daemon: &Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("Linux tells");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has this line");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_signals_a_second_cost_a_load_a_second_and_no_event() {
    const SIGNALS: u32 = 10_000;
    let world = World::builder().events(20).start().await;
    let acme = recent(&world, "acme").with_sentinel().with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let pid = Pid::from_raw(daemon.pid().cast_signed()).expect("it runs");
    let (before, asked_before) = (resident_kib(&daemon), world.pulumi().ledger.requests("acme"));
    let mut generator = Generator::seeded(3);
    // It catches up where this thread was not let run.
    let mut ticks = tokio::time::interval(Duration::from_millis(1));
    let begun = Instant::now();
    for signal in 0..SIGNALS {
        ticks.tick().await;
        kill_process(pid, Signal::HUP).expect("it is ours");
        if signal % 100 == 0 {
            world.pulumi().org("acme").add(generator.burst(world.clock.now() - 1, 2));
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    let asked_during = world.pulumi().ledger.requests("acme") - asked_before;
    complete(&world, &acme).await;
    let (after, loads) = (resident_kib(&daemon), count(&daemon, READ_AGAIN));
    println!("{SIGNALS} signals in {seconds:.1} s: {loads} loads, {before} to {after} KiB");
    assert!(loads >= 2 && loads as f64 <= seconds + 3.0, "{loads} loads in {seconds} s");
    assert!(asked_during as f64 <= 4.0 * seconds + 10.0, "the source is asked no oftener: {asked_during}");
    assert!(after < before + 32 * 1024 && after < 128 * 1024, "{before} to {after} KiB");
    works(&mut daemon, "acme", "source").await;
    assert!(daemon.stop().await.success());
    assert_eq!(count(&daemon, RELOADED), 0);
    world.check_file("acme").assert_complete();
    assert_eq!(world.check_sentinel("acme").removable, 0, "no delivery was left in the middle");
}

#[tokio::test(flavor = "multi_thread")]
async fn destinations_and_intervals_change_while_events_flow_and_none_is_lost_or_doubled() {
    let world = World::builder().with_s3().events(200).start().await;
    let mut acme = recent(&world, "acme").with_sentinel();
    let mut daemon = start(&world, from_ref(&acme));
    let mut generator = Generator::seeded(4);
    let steps: [fn(&mut OrgSetup); 6] = [
        |acme| acme.file = true,
        |acme| acme.s3 = true,
        |acme| acme.more_source = "overlap = \"5m\"\n".into(),
        |acme| acme.sentinel = false,
        |acme| (acme.sentinel, acme.file) = (true, false),
        |acme| (acme.file, acme.more_source) = (true, "requests_per_second = 100\n".into()),
    ];
    for (number, step) in steps.into_iter().enumerate() {
        for _ in 0..5 {
            world.pulumi().org("acme").add(generator.burst(world.clock.now() - 1, 20));
            asked(&world, "acme", 1).await;
        }
        step(&mut acme);
        world.write_org(&acme);
        daemon.signal("HUP");
        reloaded(&daemon, number + 1).await;
    }
    complete(&world, &acme).await;
    until("acme works", async || state(&mut daemon, "acme").await == "ok").await;
    assert!(daemon.stop().await.success());
    for report in [world.check_s3("acme").await, world.check_file("acme"), world.check_sentinel("acme")] {
        report.assert_complete();
        assert_eq!(report.removable, 0, "no delivery was left in the middle: {report}");
    }
    let said = lines(&daemon, RELOADED);
    assert_eq!(said[0]["changed"], "acme (file)");
    assert_eq!(said[2]["changed"], "acme (source.overlap)");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_kubernetes_swaps_counts_as_changed_once() {
    let world = World::builder().events(30).start().await;
    let acme = recent(&world, "acme").with_file();
    world.write_config(from_ref(&acme), "");
    let orgs = &world.paths.orgs;
    let place = orgs.join("acme.toml");
    let text = fs::read_to_string(&place).expect("it is there");
    let mount = |name: &str, text: &str| {
        fs::create_dir(orgs.join(name)).expect("it is new");
        fs::write(orgs.join(name).join("acme.toml"), text).expect("it can be written");
        symlink(name, orgs.join("..data_tmp")).expect("it is new");
        fs::rename(orgs.join("..data_tmp"), orgs.join("..data")).expect("it can be put in place");
    };
    mount("..2026_11_21_1", &text);
    fs::remove_file(&place).expect("it is there");
    symlink("..data/acme.toml", &place).expect("it is new");
    let mut daemon = crate::forwarder::again(&world);
    complete(&world, &acme).await;

    let archive = world.paths.root.join("elsewhere");
    fs::create_dir(&archive).expect("it is new");
    let moved = text.replace(&format!("{:?}", world.paths.archive_of("acme")), &format!("{archive:?}"));
    assert_ne!(moved, text);
    mount("..2026_11_21_2", &moved);
    fs::remove_dir_all(orgs.join("..2026_11_21_1")).expect("it is there");
    reloaded(&daemon, 1).await;
    world.pulumi().org("acme").add(Generator::seeded(5).burst(world.clock.now() - 1, 5));
    until("it writes elsewhere", async || {
        fs::read_dir(&archive).is_ok_and(|mut found| found.next().is_some())
    })
    .await;
    assert!(daemon.stop().await.success());
    assert_eq!(count(&daemon, RELOADED), 1);
    assert_eq!(count(&daemon, REFUSED), 0, "no moment without a configuration was seen: {}", daemon.log());
    let said = lines(&daemon, RELOADED);
    assert_eq!([&said[0]["trigger"], &said[0]["changed"]], ["changed files", "acme (file.path)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_a_restart_says_so_and_everything_else_counts_at_once() {
    let world = World::builder().events(5).start().await;
    let acme = recent(&world, "acme").with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let good = fs::read_to_string(&world.paths.config).expect("it is there");
    let other = good.replace("127.0.0.1:0", "127.0.0.1:9");
    let other = format!("{other}\n[log]\nlevel = \"debug\"\n[journal]\nmax_bytes_per_org = \"3MiB\"\n");
    fs::write(&world.paths.config, other).expect("it can be written");
    daemon.signal("HUP");
    let restart = async |daemon: &mut Daemon| {
        let status = daemon.status().await.unwrap_or_default();
        status["config"]["needs_restart"].clone()
    };
    until("it is said", async || restart(&mut daemon).await == serde_json::json!(["admin.listen"])).await;
    let status = daemon.status().await.expect("it is served where it was");
    assert_eq!(status["config"]["ok"], true);
    assert_eq!(metric(&mut daemon, "journal_capacity_bytes", &[]).await, Some(f64::from(3 << 20)));
    until("details are logged", async || daemon.log().contains("\"DEBUG\"")).await;
    let shown = out(&command(&world, &["status"]).await);
    // Whoever asks looks for the daemon where it is configured to be, which it is not yet.
    assert!(shown.contains("acme"), "{shown}");

    fs::write(&world.paths.config, good).expect("it can be written");
    daemon.signal("HUP");
    until("it is said no longer", async || restart(&mut daemon).await == Value::Null).await;
    assert!(daemon.stop().await.success());
    let said = lines(&daemon, "these settings count from the next start of the process on");
    assert_eq!(said.len(), 1);
    assert_eq!(said[0]["keys"], "admin.listen");
    assert_eq!(lines(&daemon, RELOADED)[0]["keys"], "admin.listen, log.level, journal.max_bytes_per_org");
    assert_eq!(lines(&daemon, RELOADED)[0]["changed"], "", "no org ends for these");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_authority_that_is_replaced_is_trusted_without_a_restart() {
    let world = World::builder().events(10).start().await;
    let acme = recent(&world, "acme").with_sentinel().with_file();
    world.write_config(from_ref(&acme), "");
    let place = world.paths.root.join("authority.pem");
    let strangers = world.paths.root.join("strangers");
    fs::create_dir(&strangers).expect("it is new");
    fs::copy(&Certificates::create(&strangers).ca_pem, &place).expect("it can be copied");
    let file = world.paths.orgs.join("acme.toml");
    let text = fs::read_to_string(&file).expect("it is there");
    fs::write(&file, text.replace(&format!("{:?}", world.ca_pem()), &format!("{place:?}"))).expect("it can");
    let mut daemon = crate::forwarder::again(&world);
    paused(&mut daemon, "acme", "sentinel", "configuration").await;
    fs::copy(world.ca_pem(), &place).expect("it can be copied");
    complete(&world, &acme).await;
    works(&mut daemon, "acme", "sentinel").await;
    assert!(daemon.stop().await.success());
    assert_eq!(lines(&daemon, RELOADED)[0]["changed"], "acme (ca_file (its contents))");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_organization_that_was_renamed_pauses_with_its_new_name_and_goes_on_under_it() {
    let world = World::builder().events(60).start().await;
    let mut acme = recent(&world, "acme").with_file();
    let mut daemon = start(&world, from_ref(&acme));
    complete(&world, &acme).await;
    let claims =
        || fs::read_dir(world.paths.archive_of("acme").join("_chain/org=acme")).map_or(0, Iterator::count);
    let before = claims();
    world.pulumi().org("acme").rename("acme-new");
    let remedy = paused(&mut daemon, "acme", "source", "configuration").await;
    assert!(remedy.contains("This token sees `acme-new`"), "{remedy}");
    let cursor = org(&mut daemon, "acme").await.expect("it is there")["cursor"].clone();
    world.pulumi().org("acme-new").add(Generator::seeded(6).burst(world.clock.now() - 1, 7));
    acme.org = "acme-new".into();
    world.write_org(&acme);
    daemon.signal("HUP");
    works(&mut daemon, "acme", "source").await;
    let expect = crate::world::truth::Expect { as_of: world.clock.now(), ..Default::default() };
    until("it has all arrived", async || world.check_file_with("acme", "acme-new", &expect).is_complete())
        .await;
    let lane = party(&mut daemon, "acme", "file").await.expect("it has a lane");
    assert!(lane["checkpoint"].as_u64().is_some_and(|next| next as usize >= before), "{lane}");
    assert!(org(&mut daemon, "acme").await.expect("it is there")["cursor"].as_str() >= cursor.as_str());
    assert!(daemon.stop().await.success());
    assert!(claims() > before, "the numbers go on");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_orgs_that_swap_names_in_one_reload_keep_their_own_coverage_and_mix_no_event() {
    let world = World::builder().orgs(&["alpha", "beta"]).events(60).start().await;
    let setup = |id: &str, org: &str| {
        let mut setup = recent(&world, org).with_file();
        id.clone_into(&mut setup.id);
        setup
    };
    let arrived = async |names: [(&str, &str); 2]| {
        for (id, org) in names {
            let expect = crate::world::truth::Expect { as_of: world.clock.now(), ..Default::default() };
            until(&format!("everything of {id} has arrived"), async || {
                world.check_file_with(id, org, &expect).is_complete()
            })
            .await;
        }
    };
    let mut daemon = start(&world, &[setup("a", "alpha"), setup("b", "beta")]);
    arrived([("a", "alpha"), ("b", "beta")]).await;
    let mut before = Vec::new();
    for id in ["a", "b"] {
        let lane = party(&mut daemon, id, "file").await.expect("it has a lane");
        before.push((org(&mut daemon, id).await.expect("it is there"), lane["checkpoint"].as_u64()));
    }

    let pulumi = world.pulumi();
    pulumi.org("alpha").rename("for-a-moment");
    pulumi.org("beta").rename("alpha");
    pulumi.org("for-a-moment").rename("beta");
    for id in ["a", "b"] {
        until("it is not let in under the other's name", async || {
            party(&mut daemon, id, "source").await.is_some_and(|source| source["state"] == "paused")
        })
        .await;
    }
    pulumi.org("alpha").add(Generator::seeded(7).burst(world.clock.now() - 1, 7));
    pulumi.org("beta").add(Generator::seeded(8).burst(world.clock.now() - 1, 8));
    world.write_org(&setup("a", "beta"));
    world.write_org(&setup("b", "alpha"));
    daemon.signal("HUP");
    arrived([("a", "beta"), ("b", "alpha")]).await;
    for (id, (known, checkpoint)) in ["a", "b"].into_iter().zip(before) {
        works(&mut daemon, id, "source").await;
        let now = org(&mut daemon, id).await.expect("it is there");
        assert_eq!(now["start"], known["start"], "{id} began when it did");
        assert!(now["cursor"].as_str() >= known["cursor"].as_str(), "{known} {now}");
        assert_eq!(now["coverage"]["holes"], 0, "{now}");
        let lane = party(&mut daemon, id, "file").await.expect("it has a lane");
        assert!(lane["checkpoint"].as_u64() > checkpoint, "its numbers go on: {lane}");
    }
    assert!(daemon.stop().await.success());
    for (id, org) in [("a", "beta"), ("b", "alpha")] {
        let expect = crate::world::truth::Expect { as_of: world.clock.now(), ..Default::default() };
        world.check_file_with(id, org, &expect).assert_complete();
    }
    // Each asked with its own token only, whatever the organization was called.
    let asked = world.pulumi().ledger.entries();
    let tokens = ["alpha", "beta"].map(|org| format!("token {}", world.pulumi().org(org).token()));
    for entry in asked.iter().filter(|entry| entry.status == Some(200)) {
        assert!(entry.header("authorization").is_some_and(|used| tokens.iter().any(|token| token == used)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn three_hundred_orgs_reloaded_at_once_go_on_each_in_its_turn_and_no_event_is_lost_or_doubled() {
    const PATIENCE: Duration = Duration::from_secs(240);
    let names: Vec<String> = (0..300).map(|number| format!("org-{number:03}")).collect();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    let world = World::builder().orgs(&known).events(2).start().await;
    let configured = |more: &str| -> Vec<OrgSetup> {
        let setup = |name: &&str| {
            let mut setup = recent(&world, name).with_file();
            setup.more_source = format!("poll_interval = \"6s\"\n{more}");
            setup
        };
        known.iter().map(setup).collect()
    };
    let all_arrived = async || {
        for name in &known {
            until_within(PATIENCE, name, async || world.check_file(name).is_complete()).await;
        }
    };
    let mut daemon = start(&world, &configured(""));
    all_arrived().await;

    // From now on all are to come over TLS.
    let tls = world.pulumi_tls_url();
    let more =
        format!("api_url = {tls:?}\nca_file = {:?}\nhost_requests_per_second = 1000\n", world.ca_pem());
    configured(&more).iter().for_each(|setup| world.write_org(setup));
    daemon.signal("HUP");
    let now = world.clock.now();
    for (seed, name) in (0..).zip(&known) {
        world.pulumi().org(name).add(Generator::seeded(seed).burst(now - 1, 1));
    }
    let host = tls.trim_start_matches("https://");
    until_within(PATIENCE, "each comes the new way", async || {
        let alive = daemon.get("/livez").await;
        assert!(alive.is_some_and(|(status, _)| status == 200), "it lives all the time");
        let entries = world.pulumi().ledger.entries();
        let new = entries.iter().filter(|entry| entry.header("host") == Some(host));
        new.map(|entry| entry.about.as_str())
            .filter(|about| about.starts_with("org-"))
            .collect::<BTreeSet<_>>()
            .len()
            == known.len()
    })
    .await;
    all_arrived().await;
    until("all are well", async || {
        let status = daemon.status().await.unwrap_or_default();
        let orgs = status["orgs"].as_array().cloned().unwrap_or_default();
        orgs.len() == known.len() && orgs.iter().all(|org| org["state"] == "ok")
    })
    .await;
    assert!(daemon.stop().await.success());
    let said = lines(&daemon, RELOADED);
    let changed = said[0]["changed"].as_str().unwrap_or_default();
    assert!(said.len() == 1 && changed.ends_with(" and 290 more"), "{said:?}");
    // Who has come the new way never comes the old one again: nobody runs twice.
    let mut new: BTreeSet<String> = BTreeSet::new();
    for entry in world.pulumi().ledger.entries().iter().filter(|entry| entry.about.starts_with("org-")) {
        if entry.header("host") == Some(host) {
            new.insert(entry.about.clone());
        } else {
            assert!(!new.contains(&entry.about), "{} came both ways", entry.about);
        }
    }
    for name in &known {
        world.check_file(name).assert_complete();
        assert_eq!(world.pulumi().ledger.requests(name), world.pulumi().ledger.answered(name, 200), "{name}");
    }
}
