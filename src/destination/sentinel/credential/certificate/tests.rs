//! Certificates as files hold them. Those of OpenSSL are there to show that other people's files open:
//! `openssl pkcs12 -export` with a password, and with `-legacy` and none. Their key was made for this and is used for nothing else.

use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_RSA_SHA256,
};
use serde_json::Value;

use super::*;

const OPENSSL: &[u8] = include_bytes!("openssl-3.p12");
const OPENSSL_LEGACY: &[u8] = include_bytes!("openssl-legacy.p12");
const OPENSSL_THUMBPRINT: &str = "D082AABC2E93C114F9E16B5D1923D75E2E4F312A";
const NOW: Second = Second(1_795_256_100);

struct Made {
    key: KeyPair,
    certificate: String,
    der: Vec<u8>,
}

fn rsa() -> Made {
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let made = CertificateParams::default().self_signed(&key).unwrap();
    Made { certificate: made.pem(), der: made.der().to_vec(), key }
}

fn open(text: impl Into<Vec<u8>>, password: Option<&str>) -> Result<Certificate, CertificateError> {
    let password = password.map(|password| Secret::new(password.to_owned()));
    Certificate::open(&SecretBytes::new(text.into()), password.as_ref())
}

fn decoded(part: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[test]
fn an_assertion_is_the_documented_one_and_its_signature_is_the_certificates() {
    let made = rsa();
    let certificate = open(format!("{}{}", made.key.serialize_pem(), made.certificate), None).unwrap();
    let assertion =
        certificate.assertion("https://login.example/t/oauth2/v2.0/token", "client-1", NOW).unwrap();
    let parts: Vec<&str> = assertion.expose().split('.').collect();
    let [header, claims, signature] = parts[..] else { panic!("three parts") };
    let thumbprint = Sha1::digest(&made.der);
    assert_eq!(
        decoded(header),
        json!({"alg": "RS256", "typ": "JWT", "x5t": URL_SAFE_NO_PAD.encode(thumbprint), "x5c": [STANDARD.encode(&made.der)]})
    );
    let claims_read = decoded(claims);
    let id = claims_read["jti"].as_str().unwrap();
    assert_eq!(id.len(), 32);
    assert_eq!(
        claims_read,
        json!({"aud": "https://login.example/t/oauth2/v2.0/token", "iss": "client-1", "sub": "client-1",
            "nbf": NOW.0, "exp": NOW.0 + 300, "jti": id})
    );
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let (_, verifiers) =
        algorithms.mapping.iter().find(|(scheme, _)| *scheme == SignatureScheme::RSA_PKCS1_SHA256).unwrap();
    let (signed, signature) = (format!("{header}.{claims}"), URL_SAFE_NO_PAD.decode(signature).unwrap());
    let holds = |signed: &str| {
        let mut verifiers = verifiers.iter();
        verifiers.any(|verifier| {
            verifier.verify_signature(made.key.public_key_raw(), signed.as_bytes(), &signature).is_ok()
        })
    };
    assert!(holds(&signed));
    assert!(!holds(&format!("{signed}x")));
    let again = certificate.assertion("https://login.example/t/oauth2/v2.0/token", "client-1", NOW).unwrap();
    assert_ne!(assertion.expose(), again.expose(), "each is used once");
}

#[test]
fn the_keys_own_certificate_is_found_wherever_it_stands_in_a_chain() {
    let authority_key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let own = CertificateParams::default().signed_by(&key, &Issuer::new(params, authority_key)).unwrap();
    let files = [
        format!("{}{}{}", own.pem(), authority.pem(), key.serialize_pem()),
        format!("{}{}{}", key.serialize_pem(), authority.pem(), own.pem()),
    ];
    for file in files {
        let certificate = open(file, None).unwrap();
        let chain: Vec<&[u8]> = certificate.chain.iter().map(|certificate| certificate.as_ref()).collect();
        assert_eq!(chain, [own.der().as_ref(), authority.der().as_ref()]);
    }
}

#[test]
fn other_peoples_pkcs12_opens_with_its_password_and_in_base64() {
    for (file, password) in [(OPENSSL, Some("simulated-password")), (OPENSSL_LEGACY, None)] {
        let text = STANDARD.encode(file);
        let wrapped = text.as_bytes().chunks(64).collect::<Vec<_>>().join(&b'\n');
        for bytes in [file.to_vec(), text.clone().into_bytes(), wrapped] {
            let certificate = open(bytes, password).unwrap();
            assert_eq!(certificate.thumbprint(), OPENSSL_THUMBPRINT);
            assert!(certificate.assertion("a", "c", NOW).is_ok());
        }
    }
}

#[test]
fn every_file_that_will_not_do_is_told_apart_without_showing_it() {
    let made = rsa();
    let other = rsa();
    let key = made.key.serialize_pem();
    let ec = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let of_ec = CertificateParams::default().self_signed(&ec).unwrap().pem();
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let refused = |file: &str| open(file, None).unwrap_err();
    assert_eq!(refused("canary"), CertificateError::Unknown);
    assert_eq!(refused(&key), CertificateError::NoCertificate);
    assert_eq!(refused(&made.certificate), CertificateError::NoKey);
    assert_eq!(refused(&format!("{encrypted}{}", made.certificate)), CertificateError::EncryptedKey);
    assert_eq!(refused(&format!("{}{of_ec}", ec.serialize_pem())), CertificateError::NotRsa);
    assert_eq!(refused(&format!("{key}{}", other.certificate)), CertificateError::Mismatch);
    for (file, password) in
        [(OPENSSL, None), (OPENSSL, Some("canary")), (&OPENSSL[..700], Some("simulated-password"))]
    {
        let error = open(file, password).unwrap_err();
        assert!(matches!(error, CertificateError::Pkcs12(_)), "{error}");
        assert!(error.to_string().contains("`password`") && !error.to_string().contains("canary"));
    }
    let certificate = open(format!("{key}{}", made.certificate), None).unwrap();
    assert_eq!(format!("{certificate:?}"), format!("Certificate({})", certificate.thumbprint()));
}
