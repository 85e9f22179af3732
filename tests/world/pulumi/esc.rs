//! ESC environments: opened for a session, read whole or by property, each with an event in the org's log.

use std::collections::BTreeMap;

use bytes::Bytes;
use http::Response;
use serde_json::{Value, json};

use super::super::chance::Chance;
use super::super::query;
use super::super::verdict::respond;
use super::{Org, events::Event, problem};

/// An environment's values as its author wrote them.
#[derive(Debug, Default)]
pub(super) struct Environment {
    values: Value,
    /// What opening it complains of.
    diagnostic: Option<String>,
    sessions: BTreeMap<String, i64>,
    pub(super) opened: usize,
    pub(super) read: usize,
}

impl Environment {
    pub(super) fn write(&mut self, values: Value) {
        self.values = values;
    }

    pub(super) fn complain(&mut self, diagnostic: Option<&str>) {
        self.diagnostic = diagnostic.map(str::to_owned);
    }

    pub(super) fn end_sessions(&mut self) {
        self.sessions.clear();
    }
}

/// A value as the service hands it out: wrapped, and so is everything inside. Texts are secret, and `{"unknown": true}` is not known.
fn wrapped(value: &Value) -> Value {
    match value {
        Value::Object(map) if map.get("unknown") == Some(&Value::Bool(true)) => {
            json!({"value": "[unknown]", "unknown": true})
        }
        Value::Object(map) => {
            let inner: serde_json::Map<String, Value> =
                map.iter().map(|(name, value)| (name.clone(), wrapped(value))).collect();
            json!({"value": inner, "trace": {"def": {"environment": "simulated"}}})
        }
        Value::Array(items) => json!({"value": items.iter().map(wrapped).collect::<Vec<_>>()}),
        Value::String(_) => json!({"value": value, "secret": true}),
        other => json!({"value": other}),
    }
}

impl Org {
    /// A request about an environment; `rest` is its path below the org.
    pub(super) fn environment(
        &mut self,
        is_get: bool,
        rest: &[&str],
        pairs: &[(String, String)],
        may_open: Option<bool>,
        now: i64,
        chance: &mut Chance,
    ) -> Response<Bytes> {
        let (project, name, rest) = match rest {
            [project, name, "versions", _, rest @ ..] | [project, name, rest @ ..] => (project, name, rest),
            _ => return problem(404, "not found"),
        };
        let key = format!("{project}/{name}");
        let Some(may_open) = may_open else { return problem(401, super::NO_CREDENTIALS) };
        let Some(environment) = self.environments.get_mut(&key) else {
            return problem(404, &format!("environment {key} not found"));
        };
        let (event, response) = match (is_get, rest) {
            (false, ["open"]) if !may_open => {
                let message = format!("[environment:open] is required to open environment {key}");
                ("environment-unauthorized-open", problem(403, &message))
            }
            (false, ["open"]) => {
                if let Some(diagnostic) = &environment.diagnostic {
                    let body = json!({"code": 400, "message": "environment cannot be opened",
                        "diagnostics": [{"range": {"environment": name}, "summary": diagnostic}]});
                    return respond(400, "application/json", body.to_string());
                }
                // A Go duration in whole hours or minutes is all that is asked for here.
                let duration = query::value(pairs, "duration").unwrap_or("2h");
                let (number, unit) = duration.split_at(duration.len().saturating_sub(1));
                let seconds = match (number.parse::<i64>(), unit) {
                    (Ok(hours), "h") => hours * 3_600,
                    (Ok(minutes), "m") => minutes * 60,
                    _ => return problem(400, "invalid duration"),
                };
                environment.opened += 1;
                let id = chance.hex(32);
                environment.sessions.insert(id.clone(), now + seconds);
                ("environment-open", respond(200, "application/json", json!({"id": id}).to_string()))
            }
            (true, ["open", id]) => {
                if environment.sessions.get(*id).is_none_or(|until| *until <= now) {
                    return problem(404, "open environment session not found or expired");
                }
                environment.read += 1;
                let properties: serde_json::Map<String, Value> = match &environment.values {
                    Value::Object(map) => {
                        map.iter().map(|(name, value)| (name.clone(), wrapped(value))).collect()
                    }
                    _ => serde_json::Map::new(),
                };
                let body = json!({"exprs": {}, "properties": properties, "schema": {}});
                ("environment-read-open", respond(200, "application/json", body.to_string()))
            }
            _ => return problem(404, "not found"),
        };
        let number = environment.opened + environment.read;
        let text = format!("{event} of environment \"{key}\" (number {number}, {})", chance.hex(6));
        let mut entry = Event::at(now).late_by(0).described(&text);
        event.clone_into(&mut entry.event);
        entry.auth_failure = false;
        self.log.add([entry]);
        response
    }
}
