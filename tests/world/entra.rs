//! Entra ID, as far as a daemon without a person meets it: the token endpoint (secret, assertion), the discovery document its
//! client libraries read first, and the managed identity endpoint of App Service.
//!
//! It signs nothing: the tokens are opaque here, as they are to every honest client. Which are good stands in the [`TokenBook`],
//! which the ingestion endpoint reads.

use std::collections::HashMap;
use std::future::ready;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::header::HOST;
use http::{Method, Request, Response};
use serde_json::{Value, json};
use sha1::{Digest, Sha1};

use super::certificates::ClientCertificate;
use super::chance::Chance;
use super::clock::{WorldClock, http_date, rfc3339};
use super::ledger::{self, Ledger};
use super::query;
use super::script::{Script, Times};
use super::server::{Answering, Service};
use super::verdict::{Cut, RetryAfter, Verdict, html, respond, with_header};

/// Whom a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Without a trailing slash.
    pub audience: String,
    pub expires: i64,
    pub client_id: String,
    pub tenant: String,
    pub revoked: bool,
}

/// All tokens ever issued, shared with whoever must check one.
#[derive(Debug, Clone, Default)]
pub struct TokenBook(Arc<Mutex<HashMap<String, Grant>>>);

impl TokenBook {
    pub fn find(&self, token: &str) -> Option<Grant> {
        self.lock().get(token).cloned()
    }

    /// Every token issued so far stops working; clients cannot know.
    pub fn revoke_all(&self) {
        self.lock().values_mut().for_each(|grant| grant.revoked = true);
    }

    pub fn issued(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Grant>> {
        self.0.lock().expect("no test panics while it holds the token book")
    }
}

/// An application registered in a tenant.
#[derive(Debug, Clone)]
struct App {
    secrets: Vec<Secret>,
    /// Foreign or self-signed assertions are taken, unread.
    takes_assertions: bool,
    /// The only token of a platform that is taken in place of a secret.
    federated: Option<String>,
    certificates: Vec<Trusted>,
}

/// A certificate that was uploaded to an application.
#[derive(Debug, Clone)]
struct Trusted {
    der: Vec<u8>,
    /// As it stands in the certificate.
    public_key: Vec<u8>,
}

#[derive(Debug, Clone)]
struct Secret {
    value: String,
    until: Option<i64>,
}

#[derive(Debug, Clone)]
pub enum Fault {
    /// An error in Entra's shape, for example `(401, "invalid_client", 7000215)`.
    Error {
        status: u16,
        error: &'static str,
        code: u32,
        retry_after: RetryAfter,
    },
    Html(u16),
    Redirect(String),
    /// 200 without a token in it.
    EmptyToken,
    MissingToken,
    /// 200 with this body.
    Body(Bytes),
    Late(Duration),
    Stall,
    Lost(Cut),
}

impl Fault {
    pub fn throttled(retry_after: RetryAfter) -> Self {
        Self::Error { status: 429, error: "temporarily_unavailable", code: 50196, retry_after }
    }

    pub fn unavailable() -> Self {
        Self::Error {
            status: 503,
            error: "temporarily_unavailable",
            code: 90033,
            retry_after: RetryAfter::None,
        }
    }

