//! The AWS SDK's requests over the simulation's transport, so that the product's own client and everything that it makes of answers
//! run in simulated time.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_sdk_s3::config::http::{HttpRequest, HttpResponse};
use aws_sdk_s3::config::{RuntimeComponents, SharedHttpClient};
use aws_sdk_s3::error::ConnectorError;
use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use bytes::Bytes;
use pulumi_audit_forwarder::http::{Failure, Request, Transport};

/// More than any piece of an archive has.
const BODY_BYTES_MAX: usize = 256 * 1024 * 1024;
/// As the product's own connector allows, where the SDK sets no other.
const DEADLINE: Duration = Duration::from_secs(300);

pub(crate) fn client(transport: Arc<dyn Transport>) -> SharedHttpClient {
    SharedHttpClient::new(Carrier { transport, deadline: DEADLINE })
}

#[derive(Clone)]
struct Carrier {
    transport: Arc<dyn Transport>,
    deadline: Duration,
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Carrier")
    }
}

impl HttpClient for Carrier {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        let connect = settings.connect_timeout().unwrap_or_default();
        let deadline = settings.read_timeout().map_or(DEADLINE, |read| connect + read);
        SharedHttpConnector::new(Carrier { transport: self.transport.clone(), deadline })
    }
}

impl HttpConnector for Carrier {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let (transport, deadline) = (self.transport.clone(), self.deadline);
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let (head, body) = request.into_parts();
            let body = body.bytes().map(Bytes::copy_from_slice).ok_or_else(|| {
                ConnectorError::user("a body that is not in memory: pieces are sent from memory".into())
            })?;
            let request = Request {
                method: head.method,
                url: head.uri.to_string(),
                headers: head.headers,
                body,
                body_bytes_max: BODY_BYTES_MAX,
                deadline,
            };
            let answer = transport.send(request).await.map_err(|failure| match failure {
                Failure::Timeout(_) => ConnectorError::timeout(failure.into()),
                _ => ConnectorError::io(failure.into()),
            })?;
            let mut response = http::Response::new(SdkBody::from(answer.body));
            *response.status_mut() = http::StatusCode::from_u16(answer.status)
                .map_err(|error| ConnectorError::other(error.into(), None))?;
            *response.headers_mut() = answer.headers;
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}
