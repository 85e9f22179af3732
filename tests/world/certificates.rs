//! The world's own certificate authority, and the certificates of its servers: good ones, and each kind of bad one.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

/// What is wrong with a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leaf {
    Good,
    Expired,
    NotYetValid,
    WrongName,
    SelfSigned,
    /// Signed by an authority that nobody was told of.
    UnknownAuthority,
}

pub struct Certificates {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    /// The authority's certificate, for `ca_file` and the like.
    pub ca_pem: PathBuf,
}

impl Certificates {
    pub fn create(directory: &Path) -> Self {
        let (issuer, pem) = authority("world test authority");
        let der = CertificateDer::from_pem_slice(pem.as_bytes()).expect("it was just written");
        let ca_pem = directory.join("ca.pem");
        std::fs::write(&ca_pem, pem).expect("the world's directory can be written");
        Self { issuer, der, ca_pem }
    }

    /// What a server needs to speak TLS with this certificate. The provider is named: with two compiled in there is no default.
    pub fn server(&self, leaf: Leaf) -> Arc<ServerConfig> {
        self.serving(leaf, false)
    }

    /// The same for a server that lets in whoever shows a certificate of this authority.
    pub fn server_that_asks(&self) -> Arc<ServerConfig> {
        self.serving(Leaf::Good, true)
    }

    /// A certificate for a client, then its key, in PEM form.
    pub fn client(&self) -> String {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name = name("forwarder");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be made");
        format!("{}{}", certificate.pem(), key.serialize_pem())
    }

    /// The certificate of a server and its key as files, for servers that are not ours.
    pub fn files(&self, directory: &Path) -> (PathBuf, PathBuf) {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key can be made");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::DnsName("localhost".try_into().expect("a name"))];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate can be made");
        let paths = (directory.join("server.pem"), directory.join("server-key.pem"));
        std::fs::write(&paths.0, certificate.pem()).expect("the world's directory can be written");
        std::fs::write(&paths.1, key.serialize_pem()).expect("the world's directory can be written");
        paths
    }

    fn serving(&self, leaf: Leaf, asks: bool) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("a key can be made");
        let mut params = CertificateParams::default();
        params.subject_alt_names = match leaf {
            Leaf::WrongName => vec![SanType::DnsName("elsewhere.invalid".try_into().expect("a name"))],
            _ => vec![
                SanType::DnsName("localhost".try_into().expect("a name")),
                SanType::IpAddress(Ipv4Addr::LOCALHOST.into()),
            ],
        };
        params.distinguished_name = name("localhost");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        (params.not_before, params.not_after) = match leaf {
            Leaf::Expired => (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1)),
            Leaf::NotYetValid => (rcgen::date_time_ymd(2090, 1, 1), rcgen::date_time_ymd(2091, 1, 1)),
            _ => (rcgen::date_time_ymd(2024, 1, 1), rcgen::date_time_ymd(2080, 1, 1)),
        };
        let certificate = match leaf {
            Leaf::SelfSigned => params.self_signed(&key),
            Leaf::UnknownAuthority => params.signed_by(&key, &authority("an authority nobody knows").0),
            _ => params.signed_by(&key, &self.issuer),
        }
        .expect("a certificate can be made");
        let chain = vec![CertificateDer::from(certificate.der().to_vec())];
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .expect("the provider knows the usual versions");
        let config = if asks {
            let mut roots = RootCertStore::empty();
            roots.add(self.der.clone()).expect("an authority's certificate");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            config.with_client_cert_verifier(verifier.build().expect("it has an authority"))
        } else {
            config.with_no_client_auth()
        };
        let mut config = config.with_single_cert(chain, key).expect("the key fits its certificate");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Arc::new(config)
    }
}

/// What an application proves itself with: a certificate of its own making.
pub struct ClientCertificate {
    /// The certificate, then its key.
    pub pem: String,
    pub der: Vec<u8>,
    /// As it stands in the certificate.
    pub public_key: Vec<u8>,
    pub private_key: Vec<u8>,
}

impl ClientCertificate {
    pub fn create() -> Self {
        let key = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key can be made");
        let mut params = CertificateParams::default();
        params.distinguished_name = name("forwarder");
        let certificate = params.self_signed(&key).expect("a certificate can be made");
        Self {
            pem: format!("{}{}", certificate.pem(), key.serialize_pem()),
            der: certificate.der().to_vec(),
            public_key: key.public_key_raw().to_vec(),
            private_key: key.serialize_der(),
        }
    }

    pub fn pkcs12(&self, password: &str) -> Vec<u8> {
        let key = p12_keystore::PrivateKey::from_der(&self.private_key).expect("a key");
        let certificate = p12_keystore::Certificate::from_der(&self.der).expect("a certificate");
        let pair = p12_keystore::PrivateKeyChain::new("1", key, [certificate]);
        let mut store = p12_keystore::KeyStore::new();
        store.add_entry("forwarder", p12_keystore::KeyStoreEntry::PrivateKeyChain(pair));
        store.writer(password).write().expect("it can be written")
    }
}

fn authority(common_name: &str) -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().expect("a key can be made");
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name = name(common_name);
    params.not_before = rcgen::date_time_ymd(2024, 1, 1);
    params.not_after = rcgen::date_time_ymd(2080, 1, 1);
    let pem = params.self_signed(&key).expect("a certificate can be made").pem();
    (Issuer::new(params, key), pem)
}

fn name(common_name: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::CommonName, common_name);
    name
}
