//! How a section of the configuration wants its services to be reached: whom to trust, who to be, and through which proxy.
//!
//! Plain values that can be compared: whoever has the same route shares connections. Nothing here reads a file.

use std::path::PathBuf;

use crate::secret::SecretSource;

/// One section's way out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Route {
    /// Authorities that are trusted besides the system's.
    pub ca_file: Option<PathBuf>,
    pub client_certificate: Option<ClientCertificate>,
    pub proxy: Proxy,
}

impl Route {
    /// The route that trusts these authorities too, and is otherwise the usual one.
    pub fn trusting(ca_file: Option<PathBuf>) -> Route {
        Route { ca_file, ..Route::default() }
    }

    /// What proves who the daemon is, to the service and to the proxy.
    pub fn secrets(&self) -> Vec<&SecretSource> {
        let certificate = self.client_certificate.iter();
        let mut secrets: Vec<&SecretSource> =
            certificate.flat_map(|own| std::iter::once(&own.certificate).chain(&own.key)).collect();
        if let Proxy::Named { account: Some(account), .. } = &self.proxy {
            secrets.push(&account.password);
        }
        secrets
    }
}

/// What the daemon shows to a service that asks for a certificate. PEM.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientCertificate {
    /// The certificate and its chain; without `key`, the private key too.
    pub certificate: SecretSource,
    pub key: Option<SecretSource>,
}

/// Which proxy stands between here and an `https://` address. Plain HTTP to this machine never goes through one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY` and `NO_PROXY` say.
    #[default]
    Environment,
    Off,
    /// This one for every address, whatever the environment says.
    Named {
        /// `http://HOST:PORT`, without credentials.
        url: String,
        account: Option<ProxyAccount>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ProxyAccount {
    pub username: String,
    pub password: SecretSource,
}
