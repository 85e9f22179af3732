//! The process dies without warning, again and again, and nothing is lost or doubled.

use std::collections::BTreeMap;
use std::slice::from_ref;
use std::time::Duration;

use tokio::time::Instant;

use crate::forwarder::{again, drained, start};
use crate::world::World;
use crate::world::chance::Chance;
use crate::world::clock::rfc3339;
use crate::world::pulumi::events::Generator;
use crate::world::setup::OrgSetup;

const KILLS: u32 = 200;
/// Another seed can be given in this variable, to run what failed elsewhere again.
const SEED: &str = "KILL_SEED";
/// If what a kill waits for does not come, it comes without it.
const LONGEST_LIFE: Duration = Duration::from_millis(230);
const DAY: i64 = 86_400;

/// What a kill waits for: so many more requests at one of the services, and then a moment longer.
#[derive(Debug)]
struct Moment {
    service: Service,
    requests: u64,
    later: Duration,
}

#[derive(Debug, Clone, Copy)]
enum Service {
    Pulumi,
    Azure,
    S3,
}

impl Moment {
    fn draw(chance: &mut Chance) -> Moment {
        let (service, most) = *chance.pick(&[(Service::Pulumi, 8), (Service::Azure, 2), (Service::S3, 4)]);
        let later = Duration::from_micros(chance.below(12_000));
        Moment { service, requests: 1 + chance.below(most), later }
    }

    fn seen(&self, world: &World) -> u64 {
        match self.service {
            Service::Pulumi => world.pulumi().ledger.total(),
            Service::Azure => world.ingestion().ledger.total(),
            Service::S3 => world.s3().proxy.ledger.total(),
        }
    }

    /// Whether it came. The looks are as close together as can be, so that the kill hits what follows the request.
    async fn wait(&self, world: &World) -> bool {
        let (before, born) = (self.seen(world), Instant::now());
        while self.seen(world) < before + self.requests {
            if born.elapsed() > LONGEST_LIFE {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        tokio::time::sleep(self.later).await;
        true
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_killed_at_200_moments_loses_nothing_and_doubles_nothing() {
    let seed = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261_121);
    println!("{SEED}={seed}");
    let mut chance = Chance::seeded(seed);
    let mut generator = Generator::seeded(seed);
    let world = World::builder().with_s3().seed(seed).start().await;
    let now = world.clock.now();
    let log = world.pulumi().org("acme");
    // So far behind that all lives are spent catching up, and a present that goes on.
    let start_at = now - 60 * DAY;
    log.add(generator.spread(start_at, now - DAY, 1_800));
    log.add(generator.lively(now - DAY, now, 10.0));
    let acme = OrgSetup::new("acme").since(&rfc3339(start_at)).with_s3().with_file().with_sentinel();

    let mut hits = 0;
    let mut daemon = start(&world, from_ref(&acme));
    for life in 0..KILLS {
        let moment = Moment::draw(&mut chance);
        let second = world.clock.now() - 1 - chance.below(4) as i64;
        let mut events = match chance.below(3) {
            0 => generator.twins(second, 2),
            count => generator.burst(second, count as usize),
        };
        if chance.one_in(4) {
            events.push(generator.event(second).late_by(1 + chance.below(5) as i64));
        }
        log.add(events);
        let came = moment.wait(&world).await;
        hits += u32::from(came);
        if let Some(status) = daemon.has_ended() {
            panic!("life {life} ended by itself with {status}: {}", daemon.log());
        }
        daemon.kill();
        daemon = again(&world);
    }
    println!("{hits} of {KILLS} kills met their moment");
    // Beyond the second at which the last late event shows.
    drained(&mut daemon, "acme", world.clock.now() + 5).await;
    assert!(daemon.stop().await.success());

    let (bucket, folder, table) =
        (world.check_s3("acme").await, world.check_file("acme"), world.check_sentinel("acme"));
    println!("{bucket}{folder}{table}");
    bucket.assert_complete();
    folder.assert_complete();
    table.assert_complete();
    assert_eq!(bucket.void, 0, "no number was given up");
    let mut rows_of_request: BTreeMap<u64, usize> = BTreeMap::new();
    for row in world.rows("acme") {
        *rows_of_request.entry(row.request).or_default() += 1;
    }
    let largest = rows_of_request.into_values().max().unwrap_or_default();
    assert!(table.removable <= KILLS as usize * largest, "at most one request for each kill is there twice");
}
