//! What is tried of a bucket: listing and reading below the prefix, what Object Lock does there, and the clock. Writes nothing.
//!
//! *Why Object Lock fails only where `object_lock` asks for it:* without that the archive needs neither the lock nor the permission
//! to read its state (`s3:GetBucketObjectLockConfiguration`); whoever set it up wants to see that it is there.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata};
use aws_sdk_s3::types::{DefaultRetention, ObjectLockConfiguration};

use super::answer::Refused;
use super::{Bucket, Meaning};
use crate::chunk::claim_key;
use crate::clock::{Clock, Second};
use crate::destination::archive::Store;
use crate::trial::{How, Outcome, Trial};

/// For a question whose answer nothing depends on.
const OBJECT_LOCK_DEADLINE: Duration = Duration::from_secs(20);

impl Bucket {
    pub(super) async fn tried(&mut self, how: &How) -> Vec<Trial> {
        let dates = Dates { clock: how.clock.clone(), seen: Arc::default() };
        let mut trials = vec![self.list(&dates).await];
        if !trials.iter().any(Trial::ends) {
            trials.push(self.read_one().await);
            trials.push(match self.settings.object_lock {
                Some(_) => self.needed_lock().await,
                None => self.object_lock().await,
            });
        }
        trials.extend(dates.trial(&self.locate("")));
        trials
    }

    async fn list(&mut self, dates: &Dates) -> Trial {
        let (bucket, below) = (self.settings.bucket.clone(), self.whole("_chain/"));
        let asked = format!("LIST {}", self.locate("_chain/"));
        let owner = self.settings.expected_bucket_owner.clone();
        let role = self.settings.role.as_ref().map(|role| format!(" as {}", role.arn)).unwrap_or_default();
        let listed = self
            .ask(&asked, |client| {
                let list = client.list_objects_v2().set_expected_bucket_owner(owner.clone());
                let list = list.bucket(bucket.clone()).prefix(below.clone()).max_keys(1);
                list.customize().interceptor(dates.clone()).send()
            })
            .await;
        let outcome = match listed {
            Ok(_) => Outcome::Ok(format!("{} can be listed{role}", self.locate(""))),
            Err(refused) => self.outcome(refused),
        };
        Trial::new("list", outcome)
    }

    /// Present or absent, both show that reading is allowed.
    async fn read_one(&mut self) -> Trial {
        let first_claim = claim_key(&self.org, 0);
        let outcome = match self.get(&first_claim).await {
            Ok(_) => Outcome::Ok(format!("{} can be read", self.locate(""))),
            Err(refused) => self.outcome(refused),
        };
        Trial::new("read", outcome)
    }

    /// Objects are to be locked, and the bucket must be able to.
    async fn needed_lock(&mut self) -> Trial {
        let outcome = match self.lockable().await {
            Ok(found) => Outcome::Ok(found.to_owned()),
            Err(obstacle) => crate::destination::Answer::from(obstacle).into(),
        };
        Trial::new("object lock", outcome)
    }

    /// Nothing depends on it.
    async fn object_lock(&mut self) -> Trial {
        let unknown = |why: &str| format!("not known ({why})");
        let Some(client) = self.connected.as_ref().map(|connected| connected.client.clone()) else {
            return Trial::new("object lock", unknown("no connection"));
        };
        let asked = client.get_object_lock_configuration().bucket(&self.settings.bucket);
        let asked = asked.set_expected_bucket_owner(self.settings.expected_bucket_owner.clone()).send();
        let found = match tokio::time::timeout(OBJECT_LOCK_DEADLINE, asked).await {
            Err(_) => unknown("no answer"),
            Ok(Ok(answer)) => locked(answer.object_lock_configuration()),
            Ok(Err(error)) => match error.code() {
                Some("ObjectLockConfigurationNotFoundError" | "ObjectLockConfigurationNotFound") => {
                    "off for this bucket".into()
                }
                Some("AccessDenied") => {
                    unknown("s3:GetBucketObjectLockConfiguration is not granted, nor needed")
                }
                Some(code) => unknown(&code.chars().filter(|c| !c.is_control()).take(60).collect::<String>()),
                None => unknown("the store does not say"),
            },
        };
        Trial::new("object lock", found)
    }

    fn outcome(&self, refused: Refused) -> Outcome {
        let cause = refused.cause.clone();
        match refused.meaning {
            Meaning::Throttled(wait) => Outcome::throttled(&cause, wait),
            _ => crate::destination::Answer::from(self.obstacle(refused)).into(),
        }
    }
}

/// What the bucket does to new objects.
fn locked(configuration: Option<&ObjectLockConfiguration>) -> String {
    let on = configuration
        .and_then(ObjectLockConfiguration::object_lock_enabled)
        .is_some_and(|enabled| enabled.as_str() == "Enabled");
    if !on {
        return "off for this bucket".into();
    }
    let rule = configuration.and_then(ObjectLockConfiguration::rule);
    match rule.and_then(|rule| rule.default_retention()) {
        None => "on, without a default retention: objects are locked only if each asks for it".into(),
        Some(retention) => format!("on, new objects are kept {}", kept(retention)),
    }
}

fn kept(retention: &DefaultRetention) -> String {
    let mode = retention.mode().map_or("in an unknown mode", |mode| mode.as_str());
    match (retention.days(), retention.years()) {
        (Some(days), _) => format!("{days} days ({mode})"),
        (_, Some(years)) => format!("{years} years ({mode})"),
        _ => format!("for a time that the store does not say ({mode})"),
    }
}

/// Notes what time the store says it is, refusals included.
#[derive(Clone, Debug)]
struct Dates {
    clock: Clock,
    seen: Arc<Mutex<Option<(Second, Second)>>>,
}

impl Dates {
    fn trial(&self, store: &str) -> Option<Trial> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.map(|(theirs, ours)| Trial::of_clock(&format!("the store of {store}"), theirs, ours))
    }
}

impl Intercept for Dates {
    fn name(&self) -> &'static str {
        "Dates"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date =
            context.response().headers().get("date").and_then(|text| httpdate::parse_http_date(text).ok());
        let since_epoch = date.and_then(|date| date.duration_since(std::time::UNIX_EPOCH).ok());
        let theirs = since_epoch.and_then(|since| i64::try_from(since.as_secs()).ok()).map(Second);
        if let Some(theirs) = theirs {
            *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((theirs, self.clock.now()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{ObjectLockEnabled, ObjectLockRetentionMode, ObjectLockRule};

    use super::*;

    #[test]
    fn what_object_lock_does_is_said_in_words() {
        let on = || ObjectLockConfiguration::builder().object_lock_enabled(ObjectLockEnabled::Enabled);
        assert_eq!(locked(None), "off for this bucket");
        assert!(locked(Some(&on().build())).contains("without a default retention"));
        let retention =
            DefaultRetention::builder().mode(ObjectLockRetentionMode::Compliance).days(2555).build();
        let rule = ObjectLockRule::builder().default_retention(retention).build();
        assert_eq!(locked(Some(&on().rule(rule).build())), "on, new objects are kept 2555 days (COMPLIANCE)");
    }
}
