//! Every query that is shipped or shown, bound by Microsoft's language service against the tables that the template makes.

use serde_json::{Value, json};

use super::{Deployment, HEARTBEAT_TABLE, TABLE, asked, kusto, node};

fn tables(deployment: &Deployment) -> Value {
    let text = |name: &str| (name.to_owned(), "string".to_owned());
    let time = ("TimeGenerated".to_owned(), "datetime".to_owned());
    json!({
        TABLE: deployment.table(TABLE),
        HEARTBEAT_TABLE: deployment.table(HEARTBEAT_TABLE),
        // Azure's own, as far as the documentation names its columns.
        "DCRLogErrors": [time, text("OperationName"), text("InputStreamId"), text("Message"), text("_ResourceId")],
    })
}

fn problems(answer: &Value) -> Vec<String> {
    let answers = answer.as_object().expect("answers by name");
    let of = |(name, one): (&String, &Value)| {
        let list = one["problems"].as_array().expect("a list").clone();
        list.into_iter().map(move |problem| format!("{name}: {problem}")).collect::<Vec<_>>()
    };
    answers.iter().flat_map(of).collect()
}

fn columns(answer: &Value, name: &str) -> Vec<(String, String)> {
    serde_json::from_value(answer[name]["columns"].clone())
        .unwrap_or_else(|error| panic!("{name}: {error}: {answer}"))
}

#[test]
fn every_query_fits_the_tables() {
    let deployment = Deployment::with(&json!({}));
    let mut queries = serde_json::Map::new();
    for rule in deployment.alert_rules() {
        let properties = &rule["properties"];
        queries.insert(
            properties["displayName"].as_str().expect("a name").to_owned(),
            properties["query"].clone(),
        );
    }
    for page in ["docs/azure.md", "docs/formats.md", "docs/replace-the-connector.md"] {
        for (number, query) in kusto(page).into_iter().enumerate() {
            queries.insert(format!("{page} {number}"), json!(query));
        }
    }
    assert!(queries.len() >= 9, "{queries:?}");
    let answer = asked(node("kql.mjs"), &json!({"tables": tables(&deployment), "queries": queries}));
    assert_eq!(problems(&answer), Vec::<String>::new());

    for rule in deployment.alert_rules() {
        let properties = &rule["properties"];
        let found = columns(&answer, properties["displayName"].as_str().expect("a name"));
        let mappings = properties["entityMappings"].as_array().expect("entities");
        for mapping in
            mappings.iter().flat_map(|mapping| mapping["fieldMappings"].as_array().expect("fields"))
        {
            let column = mapping["columnName"].as_str().expect("a column");
            assert!(found.contains(&(column.to_owned(), "string".to_owned())), "{column} of {found:?}");
        }
    }
}

#[test]
fn every_transform_is_one_that_azure_takes_and_makes_rows_of_the_table() {
    for set in ["extended", "official", "connector"] {
        let deployment = Deployment::with(&json!({"columns": set}));
        let mut transforms = serde_json::Map::new();
        for stream in deployment.streams() {
            let source = deployment.stream(&stream);
            transforms
                .insert(stream.clone(), json!({"source": source, "text": deployment.transform(&stream)}));
        }
        let answer = asked(node("kql.mjs"), &json!({"transforms": transforms}));
        assert_eq!(problems(&answer), Vec::<String>::new(), "{set}");
        for stream in deployment.streams() {
            let table = if stream.contains("Heartbeat") { HEARTBEAT_TABLE } else { TABLE };
            let known = deployment.table(table);
            let made = columns(&answer, &stream);
            assert!(made.iter().any(|(name, _)| name == "TimeGenerated"), "{set}: {made:?}");
            for (name, kind) in made {
                let kind = if kind == "bool" { "boolean".to_owned() } else { kind };
                assert!(
                    known.contains(&(name.clone(), kind.clone())),
                    "{set}: {name} {kind} is not of {table}"
                );
            }
        }
    }
}

#[test]
fn a_query_or_transform_that_does_not_fit_is_noticed() {
    let deployment = Deployment::with(&json!({}));
    let source = [("timestamp", "long"), ("event", "string")];
    let transform = |text: &str| json!({"source": source, "text": text});
    let asking = json!({
        "tables": tables(&deployment),
        "queries": {
            "column": "PulumiAuditLogs_CL | where Event == \"stack-deleted\"",
            "table": "PulumiAuditLog_CL | count",
            "function": "PulumiAuditLogs_CL | where startswith(Event_s)",
        },
        "transforms": {
            "whole rows": transform("source | summarize count() by event"),
            "coalesce": transform("source | extend event = coalesce(event, \"\")"),
            "dynamic": transform("source | extend x = dynamic({})"),
        },
    });
    let answer = asked(node("kql.mjs"), &asking);
    for (name, one) in answer.as_object().expect("answers by name") {
        assert_ne!(one["problems"], json!([]), "{name}");
    }
}
