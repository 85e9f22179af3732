//! Secrets: the only type that holds one, and where it is read from.
//!
//! A secret is a file, an environment variable or a value of a Pulumi ESC environment, never a literal; it is read again whenever it
//! may have changed, so replacing the file is enough. Nothing here prints one. A secret is one word of text, except a certificate
//! with its key: that is bytes. What is not on this machine is read by [`Environments`](crate::pulumi::environment::Environments).

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretSlice, SecretString};
use sha2::{Digest, Sha256};

use crate::config::settings::SourceAccess;
use crate::pulumi::wire::environment::{EnvironmentName, PropertyPath};

/// Most bytes of a secret: longer files are not secrets but mistakes.
pub const SECRET_BYTES_MAX: u64 = 64 * 1024;

/// A secret's value: redacted when printed, wiped when dropped.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    pub fn new(text: String) -> Secret {
        Secret(SecretString::from(text))
    }

    /// The value itself, for the one place that must send it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }

    /// Tells whether two readings are the same without keeping either.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint(Sha256::digest(self.expose().as_bytes()).into())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret([REDACTED])")
    }
}

/// A secret that is not one word: a private key in PEM form or PKCS#12. Redacted and wiped like [`Secret`].
pub struct SecretBytes(SecretSlice<u8>);

impl SecretBytes {
    pub fn new(bytes: Vec<u8>) -> SecretBytes {
        SecretBytes(SecretSlice::from(bytes))
    }

    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// Of the bytes, together with the word that opens them.
    pub fn fingerprint(&self, password: Option<&Secret>) -> Fingerprint {
        let mut hasher = Sha256::new_with_prefix(self.expose());
        if let Some(password) = password {
            hasher.update(b"\0");
            hasher.update(password.expose().as_bytes());
        }
        Fingerprint(hasher.finalize().into())
    }
}

impl fmt::Debug for SecretBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretBytes([REDACTED])")
    }
}

/// A hash of a secret, kept in memory only.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Of several secrets that belong together.
    pub fn of_all(parts: impl IntoIterator<Item = Fingerprint>) -> Fingerprint {
        let all = parts.into_iter().fold(Sha256::new(), |hasher, part| hasher.chain_update(part.0));
        Fingerprint(all.finalize().into())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint([REDACTED])")
    }
}

/// Where a secret comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SecretSource {
    pub place: Place,
    /// `allow_group_readable_secrets`: accept mode 0440, as Kubernetes' fsGroup makes it.
    pub group_may_read: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    File(PathBuf),
    Env(String),
    Esc(Arc<EscPlace>),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(path) => write!(f, "file {}", path.display()),
            Place::Env(name) => write!(f, "environment variable {name}"),
            Place::Esc(place) => place.fmt(f),
        }
    }
}

/// A value of an ESC environment, and who asks for it where.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EscPlace {
    pub environment: EnvironmentName,
    pub path: PropertyPath,
    /// The org's own source.
    pub access: SourceAccess,
}

impl fmt::Display for EscPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ESC environment {}#{}", self.environment, self.path)
    }
}

/// Whether what was read of a secret before will do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    Kept,
    /// It was refused.
    Renewed,
}

#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum SecretError {
    #[error("cannot read secret {place}: {cause}; put the secret there, readable for this user only")]
    Unreadable { place: String, cause: String },
    #[error("secret {place} is a directory: name the file in it that holds the secret")]
    Directory { place: String },
    #[error("secret {place} is empty: put the secret there")]
    Empty { place: String },
    #[error(
        "secret {place} holds more than one line, white space inside, or text that is not UTF-8: it must be the secret alone"
    )]
    Malformed { place: String },
    #[error("secret {place} can be read by others (mode {mode:04o}): run chmod 0600 on it{hint}")]
    Exposed { place: String, mode: u32, hint: &'static str },
    /// It is not on this machine, and where it is said no.
    #[error("secret {place} cannot be read: {cause}; {remedy}")]
    Withheld { place: String, cause: String, remedy: String },
    /// It is not on this machine, and whoever is asked later may be told.
    #[error("secret {place} cannot be read now: {cause}")]
    Unavailable { place: String, wait: Option<Duration>, cause: String },
}

impl SecretSource {
    /// Reads the secret as it stands now. One trailing newline and a byte order mark are cut.
    ///
    /// # Errors
    /// When it is absent, empty, readable by others, not one word of text, or not on this machine. The value is in no error.
    pub fn read(&self) -> Result<Secret, SecretError> {
        let place = self.place.to_string();
        let malformed = |_| SecretError::Malformed { place: place.clone() };
        let bytes = self.read_bytes()?;
        word(std::str::from_utf8(bytes.expose()).map_err(malformed)?, place.clone())
    }

