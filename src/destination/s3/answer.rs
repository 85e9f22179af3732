//! What the store's answers mean. Pure: no IO, no clock; it reads errors and says what they are.

use std::error::Error;
use std::io;
use std::time::Duration;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ConnectorError, ErrorMetadata, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::RequestId;
use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};

use crate::http::Failure;
use crate::mutant::{self, Mutant};

/// Most characters kept of what a store says in its own words.
const WORDS_MAX: usize = 300;

/// Why something was not done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) meaning: Meaning,
    /// What was asked, what was answered. No secrets, no event contents.
    pub(super) cause: String,
}

/// What an answer means, one variant for each thing that is done about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// The key is taken.
    Exists,
    /// There is nothing under the key.
    Absent,
    /// Perhaps done, perhaps not, or nothing decided: send again.
    Ambiguous,
    /// Slow down. Only a wait of more than nothing is one.
    Throttled(Option<Duration>),
    /// The store knows the credentials and will not have them (any more).
    CredentialsRefused,
    /// There are none to send.
    CredentialsMissing,
    /// The signature's time is too far from the store's.
    Skewed,
    Denied,
    /// The key that the bucket encrypts with.
    KeyDenied,
    NoBucket,
    /// The role that the configured or found credentials were to assume.
    RoleDenied,
    /// It is stored where it cannot be read before somebody has it restored.
    Frozen,
    /// The bucket is in another region, which may have been named.
    Elsewhere(Option<String>),
    NoRegion,
    /// The store does not know "only if absent".
    Unconditional,
    /// Something on the way that only a person can change, and what there is to change: an authority, a proxy.
    Barred(String),
    /// Any other answer that will be the same next time.
    Wrong,
}

impl Meaning {
    /// Whether the store has looked at the request itself, and so found its credentials right.
    pub(super) fn is_of_the_request(&self) -> bool {
        matches!(self, Meaning::Exists | Meaning::Absent)
    }
}

impl Refused {
    pub(super) fn new<E>(asked: &str, error: &SdkError<E>) -> Refused
    where
        E: ProvideErrorMetadata + Error + 'static,
    {
        let Some(response) = error.raw_response() else {
            return Refused { meaning: unanswered(error), cause: format!("{asked}: {}", innermost(error)) };
        };
        let status = response.status().as_u16();
        let code = error.code().filter(|code| !code.is_empty());
        let mut cause = format!("{asked}: {status}");
        if let Some(code) = code {
            cause = format!("{cause} {}", cut(code));
        }
        if let Some(message) = error.message() {
            cause = format!("{cause}: {}", cut(message));
        }
        if let Some(id) = error.request_id() {
            cause = format!("{cause} (request {})", cut(id));
        }
        let region = response.headers().get("x-amz-bucket-region").map(str::to_owned);
        Refused { meaning: answered(status, code.unwrap_or_default(), retry_after(response), region), cause }
    }
}

