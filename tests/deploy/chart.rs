//! The Helm chart: rendered for several sets of values, held against the schemas of Kubernetes, and its pod brought to life: volumes as
//! the kubelet writes them, the real binary as the user and in the root that it says.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::LazyLock;

use serde_json::{Value, json};

use pod::{Container, IMAGE, Mount, Payload, done, repository, write_volume};

pub(crate) mod pod;
mod restricted;
mod running;

/// The sets of values below `ci`.
const SETS: [&str; 3] = ["minimal", "azure", "aws"];
const CHART: &str = "deploy/helm/pulumi-audit-forwarder";

pub(crate) fn tool(path: &str) -> std::path::PathBuf {
    let tool = repository(".tools").join(path);
    assert!(tool.exists(), "{} is missing: run `make tools`", tool.display());
    tool
}

/// Helm with a home of its own that goes away.
fn helm(arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().expect("a directory can be made");
    Command::new(tool("kubernetes/helm/helm"))
        .args(arguments)
        .env("HOME", home.path())
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("Helm starts")
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn values_of(set: &str) -> String {
    format!("{CHART}/ci/{set}-values.yaml")
}

/// What Helm makes of a file of values and more arguments.
fn template(values: &str, more: &[&str]) -> Result<String, String> {
    let output =
        helm(&[&["template", "paf", CHART, "--namespace", "audit", "--values", values], more].concat());
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).expect("it is text"))
    } else {
        Err(err(&output))
    }
}

/// Runs a program to its end with something on its standard input; it must succeed. What it writes is JSON.
fn asked(command: &mut Command, input: &[u8]) -> Value {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut given = child.stdin.take().expect("its input is a pipe");
    given.write_all(input).expect("it reads");
    drop(given);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{command:?}: {}", err(&output));
    serde_json::from_slice(&output.stdout).expect("it answers in JSON")
}

/// An object, and what Kubernetes says against it.
#[derive(Clone, Debug)]
pub(super) struct Object {
    value: Value,
    problem: Option<String>,
}

fn objects(yaml: &str) -> Vec<Object> {
    let mut python = Command::new(tool("venv/bin/python"));
    let said = asked(python.arg(repository("tests/deploy/chart/objects.py")), yaml.as_bytes());
    let said = said.as_array().cloned().expect("it is a list");
    said.into_iter()
        .map(|mut said| Object {
            value: said["object"].take(),
            problem: said["problem"].as_str().map(str::to_owned),
        })
        .collect()
}

/// Each set, rendered once: the text, and its objects.
static RENDERED: LazyLock<BTreeMap<&str, (String, Vec<Object>)>> = LazyLock::new(|| {
    let render = |set| {
        let text = template(&values_of(set), &[]).unwrap_or_else(|error| panic!("{set}: {error}"));
        let objects = objects(&text);
        (set, (text, objects))
    };
    SETS.into_iter().map(render).collect()
});

fn of_kind<'a>(objects: &'a [Object], kind: &str) -> Vec<&'a Value> {
    objects.iter().map(|object| &object.value).filter(|value| value["kind"] == kind).collect()
}

fn one<'a>(objects: &'a [Object], kind: &str) -> &'a Value {
    let [one] = of_kind(objects, kind)[..] else { panic!("there is not one {kind}") };
    one
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[test]
fn helms_linter_has_nothing_against_the_chart() {
    for set in SETS {
        let output = helm(&["lint", "--strict", CHART, "--values", &values_of(set)]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success() && said.contains("1 chart(s) linted, 0 chart(s) failed"),
            "{set}: {said}"
        );
        assert!(!said.contains("[WARNING]") && !said.contains("[ERROR]"), "{set}: {said}");
    }
}

#[test]
fn each_set_of_values_renders_to_what_is_written_down() {
    for (set, (text, _)) in RENDERED.iter() {
        // The rules are compared with their file elsewhere, and change with it.
        let shown: Vec<_> = text
            .split("---\n")
            .map(|document| match document.split_once("\nspec:\n") {
                Some((head, _)) if document.contains("kind: PrometheusRule") => {
                    format!("{head}\nspec: the rule file\n")
                }
                _ => document.to_owned(),
            })
            .collect();
        insta::assert_snapshot!(*set, shown.join("---\n"));
    }
}

