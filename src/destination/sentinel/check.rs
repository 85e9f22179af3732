//! What is tried of Sentinel: whether there is a token for the identity, and whether rows would be taken. Writes nothing: the only
//! body is an empty array.

use super::client::NO_ROWS;
use super::{Beats, Sent, Sentinel, sent};
use crate::destination::Answer;
use crate::trial::{Outcome, Trial};

impl Sentinel {
    pub(super) async fn tried(&mut self) -> Vec<Trial> {
        let mut trials = vec![self.gets_token().await];
        if !trials.iter().any(Trial::ends) {
            trials.push(self.empty_upload().await);
            if let Some(beats) = &self.beats {
                trials.push(empty_heartbeat(beats).await);
            }
        }
        trials
    }

    /// Whether Entra ID gives out a token.
    async fn gets_token(&self) -> Trial {
        let outcome = match self.credential.token().await {
            Ok(_) => Outcome::Ok(format!("for {}", self.credential.identity())),
            Err(none) => Answer::from(none).into(),
        };
        Trial::new("token", outcome)
    }

    /// Whether endpoint, rule, stream and role are right: the answer to an empty array depends on all of them.
    async fn empty_upload(&mut self) -> Trial {
        let accepts = format!("{} accepts rows from {}", self.client.target(), self.credential.identity());
        let outcome = match self.send(NO_ROWS).await {
            Ok(Sent::Accepted { .. }) => Outcome::Ok(accepts),
            // Reachable and permitted; only the empty question is not taken.
            Ok(Sent::Refused { cause, .. }) => {
                Outcome::Ok(format!("{accepts} (as far as an empty array shows: {cause})"))
            }
            Err(answer) => answer.into(),
        };
        Trial::new("rows", outcome)
    }
}

/// The same for the stream of heartbeats.
async fn empty_heartbeat(beats: &Beats) -> Trial {
    let accepts = format!("{} accepts rows", beats.target());
    let outcome = match beats.post(NO_ROWS).await.map(sent) {
        Ok(Ok(Sent::Accepted { .. })) => Outcome::Ok(accepts),
        Ok(Ok(Sent::Refused { cause, .. })) => {
            Outcome::Ok(format!("{accepts} (as far as an empty array shows: {cause})"))
        }
        Ok(Err(answer)) => answer.into(),
        Err(none) => Answer::from(none).into(),
    };
    Trial::new("heartbeats", outcome)
}
