//! Tokens of whoever is signed in to the Azure CLI: for a person who tries things out, not for a service.
//!
//! Runs `az` once for each call, for a bounded time.
//!
//! *Why our own:* the identity library starts a shell, waits for it without end, and leaves it running when nobody waits any more.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

use super::{Fetched, NoToken};
use crate::clock::Clock;
use crate::secret::Secret;

/// It starts a Python interpreter and may ask the network.
const DEADLINE: Duration = Duration::from_secs(60);
const ANSWER_BYTES_MAX: u64 = 256 * 1024;
/// Most characters of its words that are passed on.
const WORDS_CHARACTERS_MAX: usize = 300;

/// Variables of the platforms that hold secrets of this daemon's, whether they are read or not. The program is signed in by itself, and
/// needs none. A password in `HTTPS_PROXY` stays: it goes the same way.
const SECRETS_OF_PLATFORMS: [&str; 6] = [
    "AWS_CONTAINER_AUTHORIZATION_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AZURE_CLIENT_CERTIFICATE_PASSWORD",
    "AZURE_CLIENT_SECRET",
    "PULUMI_ACCESS_TOKEN",
];

pub(super) struct AzureCli {
    /// Found by the search path, if it has no slash.
    pub(super) program: OsString,
    pub(super) tenant_id: Option<String>,
    pub(super) scope: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(rename = "accessToken")]
    access_token: String,
    /// Since Azure CLI 2.54.
    expires_on: Option<i64>,
}

impl AzureCli {
    pub(super) fn name(&self) -> String {
        match &self.tenant_id {
            None => "the account signed in to the Azure CLI".into(),
            Some(tenant_id) => format!("the account signed in to the Azure CLI, tenant `{tenant_id}`"),
        }
    }

    pub(super) fn is_installed(&self) -> bool {
        let paths = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&paths).any(|directory| directory.join(Path::new(&self.program)).is_file())
    }

    pub(super) async fn fetch(&self) -> Fetched {
        let (status, out, words) = match tokio::time::timeout(DEADLINE, self.run()).await {
            Ok(Ok(ended)) => ended,
            Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {
                return Err(NoToken::refused(
                    "the Azure CLI (`az`) is not on the search path",
                    "install it for the daemon's user, or choose another `kind` of `identity`",
                ));
            }
            Ok(Err(error)) => return Err(NoToken::Failed(format!("`az` does not run: {error}"))),
            Err(_) => {
                return Err(NoToken::Failed(format!(
                    "`az` has not answered within {} seconds",
                    DEADLINE.as_secs()
                )));
            }
        };
        if !status.success() {
            return Err(NoToken::refused(
                format!("`az account get-access-token` ended with {status}: {}", said(&words)),
                self.remedy(),
            ));
        }
        self.token(&out)
    }

    /// What it prints.
    fn token(&self, out: &[u8]) -> Fetched {
        let Ok(answer) = serde_json::from_slice::<Answer>(out) else {
            return Err(NoToken::refused("`az` answered without a token", self.remedy()));
        };
        let Some(until) = answer.expires_on else {
            return Err(NoToken::refused(
                "`az` does not say when its token ends",
                "update the Azure CLI to version 2.54 or newer",
            ));
        };
        // It counts from the system's clock, so this must too.
        let life =
            Duration::from_secs(u64::try_from(until.saturating_sub(Clock::system().now().0)).unwrap_or(0));
        if answer.access_token.is_empty() {
            return Err(NoToken::refused("`az` answered without a token", self.remedy()));
        }
        Ok((Secret::new(answer.access_token), life))
    }

    fn remedy(&self) -> String {
        let tenant = self.tenant_id.as_ref().map(|id| format!(" --tenant {id}")).unwrap_or_default();
        format!(
            "as the daemon's user run `az login{tenant}`; for a service choose another `kind` of `identity`"
        )
    }

    async fn run(&self) -> std::io::Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
        let mut command = Command::new(&self.program);
        for name in crate::secret::variables().iter().map(String::as_str).chain(SECRETS_OF_PLATFORMS) {
            command.env_remove(name);
        }
        command.args(["account", "get-access-token", "--output", "json", "--scope", &self.scope]);
        if let Some(tenant_id) = &self.tenant_id {
            command.args(["--tenant", tenant_id]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let (out, words) = (child.stdout.take(), child.stderr.take());
        let (out, words) = tokio::try_join!(bounded(out), bounded(words))?;
        Ok((child.wait().await?, out, words))
    }
}

/// At most so much as is looked at; what follows is left unread, and whoever writes it is ended by the deadline.
async fn bounded(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The words of an error, on one line and cut.
fn said(words: &[u8]) -> String {
    let text = String::from_utf8_lossy(words);
    let words: Vec<&str> = text.split(|c: char| c.is_whitespace() || c.is_control()).collect();
    let line = words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    if line.is_empty() { "nothing said".into() } else { line.chars().take(WORDS_CHARACTERS_MAX).collect() }
}

/// Anything that `az` may print, on either stream.
#[cfg(any(test, fuzzing))]
pub(crate) fn property(bytes: &[u8]) {
    let cli = AzureCli { program: "az".into(), tenant_id: None, scope: "s".into() };
    super::assert_sound(cli.token(bytes));
    crate::hostile::given::assert_fit_to_print(&said(bytes).replace(crate::hostile::given::CANARY, ""));
}

#[cfg(test)]
mod tests;
