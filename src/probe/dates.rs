//! What time the services say it is: a transport that notes the `Date` of every answer that passes through it.
//!
//! *Why around the transport:* so the clients for Pulumi, Entra and Azure need not know that anybody compares clocks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::UNIX_EPOCH;

use async_trait::async_trait;

use crate::clock::{Clock, Second};
use crate::http::{Failure, Request, Response, Transport};
use crate::org::Connect;
use crate::trial::Trial;

/// The last date of each host, and the local time when it came. Clones share them.
#[derive(Clone)]
pub(super) struct Dates(Arc<Inner>);

struct Inner {
    clock: Clock,
    /// As many as there are hosts in the configuration.
    seen: Mutex<HashMap<String, (Second, Second)>>,
}

impl Dates {
    pub(super) fn new(clock: Clock) -> Dates {
        Dates(Arc::new(Inner { clock, seen: Mutex::default() }))
    }

    /// Transports made by `connect` that are listened to.
    pub(super) fn watching(&self, connect: Connect) -> Connect {
        let dates = self.clone();
        Arc::new(move |route| {
            let transport = connect(route)?;
            Ok(Arc::new(Watched { transport, dates: dates.clone() }) as Arc<dyn Transport>)
        })
    }

    /// The comparison with the first of these addresses that differs, or with the last one; `None` if none has said a date.
    pub(super) fn trial(&self, addresses: &[&str]) -> Option<Trial> {
        let seen = self.0.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let hosts = addresses.iter().filter_map(|address| host(address));
        let mut trials: Vec<Trial> = hosts
            .filter_map(|host| seen.get(&host).map(|(theirs, ours)| Trial::of_clock(&host, *theirs, *ours)))
            .collect();
        let differs = trials.iter().position(|trial| !matches!(trial.outcome, super::Outcome::Ok(_)));
        match differs {
            Some(index) => Some(trials.swap_remove(index)),
            None => trials.pop(),
        }
    }

    fn note(&self, url: &str, answer: &Response) {
        let date = answer.header("date").and_then(|text| httpdate::parse_http_date(text).ok());
        let since_epoch = date.and_then(|date| date.duration_since(UNIX_EPOCH).ok());
        let theirs = since_epoch.and_then(|since| i64::try_from(since.as_secs()).ok()).map(Second);
        if let (Some(theirs), Some(host)) = (theirs, host(url)) {
            let ours = self.0.clock.now();
            self.0.seen.lock().unwrap_or_else(PoisonError::into_inner).insert(host, (theirs, ours));
        }
    }
}

fn host(address: &str) -> Option<String> {
    let url = reqwest::Url::parse(address).ok()?;
    let name = url.host_str()?;
    Some(url.port().map_or_else(|| name.to_owned(), |port| format!("{name}:{port}")))
}

struct Watched {
    transport: Arc<dyn Transport>,
    dates: Dates,
}

#[async_trait]
impl Transport for Watched {
    async fn send(&self, request: Request) -> Result<Response, Failure> {
        let url = request.url.clone();
        let answer = self.transport.send(request).await;
        if let Ok(answer) = &answer {
            self.dates.note(&url, answer);
        }
        answer
    }
}
