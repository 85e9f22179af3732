//! `identity` of `[sentinel]`: which keys belong to which kind, and what the environment adds.
//!
//! Decides from the files and the environment alone; whether a machine has a managed identity is asked when a token is needed.
//!
//! *Why a key of another kind is a mistake:* it was meant to have an effect, and the daemon would be somebody else in Azure.

use super::super::settings::{AzureIdentity, ManagedHost, ManagedId, NextCertificate};
use super::super::{IdentityKind, IdentitySection};
use super::{Reader, required};
use crate::secret::{Place, SecretSource};

const KIND_REMEDY: &str =
    "give workload_identity, managed_identity, client_certificate, client_secret, azure_cli or default";
const REMEDY: &str = "say who the daemon is for Azure, such as { kind = \"managed_identity\" } or \
                      { kind = \"client_secret\", tenant_id = \"…\", client_id = \"…\", secret = { file = \"…\" } }";
const TENANT_REMEDY: &str = "give the Entra tenant's id";
const CLIENT_REMEDY: &str = "give the application (client) id";

impl IdentityKind {
    fn name(self) -> &'static str {
        match self {
            IdentityKind::WorkloadIdentity => "workload_identity",
            IdentityKind::ManagedIdentity => "managed_identity",
            IdentityKind::ClientCertificate => "client_certificate",
            IdentityKind::ClientSecret => "client_secret",
            IdentityKind::AzureCli => "azure_cli",
            IdentityKind::Default => "default",
        }
    }

    /// The keys it takes besides `kind`.
    fn keys(self) -> &'static [&'static str] {
        match self {
            IdentityKind::WorkloadIdentity => &["tenant_id", "client_id", "token_file"],
            IdentityKind::ManagedIdentity => &["client_id", "object_id", "resource_id"],
            IdentityKind::ClientCertificate => {
                &["tenant_id", "client_id", "certificate", "password", "next_certificate", "next_password"]
            }
            IdentityKind::ClientSecret => &["tenant_id", "client_id", "secret", "next_secret"],
            IdentityKind::AzureCli => &["tenant_id"],
            IdentityKind::Default => &[],
        }
    }
}

fn at(name: &str) -> [&str; 3] {
    ["sentinel", "identity", name]
}

