//! The templates, rules and queries for Azure, held against the one definition of the columns and against delivered rows.
//!
//! What a deployment would send is evaluated by `azure/templates.py`; everything here asks it rather than the files.

mod columns;
mod delivered;
mod queries;
mod replacing;
mod templates;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::world::World;
use crate::world::ingestion::Columns;
use crate::world::ingestion::rows::{Row, Type};
use crate::world::setup::{CLIENT_ID, CLIENT_SECRET, TENANT};

const TABLE: &str = "PulumiAuditLogs_CL";
const HEARTBEAT_TABLE: &str = "PulumiAuditHeartbeat_CL";
const OBJECT_ID: &str = "22222222-2222-2222-2222-22222222bbbb";

fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_pulumi-audit-forwarder"))
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Something that `make tools` installs.
fn tool(path: &str) -> PathBuf {
    let tool = repository(".tools").join(path);
    assert!(tool.exists(), "{} is missing: run `make tools`", tool.display());
    tool
}

fn python(script: &str) -> Command {
    let mut command = Command::new(tool("venv/bin/python"));
    command.arg(repository("tests/deploy/azure").join(script));
    command
}

fn node(script: &str) -> Command {
    tool("azure/node_modules/@kusto/language-service-next");
    let mut command = Command::new("node");
    command.arg(repository("tests/deploy/azure").join(script));
    command
}

/// Gives a script its question, and answers what it says.
fn asked(mut command: Command, question: &Value) -> Value {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut stdin = child.stdin.take().expect("it was asked for");
    stdin.write_all(question.to_string().as_bytes()).expect("the script reads its question");
    drop(stdin);
    let output = child.wait_with_output().expect("the script ends");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command:?}:\n{out}\n{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{command:?}: {error}:\n{out}"))
}

/// A template, deployed with some parameters: what Azure would be sent, and what the deployment puts out.
struct Deployment(Value);

impl Deployment {
    /// `runtime` has what Azure makes up, `endpoint` and `immutableId`, or nothing.
    fn of(parameters: &Value, cloud: &str, runtime: &Value) -> Self {
        let mut given = json!({"workspaceName": "siem", "principalId": OBJECT_ID});
        let parameters = parameters.as_object().expect("parameters by name").clone();
        given.as_object_mut().expect("an object").extend(parameters);
        let mut command = python("templates.py");
        command.arg("deploy").arg(repository("deploy/azure/azuredeploy.json"));
        Self(asked(command, &json!({"parameters": given, "cloud": cloud, "runtime": runtime})))
    }

    fn with(parameters: &Value) -> Self {
        Self::of(parameters, "AzureCloud", &json!({}))
    }

    /// What is really deployed: resources whose condition holds.
    fn resources(&self) -> Vec<&Value> {
        let all = self.0["resources"].as_array().expect("resources");
        all.iter().filter(|resource| resource["deployed"] == true).collect()
    }

    fn of_type(&self, kind: &str) -> Vec<&Value> {
        self.resources().into_iter().filter(|resource| resource["type"] == kind).collect()
    }

    fn rule(&self) -> &Value {
        let rules = self.of_type("Microsoft.Insights/dataCollectionRules");
        assert_eq!(rules.len(), 1);
        rules[0]
    }

    fn alert_rules(&self) -> Vec<&Value> {
        self.of_type("Microsoft.SecurityInsights/alertRules")
    }

    /// Name and type of each column of a table, types spelt as in queries.
    fn table(&self, name: &str) -> Vec<(String, String)> {
        let tables = self.of_type("Microsoft.OperationalInsights/workspaces/tables");
        let table = tables.into_iter().find(|table| table["properties"]["schema"]["name"] == name);
        named(&table.unwrap_or_else(|| panic!("{name} is deployed"))["properties"]["schema"]["columns"])
    }

    fn stream(&self, name: &str) -> Vec<(String, String)> {
        named(&self.rule()["properties"]["streamDeclarations"][name]["columns"])
    }

    fn streams(&self) -> Vec<String> {
        let streams = self.rule()["properties"]["streamDeclarations"].as_object().expect("streams by name");
        streams.keys().cloned().collect()
    }

    /// What is done to the rows of a stream before they are stored.
    fn transform(&self, stream: &str) -> String {
        let flows = self.rule()["properties"]["dataFlows"].as_array().expect("flows");
        let flow = flows.iter().find(|flow| flow["streams"] == json!([stream])).expect("the stream flows");
        flow["transformKql"].as_str().expect("a transform").to_owned()
    }

    /// The section of an org's file, as it is printed.
    fn section(&self) -> String {
        self.0["outputs"]["sentinelSection"].as_str().expect("a section").to_owned()
    }

    /// The same, completed as the page says and pointed at the world.
    fn section_in(&self, world: &World, more: &str) -> String {
        let secret = world.paths.write_secret("client-secret", CLIENT_SECRET);
        let placeholder = "identity = { kind = \"managed_identity\" }";
        let identity = format!(
            "identity = {{ kind = \"client_secret\", tenant_id = {TENANT:?}, client_id = {CLIENT_ID:?}, secret = {{ file = {secret:?} }} }}"
        );
        let section = self.section();
        assert!(section.ends_with(placeholder), "{section}");
        let section = section.replace(placeholder, &identity);
        let (authority, ca) = (world.entra_url(), world.ca_pem());
        format!("\n{section}\nauthority = {authority:?}\nca_file = {ca:?}\n{more}")
    }
}

fn named(columns: &Value) -> Vec<(String, String)> {
    let text = |column: &Value, key: &str| column[key].as_str().expect("a text").to_owned();
    let columns = columns.as_array().expect("a list of columns");
    columns.iter().map(|column| (text(column, "name"), text(column, "type").to_lowercase())).collect()
}

/// The same for the simulated endpoint.
fn simulated(columns: &[(String, String)]) -> Columns {
    let kind = |kind: &str| match kind {
        "string" => Type::Text,
        "long" => Type::Long,
        "boolean" => Type::Boolean,
        "datetime" => Type::DateTime,
        "dynamic" => Type::Dynamic,
        other => panic!("no column of type {other} is known here"),
    };
    columns.iter().map(|(name, spelt)| (name.clone(), kind(spelt))).collect()
}

/// A query, and the one table that it is about.
struct Question {
    table: &'static str,
    columns: Vec<(String, String)>,
    rows: Vec<Value>,
    query: String,
}

/// What each query finds.
fn run(questions: &[Question]) -> Vec<Vec<Value>> {
    let asking = questions.iter().map(|Question { table, columns, rows, query }| {
        json!({"table": table, "columns": columns, "rows": rows, "query": query})
    });
    let answer = asked(python("execute.py"), &asking.collect());
    serde_json::from_value(answer).expect("rows for each question")
}

fn cells(rows: &[Row]) -> Vec<Value> {
    rows.iter().map(|row| json!(row.cells)).collect()
}

/// The blocks of KQL on a page, in their order.
fn kusto(page: &str) -> Vec<String> {
    let text = read(page);
    let blocks: Vec<_> = text
        .split("```kusto\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default().to_owned())
        .collect();
    assert!(!blocks.is_empty(), "{page} has queries");
    blocks
}
