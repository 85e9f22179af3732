//! The templates' columns come from the forwarder's own definition, which `data/*.json` is held against by its own tests.
//!
//! With `RENEW=1` the arrays in both templates are written anew.

use serde_json::Value;

use super::{read, repository};

/// One array of the templates: its name, and name and type of each column.
type Array = (&'static str, Vec<(String, String)>);

fn arrays() -> Vec<Array> {
    let listed = |text: &str| serde_json::from_str::<Vec<Value>>(text).expect("a list of columns");
    let columns = listed(include_str!("../../../data/columns.json"));
    let heartbeat = listed(include_str!("../../../data/heartbeat-columns.json"));
    let stream = |columns: &[Value], set: Option<&str>| -> Vec<(String, String)> {
        let text = |column: &Value, key: &str| column[key].as_str().expect("a text").to_owned();
        let of = |column: &&Value| {
            set.is_none_or(|set| {
                let sets = column["with"].as_array().expect("sets of columns");
                // What is sent with a setting only is declared always.
                sets.iter().any(|with| with.as_str().expect("a text").split(' ').next() == Some(set))
            })
        };
        columns.iter().filter(of).map(|column| (text(column, "name"), text(column, "type"))).collect()
    };
    // Tables spell one type otherwise than streams.
    let table = |columns: Vec<(String, String)>| {
        let spelt = |kind: String| if kind == "datetime" { "dateTime".to_owned() } else { kind };
        columns.into_iter().map(|(name, kind)| (name, spelt(kind))).collect::<Vec<_>>()
    };
    let all = vec![
        ("tableColumns", table(stream(&columns, Some("extended")))),
        ("heartbeatTableColumns", table(stream(&heartbeat, None))),
        ("extendedColumns", stream(&columns, Some("extended"))),
        ("officialColumns", stream(&columns, Some("official"))),
        ("connectorColumns", stream(&columns, Some("connector"))),
        ("heartbeatColumns", stream(&heartbeat, None)),
    ];
    let counts: Vec<_> = all.iter().map(|(_, columns)| columns.len()).collect();
    assert_eq!(counts, [22, 13, 22, 15, 12, 13], "the definition was understood");
    all
}

/// The template with its arrays as they should be. `row` writes a column, `between` stands between two.
fn renewed(
    template: &str,
    (begin, end): (fn(&str) -> String, &str),
    row: fn(&str, &str) -> String,
    between: &str,
) -> String {
    let mut text = template.to_owned();
    for (name, columns) in arrays() {
        let begin = begin(name);
        let from = text.find(&begin).unwrap_or_else(|| panic!("{begin:?} is there")) + begin.len();
        let length = text[from..].find(end).unwrap_or_else(|| panic!("{name} ends"));
        let rows: Vec<_> = columns.iter().map(|(name, kind)| row(name, kind)).collect();
        text.replace_range(from..from + length, &rows.join(between));
    }
    text
}

#[test]
fn the_templates_have_the_columns_that_the_forwarder_writes() {
    let (bicep, arm) = ("deploy/azure/main.bicep", "deploy/azure/azuredeploy.json");
    let wanted = [
        (
            bicep,
            renewed(
                &read(bicep),
                (|name| format!("\nvar {name} = [\n"), "\n]\n"),
                |name, kind| format!("  {{ name: '{name}', type: '{kind}' }}"),
                "\n",
            ),
        ),
        (
            arm,
            renewed(
                &read(arm),
                (|name| format!("    \"{name}\": [\n"), "\n    ],\n"),
                |name, kind| format!("      {{ \"name\": \"{name}\", \"type\": \"{kind}\" }}"),
                ",\n",
            ),
        ),
    ];
    for (path, wanted) in wanted {
        if std::env::var_os("RENEW").is_some() {
            std::fs::write(repository(path), &wanted).expect("the template can be written");
        }
        let message = "run `RENEW=1 cargo test --test deploy azure::columns`";
        assert!(read(path) == wanted, "the columns in {path} are not data/columns.json's: {message}");
    }
}
