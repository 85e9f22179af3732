//! Budgets: how many requests a second an org, and all orgs of one host together, may make.
//!
//! Background work (catch-up and rescans) gets at most half of both, so the regular head sweeps never stand behind it. A 429 pauses
//! its org; a second org's 429 within a minute pauses the host, because the service counts by source address.
//!
//! *Why not a crate:* a limiter that knows `Retry-After`, two levels and two classes is this one, and it is two numbers a bucket.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::event::OrgId;

/// A second org's 429 within this pauses the host.
const HOST_MEMORY: Duration = Duration::from_secs(60);

/// What a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// A head sweep or a probe.
    Present,
    /// Catch-up and rescans: half of the budget.
    Background,
}

/// Evenly spaced slots. None is saved up while nothing is asked: the configured rate holds for every second.
#[derive(Debug)]
struct Bucket {
    interval: Duration,
    next: Instant,
}

impl Bucket {
    fn new(per_second: f64, now: Instant) -> Bucket {
        Bucket { interval: Duration::from_secs_f64(1.0 / per_second.max(0.001)), next: now }
    }

    fn set_rate(&mut self, per_second: f64) -> bool {
        let before = self.interval;
        self.interval = Bucket::new(per_second, self.next).interval;
        self.interval != before
    }

    /// Takes the next slot: the time when the request may be sent.
    fn take(&mut self, now: Instant) -> Instant {
        let slot = self.next.max(now);
        self.next = slot + self.interval;
        slot
    }
}

#[derive(Debug)]
struct Pair {
    all: Bucket,
    background: Bucket,
}

impl Pair {
    fn new(per_second: f64, now: Instant) -> Pair {
        Pair { all: Bucket::new(per_second, now), background: Bucket::new(per_second / 2.0, now) }
    }

    fn set_rate(&mut self, per_second: f64) -> bool {
        self.background.set_rate(per_second / 2.0);
        self.all.set_rate(per_second)
    }

    fn take(&mut self, urgency: Urgency, now: Instant) -> Instant {
        match urgency {
            Urgency::Present => self.all.take(now),
            Urgency::Background => self.background.take(now).max(self.all.take(now)),
        }
    }
}

/// The budget of one host, shared by its orgs.
#[derive(Debug)]
pub struct HostBudget(Mutex<Host>);

#[derive(Debug)]
struct Host {
    pair: Pair,
    throttled: Option<(OrgId, Instant)>,
    paused_until: Option<Instant>,
}

impl HostBudget {
    fn new(per_second: f64) -> HostBudget {
        let pair = Pair::new(per_second, Instant::now());
        HostBudget(Mutex::new(Host { pair, throttled: None, paused_until: None }))
    }

    /// Notes a 429; returns whether the whole host is paused now.
    pub fn throttled(&self, org: &OrgId, wait: Duration) -> bool {
        let now = Instant::now();
        let mut host = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let second = matches!(&host.throttled, Some((other, at)) if other != org && now - *at <= HOST_MEMORY);
        if second {
            let until = now + wait;
            host.paused_until = Some(host.paused_until.map_or(until, |known| known.max(until)));
        }
        host.throttled = Some((org.clone(), now));
        second
    }
}

/// One [`HostBudget`] for each host.
#[derive(Debug, Default)]
pub struct HostBudgets(Mutex<HashMap<String, Arc<HostBudget>>>);

impl HostBudgets {
    /// The budget of the host of `api_url`; the first org to ask sets its rate.
    pub fn of(&self, api_url: &str, per_second: f64) -> Arc<HostBudget> {
        let mut hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(api_url.to_owned()).or_insert_with(|| Arc::new(HostBudget::new(per_second))).clone()
    }

    /// This rate for the host of `api_url` from its next request on; a pause of the host stays. Answers whether it had another.
    pub fn set_rate(&self, api_url: &str, per_second: f64) -> bool {
        let hosts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.get(api_url).is_some_and(|host| {
            host.0.lock().unwrap_or_else(PoisonError::into_inner).pair.set_rate(per_second)
        })
    }
}

