//! The templates for AWS, and the queries over a real archive.
//!
//! What is AWS's is judged by what others wrote: cfn-lint and checkov read the templates, Terraform evaluates its own, moto deploys the stack and holds the
//! role to its policy, sqlglot reads the queries as Athena would and DuckDB runs them. The scripts beside this file drive them.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::world::World;
use crate::world::clock::rfc3339;
use crate::world::pulumi::events::{Event, Generator, Person, dreadful};
use crate::world::setup::OrgSetup;

const DAY: i64 = 86_400;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn tool(path: &str) -> PathBuf {
    let tool = repository(".tools").join(path);
    assert!(tool.exists(), "{} is missing: run `make tools`", tool.display());
    tool
}

fn ran(command: &mut Command) -> Output {
    for proxy in ["HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy"] {
        command.env_remove(proxy);
    }
    command.stdin(Stdio::null()).output().expect("the command starts")
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A script of this part; its last line is JSON.
fn script(name: &str, arguments: &[&str]) -> Value {
    let output = ran(Command::new(tool("venv/bin/python"))
        .arg(repository("tests/deploy/aws").join(name))
        .args(arguments));
    assert!(output.status.success(), "{name}: {}", said(&output));
    let out = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(out.lines().last().unwrap_or_default()).expect("its last line is JSON")
}

/// A command of the forwarder with a world's configuration, and nothing of this process's AWS settings.
fn forwarder(world: &World, variables: &[(&str, &str)], arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pulumi-audit-forwarder"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("AWS_")) {
        command.env_remove(name);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true").env("HOME", &world.paths.root);
    ran(command.envs(variables.iter().copied()).arg("--config").arg(&world.paths.config).args(arguments))
}

fn text(value: &Value) -> &str {
    value.as_str().expect("a text")
}

#[tokio::test(flavor = "multi_thread")]
async fn both_templates_mean_the_same_and_print_sections_that_the_forwarder_takes() {
    let scratch = tempfile::tempdir().expect("a directory can be made");
    let compared = script("templates.py", &[scratch.path().to_str().expect("a path")]);
    let sections = compared["sections"].as_array().expect("a list");
    assert!(sections.len() > 10 && compared["cases"] == sections.len(), "{compared}");

    let world = World::start().await;
    for section in sections.iter().map(text) {
        let mut acme = OrgSetup::new("acme");
        acme.more_source = format!("\n{section}\n");
        world.write_config(&[acme], "");
        let checked = forwarder(&world, &[], &["check", "--offline"]);
        assert!(checked.status.success(), "{section}\n{}", said(&checked));
        let shown = said(&forwarder(&world, &[], &["config", "show"]));
        for line in section.lines().skip(1) {
            let (key, value) = line.split_once(" = ").expect("a key and a value");
            assert!(shown.contains(key), "{key} of the section has arrived: {shown}");
            let value = value.trim_matches('"');
            assert!(value.starts_with('{') || shown.contains(value), "{line} has arrived: {shown}");
        }
    }
}

#[test]
fn the_linters_find_nothing_in_the_templates_and_what_is_passed_over_has_a_reason() {
    let deploy = repository("deploy/aws");
    let scratch = tempfile::tempdir().expect("a directory can be made");
    let copy = |name: &str, spoil: &dyn Fn(String) -> String| {
        let folder = scratch.path().join(name);
        std::fs::create_dir(&folder).expect("a directory can be made");
        for file in std::fs::read_dir(deploy.join("terraform")).expect("it is there").flatten() {
            let text = std::fs::read_to_string(file.path()).expect("a text");
            std::fs::write(folder.join(file.file_name()), spoil(text)).expect("it can be written");
        }
        let text = std::fs::read_to_string(deploy.join("cloudformation.yaml")).expect("a text");
        std::fs::write(folder.join("cloudformation.yaml"), spoil(text)).expect("it can be written");
        folder
    };
    let good = copy("good", &|text| text);
    let spoiled = copy("spoiled", &|text| {
        text.replace("BlockPublicAcls: true", "BlockPublicAcls: false")
            .replace("block_public_acls       = true", "block_public_acls       = false")
            .replace("      Status: Enabled\n", "      Status: Switched\n")
    });

    let lint =
        |folder: &Path| ran(Command::new(tool("venv/bin/cfn-lint")).arg(folder.join("cloudformation.yaml")));
    let linted = lint(&good);
    assert!(linted.status.success() && said(&linted).is_empty(), "{}", said(&linted));
    let linted = lint(&spoiled);
    assert!(
        !linted.status.success() && said(&linted).contains("'Switched' is not one of"),
        "{}",
        said(&linted)
    );

    let mut command = Command::new(tool("checkov/bin/checkov"));
    command.arg("-d").arg(scratch.path()).args(["--framework", "cloudformation", "terraform"]);
    let checked = ran(command.args(["--skip-download", "--compact", "-o", "json"]));
    let out = String::from_utf8_lossy(&checked.stdout);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{}", said(&checked)));
    let reports = report.as_array().expect("a report for each framework");
    assert_eq!(reports.len(), 2, "{out}");
    for report in reports {
        let of = |kind: &str, folder: &str| {
            let all = report["results"][kind].as_array().cloned().expect("a list");
            all.into_iter().filter(|one| text(&one["file_path"]).starts_with(folder)).collect::<Vec<_>>()
        };
        assert!(of("passed_checks", "/good/").len() > 10, "{report}");
        assert_eq!(of("failed_checks", "/good/"), Vec::<Value>::new());
        assert!(!of("failed_checks", "/spoiled/").is_empty(), "{}", report["check_type"]);
        for skipped in of("skipped_checks", "/good/") {
            let reason = text(&skipped["check_result"]["suppress_comment"]);
            assert!(reason.len() > 30, "{}: {reason}", skipped["check_id"]);
        }
    }
}

/// AWS as moto plays it, for this test alone: it looks at permissions, which other tests do not want.
struct Aws {
    server: Child,
    address: SocketAddr,
}

impl Aws {
    async fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let address = free.expect("loopback has a free port");
        let server = Command::new(tool("venv/bin/python"))
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &address.port().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let aws = Self { server, address };
        let client = reqwest::Client::builder().no_proxy().build().expect("it builds");
        let begun = Instant::now();
        while client.get(format!("{}/moto-api/", aws.url())).send().await.is_err() {
            assert!(begun.elapsed() < Duration::from_secs(90), "moto does not get ready: run `make tools`");
            // It cannot tell when it is ready; this only spaces the questions.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        aws
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Aws {
    fn drop(&mut self) {
        self.server.kill().expect("it can be killed");
        self.server.wait().expect("it can be waited for");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_deployed_role_archives_under_its_prefix_and_may_do_nothing_else() {
    let (aws, world) = tokio::join!(Aws::start(), World::builder().events(1_200).start());
    let told = script("deployed.py", &["deploy", &aws.url()]);
    let kept = world.paths.root.join("told.json");
    std::fs::write(&kept, told.to_string()).expect("it can be written");

    let secret = world.paths.write_secret("aws-secret", text(&told["Secret"]));
    let mut acme = OrgSetup::new("acme").since(&rfc3339(world.clock.now() - 7_200));
    acme.more_source = format!(
        "\n{section}\nendpoint_url = {url:?}\nforce_path_style = true\naccess_key_id = {id}\nsecret_access_key = {{ file = {secret:?} }}\n",
        section = text(&told["OrgFile"]),
        url = aws.url(),
        id = told["KeyId"],
    );
    world.write_config(&[acme], "");
    let sts = [("AWS_ENDPOINT_URL_STS", aws.url())];
    let sts = sts.each_ref().map(|(name, value)| (*name, value.as_str()));
    for arguments in [&["check"][..], &["run", "--once"], &["verify"]] {
        let ended = forwarder(&world, &sts, arguments);
        assert!(ended.status.success(), "{arguments:?}: {}", said(&ended));
        if arguments == ["verify"] {
            assert!(said(&ended).contains("1200 events"), "{}", said(&ended));
        }
    }
    let tried = script("deployed.py", &["try", &aws.url(), kept.to_str().expect("a path")]);
    assert!(tried["objects"].as_u64().is_some_and(|count| count >= 4), "{tried}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_query_for_athena_answers_what_the_source_holds() {
    let world = World::builder().start().await;
    let now = world.clock.now();
    let source = world.pulumi();
    source.org("acme").add(Generator::seeded(7).spread(now - 3 * DAY, now - 60, 2_500));
    // Of each kind that a query asks for a few, also as older services name them, and just outside what it asks for.
    let mut more = Vec::new();
    let kinds = [
        "stack-deleted",
        "Stack Deleted",
        "Member Role Changed",
        "team-created",
        "user-login-failed",
        "User Login Failed",
    ];
    for (number, kind) in (0_i64..).zip(kinds) {
        for age in [1, 6, 8, 29, 31, 89, 91] {
            let mut event = Event::at(now - age * DAY - number);
            kind.clone_into(&mut event.event);
            event.user = Person::new(if number % 2 == 0 { "ada" } else { "grace-h" }, "A Person");
            event.token_id = (age % 2 == 0).then(|| "token-1".to_owned());
            event.token_name = event.token_id.as_ref().map(|_| "ci \"main\"".to_owned());
            more.extend(event.described(&format!("{kind} shop/prod-{number}")).twins(2));
        }
    }
    source.org("acme").add(more);
    let odd = |name: &str| {
        dreadful(now - 7_200).into_iter().find(|(found, _)| *found == name).expect("it is known").1
    };
    let untimed =
        String::from_utf8(odd("no time")).expect("text").replace("odd time", "odd time of shop/prod");
    source.org("acme").add_verbatim(now - 3_600, untimed.as_bytes());
    source.org("acme").add_verbatim(now - 7_200, &odd("invalid UTF-8"));

    let acme = OrgSetup::new("acme").with_file().since(&rfc3339(now - 92 * DAY));
    world.write_config(&[acme], "");
    let ended = forwarder(&world, &[], &["run", "--once"]);
    assert!(ended.status.success(), "{}", said(&ended));
    let events: Vec<Value> = source
        .truth("acme")
        .iter()
        .map(|event| serde_json::from_slice(&event.bytes).unwrap_or(Value::Null))
        .collect();
    assert!(events.len() > 2_580, "{}", events.len());
    let truth = world.paths.root.join("truth.json");
    std::fs::write(&truth, Value::from(events.clone()).to_string()).expect("it can be written");
    let archive = world.paths.archive_of("acme");
    let answered = script("athena.py", &[archive.to_str().expect("a path"), truth.to_str().expect("a path")]);
    assert_eq!(answered["lines"], events.len());
}
