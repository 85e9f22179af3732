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

use crate::http::Client;

/// For exchanges that the SDK sets no deadline to: as long as a whole operation may take.
const DEADLINE: Duration = Duration::from_secs(300);

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
        let client = self.client.client_for(request.uri()).clone();
        let deadline = self.deadline;
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let request = request.map(reqwest::Body::wrap);
            let request =
                reqwest::Request::try_from(request).map_err(|error| ConnectorError::user(error.into()))?;
            let answer = tokio::time::timeout(deadline, client.execute(request))
                .await
                .map_err(|elapsed| ConnectorError::timeout(elapsed.into()))?
                .map_err(failure)?;
            let answer = http::Response::from(answer).map(SdkBody::from_body_1_x);
            HttpResponse::try_from(answer).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

fn failure(error: reqwest::Error) -> ConnectorError {
    if error.is_timeout() {
        ConnectorError::timeout(error.into())
    } else if error.is_builder() {
        ConnectorError::user(error.into())
    } else {
        ConnectorError::io(error.into())
    }
}
