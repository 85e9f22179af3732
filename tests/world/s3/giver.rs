//! Gives AWS credentials out, as an instance's metadata service (the second version), a container's agent and the portal of IAM
//! Identity Center do.
//!
//! It knows one key, and gives it only to who asks as the service demands.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{Method, Request, Response};
use serde_json::{Value, json};

use super::super::clock::{WorldClock, rfc3339};
use super::super::server::{Answering, Service};
use super::super::verdict::{Verdict, respond};

/// Of the instance's session.
const SESSION: &str = "session-of-the-instance";
/// What a container's agent asks for in `Authorization`.
pub const CONTAINER_TOKEN: &str = "token-of-the-container";
/// What IAM Identity Center gave for a login.
pub const LOGIN_TOKEN: &str = "token-of-the-login";

pub struct Giver {
    access_key_id: String,
    clock: WorldClock,
    asked: Mutex<Vec<String>>,
}

impl Giver {
    pub fn of(access_key_id: &str, clock: WorldClock) -> Self {
        Self { access_key_id: access_key_id.to_owned(), clock, asked: Mutex::default() }
    }

    /// Methods and paths so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no test panics while it holds this").clone()
    }

    fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let header = |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok());
        let path = request.uri().path();
        let asked = format!("{} {path}", request.method());
        self.asked.lock().expect("no test panics while it holds this").push(asked);
        let of_session = header("x-aws-ec2-metadata-token") == Some(SESSION);
        match (request.method(), path) {
            (&Method::PUT, "/latest/api/token") => match header("x-aws-ec2-metadata-token-ttl-seconds") {
                Some(seconds) => super::super::verdict::with_header(
                    respond(200, "text/plain", SESSION),
                    "x-aws-ec2-metadata-token-ttl-seconds",
                    seconds,
                ),
                None => respond(400, "", ""),
            },
            (_, path) if path.starts_with("/latest/") && !of_session => respond(401, "", ""),
            (_, "/latest/meta-data/iam/security-credentials/") => respond(200, "text/plain", "audit-writer"),
            (_, "/latest/meta-data/iam/security-credentials/audit-writer") => json_of(&self.credentials()),
            (_, "/container") if header("authorization") == Some(CONTAINER_TOKEN) => {
                json_of(&self.credentials())
            }
            (_, "/federation/credentials") if header("x-amz-sso_bearer_token") == Some(LOGIN_TOKEN) => {
                json_of(&json!({"roleCredentials": {
                    "accessKeyId": self.access_key_id,
                    "secretAccessKey": "secret-of-the-login",
                    "sessionToken": "session-of-the-login",
                    "expiration": (self.clock.now() + 3_600) * 1_000,
                }}))
            }
            (_, "/container" | "/federation/credentials") => respond(401, "", ""),
            _ => respond(404, "", ""),
        }
    }

    fn credentials(&self) -> Value {
        json!({
            "Code": "Success",
            "Type": "AWS-HMAC",
            "LastUpdated": rfc3339(self.clock.now() - 60),
            "AccessKeyId": self.access_key_id,
            "SecretAccessKey": "secret-that-was-given",
            "Token": "token-that-was-given",
            "Expiration": rfc3339(self.clock.now() + 3_600),
        })
    }
}

fn json_of(value: &Value) -> Response<Bytes> {
    respond(200, "application/json", value.to_string())
}

impl Service for Giver {
    fn handle(self: Arc<Self>, request: Request<Bytes>) -> Answering {
        Box::pin(async move { Verdict::answer(self.answer(&request)) })
    }
}
