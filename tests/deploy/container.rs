//! The container image: linted, built by buildah from the program under test, looked into, and run as its own configuration says.
//!
//! The program is linked to this machine's libraries here, which lie in the image for it; a release has them inside, and
//! `make container` builds and measures that one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::LazyLock;

use serde_json::{Value, json};

use crate::chart::pod::{Container, Mount, delivered, done, lay_out, repository};
use crate::chart::tool;
use crate::world::World;
use crate::world::clock::rfc3339;
use crate::world::setup::{CLIENT_ID, CLIENT_SECRET, TENANT, rule_of};

const CONTAINERFILE: &str = "deploy/container/Containerfile";
const REVISION: &str = "0123456789ab";

struct Image {
    /// A container of it, mounted.
    root: PathBuf,
    /// Path, mode, owner and group of everything in it, before anything was run.
    files: Vec<String>,
    /// Its configuration, in Docker's words.
    config: Value,
    created: String,
}

/// Where it lies when the process is gone; made anew by the next.
fn store() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join("deploy-store")
}

fn buildah() -> Command {
    let mut command = Command::new("buildah");
    let store = store();
    command.args(["--storage-driver", "vfs"]);
    command.arg("--root").arg(store.join("root")).arg("--runroot").arg(store.join("run"));
    command
}