/// What an answer means by its status and code. Documented codes: AWS, "Error responses" of the S3 API reference.
fn answered(status: u16, code: &str, wait: Option<Duration>, region: Option<String>) -> Meaning {
    match (status, code) {
        // Codes that say more than their status, or another thing.
        (_, "RequestTimeout" | "RequestTimeoutException" | "InternalError" | "OperationAborted") => {
            Meaning::Ambiguous
        }
        // Something on the way changed the bytes: they were refused, and are right here.
        (_, "BadDigest" | "InvalidDigest" | "IncompleteBody" | "XAmzContentSHA256Mismatch") => {
            Meaning::Ambiguous
        }
        (
            _,
            "SlowDown" | "Throttling" | "ThrottlingException" | "TooManyRequests" | "RequestLimitExceeded",
        ) => Meaning::Throttled(wait),
        (_, "RequestTimeTooSkewed") => Meaning::Skewed,
        (
            _,
            "ExpiredToken"
            | "ExpiredTokenException"
            | "InvalidToken"
            | "TokenRefreshRequired"
            | "InvalidAccessKeyId"
            | "InvalidClientTokenId"
            | "UnrecognizedClientException"
            | "SignatureDoesNotMatch",
        ) => Meaning::CredentialsRefused,
        (_, "NoSuchBucket" | "InvalidBucketName") => Meaning::NoBucket,
        (_, "AuthorizationHeaderMalformed" | "PermanentRedirect" | "IllegalLocationConstraintException") => {
            Meaning::Elsewhere(region)
        }
        (400..=499, code) if code.starts_with("KMS") => Meaning::KeyDenied,
        (_, "InvalidObjectState") => Meaning::Frozen,
        (_, "NoSuchObjectLockConfiguration" | "ObjectLockConfigurationNotFoundError") => Meaning::Absent,

        (412, _) => Meaning::Exists,
        (404, _) if code == "NoSuchKey" || code == "NotFound" => Meaning::Absent,
        (404, _) => Meaning::NoBucket,
        // Another conditional write to the same key is under way: nothing is decided.
        (408 | 409, _) => Meaning::Ambiguous,
        (429, _) => Meaning::Throttled(wait),
        (503, _) if wait.is_some() => Meaning::Throttled(wait),
        (401, _) => Meaning::CredentialsRefused,
        (403, _) => Meaning::Denied,
        (300..=399, _) => Meaning::Elsewhere(region),
        (501, "NotImplemented") => Meaning::Unconditional,
        (400..=499, _) => Meaning::Wrong,
        // 5xx, and a success that could not be read.
        _ => Meaning::Ambiguous,
    }
}

/// What it means that there is no answer.
fn unanswered<E: Error + 'static>(error: &SdkError<E>) -> Meaning {
    let mut broken = false;
    let mut credentials = None;
    let mut said = None;
    for cause in chain(error) {
        if let Some(remedy) = cause.downcast_ref::<Failure>().and_then(|failure| failure.remedy("s3")) {
            return Meaning::Barred(remedy);
        }
        if let Some(connector) = cause.downcast_ref::<ConnectorError>() {
            broken |= !connector.is_user();
        }
        if let Some(error) = cause.downcast_ref::<CredentialsError>() {
            credentials = Some(error);
        }
        // The error of the service that gives credentials out: errors of the store itself have come with its answer.
        if let Some(meta) = cause.downcast_ref::<ErrorMetadata>() {
            said = Some(meta.code().unwrap_or_default());
        }
    }
    if let (Some(_), Some(code)) = (credentials, said) {
        return not_given(code);
    }
    match credentials {
        // The service that gives credentials out was slow, or out of reach.
        Some(CredentialsError::ProviderTimedOut(_)) => return Meaning::Ambiguous,
        Some(CredentialsError::ProviderError(_)) if broken => return Meaning::Ambiguous,
        Some(_) => return Meaning::CredentialsMissing,
        None => {}
    }
    match error {
        SdkError::ConstructionFailure(_) => Meaning::Wrong,
        SdkError::DispatchFailure(failure) if failure.is_user() => Meaning::Wrong,
        _ => Meaning::Ambiguous,
    }
}

/// What it means that a service gave no credentials out, by its code.
fn not_given(code: &str) -> Meaning {
    match answered(403, code, None, None) {
        Meaning::CredentialsRefused => Meaning::CredentialsRefused,
        Meaning::Skewed => Meaning::Skewed,
        // How long is said to the SDK, which has tried again already.
        Meaning::Ambiguous | Meaning::Throttled(_) => Meaning::Ambiguous,
        _ => match code {
            "AccessDenied" | "AccessDeniedException" => Meaning::RoleDenied,
            ""
            | "ServiceUnavailable"
            | "ServiceUnavailableException"
            | "InternalFailure"
            | "IDPCommunicationError"
            | "PriorRequestNotComplete" => Meaning::Ambiguous,
            _ => Meaning::CredentialsMissing,
        },
    }
}

/// An error and its causes, outermost first. An `io::Error` hides the error inside it from [`Error::source`].
fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn Error + 'static)),
        None => error.source(),
    })
}