    pub fn invalid_client() -> Self {
        Self::Error { status: 401, error: "invalid_client", code: 7_000_215, retry_after: RetryAfter::None }
    }
}

pub struct Entra {
    state: Mutex<State>,
    pub ledger: Ledger,
    pub book: TokenBook,
    clock: WorldClock,
}

struct State {
    apps: HashMap<(String, String), App>,
    audiences: Vec<String>,
    lifetime: i64,
    identity_header: String,
    /// `client_id=…` and the like of the user-assigned identities; the system-assigned one is always there.
    managed: Vec<(String, String)>,
    /// Ids of the assertions that were taken: none is taken twice.
    assertions: HashMap<String, String>,
    faults: Script<(), Fault>,
    chance: Chance,
}

impl Entra {
    pub fn new(clock: WorldClock, seed: u64) -> Self {
        let audiences = [
            "https://monitor.azure.com",
            "https://monitor.azure.us",
            "https://monitor.azure.cn",
            "https://management.azure.com",
        ]
        .map(str::to_owned)
        .to_vec();
        Self {
            state: Mutex::new(State {
                apps: HashMap::new(),
                audiences,
                lifetime: 3599,
                identity_header: "simulated-identity-header".to_owned(),
                managed: Vec::new(),
                assertions: HashMap::new(),
                faults: Script::default(),
                chance: Chance::seeded(seed ^ 0x65_6e_74),
            }),
            ledger: Ledger::default(),
            book: TokenBook::default(),
            clock,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds Entra's state")
    }

    /// Registers an application with one secret.
    pub fn register(&self, tenant: &str, client_id: &str, secret: &str) {
        let secrets = vec![Secret { value: secret.to_owned(), until: None }];
        let app = App { secrets, takes_assertions: false, federated: None, certificates: Vec::new() };
        self.state().apps.insert((tenant.to_owned(), client_id.to_owned()), app);
    }

    pub fn takes_assertions(&self, tenant: &str, client_id: &str) {
        self.each_app(tenant, client_id, |app| app.takes_assertions = true);
    }

    /// From now on only this token of the platform is taken, and no secret.
    pub fn federates(&self, tenant: &str, client_id: &str, token: &str) {
        self.each_app(tenant, client_id, |app| {
            app.secrets.clear();
            app.federated = Some(token.to_owned());
        });
    }

    /// From now on only what this certificate signs is taken.
    pub fn trusts(&self, tenant: &str, client_id: &str, certificate: &ClientCertificate) {
        let trusted = Trusted { der: certificate.der.clone(), public_key: certificate.public_key.clone() };
        self.each_app(tenant, client_id, |app| {
            app.secrets.clear();
            app.certificates = vec![trusted];
        });
    }

    /// Assigns one more identity to the host: `client_id` and its value, or another of the keys.
    pub fn assign(&self, key: &str, id: &str) {
        self.state().managed.push((key.to_owned(), id.to_owned()));
    }

    /// The assertions that were taken.
    pub fn assertions(&self) -> Vec<String> {
        self.state().assertions.values().cloned().collect()
    }

    /// From now on only this secret is right.
    pub fn rotate_secret(&self, tenant: &str, client_id: &str, secret: &str) {
        let secrets = vec![Secret { value: secret.to_owned(), until: None }];
        self.each_app(tenant, client_id, |app| app.secrets = secrets);
    }

    pub fn add_secret(&self, tenant: &str, client_id: &str, secret: &str, until: Option<i64>) {
        let secret = Secret { value: secret.to_owned(), until };
        self.each_app(tenant, client_id, |app| app.secrets.push(secret));
    }

    fn each_app(&self, tenant: &str, client_id: &str, change: impl FnOnce(&mut App)) {
        let mut state = self.state();
        let app = state.apps.get_mut(&(tenant.to_owned(), client_id.to_owned()));
        change(app.expect("the application is registered"));
    }

    /// Seconds that new tokens live.
    pub fn lifetime(&self, seconds: i64) {
        self.state().lifetime = seconds;
    }

    pub fn fault(&self, fault: Fault, times: Times) {
        self.state().faults.push((), fault, times);
    }

    pub fn clear_faults(&self) {
        self.state().faults.clear(|()| true);
    }

    /// The value of `IDENTITY_HEADER` for the managed identity endpoint `/msi/token`.
    pub fn identity_header(&self) -> String {
        self.state().identity_header.clone()
    }

    pub fn answer(&self, request: Request<Bytes>) -> Verdict {
        let (head, body) = request.into_parts();
        let now = self.clock.now();
        let segments = query::segments(head.uri.path());
        let path: Vec<&str> = segments.iter().map(String::as_str).collect();
        let tenant = path.first().copied().unwrap_or_default();
        let mut entry = ledger::entry(now, &head, body.len(), tenant);
        let verdict = match (&head.method, &path[..]) {
            (&Method::POST, [tenant, "oauth2", "v2.0", "token"]) => self.token(tenant, &head, &body, now),
            (&Method::GET, [tenant, "v2.0", ".well-known", "openid-configuration"]) => {
                Verdict::answer(respond(200, "application/json; charset=utf-8", discovery(&head, tenant)))
            }
            (&Method::GET, ["common", "discovery", "instance"]) => {
                Verdict::answer(respond(200, "application/json; charset=utf-8", instance(&head)))
            }
            (&Method::GET, ["msi", "token"]) => self.managed_identity(&head, now),
            _ => Verdict::answer(respond(404, "", Bytes::new())),
        };
        let verdict = Verdict {
            response: verdict.response.map(|response| {
                let response = with_header(response, "date", &http_date(now));
                with_header(response, "cache-control", "no-store, no-cache")
            }),
            ..verdict
        };
        entry.done = verdict.status() == Some(200);
        entry.status = verdict.status().filter(|_| verdict.cut.is_none());
        self.ledger.write(entry);
        verdict
    }

    fn token(&self, tenant: &str, head: &http::request::Parts, body: &[u8], now: i64) -> Verdict {
        let mut state = self.state();
        let fault = state.faults.strike(|(), _| true);
        let text = String::from_utf8_lossy(body);
        let right = |state: &mut State| self.grant(state, tenant, head, &query::pairs(&text), now);
        match fault {
            None => Verdict::answer(right(&mut state)),
            Some(Fault::Error { status, error, code, retry_after }) => Verdict::answer(
                retry_after.on(problem(status, error, code, "The simulated service refuses.", now, &mut state.chance), now),
            ),
            Some(Fault::Html(status)) => Verdict::answer(html(status, "Bad Gateway")),
            Some(Fault::Redirect(to)) => Verdict::answer(with_header(respond(307, "", String::new()), "location", &to)),
            Some(Fault::EmptyToken) => Verdict::answer(respond(
                200,
                "application/json; charset=utf-8",
                json!({"token_type": "Bearer", "expires_in": 3599, "ext_expires_in": 3599, "access_token": ""}).to_string(),
            )),
            Some(Fault::MissingToken) => Verdict::answer(respond(
                200,
                "application/json; charset=utf-8",
                json!({"token_type": "Bearer", "expires_in": 3599}).to_string(),
            )),
            Some(Fault::Body(body)) => Verdict::answer(respond(200, "application/json; charset=utf-8", body)),
            Some(Fault::Late(delay)) => Verdict::answer(right(&mut state)).after(delay),
            Some(Fault::Stall) => Verdict::hang_up().after(Duration::MAX),
            Some(Fault::Lost(cut)) => Verdict::answer(right(&mut state)).cut(cut),
        }
    }

    fn grant(
        &self,
        state: &mut State,
        tenant: &str,
        head: &http::request::Parts,
        form: &[(String, String)],
        now: i64,
    ) -> Response<Bytes> {
        let field = |name: &str| query::value(form, name).unwrap_or_default();
        let refuse = |state: &mut State, status, error, code, text: &str| {
            problem(status, error, code, text, now, &mut state.chance)
        };
        let is_form = head
            .headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .is_some_and(|value| value.starts_with("application/x-www-form-urlencoded"));
        if !is_form {
            return refuse(state, 400, "invalid_request", 900_144, "The request body must be a form.");
        }
        if field("grant_type") != "client_credentials" {
            return refuse(
                state,
                400,
                "unsupported_grant_type",
                70003,
                "The app requested an unsupported grant type.",
            );
        }
        if !state.apps.keys().any(|(known, _)| known == tenant) {
            return refuse(state, 400, "invalid_request", 90002, &format!("Tenant '{tenant}' not found."));
        }
        let client_id = field("client_id").to_owned();
        let Some(app) = state.apps.get(&(tenant.to_owned(), client_id.clone())).cloned() else {
            let text = format!(
                "Application with identifier '{client_id}' was not found in the directory '{tenant}'."
            );
            return refuse(state, 400, "unauthorized_client", 700_016, &text);
        };
        // MSAL asks for the scopes of OpenID as well when it follows its habits; only the resource counts.
        let scope = field("scope").split(' ').find_map(|scope| scope.strip_suffix("/.default"));
        let Some(audience) = scope.map(|audience| audience.trim_end_matches('/').to_owned()) else {
            let text = format!(
                "The provided request must include a 'scope' input parameter. The scope {} is not valid.",
                field("scope")
            );
            return refuse(state, 400, "invalid_scope", 70011, &text);
        };
        if !state.audiences.contains(&audience) {
            let text = format!("The resource principal named {audience} was not found in the tenant.");
            return refuse(state, 400, "invalid_resource", 500_011, &text);
        }
        if let Some(assertion) = query::value(form, "client_assertion") {
            let bearer = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            if field("client_assertion_type") != bearer || assertion.is_empty() {
                return refuse(state, 400, "invalid_request", 900_144, "The assertion's type is missing.");
            }
            if !app.takes_assertions && app.federated.as_deref() != Some(assertion) {
                if app.certificates.is_empty() {
                    let text = "No matching federated identity record found.";
                    return refuse(state, 401, "invalid_client", 70021, text);
                }
                let audience = format!("https://{}/{tenant}/oauth2/v2.0/token", host(head));
                match signed(assertion, &app.certificates, &audience, &client_id, now) {
                    Ok(id) if state.assertions.contains_key(&id) => {
                        return refuse(
                            state,
                            401,
                            "invalid_client",
                            700_027,
                            "The assertion was used before.",
                        );
                    }
                    Ok(id) => {
                        state.assertions.insert(id, assertion.to_owned());
                    }
                    Err((code, text)) => return refuse(state, 401, "invalid_client", code, text),
                }
            }
        } else {
            match app.secrets.iter().find(|secret| secret.value == field("client_secret")) {
                None => {
                    return refuse(
                        state,
                        401,
                        "invalid_client",
                        7_000_215,
                        "Invalid client secret provided. Ensure the secret being sent in the request is the client secret value, not the client secret ID.",
                    );
                }
                Some(secret) if secret.until.is_some_and(|until| until <= now) => {
                    return refuse(
                        state,
                        401,
                        "invalid_client",
                        7_000_222,
                        "The provided client secret keys are expired.",
                    );
                }
                Some(_) => {}
            }
        }
        let lifetime = state.lifetime;
        let token = self.issue(state, tenant, &client_id, &audience, now + lifetime);
        let body = json!({"token_type": "Bearer", "expires_in": lifetime, "ext_expires_in": lifetime, "access_token": token});
        respond(200, "application/json; charset=utf-8", body.to_string())
    }

    fn issue(
        &self,
        state: &mut State,
        tenant: &str,
        client_id: &str,
        audience: &str,
        expires: i64,
    ) -> String {
        let claims = json!({"aud": audience, "appid": client_id, "tid": tenant, "exp": expires});
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let token = format!(
            "{}.{}.{}",
            part(&json!({"alg": "RS256", "typ": "JWT"})),
            part(&claims),
            state.chance.hex(40)
        );
        let grant = Grant {
            audience: audience.to_owned(),
            expires,
            client_id: client_id.to_owned(),
            tenant: tenant.to_owned(),
            revoked: false,
        };
        self.book.lock().insert(token.clone(), grant);
        token
    }

    /// A token for direct use by a test, as if its owner had asked.
    pub fn token_for(&self, audience: &str) -> String {
        let mut state = self.state();
        let expires = self.clock.now() + state.lifetime;
        self.issue(&mut state, "tenant", "client", audience, expires)
    }

    fn managed_identity(&self, head: &http::request::Parts, now: i64) -> Verdict {
        let mut state = self.state();
        let pairs = query::pairs(head.uri.query().unwrap_or_default());
        let header = head.headers.get("x-identity-header").and_then(|value| value.to_str().ok());
        if header != Some(state.identity_header.as_str()) {
            return Verdict::answer(respond(401, "application/json", "{\"statusCode\":401}"));
        }
        let Some(resource) = query::value(&pairs, "resource").map(str::to_owned) else {
            return Verdict::answer(respond(400, "application/json", "{\"statusCode\":400}"));
        };
        let user_assigned = ["client_id", "object_id", "mi_res_id"]
            .into_iter()
            .find_map(|key| query::value(&pairs, key).map(|id| (key.to_owned(), id.to_owned())));
        if user_assigned.as_ref().is_some_and(|id| !state.managed.contains(id)) {
            let body =
                "{\"statusCode\":400,\"message\":\"No User Assigned or Delegated Managed Identity found.\"}";
            return Verdict::answer(respond(400, "application/json", body));
        }
        let expires = now + state.lifetime;
        let client_id = user_assigned.map_or_else(|| "system-assigned".to_owned(), |(_, id)| id);
        let token = self.issue(&mut state, "managed", &client_id, resource.trim_end_matches('/'), expires);
        let body = json!({"access_token": token, "expires_on": expires.to_string(), "resource": resource,
            "token_type": "Bearer", "client_id": client_id});
        Verdict::answer(respond(200, "application/json", body.to_string()))
    }
}

impl Service for Entra {
    fn handle(self: Arc<Self>, request: Request<Bytes>) -> Answering {
        Box::pin(ready(self.answer(request)))
    }
}

fn problem(
    status: u16,
    error: &str,
    code: u32,
    text: &str,
    now: i64,
    chance: &mut Chance,
) -> Response<Bytes> {
    let (trace, correlation) = (chance.uuid(), chance.uuid());
    let timestamp = rfc3339(now).replace('T', " ");
    let description = format!(
        "AADSTS{code}: {text} Trace ID: {trace} Correlation ID: {correlation} Timestamp: {timestamp}"
    );
    let body = json!({"error": error, "error_description": description, "error_codes": [code], "timestamp": timestamp,
        "trace_id": trace, "correlation_id": correlation, "error_uri": ""});
    respond(status, "application/json; charset=utf-8", body.to_string())
}

/// The id of an assertion that one of the certificates has signed, for this audience and app and for now.
fn signed(
    assertion: &str,
    certificates: &[Trusted],
    audience: &str,
    client_id: &str,
    now: i64,
) -> Result<String, (u32, &'static str)> {
    const MALFORMED: (u32, &str) = (50027, "JWT token is invalid or malformed.");
    let parts: Vec<&str> = assertion.split('.').collect();
    let [header, claims, signature] = parts[..] else { return Err(MALFORMED) };
    let bytes = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| MALFORMED);
    let json = |part: &str| serde_json::from_slice::<Value>(&bytes(part)?).map_err(|_| MALFORMED);
    let (head, body) = (json(header)?, json(claims)?);
    let known = certificates.iter().find(|certificate| {
        head["x5t"] == URL_SAFE_NO_PAD.encode(Sha1::digest(&certificate.der))
            && head["x5c"][0] == STANDARD.encode(&certificate.der)
    });
    let Some(certificate) = known else {
        return Err((700_027, "The certificate with which the assertion was signed is not registered."));
    };
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let rs256 = rustls::SignatureScheme::RSA_PKCS1_SHA256;
    let (_, verifiers) =
        algorithms.mapping.iter().find(|(scheme, _)| *scheme == rs256).expect("the provider knows RSA");
    let (message, signature) = (format!("{header}.{claims}"), bytes(signature)?);
    let holds = verifiers.iter().any(|verifier| {
        verifier.verify_signature(&certificate.public_key, message.as_bytes(), &signature).is_ok()
    });
    if head["alg"] != "RS256" || !holds {
        return Err((700_027, "The assertion's signature is invalid."));
    }
    if body["aud"] != audience {
        return Err((700_023, "The assertion's audience is another."));
    }
    if body["iss"] != client_id || body["sub"] != client_id {
        return Err((700_021, "The assertion's issuer or subject is another."));
    }
    let time = |name: &str| body[name].as_i64().ok_or(MALFORMED);
    let (from, until) = (time("nbf")?, time("exp")?);
    if from > now + 300 || until <= now - 300 || until - from > 600 {
        return Err((700_024, "The assertion is not within its valid time range."));
    }
    body["jti"].as_str().map(str::to_owned).ok_or(MALFORMED)
}

fn host(head: &http::request::Parts) -> String {
    head.headers.get(HOST).and_then(|value| value.to_str().ok()).unwrap_or("localhost").to_owned()
}

fn discovery(head: &http::request::Parts, tenant: &str) -> String {
    let base = format!("https://{}/{tenant}", host(head));
    json!({
        "token_endpoint": format!("{base}/oauth2/v2.0/token"),
        "token_endpoint_auth_methods_supported": ["client_secret_post", "private_key_jwt", "client_secret_basic"],
        "jwks_uri": format!("{base}/discovery/v2.0/keys"),
        "response_modes_supported": ["query", "fragment", "form_post"],
        "subject_types_supported": ["pairwise"],
        "id_token_signing_alg_values_supported": ["RS256"],
        "response_types_supported": ["code", "id_token", "code id_token", "id_token token"],
        "scopes_supported": ["openid", "profile", "email", "offline_access"],
        "issuer": format!("{base}/v2.0"),
        "authorization_endpoint": format!("{base}/oauth2/v2.0/authorize"),
        "device_authorization_endpoint": format!("{base}/oauth2/v2.0/devicecode"),
        "end_session_endpoint": format!("{base}/oauth2/v2.0/logout"),
        "tenant_region_scope": Value::Null,
        "cloud_instance_name": "microsoftonline.com",
    })
    .to_string()
}

fn instance(head: &http::request::Parts) -> String {
    let host = host(head);
    json!({"tenant_discovery_endpoint": format!("https://{host}/common/v2.0/.well-known/openid-configuration"),
        "api-version": "1.1", "metadata": [{"preferred_network": host, "preferred_cache": host, "aliases": [host]}]})
    .to_string()
}