/// One org's budget, and its host's.
#[derive(Debug)]
pub struct OrgBudget {
    pair: Pair,
    host: Arc<HostBudget>,
}

impl OrgBudget {
    pub fn new(per_second: f64, host: Arc<HostBudget>) -> OrgBudget {
        OrgBudget { pair: Pair::new(per_second, Instant::now()), host }
    }

    /// When a request may be sent. At most one of an org waits at a time.
    pub fn take(&mut self, urgency: Urgency) -> Instant {
        let now = Instant::now();
        let own = self.pair.take(urgency, now);
        let slot = {
            let mut host = self.host.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Slots go on from the end of a pause, so that its orgs do not all come at once then.
            let begin = host.paused_until.map_or(now, |paused| paused.max(now));
            host.pair.take(urgency, begin)
        };
        own.max(slot)
    }

    #[cfg(test)]
    async fn wait(&mut self, urgency: Urgency) {
        tokio::time::sleep_until(self.take(urgency)).await;
    }

    pub fn host(&self) -> &HostBudget {
        &self.host
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn org(id: &str) -> OrgId {
        OrgId::new(id).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn background_work_gets_half() {
        let hosts = HostBudgets::default();
        let mut budget = OrgBudget::new(2.0, hosts.of("http://a", 100.0));
        let begin = Instant::now();
        for _ in 0..40 {
            budget.wait(Urgency::Background).await;
        }
        let took = begin.elapsed().as_secs_f64();
        assert!((36.0..=40.0).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_hour_saves_nothing_up() {
        let hosts = HostBudgets::default();
        let mut budget = OrgBudget::new(2.0, hosts.of("http://a", 10.0));
        tokio::time::sleep(Duration::from_secs(3_600)).await;
        let begin = Instant::now();
        for _ in 0..5 {
            budget.wait(Urgency::Present).await;
        }
        assert_eq!(begin.elapsed(), Duration::from_secs(2));
    }

    #[tokio::test(start_paused = true)]
    async fn orgs_of_a_host_share_its_rate() {
        let hosts = HostBudgets::default();
        let mut a = OrgBudget::new(100.0, hosts.of("http://a", 10.0));
        let mut b = OrgBudget::new(100.0, hosts.of("http://a", 10.0));
        let begin = Instant::now();
        for _ in 0..50 {
            a.wait(Urgency::Present).await;
            b.wait(Urgency::Present).await;
        }
        let took = begin.elapsed().as_secs_f64();
        assert!((9.0..=10.5).contains(&took), "{took}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_takes_another_rate_while_its_orgs_go_on() {
        let hosts = HostBudgets::default();
        let mut budget = OrgBudget::new(1_000.0, hosts.of("http://a", 1.0));
        for (rate, seconds) in [(10.0, 2.0), (100.0, 0.2)] {
            assert!(hosts.set_rate("http://a", rate));
            assert!(!hosts.set_rate("http://a", rate), "it has this one");
            budget.wait(Urgency::Present).await;
            let begin = Instant::now();
            for _ in 0..20 {
                budget.wait(Urgency::Present).await;
            }
            let took = begin.elapsed().as_secs_f64();
            assert!((seconds * 0.9..=seconds * 1.2).contains(&took), "{took}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_orgs_429_pauses_the_host() {
        let hosts = HostBudgets::default();
        let host = hosts.of("http://a", 10.0);
        assert!(!host.throttled(&org("a"), Duration::from_secs(60)));
        assert!(!host.throttled(&org("a"), Duration::from_secs(60)), "the same org again");
        assert!(host.throttled(&org("b"), Duration::from_secs(60)));
        let begin = Instant::now();
        OrgBudget::new(10.0, host.clone()).wait(Urgency::Present).await;
        assert_eq!(begin.elapsed().as_secs(), 60);
        for _ in 0..20 {
            OrgBudget::new(10.0, host.clone()).wait(Urgency::Present).await;
        }
        assert_eq!(begin.elapsed().as_secs(), 62, "the orgs that waited do not come all at once");
    }
}