fn line(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

static IMAGE: LazyLock<Image> = LazyLock::new(|| {
    let store = store();
    if store.exists() {
        fs::remove_dir_all(&store).expect("what an earlier run left can be removed");
    }
    let context = store.join("context");
    let laid_out = context.join("target/container/image");
    fs::create_dir_all(&laid_out).expect("a directory can be made");
    lay_out(&laid_out);
    done(
        buildah()
            .args([
                "build",
                "--quiet",
                "--isolation",
                "chroot",
                "--format",
                "docker",
                "--timestamp",
                "1795250000",
            ])
            .arg("--identity-label=false")
            .args(["--build-arg", "PROGRAM=prebuilt"])
            .args(["--build-arg", concat!("VERSION=", env!("CARGO_PKG_VERSION"))])
            .args(["--build-arg", &format!("REVISION={REVISION}")])
            .args(["--build-arg", "CREATED=2026-11-21T08:33:20Z"])
            .args(["--tag", "forwarder:test", "--file"])
            .arg(repository(CONTAINERFILE))
            .arg(&context),
    );
    let inspected = done(buildah().args(["inspect", "--type", "image", "forwarder:test"])).stdout;
    let inspected: Value = serde_json::from_slice(&inspected).expect("it is JSON");
    let container = line(&done(buildah().args(["from", "forwarder:test"])));
    let root = PathBuf::from(line(&done(buildah().args(["mount", &container]))));
    let mut files = Vec::new();
    list(&root, &root, &mut files);
    let config = inspected["Docker"]["config"].clone();
    let created = inspected["Docker"]["created"].as_str().unwrap_or_default().to_owned();
    Image { root, files, config, created }
});

/// Everything below a directory, parents first.
fn list(root: &Path, directory: &Path, files: &mut Vec<String>) {
    let entries = fs::read_dir(directory).expect("it can be read");
    let paths: BTreeSet<PathBuf> = entries.map(|entry| entry.expect("it can be read").path()).collect();
    for path in paths {
        let metadata = fs::symlink_metadata(&path).expect("it is there");
        let name = path.strip_prefix(root).expect("it is below").display().to_string();
        let kind = if metadata.is_dir() { "/" } else { "" };
        files.push(format!(
            "{:04o} {}:{} /{name}{kind}",
            metadata.mode() & 0o7777,
            metadata.uid(),
            metadata.gid()
        ));
        if metadata.is_dir() {
            list(root, &path, files);
        }
    }
}

fn words(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

#[test]
fn hadolint_has_nothing_against_the_containerfile() {
    let lint = |path: &Path| {
        let mut command = Command::new(tool("venv/bin/hadolint"));
        command
            .args(["--no-color", "--failure-threshold", "style"])
            .arg(path)
            .output()
            .expect("hadolint starts")
    };
    let clean = lint(&repository(CONTAINERFILE));
    assert!(clean.status.success() && clean.stdout.is_empty(), "{}", String::from_utf8_lossy(&clean.stdout));
    let directory = tempfile::tempdir().expect("a directory can be made");
    let spoilt = directory.path().join("Containerfile");
    let text = fs::read_to_string(repository(CONTAINERFILE)).expect("it can be read");
    fs::write(
        &spoilt,
        text.replace(r#"ENTRYPOINT ["/usr/bin/pulumi-audit-forwarder"]"#, "ENTRYPOINT run me"),
    )
    .expect("it can be written");
    assert!(!lint(&spoilt).status.success(), "a form that needs a shell was not noticed");
}

#[test]
fn the_image_holds_one_program_and_no_shell() {
    let libraries = |line: &&String| {
        let path = line.split(' ').nth(2).unwrap_or_default();
        !path.starts_with("/lib") && !path.starts_with("/usr/lib")
    };
    let shown: Vec<&str> = IMAGE.files.iter().filter(libraries).map(String::as_str).collect();
    insta::assert_snapshot!("image_files", shown.join("\n"));
    for line in &IMAGE.files {
        let name = line.rsplit('/').next().unwrap_or_default();
        assert!(!["sh", "bash", "dash", "busybox", "env"].contains(&name), "{line}");
        let mode = u32::from_str_radix(&line[..4], 8).expect("it is a number");
        assert_eq!(mode & 0o6000, 0, "nobody becomes somebody else: {line}");
    }
}

#[test]
fn the_image_says_how_it_is_run_and_what_it_is() {
    let config = &IMAGE.config;
    let kept = [
        "User",
        "ExposedPorts",
        "Env",
        "Entrypoint",
        "Cmd",
        "Volumes",
        "WorkingDir",
        "Labels",
        "Healthcheck",
        "Shell",
    ];
    let shown: BTreeMap<_, _> = kept.iter().map(|key| (*key, &config[*key])).collect();
    let shown = serde_json::to_string_pretty(&shown).expect("it is JSON");
    insta::assert_snapshot!("image_config", shown.replace(env!("CARGO_PKG_VERSION"), "[version]"));
    assert_eq!(config["Labels"]["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(config["Labels"]["org.opencontainers.image.created"], "2026-11-21T08:33:20Z");
    assert!(IMAGE.created.starts_with("2026-11-21T08:33:20"), "{}", IMAGE.created);
}

/// A container of the image, as a runtime makes it of the image's configuration; more volumes for it.
fn container(mounts: Vec<Mount>) -> Container {
    let config = &IMAGE.config;
    let user = config["User"].as_str().expect("it has a user");
    let (user, group) = user.split_once(':').expect("it has a group");
    let environment = words(&config["Env"]).into_iter();
    let environment =
        environment.filter_map(|text| text.split_once('=').map(|(a, b)| (a.to_owned(), b.to_owned())));
    Container {
        root: IMAGE.root.clone(),
        mounts,
        user: user.parse().expect("a number, or Kubernetes cannot tell that it is not root"),
        group: group.parse().expect("a number"),
        fs_group: None,
        environment: environment.collect(),
        command: [words(&config["Entrypoint"]), words(&config["Cmd"])].concat(),
    }
}

/// A directory of the image's user alone.
fn owned(directory: &Path, mode: u32) -> PathBuf {
    fs::create_dir_all(directory).expect("a directory can be made");
    give(directory, mode);
    directory.to_owned()
}

fn give(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode can be set");
    std::os::unix::fs::chown(path, Some(65532), Some(65532))
        .expect("only root can give files away: run these tests as root");
}

/// The org `acme`, everything over TLS, without any authority of its own.
fn organization(world: &World) -> Value {
    json!({
        "org": "acme",
        "start": rfc3339(world.clock.now() - 7_200),
        "source": {"token": {"file": "/secrets/token"}},
        "sentinel": {
            "endpoint": world.ingestion_tls_url(), "rule_id": rule_of("acme"), "authority": world.entra_url(),
            "identity": {"kind": "client_secret", "tenant_id": TENANT, "client_id": CLIENT_ID, "secret": {"file": "/secrets/azure"}},
        },
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn the_image_runs_read_only_without_root_and_its_health_check_tells() {
    let world = World::with_events(120).await;
    let root = &world.paths.root;
    let place = |name: &str| owned(&root.join(name), 0o755);
    let (etc, secrets, state) = (place("etc"), place("secrets"), place("volume"));
    fs::create_dir_all(etc.join("orgs")).expect("a directory can be made");
    let source = json!({
        "api_url": world.pulumi_tls_url(), "poll_interval": "1s", "rescan_after": ["2s"],
        "requests_per_second": 200, "host_requests_per_second": 1000,
    });
    let forwarder = toml::to_string(&json!({"source": source})).expect("it is TOML");
    fs::write(etc.join("forwarder.toml"), forwarder).expect("it can be written");
    let acme = toml::to_string(&organization(&world)).expect("it is TOML");
    fs::write(etc.join("orgs/acme.toml"), acme).expect("it can be written");
    for (name, value) in [("token", world.pulumi().org("acme").token()), ("azure", CLIENT_SECRET.to_owned())]
    {
        fs::write(secrets.join(name), value).expect("it can be written");
        give(&secrets.join(name), 0o400);
    }
    let mount =
        |from: &Path, at: &str, read_only| Mount { from: from.to_owned(), at: at.to_owned(), read_only };
    let mut strange = container(vec![
        mount(&etc, "/etc/pulumi-audit-forwarder", true),
        mount(&secrets, "/secrets", true),
        mount(&state, "/var/lib/pulumi-audit-forwarder", false),
    ]);
    strange.environment.insert("PAF_ADMIN__LISTEN".to_owned(), "127.0.0.1:0".to_owned());
    let program = strange.command[0].clone();
    let check = strange.exec(root, &[&program, "check"]);
    assert_eq!(check.status.code(), Some(69), "the world's authority is nobody's: {}", line(&check));

    // The bundle that the image has, with the world's authority in its place.
    let mut familiar = strange.clone();
    familiar.mounts.push(mount(world.ca_pem(), "/etc/ssl/certs/ca-certificates.crt", true));
    let check = familiar.exec(root, &[&program, "check"]);
    assert!(check.status.success(), "{}{}", line(&check), String::from_utf8_lossy(&check.stderr));

    // Names are looked up: nobody's address is written in the configuration of the image.
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port is free")
        .port();
    familiar.environment.insert("PAF_ADMIN__LISTEN".to_owned(), format!("127.0.0.1:{port}"));
    let health: Vec<String> = words(&IMAGE.config["Healthcheck"]["Test"]);
    assert_eq!(health[0], "CMD", "there is no shell for it");
    let health: Vec<&str> = health[1..].iter().map(String::as_str).collect();
    assert_eq!(familiar.exec(root, &health).status.code(), Some(1), "nothing runs yet");
    let mut daemon = familiar.start(root);
    delivered(&world, &mut daemon, "acme").await;
    let healthy = familiar.exec(root, &health);
    assert_eq!((healthy.status.code(), healthy.stdout), (Some(0), Vec::new()));
    assert!(daemon.stop().await.success());
    assert_eq!(familiar.exec(root, &health).status.code(), Some(1), "nothing runs any more");
}

#[test]
fn the_compose_file_is_valid_and_gives_the_container_nothing_to_write_but_its_state() {
    let check = "import json, jsonschema, sys, yaml
schema = json.load(open(sys.argv[2]))
compose = yaml.safe_load(open(sys.argv[1]))
jsonschema.validate(compose, schema)
json.dump(compose, sys.stdout)";
    let run = |file: &Path| {
        let schema = tool("docker-compose/usr/lib/python3/dist-packages/compose/config/compose_spec.json");
        Command::new(tool("venv/bin/python"))
            .args(["-c", check])
            .arg(file)
            .arg(schema)
            .output()
            .expect("Python starts")
    };
    let file = repository("deploy/container/compose.yaml");
    let output = run(&file);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let compose: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let service = &compose["services"]["forwarder"];
    assert_eq!(
        service["image"],
        format!("registry.example.com/pulumi-audit-forwarder:{}", env!("CARGO_PKG_VERSION"))
    );
    assert_eq!(service["user"], IMAGE.config["User"]);
    assert_eq!(service["read_only"], true);
    assert_eq!(service["cap_drop"], json!(["ALL"]));
    let volumes = service["volumes"].as_array().expect("it has volumes");
    assert_eq!(volumes[0], "state:/var/lib/pulumi-audit-forwarder");
    assert!(volumes[1..].iter().all(|volume| volume["read_only"] == true), "{volumes:?}");

    let directory = tempfile::tempdir().expect("a directory can be made");
    let spoilt = directory.path().join("compose.yaml");
    let text = fs::read_to_string(file).expect("it can be read");
    fs::write(&spoilt, text.replace("read_only: true\n", "readonly: true\n")).expect("it can be written");
    assert!(!run(&spoilt).status.success(), "a misspelt key was not noticed");
}
