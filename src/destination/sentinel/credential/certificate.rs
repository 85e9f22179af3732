//! A certificate with its private key, and the client assertions signed with it.
//!
//! Opens PEM and PKCS#12 and signs with RSA, which is what Entra ID takes from every cloud and age of app registration. It reads no
//! file and judges no dates: whether the certificate still counts is the token service's to say.
//!
//! *Why with rustls' signer:* its provider is in the tree and checks that key and certificate belong together; the identity
//! library's own way brings OpenSSL. *Why the thumbprint is SHA-1:* `x5t` is the name under which every Entra ID finds the
//! certificate; it protects nothing.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use p12_keystore::Pkcs12Archive;
use rustls::SignatureScheme;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use serde_json::json;
use sha1::{Digest, Sha1};
use x509_cert::der::Decode;

use crate::clock::Second;
use crate::event::hex;
use crate::secret::{Secret, SecretBytes};

/// How long an assertion may be used: once, at once, by clocks that differ a little.
const ASSERTION_SECONDS: i64 = 300;
/// Most certificates of a chain that are sent along.
const CHAIN_MAX: usize = 8;

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum CertificateError {
    #[error("it is neither PEM nor PKCS#12")]
    Unknown,
    #[error("its PEM holds no certificate: append the one that belongs to the key")]
    NoCertificate,
    #[error("its PEM holds no private key: append the certificate's, in a `PRIVATE KEY` section")]
    NoKey,
    #[error("its private key is encrypted: decrypt it, or give PKCS#12 and `password`")]
    EncryptedKey,
    #[error("PKCS#12 does not open: {0}; check that `password` names its password")]
    Pkcs12(String),
    #[error("its PKCS#12 holds no private key: export it together with the certificate")]
    Incomplete,
    #[error("its private key is not RSA: Entra ID takes RSA, at least 2048 bits")]
    NotRsa,
    #[error("no certificate in it belongs to its private key: put the two that belong together there")]
    Mismatch,
    #[error("the key does not sign")]
    Unsigned,
}

/// A key with its certificate.
pub(super) struct Certificate {
    key: Arc<dyn SigningKey>,
    /// The key's own first.
    chain: Vec<CertificateDer<'static>>,
}

impl std::fmt::Debug for Certificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Certificate({})", self.thumbprint())
    }
}

impl Certificate {
    /// From PEM or PKCS#12, the latter also in base64. Without a password, PKCS#12 has the empty one.
    ///
    /// # Errors
    /// When it is neither, is incomplete, does not open, or has no RSA key. No error holds a part of the key.
    pub(super) fn open(
        bytes: &SecretBytes,
        password: Option<&Secret>,
    ) -> Result<Certificate, CertificateError> {
        let bytes = bytes.expose();
        let (key, mut chain) = if contains(bytes, b"-----BEGIN ") {
            from_pem(bytes)?
        } else if bytes.first() == Some(&0x30) {
            from_pkcs12(bytes, password)?
        } else {
            let text: Vec<u8> = bytes.iter().copied().filter(|byte| !byte.is_ascii_whitespace()).collect();
            let bytes = STANDARD.decode(text).map_err(|_| CertificateError::Unknown)?;
            from_pkcs12(&bytes, password)?
        };
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)
            .map_err(|_| CertificateError::NotRsa)?;
        if key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).is_none() {
            return Err(CertificateError::NotRsa);
        }
        let own = |certificate: &CertificateDer<'static>| {
            CertifiedKey::new(vec![certificate.clone()], Arc::clone(&key)).keys_match().is_ok()
        };
        let at = chain.iter().position(own).ok_or(CertificateError::Mismatch)?;
        let leaf = chain.remove(at);
        chain.insert(0, leaf);
        chain.truncate(CHAIN_MAX);
        Ok(Certificate { key, chain })
    }

    /// As Azure shows it.
    pub(super) fn thumbprint(&self) -> String {
        hex(&self.digest()).to_uppercase()
    }

    /// When it ends, as far as that can be read.
    pub(super) fn end(&self) -> Option<Second> {
        let certificate = x509_cert::Certificate::from_der(self.chain.first()?).ok()?;
        let end = certificate.tbs_certificate().validity().not_after.to_unix_duration();
        i64::try_from(end.as_secs()).ok().map(Second)
    }

    /// SHA-1 of the certificate.
    fn digest(&self) -> Vec<u8> {
        self.chain.first().map(|certificate| Sha1::digest(certificate).to_vec()).unwrap_or_default()
    }

    /// Says to `audience`, the token service, that whoever sends it is the app `client_id`.
    ///
    /// # Errors
    /// When the key does not sign.
    pub(super) fn assertion(
        &self,
        audience: &str,
        client_id: &str,
        now: Second,
    ) -> Result<Secret, CertificateError> {
        let chain: Vec<String> = self.chain.iter().map(|certificate| STANDARD.encode(certificate)).collect();
        let header = json!({
            "alg": "RS256",
            "typ": "JWT",
            "x5t": URL_SAFE_NO_PAD.encode(self.digest()),
            "x5c": chain,
        });
        let id = format!("{:032x}", fastrand::u128(..));
        let claims = json!({
            "aud": audience,
            "iss": client_id,
            "sub": client_id,
            "jti": id,
            "nbf": now.0,
            "exp": now.0.saturating_add(ASSERTION_SECONDS),
        });
        let part = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signer =
            self.key.choose_scheme(&[SignatureScheme::RSA_PKCS1_SHA256]).ok_or(CertificateError::NotRsa)?;
        let signature = signer.sign(signed.as_bytes()).map_err(|_| CertificateError::Unsigned)?;
        Ok(Secret::new(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))))
    }
}

type KeyAndChain = (PrivateKeyDer<'static>, Vec<CertificateDer<'static>>);

fn from_pem(bytes: &[u8]) -> Result<KeyAndChain, CertificateError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(bytes)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::Unknown)?;
    if chain.is_empty() {
        return Err(CertificateError::NoCertificate);
    }
    match PrivateKeyDer::from_pem_slice(bytes) {
        Ok(key) => Ok((key, chain)),
        Err(_) if contains(bytes, b"ENCRYPTED") => Err(CertificateError::EncryptedKey),
        Err(_) => Err(CertificateError::NoKey),
    }
}

fn from_pkcs12(bytes: &[u8], password: Option<&Secret>) -> Result<KeyAndChain, CertificateError> {
    let password = password.map(Secret::expose).unwrap_or_default();
    let archive = Pkcs12Archive::from_pkcs12(bytes, password)
        .map_err(|error| CertificateError::Pkcs12(error.to_string()))?;
    let key = archive.keys.first().ok_or(CertificateError::Incomplete)?;
    let key = PrivatePkcs8KeyDer::from(key.key.as_der().to_vec());
    let chain = archive.certs.iter().map(|bag| CertificateDer::from(bag.cert.as_der().to_vec())).collect();
    Ok((PrivateKeyDer::Pkcs8(key), chain))
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests;
