//! TLS as the daemon speaks it: 1.2 and 1.3, the system's authorities and those of a file, and a certificate of its own where a
//! service asks for one.
//!
//! It reads files and makes configurations of them; when to do so again is for [`super::client`].
//!
//! *Why authorities are kept apart from the rest:* a set of them takes most of the memory of a TLS context, and a thousand orgs with a
//! certificate each trust the same.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustls::ClientConfig;
use rustls::client::danger::ServerCertVerifier;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls_platform_verifier::Verifier;

use super::ClientError;
use super::route::{ClientCertificate, Route};
use super::stamp::Stamp;
use crate::secret::{Place, SECRET_BYTES_MAX, SecretBytes, SecretSource};

/// Most bytes of a certificate authority file.
const CA_BYTES_MAX: u64 = 4 * 1024 * 1024;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// One set of authorities for each file in use, and one for the system's alone.
#[derive(Debug, Default)]
pub(super) struct Authorities(Mutex<HashMap<Option<PathBuf>, Set>>);

#[derive(Debug)]
struct Set {
    stamp: Option<Stamp>,
    verifier: Arc<Verifier>,
}

impl Authorities {
    /// The authorities as they stand: those that were read before, unless their file has changed.
    pub(super) fn trusted(&self, ca_file: Option<&Path>) -> Result<Arc<Verifier>, ClientError> {
        let stamp = ca_file.and_then(Stamp::of);
        let mut sets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = ca_file.map(Path::to_owned);
        if let Some(set) = sets.get(&key).filter(|set| set.stamp == stamp) {
            return Ok(Arc::clone(&set.verifier));
        }
        let verifier = Arc::new(match ca_file {
            None => Verifier::new(provider())
                .map_err(|error| ClientError::SystemAuthorities(error.to_string()))?,
            Some(path) => {
                let unusable = |cause: String| ClientError::Authority { path: path.to_owned(), cause };
                let roots = certificates(path).map_err(unusable)?;
                Verifier::new_with_extra_roots(roots, provider())
                    .map_err(|error| unusable(error.to_string()))?
            }
        });
        sets.insert(key, Set { stamp, verifier: Arc::clone(&verifier) });
        Ok(verifier)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = read(path, CA_BYTES_MAX).map_err(|error| error.to_string())?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("its PEM cannot be read: {error}"))?;
    if certificates.is_empty() {
        return Err("it holds no certificate".into());
    }
    Ok(certificates)
}

fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What a route needs to speak TLS, read from its files as they stand.
pub(super) fn config(route: &Route, authorities: &Authorities) -> Result<ClientConfig, ClientError> {
    let verifier: Arc<dyn ServerCertVerifier> = authorities.trusted(route.ca_file.as_deref())?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| ClientError::Setup(error.to_string()))?
        // Not less safe than the usual one: it is the verifier for the system's authorities.
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &route.client_certificate {
        None => config.with_no_client_auth(),
        Some(own) => {
            let unusable = |cause| ClientError::Certificate { place: own.place(), cause };
            let (chain, key) = own.open().map_err(unusable)?;
            config
                .with_client_auth_cert(chain, key)
                .map_err(|_| unusable("certificate and private key do not belong together".into()))?
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

impl ClientCertificate {
    fn place(&self) -> String {
        match &self.key {
            None => self.certificate.place.to_string(),
            Some(key) => format!("{} with the key in {}", self.certificate.place, key.place),
        }
    }

    fn open(&self) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), String> {
        let (certificate, key) = match &self.key {
            None => (self.certificate.read_bytes().map_err(|error| error.to_string())?, None),
            Some(key) => {
                let key = key.read_bytes().map_err(|error| error.to_string())?;
                (public(&self.certificate)?, Some(key))
            }
        };
        let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate.expose())
            .collect::<Result<_, _>>()
            .map_err(|_| "its PEM cannot be read".to_owned())?;
        if chain.is_empty() {
            return Err("it holds no certificate in PEM form".into());
        }
        let key = key.as_ref().unwrap_or(&certificate).expose();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
            if key.windows(LOCKED.len()).any(|window| window == LOCKED) {
                "its private key is encrypted: write it decrypted with `openssl pkey`, for this user only"
            } else {
                "it holds no private key in PEM form: append the certificate's, or name its file in `client_key`"
            }
        })?;
        Ok((chain, key))
    }
}

const LOCKED: &[u8] = b"ENCRYPTED";

/// A certificate without its key may be read by everybody.
fn public(source: &SecretSource) -> Result<SecretBytes, String> {
    match &source.place {
        Place::File(path) => {
            let bytes = read(path, SECRET_BYTES_MAX).map_err(|error| format!("cannot be read: {error}"))?;
            Ok(SecretBytes::new(bytes))
        }
        _ => source.read_bytes().map_err(|error| error.to_string()),
    }
}