/// The text of the innermost cause, which is the one that says something.
pub(super) fn innermost(error: &(dyn Error + 'static)) -> String {
    let Some(last) = chain(error).last() else { return String::new() };
    // The SDK's words for this speak of its own parts.
    match last.downcast_ref::<CredentialsError>() {
        Some(CredentialsError::CredentialsNotLoaded(_)) => "no credentials were found".into(),
        _ => cut(&last.to_string()),
    }
}

fn cut(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(WORDS_MAX).collect()
}

/// `Retry-After` in seconds, or as a date to be held against the answer's own; zero means nothing.
fn retry_after(response: &HttpResponse) -> Option<Duration> {
    let header = |name| response.headers().get(name).map(str::trim);
    let text = header("retry-after")?;
    let seconds = match text.parse::<u64>() {
        Ok(seconds) => seconds,
        Err(_) => {
            let date = |text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok().map(|at| at.secs());
            u64::try_from(date(text)?.checked_sub(date(header("date")?)?)?).ok()?
        }
    };
    (seconds > 0 || mutant::is(Mutant::RetryAtOnce)).then(|| Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_one_meaning() {
        let hour = Some(Duration::from_secs(3600));
        let west = || Some("eu-west-1".to_owned());
        let table = [
            (412, "PreconditionFailed", None, Meaning::Exists),
            (412, "", None, Meaning::Exists),
            (404, "NoSuchKey", None, Meaning::Absent),
            (404, "", None, Meaning::NoBucket),
            (404, "NoSuchBucket", None, Meaning::NoBucket),
            (409, "ConditionalRequestConflict", None, Meaning::Ambiguous),
            (409, "OperationAborted", None, Meaning::Ambiguous),
            (400, "RequestTimeout", None, Meaning::Ambiguous),
            (408, "", None, Meaning::Ambiguous),
            (400, "BadDigest", None, Meaning::Ambiguous),
            (500, "InternalError", None, Meaning::Ambiguous),
            (502, "", None, Meaning::Ambiguous),
            (503, "ServiceUnavailable", None, Meaning::Ambiguous),
            (503, "ServiceUnavailable", hour, Meaning::Throttled(hour)),
            (503, "SlowDown", None, Meaning::Throttled(None)),
            (503, "SlowDown", hour, Meaning::Throttled(hour)),
            (429, "", None, Meaning::Throttled(None)),
            (200, "InternalError", None, Meaning::Ambiguous),
            (400, "ExpiredToken", None, Meaning::CredentialsRefused),
            (403, "InvalidAccessKeyId", None, Meaning::CredentialsRefused),
            (403, "SignatureDoesNotMatch", None, Meaning::CredentialsRefused),
            (401, "", None, Meaning::CredentialsRefused),
            (403, "RequestTimeTooSkewed", None, Meaning::Skewed),
            (403, "AccessDenied", None, Meaning::Denied),
            (403, "", None, Meaning::Denied),
            (400, "KMS.DisabledException", None, Meaning::KeyDenied),
            (403, "InvalidObjectState", None, Meaning::Frozen),
            (404, "NoSuchObjectLockConfiguration", None, Meaning::Absent),
            (404, "ObjectLockConfigurationNotFoundError", None, Meaning::Absent),
            (301, "PermanentRedirect", None, Meaning::Elsewhere(west())),
            (307, "TemporaryRedirect", None, Meaning::Elsewhere(west())),
            (400, "AuthorizationHeaderMalformed", None, Meaning::Elsewhere(west())),
            (501, "NotImplemented", None, Meaning::Unconditional),
            (400, "InvalidRequest", None, Meaning::Wrong),
            (405, "MethodNotAllowed", None, Meaning::Wrong),
        ];
        for (status, code, wait, meaning) in table {
            assert_eq!(answered(status, code, wait, west()), meaning, "{status} {code}");
        }
    }

    #[test]
    fn a_service_that_gives_no_credentials_out_is_waited_for_unless_it_will_say_the_same_again() {
        for (code, meaning) in [
            ("AccessDenied", Meaning::RoleDenied),
            ("ExpiredToken", Meaning::CredentialsRefused),
            ("InvalidClientTokenId", Meaning::CredentialsRefused),
            ("SignatureDoesNotMatch", Meaning::CredentialsRefused),
            ("Throttling", Meaning::Ambiguous),
            ("ServiceUnavailable", Meaning::Ambiguous),
            ("", Meaning::Ambiguous),
            ("ValidationError", Meaning::CredentialsMissing),
        ] {
            assert_eq!(not_given(code), meaning, "{code}");
        }
    }
}