#[test]
fn kubernetes_has_nothing_against_any_object() {
    let chart = fs::read_to_string(repository(&format!("{CHART}/Chart.yaml"))).expect("it can be read");
    let versions = fs::read_to_string(repository("tests/deploy/chart/objects.py")).expect("it can be read");
    assert!(chart.contains("\nkubeVersion: \">=1.29.0-0\"\n") && versions.contains("VERSIONS = (\"1.29\", "));
    let job = template(&values_of("minimal"), &["--set", "maintenance.args={adopt,--org,acme,--yes}"]);
    let job = job.expect("it renders");
    let with_job = ("maintenance", (job.clone(), objects(&job)));
    for (set, (_, objects)) in RENDERED.iter().chain([(&with_job.0, &with_job.1)]) {
        assert!(objects.len() >= 6, "{set}: the objects were found");
        for object in objects {
            assert_eq!(object.problem, None, "{set}: {}", object.value);
        }
    }
    assert_eq!(one(&with_job.1.1, "StatefulSet")["spec"]["replicas"], 0, "a Job does not share the state");
    assert_eq!(one(&with_job.1.1, "Job")["spec"]["template"]["spec"]["containers"][0]["args"][0], "adopt");

    // That misspelt fields and missing ones are noticed at all.
    let (text, _) = &RENDERED["minimal"];
    for (right, wrong) in [
        ("runAsNonRoot:", "runAsNonroot:"),
        ("publishNotReadyAddresses:", "publishUnreadyAddresses:"),
        ("maxUnavailable: 1", "maxUnavailable: [1]"),
        ("serviceName:", "nameOfService:"),
    ] {
        let spoilt = objects(&text.replace(right, wrong));
        assert!(spoilt.iter().any(|object| object.problem.is_some()), "{wrong} was not noticed");
    }
}

/// What the definitions of Prometheus' operator say against objects of it.
fn operator(objects: &[Value]) -> Vec<Option<String>> {
    let models = tool("kubernetes");
    let mut node = Command::new("node");
    let said = asked(
        node.arg(repository("tests/deploy/chart/operator.mjs")).arg(models),
        Value::from(objects.to_vec()).to_string().as_bytes(),
    );
    items(&said).iter().map(|said| said.as_str().map(str::to_owned)).collect()
}

#[test]
fn the_operators_definitions_have_nothing_against_the_monitor_and_the_rules() {
    let (_, objects) = &RENDERED["azure"];
    let (monitor, rule) = (one(objects, "ServiceMonitor"), one(objects, "PrometheusRule"));
    assert_eq!(operator(&[monitor.clone(), rule.clone()]), [None, None]);
    let mut without = monitor.clone();
    without["spec"].as_object_mut().expect("it has a spec").remove("endpoints");
    let mut misspelt = monitor.clone();
    misspelt["spec"]["endpoints"][0]["scrapeTimeOut"] = "10s".into();
    let mut nameless = rule.clone();
    nameless["spec"]["groups"][0].as_object_mut().expect("a group is a table").remove("name");
    assert!(operator(&[without, misspelt, nameless]).iter().all(Option::is_some), "mistakes are noticed");
}

#[test]
fn the_charts_alerts_are_those_of_the_rule_file() {
    let file = fs::read_to_string(repository("deploy/prometheus/pulumi-audit-forwarder.rules.yml"));
    let file = file.expect("it can be read");
    let (_, objects) = &RENDERED["azure"];
    let rule = one(objects, "PrometheusRule");
    assert_eq!(
        rule["spec"],
        self::objects(&file.replacen("groups:", "apiVersion: monitoring.coreos.com/v1\nkind: R\ngroups:", 1))
            [0]
        .value
        .as_object()
        .map(|rules| json!({ "groups": rules["groups"] }))
        .expect("it is a table")
    );
    let directory = tempfile::tempdir().expect("a directory can be made");
    let extracted = directory.path().join("rules.yml");
    fs::write(&extracted, rule["spec"].to_string()).expect("it can be written");
    let said =
        done(Command::new(tool("prometheus/usr/bin/promtool")).args(["check", "rules"]).arg(&extracted))
            .stdout;
    assert!(String::from_utf8_lossy(&said).contains("SUCCESS"), "{}", String::from_utf8_lossy(&said));
    // What people install has the file itself, not a link to where it lies here.
    done(
        Command::new(tool("kubernetes/helm/helm"))
            .args(["package", CHART, "--destination"])
            .arg(directory.path())
            .env("HOME", directory.path())
            .current_dir(env!("CARGO_MANIFEST_DIR")),
    );
    let package = directory.path().join(format!("pulumi-audit-forwarder-{}.tgz", env!("CARGO_PKG_VERSION")));
    let packed =
        done(Command::new("tar").arg("xOzf").arg(package).arg("pulumi-audit-forwarder/files/rules.yml"))
            .stdout;
    assert_eq!(String::from_utf8_lossy(&packed), file);
}

