//! Who the daemon is for Azure: one of the kinds of identity, and the search for one where the configuration says `default`.
//!
//! *Why the search is ours:* Microsoft's library for Rust has no default chain. *Why it settles:* a daemon that is now one identity
//! and now another gets a role on the data collection rule for one of them only.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use super::azure_cli::AzureCli;
use super::entra::{App, Proof, Proofs};
use super::managed::Managed;
use super::{Fetched, NoToken};
use crate::clock::Clock;
use crate::config::settings::{AzureIdentity, ManagedHost, ManagedId, SentinelSettings};
use crate::http::Transport;
use crate::pulumi::environment::Environments;
use crate::rotation::{Rotation, Standing};
use crate::secret::Fingerprint;

pub(super) enum Identity {
    App(Box<App>),
    Managed(Managed),
    AzureCli(AzureCli),
    Sought(Sought),
}

impl Identity {
    pub(super) fn new(
        settings: &SentinelSettings,
        transport: Arc<dyn Transport>,
        environments: Environments,
        clock: Clock,
    ) -> Identity {
        Identity::of(&settings.identity, &Around { settings, transport, environments, clock })
    }

    fn of(identity: &AzureIdentity, around: &Around<'_>) -> Identity {
        match identity.clone() {
            AzureIdentity::ClientSecret { tenant_id, client_id, secret, next_secret } => {
                let (first, next) = (Proof::Secret(secret), next_secret.map(Proof::Secret));
                Identity::App(Box::new(around.app(tenant_id, client_id, first, next)))
            }
            AzureIdentity::ClientCertificate { tenant_id, client_id, certificate, password, next } => {
                let first = Proof::Certificate { certificate, password };
                let next = next.map(|next| Proof::Certificate {
                    certificate: next.certificate,
                    password: next.password,
                });
                Identity::App(Box::new(around.app(tenant_id, client_id, first, next)))
            }
            AzureIdentity::WorkloadIdentity { tenant_id, client_id, token_file } => {
                Identity::App(Box::new(around.workload(tenant_id, client_id, token_file)))
            }
            AzureIdentity::ManagedIdentity { host, id } => Identity::Managed(around.managed(host, id)),
            AzureIdentity::AzureCli { tenant_id } => Identity::AzureCli(around.azure_cli(tenant_id)),
            AzureIdentity::Found(found) => {
                let identity = Identity::of(&found, around);
                tracing::info!(
                    identity = identity.name(),
                    "`default` found an Azure identity in the environment"
                );
                identity
            }
            AzureIdentity::ManagedOrCli { id } => Identity::Sought(Sought {
                managed: around.managed(ManagedHost::Machine, id),
                azure_cli: around.azure_cli(None),
                settled: OnceLock::new(),
            }),
        }
    }

    /// For messages.
    pub(super) fn name(&self) -> String {
        match self {
            Identity::App(app) => app.name(),
            Identity::Managed(managed) => managed.name(),
            Identity::AzureCli(cli) => cli.name(),
            Identity::Sought(sought) => sought.name(),
        }
    }

    /// What proves it, as it stands now; `None` when that cannot be read, or when the platform vouches for it.
    pub(super) fn secret(&self) -> Option<Fingerprint> {
        match self {
            Identity::App(app) => app.secret(),
            Identity::Managed(_) | Identity::AzureCli(_) | Identity::Sought(_) => None,
        }
    }

    /// Whether there is another proof to be tried.
    pub(super) async fn is_due(&self) -> bool {
        match self {
            Identity::App(app) => app.is_due().await,
            Identity::Managed(_) | Identity::AzureCli(_) | Identity::Sought(_) => false,
        }
    }

    /// Which of two proofs is in use.
    pub(super) fn standing(&self) -> Option<Standing> {
        match self {
            Identity::App(app) => app.standing(),
            Identity::Managed(_) | Identity::AzureCli(_) | Identity::Sought(_) => None,
        }
    }

    /// Asks for a token once. The first answer is as of [`Identity::secret`], at the time of asking.
    pub(super) async fn fetch(&self) -> (Option<Fingerprint>, Fetched) {
        match self {
            Identity::App(app) => app.fetch().await,
            Identity::Managed(managed) => (None, managed.fetch().await),
            Identity::AzureCli(cli) => (None, cli.fetch().await),
            Identity::Sought(sought) => (None, sought.fetch().await),
        }
    }
}

/// What every kind is made from.
struct Around<'a> {
    settings: &'a SentinelSettings,
    transport: Arc<dyn Transport>,
    environments: Environments,
    clock: Clock,
}

