//! A day on which nothing is wrong: what the log says of it, before any line is left out because it repeats.

use std::io;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tracing_subscriber::fmt::MakeWriter;

use super::simulation::{BEGIN, DAY, HOUR, MINUTE, Simulation};
use super::wire::ENTRA;
use crate::forwarder::sample;
use crate::world::chance::Chance;
use crate::world::ingestion::Fault as AzureFault;
use crate::world::pulumi::behaviour::Fault;
use crate::world::pulumi::events::Generator;
use crate::world::pulumi::oauth::Issuer;
use crate::world::script::Times;
use crate::world::setup::{CLIENT_SECRET, rule_of};
use crate::world::verdict::RetryAfter;

const ORGS: [&str; 4] = ["acme", "keyless", "quiet", "zoo"];
const SUBJECT: &str = "system:serviceaccount:audit:forwarder";
const SIEM: &str = "infra/siem";

/// The log at info, as JSON.
#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

/// As long as it lives, the log of this thread is taken.
///
/// *Why another subscriber, which takes nothing:* where there is one only, tracing asks the thread that comes to a line first whether
/// anybody wants it, and other tests run on threads that want nothing.
type Taken = (tracing::subscriber::DefaultGuard, tracing::Dispatch);

impl Paper {
    /// Of this thread, which everything of a simulation runs on.
    fn taken() -> (Paper, Taken) {
        let another = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::new());
        let paper = Paper::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .json()
            .flatten_event(true)
            .with_writer(paper.clone())
            .finish();
        (paper, (tracing::subscriber::set_default(subscriber), another))
    }

    /// What was said since this was asked last.
    fn lines(&self) -> Vec<Value> {
        let text = std::mem::take(&mut *self.0.lock().expect("no test panics here"));
        let text = String::from_utf8(text).expect("the log is UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("a line is an object")).collect()
    }
}

impl io::Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no test panics here").extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Paper {
    type Writer = Paper;
    fn make_writer(&'a self) -> Paper {
        self.clone()
    }
}

fn total(simulation: &Simulation, name: &str, labels: &[(&str, &str)]) -> f64 {
    sample(&simulation.metrics(), name, labels).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn a_healthy_day_of_four_orgs_says_that_they_begin_and_then_nothing() {
    let mut simulation = Simulation::of(&ORGS).with_sentinel();
    simulation.setup("acme").s3 = true;
    let keyless = simulation.org("keyless");
    keyless.trust(Issuer::for_organization(SUBJECT));
    keyless.write_environment(SIEM, json!({"azure": {"secret": CLIENT_SECRET}}));
    let subject = simulation.write_secret("subject", &simulation.org("keyless").issue(SUBJECT, 2 * DAY));
    simulation.setup("keyless").oidc = Some(format!("{{ subject_token_file = {subject:?} }}"));
    simulation.setup("keyless").client_secret = Some(format!("{{ esc = \"keyless/{SIEM}#azure.secret\" }}"));
    let end = BEGIN + DAY;
    for (org, (seed, per_hour)) in ORGS.iter().zip([(1, 60.0), (2, 20.0), (3, 0.3), (4, 200.0)]) {
        let mut chance = Chance::seeded(seed);
        // Some become visible after the head has passed, and are found by a rescan.
        let events = Generator::seeded(seed).background(BEGIN, end, per_hour).into_iter();
        simulation.add(org, events.map(|event| event.late_by(*chance.pick(&[0, 0, 0, 60, 2_400]) as i64)));
    }

    let (paper, _taken) = Paper::taken();
    simulation.start();
    simulation.pass_until(BEGIN + 10 * MINUTE).await;
    let beginning = paper.lines();
    for hour in 1..24 {
        simulation.pass_until(BEGIN + hour * HOUR).await;
        // Now and then somebody is asked to slow down.
        let org = ORGS[(hour % 4) as usize];
        let moment = RetryAfter::Seconds(5 + 2 * hour as u64);
        if hour % 2 == 0 {
            simulation.org(org).fault(Fault::Throttled(moment), Times::Next(1));
        } else {
            simulation.azure.fault_on(&rule_of(org), AzureFault::throttled(moment), Times::Next(1));
        }
    }
    simulation.pass_until(end).await;
    let day = paper.lines();
    let count = |name: &str, labels: &[(&str, &str)]| total(&simulation, name, labels);
    let rescans: f64 = ORGS
        .iter()
        .map(|org| count("sweeps_total", &[("org", org), ("kind", "rescan"), ("outcome", "ok")]))
        .sum();
    let late: f64 = ORGS.iter().map(|org| count("events_late_total", &[("org", org)])).sum();
    let asked_to_slow_down: u64 = ORGS.iter().map(|org| simulation.pulumi.ledger.answered(org, 429)).sum();
    let azure_throttled = ORGS.iter().map(|org| {
        let lane = [("org", *org), ("destination", "sentinel"), ("outcome", "throttled")];
        count("deliveries_total", &lane)
    });
    let azure_throttled: f64 = azure_throttled.sum();
    let exchanges = simulation.org("keyless").exchanges().len();
    let opened = simulation.org("keyless").openings(SIEM).0;
    let entra = simulation.wire.sent_to(ENTRA).len();
    assert!(
        rescans >= 50.0
            && late >= 50.0
            && asked_to_slow_down >= 10
            && azure_throttled >= 8.0
            && exchanges >= 12
            && opened >= 1
            && entra >= 24,
        "the day was not like any other: {rescans} rescans, {late} late, {asked_to_slow_down} and {azure_throttled} times asked to slow down, \
         {exchanges} exchanges, {opened} openings, {entra} tokens of Entra"
    );
    for org in ORGS {
        assert!(simulation.status(org).lanes.iter().all(|lane| lane.state.as_str() == "ok"));
    }

    let messages: Vec<&str> = beginning.iter().filter_map(|line| line["message"].as_str()).collect();
    assert_eq!(messages, ["collection starts"; 4], "{beginning:?}");
    assert_eq!(day, Vec::<Value>::new(), "a day of healthy running needs nobody to read anything");

    // The same log does speak up.
    simulation.org("zoo").rotate_token();
    simulation.pass(6 * MINUTE).await;
    let said = paper.lines();
    let said: Vec<_> = said.iter().map(|line| (line["level"].as_str(), line["org"].as_str())).collect();
    assert_eq!(said, [(Some("ERROR"), Some("zoo"))]);
}
