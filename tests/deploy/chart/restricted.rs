//! Pod Security Standards, profile "restricted", as Kubernetes' documentation words it: what a pod must say, and what it must not.

use serde_json::{Value, json};

use super::{RENDERED, items, objects, one, template, text, values_of};

/// Volumes that the profile allows.
const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];

/// What the profile has against a pod; nothing where it may run.
fn against(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let mut unless = |good: bool, what: String| {
        if !good {
            found.push(what);
        }
    };
    for name in ["hostNetwork", "hostPID", "hostIPC"] {
        unless(pod[name] != true, name.to_owned());
    }
    for volume in items(&pod["volumes"]) {
        let kinds: Vec<_> = volume
            .as_object()
            .into_iter()
            .flatten()
            .map(|(key, _)| key.as_str())
            .filter(|key| *key != "name")
            .collect();
        unless(kinds.len() == 1 && VOLUMES.contains(&kinds[0]), format!("volume {kinds:?}"));
    }
    let all = &pod["securityContext"];
    unless(all["runAsUser"] != 0, "runAsUser of the pod".to_owned());
    unless(items(&all["sysctls"]).is_empty(), "sysctls".to_owned());
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let containers: Vec<_> = lists.iter().flat_map(|list| items(&pod[*list])).collect();
    unless(!containers.is_empty(), "no container".to_owned());
    for container in containers {
        let own = &container["securityContext"];
        let either = |key: &str| if own[key].is_null() { all[key].clone() } else { own[key].clone() };
        unless(own["privileged"] != true, "privileged".to_owned());
        unless(own["allowPrivilegeEscalation"] == false, "allowPrivilegeEscalation".to_owned());
        unless(either("runAsNonRoot") == true, "runAsNonRoot".to_owned());
        unless(own["runAsUser"] != 0, "runAsUser".to_owned());
        let seccomp = either("seccompProfile");
        unless(
            ["RuntimeDefault", "Localhost"].contains(&text(&seccomp["type"])),
            "seccompProfile".to_owned(),
        );
        unless(
            items(&own["capabilities"]["drop"]).iter().any(|name| name == "ALL"),
            "capabilities.drop".to_owned(),
        );
        let added = items(&own["capabilities"]["add"]);
        unless(added.iter().all(|name| name == "NET_BIND_SERVICE"), "capabilities.add".to_owned());
        let mount = text(&own["procMount"]);
        unless(mount.is_empty() || mount == "Default", "procMount".to_owned());
        unless(
            items(&container["ports"]).iter().all(|port| port["hostPort"].is_null()),
            "hostPort".to_owned(),
        );
    }
    found
}

#[test]
fn every_pod_may_run_under_pod_security_restricted() {
    let job = template(&values_of("aws"), &["--set", "maintenance.args={status}"]).expect("it renders");
    let job = one(&objects(&job), "Job")["spec"]["template"]["spec"].clone();
    let mut pods = vec![job];
    for (_, objects) in RENDERED.values() {
        pods.push(one(objects, "StatefulSet")["spec"]["template"]["spec"].clone());
    }
    for pod in &pods {
        assert_eq!(against(pod), Vec::<String>::new());
        // Not asked for by the profile, but by us.
        assert_eq!(pod["containers"][0]["securityContext"]["readOnlyRootFilesystem"], true);
        assert_eq!(pod["automountServiceAccountToken"], false);
        assert_eq!(pod["enableServiceLinks"], false);
    }
    // That each of the rules is one.
    for (place, value, what) in [
        ("/hostNetwork", json!(true), "hostNetwork"),
        ("/hostPID", json!(true), "hostPID"),
        ("/volumes/0", json!({"name": "x", "hostPath": {"path": "/"}}), "volume [\"hostPath\"]"),
        ("/securityContext/runAsUser", json!(0), "runAsUser of the pod"),
        ("/securityContext/runAsNonRoot", json!(false), "runAsNonRoot"),
        ("/securityContext/seccompProfile/type", json!("Unconfined"), "seccompProfile"),
        ("/securityContext/sysctls", json!([{"name": "kernel.x", "value": "1"}]), "sysctls"),
        ("/containers/0/securityContext/allowPrivilegeEscalation", json!(true), "allowPrivilegeEscalation"),
        ("/containers/0/securityContext/privileged", json!(true), "privileged"),
        ("/containers/0/securityContext/capabilities/drop", json!(["NET_RAW"]), "capabilities.drop"),
        ("/containers/0/securityContext/capabilities/add", json!(["SYS_ADMIN"]), "capabilities.add"),
        ("/containers/0/ports/0/hostPort", json!(9465), "hostPort"),
    ] {
        let mut spoilt = one(&RENDERED["minimal"].1, "StatefulSet")["spec"]["template"]["spec"].clone();
        let (parent, key) = place.rsplit_once('/').expect("it is a path");
        let parent = spoilt.pointer_mut(parent).expect("it is there");
        match key.parse::<usize>() {
            Ok(index) => parent[index] = value,
            Err(_) => parent[key] = value,
        }
        assert_eq!(against(&spoilt), [what], "{place}");
    }
}