impl Around<'_> {
    fn app(&self, tenant_id: String, client_id: String, first: Proof, next: Option<Proof>) -> App {
        let proofs = Proofs { first, next, environments: self.environments.clone() };
        App {
            authority: self.settings.authority.clone(),
            tenant_id,
            client_id,
            scope: self.settings.scope.clone(),
            rotation: tokio::sync::Mutex::new(Rotation::new(proofs.clone())),
            proofs,
            transport: Arc::clone(&self.transport),
            clock: self.clock.clone(),
        }
    }

    fn workload(&self, tenant_id: String, client_id: String, token_file: PathBuf) -> App {
        self.app(tenant_id, client_id, Proof::Projected(token_file), None)
    }

    fn managed(&self, host: ManagedHost, id: ManagedId) -> Managed {
        Managed {
            host,
            id,
            scope: self.settings.scope.clone(),
            transport: Arc::clone(&self.transport),
            clock: self.clock.clone(),
        }
    }

    fn azure_cli(&self, tenant_id: Option<String>) -> AzureCli {
        AzureCli { program: "az".into(), tenant_id, scope: self.settings.scope.clone() }
    }
}

/// The end of the chain: the machine's managed identity, or else the Azure CLI. The first that gives a token stays.
pub(super) struct Sought {
    managed: Managed,
    azure_cli: AzureCli,
    settled: OnceLock<Settled>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Settled {
    Managed,
    AzureCli,
}

impl Sought {
    fn name(&self) -> String {
        match self.settled.get() {
            Some(Settled::Managed) => self.managed.name(),
            Some(Settled::AzureCli) => self.azure_cli.name(),
            None => format!("{}, or where there is none {}", self.managed.name(), self.azure_cli.name()),
        }
    }

    async fn fetch(&self) -> Fetched {
        match self.settled.get() {
            Some(Settled::Managed) => return self.managed.fetch().await,
            Some(Settled::AzureCli) => return self.azure_cli.fetch().await,
            None => {}
        }
        let (chosen, fetched) = if self.managed.is_there().await {
            (Settled::Managed, self.managed.fetch().await)
        } else if self.azure_cli.is_installed() {
            (Settled::AzureCli, self.azure_cli.fetch().await)
        } else {
            return Err(NoToken::refused(
                "`default` found no Azure identity: neither AZURE_TENANT_ID with AZURE_CLIENT_ID and a proof nor \
                 IDENTITY_ENDPOINT is set, no metadata service answers, and there is no `az`",
                "set one of them up for this process, or name a `kind` in `identity`",
            ));
        };
        if fetched.is_ok() && self.settled.set(chosen).is_ok() {
            tracing::info!(identity = self.name(), "`default` found an Azure identity");
        }
        fetched
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use async_trait::async_trait;

    use super::*;
    use crate::http::{Failure, Request, Response};

    /// No metadata service anywhere.
    struct Nothing;

    #[async_trait]
    impl Transport for Nothing {
        async fn send(&self, _: Request) -> Result<Response, Failure> {
            Err(Failure::Connection("no route".into()))
        }
    }

    fn sought(az: &std::path::Path) -> Sought {
        let scope = "https://monitor.azure.com/.default".to_owned();
        Sought {
            managed: Managed {
                host: ManagedHost::Machine,
                id: ManagedId::System,
                scope: scope.clone(),
                transport: Arc::new(Nothing),
                clock: Clock::system(),
            },
            azure_cli: AzureCli { program: az.into(), tenant_id: None, scope },
            settled: OnceLock::new(),
        }
    }

    #[tokio::test]
    async fn the_azure_cli_is_the_last_choice_and_settles_with_its_first_token() {
        let directory = tempfile::tempdir().unwrap();
        let az = directory.path().join("az");
        let sought = sought(&az);
        let Err(NoToken::Refused(problem)) = sought.fetch().await else { panic!() };
        for part in ["AZURE_TENANT_ID", "IDENTITY_ENDPOINT", "metadata service", "`az`"] {
            assert!(problem.cause.contains(part), "`{part}` is in: {}", problem.cause);
        }
        let script = |lines: &str| {
            std::fs::write(&az, format!("#!/bin/sh\n{lines}\n")).unwrap();
            std::fs::set_permissions(&az, std::fs::Permissions::from_mode(0o700)).unwrap();
        };
        script("exit 1");
        assert!(
            sought.fetch().await.is_err() && sought.settled.get().is_none(),
            "nothing is settled by a failure"
        );
        script("echo '{\"accessToken\":\"t\",\"expires_on\":2000000000}'");
        assert_eq!(sought.fetch().await.unwrap().0.expose(), "t");
        assert_eq!(sought.settled.get(), Some(&Settled::AzureCli));
        assert_eq!(sought.name(), "the account signed in to the Azure CLI");
    }
}
