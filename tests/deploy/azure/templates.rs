//! The templates themselves: that the two mean the same, that Azure knows what they say, and that what they put out can be pasted.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use super::{
    Deployment, HEARTBEAT_TABLE, OBJECT_ID, TABLE, asked, binary, node, python, repository, simulated,
};
use crate::world::ingestion::rows::Type;
use crate::world::ingestion::{Columns, official_columns, table_columns};

#[test]
fn bicep_and_arm_send_the_same_in_an_order_that_azure_takes_whatever_is_chosen() {
    let mut command = python("templates.py");
    command.args(["compare"]).arg(repository("deploy/azure/main.bicep"));
    command.arg(repository("deploy/azure/azuredeploy.json"));
    let compared = asked(command, &Value::Null);
    assert_eq!(compared["problems"], json!([]));
    assert!(compared["deployments"].as_u64() >= Some(192), "every choice was tried: {compared}");
}

/// What the models of Azure's clients say of resources, and whom they know.
fn judged(resources: &[&Value]) -> (Vec<String>, BTreeSet<String>) {
    let (mut problems, mut known) = (Vec::new(), BTreeSet::new());
    for command in [python("models.py"), node("models.mjs")] {
        let answer = asked(command, &json!(resources));
        let texts = |key: &str| -> Vec<String> {
            serde_json::from_value(answer[key].clone()).unwrap_or_else(|error| panic!("{key}: {error}"))
        };
        problems.extend(texts("problems"));
        known.extend(texts("judged"));
    }
    (problems, known)
}

#[test]
fn azures_own_models_know_every_field_of_every_resource() {
    let direct = Deployment::with(&json!({"columns": "connector"}));
    let private = Deployment::with(&json!({"privateLink": true, "plan": "Basic", "heartbeat": false}));
    let resources = [direct.resources(), private.resources()].concat();
    let (problems, known) = judged(&resources);
    assert!(problems.is_empty(), "{problems:#?}");
    let ids: BTreeSet<_> =
        resources.iter().map(|resource| resource["id"].as_str().expect("an id").to_owned()).collect();
    assert_eq!(known, ids, "there is a model of each");
    let types: BTreeSet<_> = resources.iter().map(|resource| resource["type"].to_string()).collect();
    assert_eq!(types.len(), 6, "{types:?}");
}

#[test]
fn what_azure_does_not_know_is_noticed() {
    let deployment = Deployment::with(&json!({"privateLink": true}));
    let all = deployment.resources();
    let spoil = |kind: &str, path: &str, value: Value| {
        let mut resource = (*all.iter().find(|one| one["type"] == kind).expect("it is deployed")).clone();
        let (above, last) = path.rsplit_once('/').expect("a path");
        resource.pointer_mut(above).expect("it is there")[last] = value;
        resource
    };
    let (insights, sentinel) = ("Microsoft.Insights", "Microsoft.SecurityInsights/alertRules");
    let rule = format!("{insights}/dataCollectionRules");
    let table = "Microsoft.OperationalInsights/workspaces/tables";
    let spoiled = [
        spoil(&rule, "/properties/dataFlows/0/transformKQL", json!("source")),
        spoil(
            &rule,
            "/properties/streamDeclarations/Custom-PulumiAuditLogs_CL/columns/0/type",
            json!("guid"),
        ),
        spoil(&rule, "/properties/immutableId", json!("dcr-0")),
        spoil(table, "/properties/schema/columns/0/type", json!("datetimes")),
        spoil(table, "/properties/retentionInDays", json!("30")),
        spoil("Microsoft.Authorization/roleAssignments", "/properties/principalType", json!("App")),
        spoil(
            &format!("{insights}/dataCollectionEndpoints"),
            "/properties/networkAcls/publicNetworkAccess",
            json!("Off"),
        ),
        spoil(&format!("{insights}/diagnosticSettings"), "/properties/logs/0/enable", json!(true)),
        spoil(sentinel, "/properties/queryPeriod", json!("15m")),
        spoil(sentinel, "/properties/entityMappings/0/entityType", json!("Person")),
        spoil(sentinel, "/properties/incidentConfiguration/create", json!(true)),
    ];
    let (problems, _) = judged(&spoiled.iter().collect::<Vec<_>>());
    assert_eq!(problems.len(), spoiled.len(), "each is noticed: {problems:#?}");
}