    /// Reads a secret that is not one word, as it stands now and whole.
    ///
    /// # Errors
    /// When it is absent, empty, readable by others, or not on this machine.
    pub fn read_bytes(&self) -> Result<SecretBytes, SecretError> {
        let place = self.place.to_string();
        let bytes = match &self.place {
            Place::File(path) => {
                self.check_mode(path, &place)?;
                file_bytes(path, &place)?
            }
            Place::Env(name) => {
                VARIABLES.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone());
                let value = std::env::var(name).map_err(|error| SecretError::Unreadable {
                    place: place.clone(),
                    // The error of a value that is not UTF-8 would print the value.
                    cause: match error {
                        std::env::VarError::NotPresent => "not set".into(),
                        std::env::VarError::NotUnicode(_) => "not UTF-8".into(),
                    },
                })?;
                SecretBytes::new(value.into_bytes())
            }
            Place::Esc(_) => {
                let cause = "its environment has to be opened first".into();
                return Err(SecretError::Unavailable { place, wait: None, cause });
            }
        };
        if bytes.expose().is_empty() {
            return Err(SecretError::Empty { place });
        }
        Ok(bytes)
    }

    #[cfg(unix)]
    fn check_mode(&self, path: &Path, place: &str) -> Result<(), SecretError> {
        use std::os::unix::fs::PermissionsExt;
        let metadata = std::fs::metadata(path)
            .map_err(|error| SecretError::Unreadable { place: place.to_owned(), cause: error.to_string() })?;
        if metadata.is_dir() {
            return Err(SecretError::Directory { place: place.to_owned() });
        }
        let mode = metadata.permissions().mode() & 0o777;
        let forbidden = forbidden(path, self.group_may_read);
        if mode & forbidden != 0 {
            let hint = if mode & 0o037 == 0 { ", or set allow_group_readable_secrets = true" } else { "" };
            return Err(SecretError::Exposed { place: place.to_owned(), mode, hint });
        }
        Ok(())
    }

    #[cfg(not(unix))]
    fn check_mode(&self, _: &Path, _: &str) -> Result<(), SecretError> {
        Ok(())
    }
}

/// The bits of a mode that a secret's file must not have.
///
/// *Why not those of the group among systemd's credentials:* where it lets one user read one with an access control list, the mode has
/// the list's mask in their place (acl(5)), and no group may read it.
fn forbidden(path: &Path, group_may_read: bool) -> u32 {
    if group_may_read || path.starts_with("/run/credentials") { 0o037 } else { 0o077 }
}

/// The environment variables that secrets were read from.
///
/// *Why for the whole process:* so is the environment, and a program that one org has started would inherit the secrets of all.
static VARIABLES: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// The names of the environment variables that hold secrets: no program that we start may inherit them.
pub fn variables() -> BTreeSet<String> {
    VARIABLES.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Reads a token that the platform puts into a file and exchanges by itself, as Kubernetes does. Its mode is the platform's choice.
///
/// # Errors
/// When it is absent, empty, or not one word of text. The value is in no error.
pub fn read_projected(path: &Path) -> Result<Secret, SecretError> {
    let place = Place::File(path.to_owned()).to_string();
    let bytes = file_bytes(path, &place)?;
    let malformed = |_| SecretError::Malformed { place: place.clone() };
    word(std::str::from_utf8(bytes.expose()).map_err(malformed)?, place.clone())
}

/// One word, without a byte order mark and a newline around it.
///
/// # Errors
/// When it is empty or more than that.
pub(crate) fn word(text: &str, place: String) -> Result<Secret, SecretError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.strip_suffix('\n').unwrap_or(text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() {
        return Err(SecretError::Empty { place });
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(SecretError::Malformed { place });
    }
    Ok(Secret::new(text.to_owned()))
}

fn file_bytes(path: &Path, place: &str) -> Result<SecretBytes, SecretError> {
    use std::io::Read;
    let mut bytes = Vec::new();
    std::fs::File::open(path)
        .and_then(|file| file.take(SECRET_BYTES_MAX).read_to_end(&mut bytes))
        .map_err(|error| SecretError::Unreadable { place: place.to_owned(), cause: error.to_string() })?;
    Ok(SecretBytes::new(bytes))
}

/// Any bytes in a secret's place: one word, or a reason that does not show them.
#[cfg(any(test, fuzzing))]
pub(crate) fn property(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match word(text, "file x".into()) {
        Ok(secret) => {
            let word = secret.expose();
            assert!(!word.is_empty() && text.contains(word));
            assert!(!word.chars().any(|c| c.is_whitespace() || c.is_control()));
            assert!(word.len() < 8 || !format!("{secret:?} {:?}", secret.fingerprint()).contains(word));
        }
        Err(error) => {
            let said = [
                SecretError::Empty { place: "file x".into() },
                SecretError::Malformed { place: "file x".into() },
            ];
            assert!(said.contains(&error), "{error}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_of_systemd_may_show_the_mask_of_its_access_list_and_be_open_to_nobody_else() {
        let mode = |path: &str, group_may_read| forbidden(Path::new(path), group_may_read);
        let credential = "/run/credentials/pulumi-audit-forwarder.service/secret_acme-token";
        assert_eq!(0o440 & mode(credential, false), 0);
        for open in [0o444, 0o460, 0o441] {
            assert_ne!(open & mode(credential, false), 0, "{open:o}");
        }
        for elsewhere in ["/etc/acme-token", "/run/credentials.d/x", "/srv/run/credentials/x"] {
            assert_ne!(0o440 & mode(elsewhere, false), 0, "{elsewhere}");
            assert_eq!(0o440 & mode(elsewhere, true), 0, "{elsewhere}");
        }
    }
}
