//! The AWS SDK's requests over the daemon's own HTTP client, so that there is one pool of connections, one TLS context, one way
//! through a proxy and one list of trusted authorities for everything that goes out.
//!
//! It carries one exchange and decides nothing: what an answer means is for [`super::answer`], and the SDK's own retries are off.

use std::time::Duration;

use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::{RuntimeComponents, SharedHttpClient};
use aws_sdk_s3::error::ConnectorError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};

use tokio::time::Instant;
use tokio::time::error::Elapsed;

use crate::http::{Client, Failure};

/// For exchanges that the SDK sets no deadline to: as long as a whole operation may take.
const DEADLINE: Duration = Duration::from_secs(300);

/// Most bytes of an answer that is no object: a thousand keys of 1,024 bytes, written out, with what stands beside each.
const ANSWER_BYTES_MAX: usize = 8 * 1024 * 1024;

/// The client as the SDK wants it.
pub(super) fn shared(client: Client) -> SharedHttpClient {
    SharedHttpClient::new(Exchanges { client, deadline: DEADLINE })
}

#[derive(Clone, Debug)]
struct Exchanges {
    client: Client,
    /// From the beginning to the answer's headers; the body is watched by the SDK.
    deadline: Duration,
}

impl HttpClient for Exchanges {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        // The SDK's own questions, such as whether this is an EC2 instance, are given up after a second or two.
        let connect = settings.connect_timeout().unwrap_or_default();
        let deadline = settings.read_timeout().map_or(DEADLINE, |read| connect + read);
        SharedHttpConnector::new(Exchanges { client: self.client.clone(), deadline })
    }
}

impl HttpConnector for Exchanges {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.client.clone();
        let deadline = self.deadline;
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let is_object = request.method() == http::Method::GET
                && !request.uri().query().is_some_and(|query| query.contains("list-type="));
            let request = request.map(reqwest::Body::wrap);
            let request = reqwest::Request::try_from(request)
                .map_err(|error| ConnectorError::user(error.without_url().into()))?;
            let begun = Instant::now();
            let late = |elapsed: Elapsed| ConnectorError::timeout(elapsed.into());
            let mut answer = tokio::time::timeout(deadline, client.execute(request))
                .await
                .map_err(late)?
                .map_err(failure)?;
            // The SDK reads whatever is no object into memory, however much it is.
            let answer = if is_object && answer.status().is_success() {
                http::Response::from(answer).map(SdkBody::from_body_1_x)
            } else {
                let left = deadline.saturating_sub(begun.elapsed());
                let body = tokio::time::timeout(left, whole(&client, &mut answer)).await.map_err(late)??;
                http::Response::from(answer).map(|_| body)
            };
            HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// The body of an answer, if it is no longer than answers are.
async fn whole(client: &Client, answer: &mut reqwest::Response) -> Result<SdkBody, ConnectorError> {
    let mut body = Vec::new();
    while let Some(piece) = client.piece(answer).await.map_err(failure)? {
        if body.len() + piece.len() > ANSWER_BYTES_MAX {
            return Err(ConnectorError::io(format!("answer larger than {ANSWER_BYTES_MAX} bytes").into()));
        }
        body.extend_from_slice(&piece);
    }
    Ok(SdkBody::from(body))
}

fn failure(failure: Failure) -> ConnectorError {
    if failure.is_timeout() {
        ConnectorError::timeout(failure.into())
    } else {
        ConnectorError::io(failure.into())
    }
}