#[test]
fn the_secret_provider_class_has_only_what_its_definition_knows() {
    let (_, objects) = &RENDERED["aws"];
    let class = one(objects, "SecretProviderClass");
    let keys = |value: &Value| {
        value.as_object().map(|table| table.keys().cloned().collect::<Vec<_>>()).unwrap_or_default()
    };
    assert_eq!(keys(&class["spec"]), ["parameters", "provider", "secretObjects"]);
    assert_eq!(class["spec"]["provider"], "aws");
    assert!(class["spec"]["parameters"].as_object().is_some_and(|all| all.values().all(Value::is_string)));
    let [object] = items(&class["spec"]["secretObjects"]) else { panic!("there is one") };
    assert_eq!(keys(object), ["data", "secretName", "type"]);
    assert_eq!(keys(&object["data"][0]), ["key", "objectName"]);
}

#[test]
fn chart_and_program_have_one_version() {
    let chart = fs::read_to_string(repository(&format!("{CHART}/Chart.yaml"))).expect("it can be read");
    for key in ["version", "appVersion"] {
        let line = format!("\n{key}: {}\n", env!("CARGO_PKG_VERSION"));
        assert!(chart.contains(&line), "Chart.yaml lacks{line}");
    }
}

/// The keys of a JSON Schema that say what is allowed; what people read of it changes more often.
fn structure(schema: &Value) -> Value {
    match schema {
        Value::Object(table) => {
            let kept = table.iter().filter(|(key, _)| !["description", "default"].contains(&key.as_str()));
            let kept = kept.map(|(key, value)| match (key.as_str(), value) {
                ("properties", Value::Object(properties)) => {
                    let properties =
                        properties.iter().map(|(name, schema)| (name.clone(), structure(schema)));
                    (key.clone(), Value::Object(properties.collect()))
                }
                _ => (key.clone(), structure(value)),
            });
            Value::Object(kept.collect())
        }
        Value::Array(list) => list.iter().map(structure).collect(),
        other => other.clone(),
    }
}

/// With `RENEW` set, the schema of the values is written anew where it holds the daemon's.
#[test]
fn the_schema_of_the_values_knows_the_daemons_own_keys() {
    let daemon =
        done(Command::new(env!("CARGO_BIN_EXE_pulumi-audit-forwarder")).args(["config", "schema"])).stdout;
    let daemon: Value = serde_json::from_slice(&daemon).expect("it is JSON");
    let wanted = structure(&daemon)["$defs"].take();
    let path = repository(&format!("{CHART}/values.schema.json"));
    let mut schema: Value =
        serde_json::from_slice(&fs::read(&path).expect("it is there")).expect("it is JSON");
    if std::env::var_os("RENEW").is_some() {
        schema["$defs"] = wanted.clone();
        fs::write(&path, serde_json::to_string_pretty(&schema).expect("it is JSON") + "\n")
            .expect("it is written");
    }
    assert_eq!(schema["$defs"], wanted, "RENEW=1 cargo test --test deploy the_schema_of_the_values");
    assert!(wanted["OrgFile"]["properties"]["sentinel"].is_object(), "it was understood");
}

