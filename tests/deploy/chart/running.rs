//! The chart's pod on this machine: what is rendered is laid out as the kubelet would, and the daemon accepts it, runs in it and takes up
//! what changes.

use super::pod::delivered;
use super::*;

use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;

use crate::world::World;
use crate::world::certificates::Certificates;
use crate::world::clock::rfc3339;
use crate::world::daemon::{Daemon, until};
use crate::world::setup::{CLIENT_ID, CLIENT_SECRET, TENANT, rule_of};

/// What is in the namespace besides what the chart makes.
#[derive(Default)]
struct Namespace {
    config_maps: BTreeMap<String, BTreeMap<String, String>>,
    secrets: BTreeMap<String, BTreeMap<String, String>>,
}

type Texts<'a> = &'a [(&'a str, &'a str)];

fn texts(pairs: Texts<'_>) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

impl Namespace {
    fn of(objects: &[Object]) -> Namespace {
        let mut namespace = Namespace::default();
        for map in of_kind(objects, "ConfigMap") {
            let data = serde_json::from_value(map["data"].clone()).expect("it holds texts");
            namespace.config_maps.insert(text(&map["metadata"]["name"]).to_owned(), data);
        }
        namespace
    }

    fn config_map(mut self, name: &str, data: Texts<'_>) -> Namespace {
        self.config_maps.insert(name.to_owned(), texts(data));
        self
    }

    fn secret(mut self, name: &str, data: Texts<'_>) -> Namespace {
        self.secrets.insert(name.to_owned(), texts(data));
        self
    }

    /// The files of one source of a volume.
    fn files(&self, source: &Value, mode: u32) -> BTreeMap<String, Payload> {
        if let Some(path) = source["serviceAccountToken"]["path"].as_str() {
            let payload = Payload { bytes: b"a.token.of.the.cluster".to_vec(), mode: 0o600 };
            return BTreeMap::from([(path.to_owned(), payload)]);
        }
        let (all, source) = if source["configMap"].is_object() {
            (&self.config_maps, &source["configMap"])
        } else {
            (&self.secrets, &source["secret"])
        };
        let name =
            source["name"].as_str().or_else(|| source["secretName"].as_str()).expect("a source has a name");
        let data = all.get(name).unwrap_or_else(|| panic!("there is no {name}: the pod would not start"));
        let items: Vec<(String, String)> = match source["items"].as_array() {
            Some(items) => items
                .iter()
                .map(|item| (text(&item["key"]).to_owned(), text(&item["path"]).to_owned()))
                .collect(),
            None => data.keys().map(|key| (key.clone(), key.clone())).collect(),
        };
        let payload = |key: &String| Payload { bytes: data[key].clone().into_bytes(), mode };
        items.iter().map(|(key, path)| (path.clone(), payload(key))).collect()
    }
}

/// The chart's pod, laid out below a directory.
struct Pod {
    directory: PathBuf,
    stateful: Value,
    container: Container,
    turn: u32,
}

impl Pod {
    fn new(directory: &Path, objects: &[Object], namespace: &Namespace) -> Pod {
        let stateful = one(objects, "StatefulSet")["spec"].clone();
        let spec = &stateful["template"]["spec"];
        let (own, all) = (&spec["containers"][0], &spec["securityContext"]);
        let number =
            |key: &str| u32::try_from(all[key].as_u64().expect("it is a number")).expect("it is small");
        let mut environment = BTreeMap::from([("PATH".to_owned(), "/usr/bin".to_owned())]);
        for variable in items(&own["env"]) {
            environment.insert(text(&variable["name"]).to_owned(), text(&variable["value"]).to_owned());
        }
        let mount = |mount: &Value| Mount {
            from: directory.join(text(&mount["name"])),
            at: text(&mount["mountPath"]).to_owned(),
            read_only: mount["readOnly"] == true,
        };
        // The image's entry point, then the arguments.
        let command = std::iter::once("/usr/bin/pulumi-audit-forwarder")
            .chain(items(&own["args"]).iter().map(text))
            .map(str::to_owned)
            .collect();
        let container = Container {
            root: IMAGE.clone(),
            mounts: items(&own["volumeMounts"]).iter().map(mount).collect(),
            user: number("runAsUser"),
            group: number("runAsGroup"),
            fs_group: Some(number("fsGroup")),
            environment,
            command,
        };
        let mut pod = Pod { directory: directory.to_owned(), stateful, container, turn: 0 };
        for (name, mode) in [("tmp", 0o2777), ("state", 0o2775)] {
            let place = directory.join(name);
            fs::create_dir_all(&place).expect("a directory can be made");
            chown(&place, Some(0), pod.container.fs_group)
                .expect("only root can give files away: run these tests as root");
            fs::set_permissions(&place, fs::Permissions::from_mode(mode)).expect("a mode can be set");
        }
        pod.renew(namespace);
        pod
    }

    /// Brings the volumes to what the namespace holds.
    fn renew(&mut self, namespace: &Namespace) {
        self.turn += 1;
        for volume in items(&self.stateful["template"]["spec"]["volumes"]) {
            let mode = |of: &Value| {
                of["defaultMode"].as_u64().map_or(0o644, |mode| u32::try_from(mode).expect("it is small"))
            };
            let files = if volume["projected"].is_object() {
                let sources = items(&volume["projected"]["sources"]).iter();
                sources.flat_map(|source| namespace.files(source, mode(&volume["projected"]))).collect()
            } else if volume["configMap"].is_object() {
                namespace.files(volume, mode(&volume["configMap"]))
            } else if volume["csi"].is_object() {
                // As the driver leaves them: root's, and readable for everybody.
                BTreeMap::from([("acme-token".to_owned(), Payload { bytes: b"x".to_vec(), mode: 0o644 })])
            } else {
                continue;
            };
            let place = self.directory.join(text(&volume["name"]));
            write_volume(&place, &files, self.container.fs_group, self.turn);
        }
    }

    fn exec(&self, arguments: &[&str]) -> Output {
        self.container.exec(&self.directory, &[&["/usr/bin/pulumi-audit-forwarder"], arguments].concat())
    }
}

#[test]
fn the_daemon_accepts_every_rendered_configuration_as_the_pod_has_it() {
    for (set, (_, objects)) in RENDERED.iter() {
        let directory = tempfile::tempdir().expect("a directory can be made");
        let authority =
            fs::read_to_string(Certificates::create(directory.path()).ca_pem).expect("it was written");
        let beta = "org = \"beta\"\n[source]\ntoken = { file = \"/secrets/acme-token\" }\n[s3]\nbucket = \"audit\"\nregion = \"eu-west-1\"\n";
        let namespace = Namespace::of(objects)
            .secret("acme", &[("token", "pul-simulated\n")])
            .secret("beta", &[("token", "pul-simulated"), ("next-token", "pul-simulated-next")])
            .secret("pulumi-audit-forwarder-tokens", &[("acme-token", "pul-simulated")])
            .config_map("audited-orgs", &[("beta.toml", beta)])
            .config_map("own-authority", &[("ca.crt", &authority)]);
        let mut pod = Pod::new(directory.path(), objects, &namespace);
        if *set == "azure" {
            // What the cluster's webhook adds to a pod with that label.
            let token = pod.directory.join("azure-token");
            let payload = Payload { bytes: b"a.token.of.the.cluster".to_vec(), mode: 0o600 };
            write_volume(&token, &BTreeMap::from([("token".to_owned(), payload)]), pod.container.fs_group, 1);
            let at = "/var/run/secrets/azure/tokens";
            pod.container.mounts.push(Mount { from: token, at: at.to_owned(), read_only: true });
            for (name, value) in [
                ("AZURE_CLIENT_ID", CLIENT_ID),
                ("AZURE_TENANT_ID", TENANT),
                ("AZURE_FEDERATED_TOKEN_FILE", "/var/run/secrets/azure/tokens/token"),
            ] {
                pod.container.environment.insert(name.to_owned(), value.to_owned());
            }
        }
        let check = pod.exec(&["check", "--offline"]);
        let said = String::from_utf8_lossy(&check.stdout);
        assert!(check.status.success(), "{set}: {said}{}", err(&check));
        let shown = pod.exec(&["config", "show"]);
        assert!(shown.status.success(), "{set}: {}", err(&shown));
        let shown = String::from_utf8_lossy(&shown.stdout);
        assert!(shown.contains("listen = \"0.0.0.0:9465\""), "{set}: {shown}");
        for id in if *set == "minimal" {
            vec!["acme"]
        } else if *set == "azure" {
            vec!["acme", "beta_2"]
        } else {
            vec!["acme", "beta"]
        } {
            assert!(shown.contains(&format!("/etc/pulumi-audit-forwarder/orgs/{id}.toml")), "{set}: {shown}");
        }
        if *set == "aws" {
            // Why the chart takes the driver's secrets by way of a Secret.
            let direct = beta.replace("/secrets/acme-token", "/secrets-store/acme-token");
            pod.renew(&namespace.config_map("audited-orgs", &[("beta.toml", &direct)]));
            let refused = pod.exec(&["check", "--offline"]);
            assert_eq!(refused.status.code(), Some(78));
            assert!(
                err(&refused).contains("/secrets-store/acme-token can be read by others (mode 0644)"),
                "{}",
                err(&refused)
            );
        }
    }
}

/// The number in a line of `/proc/PID/status`.
fn in_status(daemon: &Daemon, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("the kernel says it");
    line.split_whitespace().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pod_delivers_and_takes_up_changed_config_maps_and_secrets_without_a_restart() {
    let world = World::builder().orgs(&["acme", "beta"]).events(120).start().await;
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a port is free")
        .port();
    let org = |id: &str, token: &str| {
        json!({
            "org": id,
            "start": rfc3339(world.clock.now() - 7_200),
            "source": {"token": {"file": token}},
            "sentinel": {
                "endpoint": world.ingestion_url(), "rule_id": rule_of(id), "authority": world.entra_url(),
                "ca_file": "/etc/ssl/own/ca.crt",
                "identity": {"kind": "client_secret", "tenant_id": TENANT, "client_id": CLIENT_ID, "secret": {"file": "/secrets/azure"}},
            },
        })
    };
    let values = json!({
        "image": {"repository": "registry.example.com/pulumi-audit-forwarder"},
        "admin": {"address": "127.0.0.1", "port": port},
        "forwarder": {"source": {
            "api_url": world.pulumi_url(), "poll_interval": "1s", "rescan_after": ["2s"],
            "requests_per_second": 200, "host_requests_per_second": 1000,
        }},
        "orgs": {"acme": {"config": org("acme", "/secrets/acme/token"), "secret": {"name": "acme", "keys": ["token"]}}},
        "orgConfigMaps": ["more-orgs"],
        "sharedSecrets": ["shared"],
        "extraVolumes": [{"name": "own-authority", "configMap": {"name": "own-authority"}}],
        "extraVolumeMounts": [{"name": "own-authority", "mountPath": "/etc/ssl/own", "readOnly": true}],
    });
    let file = world.paths.root.join("values.json");
    fs::write(&file, values.to_string()).expect("it can be written");
    let objects = objects(&template(&file.to_string_lossy(), &[]).expect("it renders"));
    let authority = fs::read_to_string(world.ca_pem()).expect("it is there");
    let tokens = ["acme", "beta"].map(|name| world.pulumi().org(name).token());
    let namespace = || {
        Namespace::of(&objects)
            .secret("acme", &[("token", &tokens[0])])
            .config_map("own-authority", &[("ca.crt", &authority)])
    };
    let before = namespace().secret("shared", &[("azure", CLIENT_SECRET)]).config_map("more-orgs", &[]);
    let directory = world.paths.root.join("pod");
    fs::create_dir_all(&directory).expect("a directory can be made");
    let mut pod = Pod::new(&directory, &objects, &before);
    let mut daemon = pod.container.start(&directory);
    delivered(&world, &mut daemon, "acme").await;
    assert_eq!(in_status(&daemon, "Uid:"), "65532");
    assert_eq!(in_status(&daemon, "CapEff:"), "0000000000000000");
    assert_eq!(in_status(&daemon, "NoNewPrivs:"), "1");

    // The probes, as the pod has them.
    let own = &one(&objects, "StatefulSet")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(own["ports"][0]["containerPort"], port);
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let path = text(&own[probe]["httpGet"]["path"]).to_owned();
        until(&format!("{probe} is answered"), async || {
            daemon.get(&path).await.is_some_and(|(status, _)| status == 200)
        })
        .await;
    }
    assert!(pod.exec(&["status", "--healthcheck"]).status.success());

    // Another org, and the token that it needs: keys of a ConfigMap and a Secret that are there already.
    let beta = org("beta", "/secrets/beta-token");
    let beta = toml::to_string(&beta).expect("it is TOML");
    let after = namespace()
        .secret("shared", &[("azure", CLIENT_SECRET), ("beta-token", &tokens[1])])
        .config_map("more-orgs", &[("beta.toml", &beta)]);
    pod.renew(&after);
    delivered(&world, &mut daemon, "beta").await;
    world.check_sentinel("acme").assert_complete();
    assert!(daemon.has_ended().is_none(), "by the same process");

    let wrote: BTreeSet<_> = fs::read_dir(directory.join("state"))
        .expect("it is there")
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert!(wrote.iter().any(|name| name == "journal.db"), "{wrote:?}");
    assert!(daemon.stop().await.success(), "{}", daemon.log());
    assert_eq!(pod.exec(&["status", "--healthcheck"]).status.code(), Some(1));
}