/// What a table that is there makes of one that is written as a whole: columns are added, and none may change its type.
fn written_over(there: &Columns, sent: &[(String, String)]) -> Result<Columns, String> {
    let sent = simulated(sent);
    for (name, kind) in there {
        match sent.iter().find(|(known, _)| known == name) {
            None => return Err(format!("{name} is not listed")),
            Some((_, other)) if other != kind => return Err(format!("{name} would change its type")),
            Some(_) => {}
        }
    }
    Ok(sent)
}

#[test]
fn an_official_table_keeps_its_columns_and_gets_the_forwarders() {
    let official = official_columns();
    assert_eq!(official.len(), 15);
    for columns in ["extended", "official", "connector"] {
        let sent = Deployment::with(&json!({"columns": columns})).table(TABLE);
        let mut now = written_over(&official, &sent).unwrap_or_else(|problem| panic!("{columns}: {problem}"));
        let mut wanted = table_columns();
        now.sort_by(|one, other| one.0.cmp(&other.0));
        wanted.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!(now, wanted, "{columns}");
        // Deployed again over itself.
        written_over(&now, &sent).unwrap_or_else(|problem| panic!("{columns}: {problem}"));
    }
    let sent = Deployment::with(&json!({})).table(TABLE);
    let less: Vec<_> = sent.iter().filter(|(name, _)| name != "TokenID_s").cloned().collect();
    assert_eq!(written_over(&official, &less), Err("TokenID_s is not listed".to_owned()));
    let other = [("Timestamp_d".to_owned(), Type::Real)].to_vec();
    assert_eq!(written_over(&other, &sent), Err("Timestamp_d would change its type".to_owned()));
}

#[test]
fn the_identity_may_write_through_this_rule_and_nothing_else() {
    for private in [false, true] {
        let deployment = Deployment::with(&json!({"privateLink": private}));
        let rule = deployment.rule();
        let roles = deployment.of_type("Microsoft.Authorization/roleAssignments");
        assert_eq!(roles.len(), 1);
        assert_eq!(roles[0]["scope"], rule["id"]);
        let given = &roles[0]["properties"];
        assert_eq!(
            (&given["principalId"], &given["principalType"]),
            (&json!(OBJECT_ID), &json!("ServicePrincipal"))
        );
        let role = given["roleDefinitionId"].as_str().expect("a role");
        assert!(role.ends_with("/roleDefinitions/3913510d-42f4-4e42-8a64-420c390055eb"), "{role}");

        let settings = deployment.of_type("Microsoft.Insights/diagnosticSettings");
        assert_eq!((settings.len(), &settings[0]["scope"]), (1, &rule["id"]));
        assert_eq!(settings[0]["properties"]["logs"], json!([{"category": "LogErrors", "enabled": true}]));

        let endpoints = deployment.of_type("Microsoft.Insights/dataCollectionEndpoints");
        if private {
            assert!(rule.get("kind").is_none(), "{rule}");
            assert_eq!(rule["properties"]["dataCollectionEndpointId"], endpoints[0]["id"]);
            assert_eq!(endpoints[0]["properties"]["networkAcls"]["publicNetworkAccess"], "Disabled");
        } else {
            assert_eq!((rule["kind"].as_str(), endpoints.len()), (Some("Direct"), 0));
            assert!(rule["properties"].get("dataCollectionEndpointId").is_none(), "{rule}");
        }
    }
}

#[test]
fn what_is_switched_off_is_not_deployed() {
    let less = Deployment::with(&json!({"heartbeat": false, "analyticRules": false}));
    assert_eq!(less.of_type("Microsoft.OperationalInsights/workspaces/tables").len(), 1);
    assert_eq!((less.alert_rules().len(), less.streams().len()), (0, 1));
    let basic = Deployment::with(&json!({"plan": "Basic"}));
    assert_eq!(basic.alert_rules().len(), 0, "they need the other plan");
    let all = Deployment::with(&json!({}));
    assert_eq!((all.alert_rules().len(), all.streams().len()), (3, 2));
    assert_eq!(all.table(HEARTBEAT_TABLE), all.stream("Custom-PulumiAuditHeartbeat_CL"));
    for rule in all.alert_rules() {
        assert_eq!(rule["properties"]["incidentConfiguration"]["createIncident"], true, "{rule}");
    }
}