#[test]
fn values_that_cannot_be_meant_are_refused_with_their_place() {
    for (set, said) in [
        ("image.repository=", "/image/repository"),
        ("replicas=2", "replicas"),
        ("persistance.size=1Gi", "persistance"),
        ("persistence.accessModes={ReadWriteMany}", "/persistence/accessModes/0"),
        ("orgs.acme.config.s3.buckett=x", "buckett"),
        ("orgs.acme.config.sentinel.columns=all", "/orgs/acme/config/sentinel/columns"),
        ("orgs.acme.toml=x", "/orgs/acme"),
        ("orgs.Acme.config.org=x", "Acme"),
        ("orgs.acme.secret.name=x,orgs.acme.secret.keys={../x}", "/orgs/acme/secret/keys/0"),
        ("forwarder.admin.listen=off", "admin"),
        ("forwarder.state_dir=/tmp", "state_dir"),
        ("admin.port=80", "/admin/port"),
        ("runAs.user=0", "/runAs/user"),
        ("awsRoleArn=role", "/awsRoleArn"),
        ("secretsStore.enabled=true", "/secretsStore/provider"),
        ("azureWorkloadIdentity.enabled=true", "azureWorkloadIdentity.clientId"),
        (
            "serviceAccount.create=false,awsRoleArn=arn:aws:iam::123456789012:role/x",
            "annotate that service account",
        ),
    ] {
        let refused = template(&values_of("minimal"), &["--set", set]);
        let error = refused.expect_err(&format!("{set} was accepted"));
        assert!(error.contains(said), "{set}: {error}");
    }
    let nobody = helm(&["template", "paf", CHART, "--set", "image.repository=x"]);
    assert!(!nobody.status.success() && err(&nobody).contains("no org"), "{}", err(&nobody));
}

#[test]
fn every_value_is_in_the_schema_and_explained() {
    let read =
        |name: &str| fs::read_to_string(repository(&format!("{CHART}/{name}"))).expect("it can be read");
    let (values, schema, page) = (read("values.yaml"), read("values.schema.json"), read("README.md"));
    let schema: Value = serde_json::from_str(&schema).expect("it is JSON");
    let keys: BTreeSet<&str> = values
        .lines()
        .filter(|line| line.starts_with(|letter: char| letter.is_ascii_lowercase()))
        .filter_map(|line| Some(line.split_once(':')?.0))
        .collect();
    let known = schema["properties"].as_object().expect("it is a table").keys().map(String::as_str);
    // Helm's own, of charts that hold this one.
    assert_eq!(known.filter(|key| *key != "global").collect::<BTreeSet<_>>(), keys);
    for key in keys {
        assert!(page.contains(&format!("`{key}")), "README.md of the chart does not explain {key}");
    }
}

#[test]
fn the_values_that_the_pages_show_render() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let file = directory.path().join("values.yaml");
    for page in ["docs/kubernetes.md", "deploy/helm/pulumi-audit-forwarder/README.md"] {
        let text = fs::read_to_string(repository(page)).expect("it can be read");
        let (_, block) = text.split_once("```yaml\n# values.yaml").expect("it shows values");
        let (block, _) = block.split_once("```").expect("the block ends");
        fs::write(&file, format!("#{block}")).expect("it can be written");
        let rendered = template(&file.to_string_lossy(), &[]);
        assert!(rendered.is_ok_and(|text| text.contains("acme.toml: |")), "{page}");
    }
}

#[test]
fn what_the_platform_chooses_and_what_is_there_already_is_left_out() {
    let more = [
        "runAs.user=null,runAs.group=null,runAs.fsGroup=null,orgConfigMaps={others}",
        "persistence.existingClaim=kept,admin.address=[::],podDisruptionBudget.enabled=false",
        "secretsStore.enabled=true,secretsStore.className=theirs,serviceAccount.create=false",
    ];
    let objects = objects(&template(&values_of("minimal"), &["--set", &more.join(",")]).expect("it renders"));
    assert!(objects.iter().all(|object| object.problem.is_none()));
    let kinds: Vec<_> = objects.iter().map(|object| text(&object.value["kind"])).collect();
    assert!(
        !["PodDisruptionBudget", "SecretProviderClass", "ServiceAccount"]
            .iter()
            .any(|kind| kinds.contains(kind))
    );
    let stateful = &one(&objects, "StatefulSet")["spec"];
    let pod = &stateful["template"]["spec"];
    assert!(["runAsUser", "runAsGroup", "fsGroup"].iter().all(|key| pod["securityContext"][key].is_null()));
    assert_eq!(pod["serviceAccountName"], "default");
    assert!(stateful["volumeClaimTemplates"].is_null());
    let volume = |name: &str| {
        items(&pod["volumes"]).iter().find(|volume| volume["name"] == name).cloned().unwrap_or_default()
    };
    assert_eq!(volume("state")["persistentVolumeClaim"]["claimName"], "kept");
    assert_eq!(volume("secrets-store")["csi"]["volumeAttributes"]["secretProviderClass"], "theirs");
    assert_eq!(volume("orgs")["projected"]["sources"][1]["configMap"]["name"], "others");
    let file = &one_named(&objects, "ConfigMap", "paf-pulumi-audit-forwarder")["data"]["forwarder.toml"];
    assert!(text(file).contains("listen = \"[::]:9465\""), "{file}");
}

