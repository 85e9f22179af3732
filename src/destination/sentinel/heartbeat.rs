//! Heartbeats as rows of a stream of their own, in the same rule.

use std::sync::Arc;

use async_trait::async_trait;

use super::client::{Client, Verdict};
use super::credential::{Credential, NoToken};
use crate::clock::{Clock, Second};
use crate::config::settings::SentinelSettings;
use crate::destination::Pulse;
use crate::http::Transport;

pub struct Beats {
    client: Client,
    credential: Arc<Credential>,
}

impl Beats {
    pub fn new(
        settings: &SentinelSettings,
        stream: &str,
        transport: Arc<dyn Transport>,
        credential: Arc<Credential>,
        clock: Clock,
    ) -> Beats {
        let SentinelSettings { endpoint, rule_id, .. } = settings;
        let who = Arc::clone(&credential);
        let client = Client::new(endpoint, rule_id, stream, move || who.identity(), transport, clock);
        Beats { client, credential }
    }

    /// `stream … of rule …`, for messages.
    pub(super) fn target(&self) -> String {
        self.client.target()
    }

    /// Sends one body. A token that is refused is replaced once.
    pub(super) async fn post(&self, body: &[u8]) -> Result<Verdict, NoToken> {
        let token = self.credential.token().await?;
        let verdict = self.client.post(token.secret(), body).await;
        if !matches!(verdict, Verdict::Unauthorized { .. }) {
            return Ok(verdict);
        }
        self.credential.reject(&token);
        let token = self.credential.token().await?;
        Ok(self.client.post(token.secret(), body).await)
    }
}

#[async_trait]
impl Pulse for Beats {
    async fn send(&mut self, _: Second, row: Vec<u8>) -> Result<(), String> {
        let body = [&b"["[..], &row, b"]"].concat();
        match self.post(&body).await {
            Ok(Verdict::Accepted { .. }) => Ok(()),
            Ok(
                Verdict::Unauthorized { cause }
                | Verdict::Refused { cause, .. }
                | Verdict::Ambiguous(cause)
                | Verdict::Throttled { cause, .. },
            ) => Err(cause),
            Ok(Verdict::Paused(problem)) => Err(format!("{}; {}", problem.cause, problem.remedy)),
            Err(NoToken::Refused(problem)) => Err(format!("{}; {}", problem.cause, problem.remedy)),
            Err(NoToken::Throttled { cause, .. } | NoToken::Failed(cause)) => Err(cause),
        }
    }
}