impl Reader<'_> {
    pub(super) fn identity(&mut self, section: Option<&IdentitySection>) -> Option<AzureIdentity> {
        let section = required(self.view, &["sentinel", "identity"], section, REMEDY)?;
        // Of a kind that does not exist, nothing more is asked.
        if self.view.found_wrong(&at("kind")) {
            return None;
        }
        let kind = required(self.view, &at("kind"), section.kind, KIND_REMEDY)?;
        let foreign = self.refuse_foreign(kind, section);
        let identity = match kind {
            IdentityKind::ClientSecret => {
                let app = self.app(section);
                let secret = self.secret(&at("secret"), section.secret.as_ref());
                let next_secret = self.optional_secret(&at("next_secret"), section.next_secret.as_ref());
                let (tenant_id, client_id) = app?;
                AzureIdentity::ClientSecret {
                    tenant_id,
                    client_id,
                    secret: secret?,
                    next_secret: next_secret?,
                }
            }
            IdentityKind::ClientCertificate => {
                let app = self.app(section);
                let certificate = self.secret_bytes(&at("certificate"), section.certificate.as_ref());
                let password = self.optional_secret(&at("password"), section.password.as_ref());
                let next = self.next_certificate(section);
                let (tenant_id, client_id) = app?;
                AzureIdentity::ClientCertificate {
                    tenant_id,
                    client_id,
                    certificate: certificate?,
                    password: password?,
                    next: next?,
                }
            }
            IdentityKind::WorkloadIdentity => self.workload_identity(section)?,
            IdentityKind::ManagedIdentity => {
                let host = self.managed_host();
                let id = self.managed_id(section);
                AzureIdentity::ManagedIdentity { host: host?, id: id? }
            }
            IdentityKind::AzureCli => {
                let tenant_id = match section.tenant_id.as_deref() {
                    None => (!self.view.found_wrong(&at("tenant_id"))).then_some(None),
                    given => self.directory_id(&at("tenant_id"), given, TENANT_REMEDY).map(Some),
                };
                AzureIdentity::AzureCli { tenant_id: tenant_id? }
            }
            IdentityKind::Default => self.default_identity()?,
        };
        (!foreign).then_some(identity)
    }

    /// Whether there are keys that belong to another kind.
    fn refuse_foreign(&mut self, kind: IdentityKind, section: &IdentitySection) -> bool {
        let given = [
            ("tenant_id", section.tenant_id.is_some()),
            ("client_id", section.client_id.is_some()),
            ("object_id", section.object_id.is_some()),
            ("resource_id", section.resource_id.is_some()),
            ("token_file", section.token_file.is_some()),
            ("secret", section.secret.is_some()),
            ("certificate", section.certificate.is_some()),
            ("password", section.password.is_some()),
            ("next_secret", section.next_secret.is_some()),
            ("next_certificate", section.next_certificate.is_some()),
            ("next_password", section.next_password.is_some()),
        ];
        let mut foreign = false;
        for (key, _) in given.iter().filter(|(key, given)| *given && !kind.keys().contains(key)) {
            foreign = true;
            let takes = match kind.keys() {
                [] => "no further key".to_owned(),
                keys => format!("`{}`", keys.join("`, `")),
            };
            let name = kind.name();
            self.view.refuse_unseen(
                &at(key),
                format!("kind `{name}` takes {takes}: remove this key, or choose the kind it belongs to"),
            );
        }
        foreign
    }

    fn next_certificate(&mut self, section: &IdentitySection) -> Option<Option<NextCertificate>> {
        let password = self.optional_secret(&at("next_password"), section.next_password.as_ref());
        let Some(place) = &section.next_certificate else {
            let password = password?;
            if password.is_some() {
                let text = "belongs to next_certificate: set that too, or remove it";
                self.view.refuse_unseen(&at("next_password"), text);
                return None;
            }
            return (!self.view.found_wrong(&at("next_certificate"))).then_some(None);
        };
        let certificate = self.secret_bytes(&at("next_certificate"), Some(place));
        Some(Some(NextCertificate { certificate: certificate?, password: password? }))
    }

    fn app(&mut self, section: &IdentitySection) -> Option<(String, String)> {
        let tenant_id = self.directory_id(&at("tenant_id"), section.tenant_id.as_deref(), TENANT_REMEDY);
        let client_id = self.name(&at("client_id"), section.client_id.as_deref(), CLIENT_REMEDY);
        Some((tenant_id?, client_id?))
    }

    /// A tenant: it becomes part of a path, and an argument of `az`.
    fn directory_id(&mut self, key: &[&str], value: Option<&str>, remedy: &str) -> Option<String> {
        let id = self.name(key, value, remedy)?;
        if !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.') || id.starts_with('-') {
            self.view.refuse(key, format!("{remedy}: letters, digits, `-` and `.`"));
            return None;
        }
        Some(id)
    }

    fn workload_identity(&mut self, section: &IdentitySection) -> Option<AzureIdentity> {
        const ENVIRONMENT: &str = "on AKS label the pod `azure.workload.identity/use: \"true\"` and restart it; elsewhere give it here";
        let variable = |name| self.surroundings.variable(name).map(str::to_owned);
        let tenant = section.tenant_id.clone().or_else(|| variable("AZURE_TENANT_ID"));
        let client = section.client_id.clone().or_else(|| variable("AZURE_CLIENT_ID"));
        let projected = variable("AZURE_FEDERATED_TOKEN_FILE");
        let missing = |name: &str| format!("{name} is not set either: {ENVIRONMENT}");
        let tenant_id = self.directory_id(&at("tenant_id"), tenant.as_deref(), &missing("AZURE_TENANT_ID"));
        let client_id = self.name(&at("client_id"), client.as_deref(), &missing("AZURE_CLIENT_ID"));
        let token_file = match (&section.token_file, projected) {
            (None, Some(file)) => Some(self.surroundings.directory.join(file)),
            (given, _) => {
                self.path(&at("token_file"), given.as_deref(), &missing("AZURE_FEDERATED_TOKEN_FILE"))
            }
        };
        Some(AzureIdentity::WorkloadIdentity {
            tenant_id: tenant_id?,
            client_id: client_id?,
            token_file: token_file?,
        })
    }

    fn managed_id(&mut self, section: &IdentitySection) -> Option<ManagedId> {
        let keys = ["client_id", "object_id", "resource_id"];
        if keys.iter().any(|key| self.view.found_wrong(&at(key))) {
            return None;
        }
        let IdentitySection { client_id, object_id, resource_id, .. } = section;
        match (client_id, object_id, resource_id) {
            (None, None, None) => Some(ManagedId::System),
            (Some(id), None, None) => {
                let remedy = "give the managed identity's client id";
                self.name(&at("client_id"), Some(id), remedy).map(ManagedId::Client)
            }
            (None, Some(id), None) => {
                let remedy = "give the managed identity's object (principal) id";
                self.name(&at("object_id"), Some(id), remedy).map(ManagedId::Object)
            }
            (None, None, Some(id)) => {
                if !id.starts_with("/subscriptions/") || id.contains(char::is_whitespace) {
                    let remedy =
                        "give the managed identity's resource id: /subscriptions/…/userAssignedIdentities/…";
                    self.view.refuse(&at("resource_id"), remedy);
                    return None;
                }
                Some(ManagedId::Resource(id.clone()))
            }
            _ => {
                self.view.refuse_unseen(
                    &["sentinel", "identity"],
                    "client_id, object_id and resource_id name the same thing: give one of them",
                );
                None
            }
        }
    }

    /// Who answers for managed identities, as the platforms say it in the environment.
    fn managed_host(&mut self) -> Option<ManagedHost> {
        const INSTEAD: &str = "use kind `client_certificate` or `client_secret` there";
        let is_set = |name| self.surroundings.variable(name).is_some();
        let refusal = match (is_set("IDENTITY_ENDPOINT"), is_set("IDENTITY_HEADER")) {
            (true, true) if is_set("IDENTITY_SERVER_THUMBPRINT") => "Service Fabric",
            (true, true) => {
                let endpoint = self.surroundings.variable("IDENTITY_ENDPOINT")?.to_owned();
                return Some(ManagedHost::AppService { endpoint, header: from_variable("IDENTITY_HEADER") });
            }
            (true, false) => "Azure Arc (IDENTITY_ENDPOINT without IDENTITY_HEADER)",
            (false, _) if is_set("MSI_ENDPOINT") => "Cloud Shell and Azure Machine Learning (MSI_ENDPOINT)",
            (false, _) => return Some(ManagedHost::Machine),
        };
        self.view
            .refuse(&at("kind"), format!("the managed identity of {refusal} is not supported: {INSTEAD}"));
        None
    }

    /// The first that is set up here; the order stands in the reference of `kind`.
    fn default_identity(&mut self) -> Option<AzureIdentity> {
        let variable = |name: &str| self.surroundings.variable(name).map(str::to_owned);
        let tenant = variable("AZURE_TENANT_ID");
        let client = variable("AZURE_CLIENT_ID");
        let (tenant_id, client_id) = match (tenant, client.clone()) {
            (Some(tenant_id), Some(client_id)) => (tenant_id, client_id),
            _ => return self.default_managed(client),
        };
        let found = if variable("AZURE_CLIENT_SECRET").is_some() {
            let secret = from_variable("AZURE_CLIENT_SECRET");
            self.readable(&at("kind"), secret, |secret| secret.read().map(drop)).map(|secret| {
                AzureIdentity::ClientSecret { tenant_id, client_id, secret, next_secret: None }
            })?
        } else if let Some(path) = variable("AZURE_CLIENT_CERTIFICATE_PATH") {
            let place = Place::File(self.surroundings.directory.join(path));
            let source = SecretSource { place, group_may_read: self.group_may_read };
            let certificate = self.readable(&at("kind"), source, |source| source.read_bytes().map(drop))?;
            let password = variable("AZURE_CLIENT_CERTIFICATE_PASSWORD")
                .map(|_| from_variable("AZURE_CLIENT_CERTIFICATE_PASSWORD"));
            AzureIdentity::ClientCertificate { tenant_id, client_id, certificate, password, next: None }
        } else if let Some(file) = variable("AZURE_FEDERATED_TOKEN_FILE") {
            let token_file = self.surroundings.directory.join(file);
            AzureIdentity::WorkloadIdentity { tenant_id, client_id, token_file }
        } else {
            return self.default_managed(client);
        };
        Some(AzureIdentity::Found(Box::new(found)))
    }

    fn default_managed(&mut self, client_id: Option<String>) -> Option<AzureIdentity> {
        let id = client_id.map_or(ManagedId::System, ManagedId::Client);
        match self.managed_host()? {
            ManagedHost::Machine => Some(AzureIdentity::ManagedOrCli { id }),
            host @ ManagedHost::AppService { .. } => {
                Some(AzureIdentity::Found(Box::new(AzureIdentity::ManagedIdentity { host, id })))
            }
        }
    }
}

fn from_variable(name: &str) -> SecretSource {
    SecretSource { place: Place::Env(name.to_owned()), group_may_read: false }
}