fn one_named<'a>(objects: &'a [Object], kind: &str, name: &str) -> &'a Value {
    let found = of_kind(objects, kind).into_iter().find(|object| object["metadata"]["name"] == name);
    found.expect("it is rendered")
}

/// Whether labels are among others.
fn selects(selector: &Value, labels: &Value) -> bool {
    let selector = selector.as_object().expect("a selector is a table");
    !selector.is_empty() && selector.iter().all(|(name, value)| &labels[name] == value)
}

#[test]
fn whatever_an_object_refers_to_is_there() {
    for (set, (_, objects)) in RENDERED.iter() {
        let stateful = &one(objects, "StatefulSet")["spec"];
        let (pod, labels) = (&stateful["template"]["spec"], &stateful["template"]["metadata"]["labels"]);
        assert!(selects(&stateful["selector"]["matchLabels"], labels), "{set}");
        assert!(selects(&one(objects, "Service")["spec"]["selector"], labels), "{set}");
        assert!(
            selects(&one(objects, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"], labels),
            "{set}"
        );
        for policy in of_kind(objects, "NetworkPolicy") {
            assert!(selects(&policy["spec"]["podSelector"]["matchLabels"], labels), "{set}");
        }
        for monitor in of_kind(objects, "ServiceMonitor") {
            let service = one(objects, "Service");
            assert!(
                selects(&monitor["spec"]["selector"]["matchLabels"], &service["metadata"]["labels"]),
                "{set}"
            );
            assert_eq!(monitor["spec"]["endpoints"][0]["port"], service["spec"]["ports"][0]["name"], "{set}");
        }
        assert_eq!(stateful["serviceName"], one(objects, "Service")["metadata"]["name"], "{set}");
        assert_eq!(pod["serviceAccountName"], one(objects, "ServiceAccount")["metadata"]["name"], "{set}");

        let container = &pod["containers"][0];
        let mut volumes: BTreeSet<&str> =
            items(&pod["volumes"]).iter().map(|volume| text(&volume["name"])).collect();
        volumes.extend(
            items(&stateful["volumeClaimTemplates"]).iter().map(|claim| text(&claim["metadata"]["name"])),
        );
        let mounted: BTreeSet<&str> =
            items(&container["volumeMounts"]).iter().map(|mount| text(&mount["name"])).collect();
        assert_eq!(volumes, mounted, "{set}: every volume is mounted, and every mount has its volume");
        assert!(
            items(&container["volumeMounts"]).iter().all(|mount| mount["subPath"].is_null()),
            "{set}: never renewed"
        );

        let maps: BTreeSet<_> =
            of_kind(objects, "ConfigMap").iter().map(|map| text(&map["metadata"]["name"])).collect();
        let others = ["audited-orgs", "own-authority"];
        let mut wanted = BTreeSet::new();
        for volume in items(&pod["volumes"]) {
            wanted.extend(volume["configMap"]["name"].as_str());
            wanted.extend(
                items(&volume["projected"]["sources"])
                    .iter()
                    .filter_map(|one| one["configMap"]["name"].as_str()),
            );
        }
        assert_eq!(maps.difference(&wanted).next(), None, "{set}: nothing uses the ConfigMap");
        for name in wanted.difference(&maps) {
            assert!(others.contains(name), "{set}: there is no ConfigMap {name}");
        }
    }
    let (_, azure) = &RENDERED["azure"];
    let template = &one(azure, "StatefulSet")["spec"]["template"];
    assert_eq!(template["metadata"]["labels"]["azure.workload.identity/use"], "true");
    let account = one(azure, "ServiceAccount");
    assert_eq!(
        account["metadata"]["annotations"]["azure.workload.identity/client-id"],
        "22222222-2222-2222-2222-222222222222"
    );
    let (_, aws) = &RENDERED["aws"];
    let role = &one(aws, "ServiceAccount")["metadata"]["annotations"]["eks.amazonaws.com/role-arn"];
    assert_eq!(role, "arn:aws:iam::123456789012:role/pulumi-audit-forwarder");
}