#[test]
fn the_section_that_is_put_out_is_a_valid_one_whatever_is_chosen() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let root = directory.path();
    let orgs = root.join("orgs");
    std::fs::create_dir(&orgs).expect("it can be made");
    let write =
        |path: &str, text: &str| std::fs::write(root.join(path), text).expect("a file can be written");
    let checked = |arguments: &[&str]| {
        let mut command = Command::new(binary());
        command.arg("--config").arg(root.join("forwarder.toml")).args(arguments).env("PULUMI_TOKEN", "pul-x");
        let output = command.output().expect("the binary starts");
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{err}");
        out.into_owned()
    };
    let org = "org = \"acme\"\n\n[source]\ntoken = { env = \"PULUMI_TOKEN\" }\n\n";
    for (columns, private, heartbeat, cloud) in [
        ("extended", false, true, "AzureCloud"),
        ("official", true, true, "AzureCloud"),
        ("connector", false, false, "AzureUSGovernment"),
        ("extended", true, false, "AzureChinaCloud"),
    ] {
        let parameters = json!({"columns": columns, "privateLink": private, "heartbeat": heartbeat});
        let section = Deployment::of(&parameters, cloud, &json!({})).section();
        write("forwarder.toml", "state_dir = \"state\"\n");
        write("orgs/acme.toml", &format!("{org}{section}\n"));
        let said = checked(&["check", "--offline"]);
        assert!(said.contains("acme  acme from now, into sentinel"), "{said}");
        assert!(!said.contains("warning"), "{said}");
        let shown = checked(&["config", "show"]);
        let stream =
            if columns == "connector" { "Custom-PulumiAuditLogs" } else { "Custom-PulumiAuditLogs_CL" };
        assert!(shown.contains(&format!("{stream:?}")) && shown.contains(&format!("{columns:?}")), "{shown}");
        assert_eq!(shown.contains("Custom-PulumiAuditHeartbeat_CL"), heartbeat, "{shown}");
        // Once for all orgs, as the page says.
        write("forwarder.toml", &format!("state_dir = \"state\"\n\n{section}\n"));
        write("orgs/acme.toml", &format!("{org}[sentinel]\n"));
        let said = checked(&["check", "--offline"]);
        assert!(said.contains("acme  acme from now, into sentinel"), "{said}");
    }
    let page = super::read("docs/azure.md");
    let section = Deployment::with(&json!({})).section();
    let keys = |text: &str| {
        text.lines().map(|line| line.split(" = ").next().unwrap_or_default().to_owned()).collect::<Vec<_>>()
    };
    let shown = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a section");
    assert_eq!(keys(shown), keys(&section), "the page shows what is put out");
}

/// The deployments that a page shows, each as its words.
pub(super) fn documented(page: &str) -> Vec<Vec<String>> {
    let text = super::read(page).replace("\\\n", " ");
    let commands = text.lines().filter(|line| line.starts_with("az deployment group create "));
    commands.map(|line| line.split_whitespace().map(str::to_owned).collect()).collect()
}

/// The parameters that such a command gives.
pub(super) fn given_in(command: &[String]) -> Value {
    let words = command
        .iter()
        .skip_while(|word| *word != "--parameters")
        .skip(1)
        .take_while(|word| !word.starts_with("--"));
    let value = |text: &str| serde_json::from_str(text).unwrap_or_else(|_| json!(text.trim_matches('"')));
    let pairs = words.map(|word| word.split_once('=').unwrap_or_else(|| panic!("{word} is no parameter")));
    pairs.map(|(name, text)| (name.to_owned(), value(text))).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn every_deployment_that_a_page_shows_is_one_of_the_template() {
    let commands = [documented("docs/azure.md"), documented("docs/replace-the-connector.md")].concat();
    assert_eq!(commands.len(), 5, "{commands:?}");
    for command in commands {
        let given = given_in(&command);
        assert!(given["workspaceName"] == "siem" && given["principalId"].is_string(), "{given}");
        let deployment = Deployment::with(&given);
        assert_eq!(
            deployment.of_type("Microsoft.Insights/dataCollectionEndpoints").len(),
            usize::from(given["privateLink"] == true)
        );
        let file = command.iter().skip_while(|word| *word != "--template-file").nth(1).expect("a template");
        assert!(repository(file).exists(), "{file}");
    }
}
