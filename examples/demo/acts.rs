//! The story: what happens to the forwarder, in acts, each begun when the catch-up has come far enough for it.
//!
//! Every wait has a bound; a story that does not go on ends as a failure and says what it waited for.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::time::{Instant, sleep};

use crate::cast::{ACME, BLITZ, CALM, DENSE, History, Live, ORGS, SHORTENED};
use crate::forwarder::{Forwarder, Status};
use crate::screen::{Screen, grouped};
use crate::verdict::{self, Ended};
use crate::world::World;
use crate::world::ingestion;
use crate::world::s3::proxy::{Fault, Scope};
use crate::world::script::Times;
use crate::world::setup::rule_of;
use crate::world::verdict::Cut;

/// How long any single thing may take that the story waits for.
const PATIENCE: Duration = Duration::from_secs(90);
/// How often the forwarder is asked for its status.
const LOOK: Duration = Duration::from_millis(200);

/// Plays everything; whether the count at the end found all in order.
pub(crate) async fn play(binary: &Path, directory: &Path) -> anyhow::Result<bool> {
    let mut screen = Screen::new();
    screen.say("Starting a world on loopback: Pulumi Cloud, Entra ID and Azure's ingestion endpoint, simulated, and a real S3 server …")?;
    let world = World::builder().orgs(&ORGS).with_s3().directory(directory).start().await;
    let history = History::write(&world, world.clock.now());
    let config = world.write_config(history.setups(), "");
    introduce(&world, &mut screen)?;

    let forwarder = Forwarder::new(binary, &config, directory);
    let mut play = Play {
        world: &world,
        forwarder,
        screen,
        live: Live::new(),
        status: None,
        damage_told: false,
        caught_up_after: None,
    };
    play.screen.begin();
    play.begins().await?;
    play.a_token_is_revoked().await?;
    play.azure_goes_away().await?;
    play.the_forwarder_is_killed().await?;
    play.azure_comes_back().await?;
    play.the_source_falls_quiet().await?;
    let Play { forwarder, mut screen, live, status, caught_up_after, .. } = play;
    screen.finish();
    let ended = Ended {
        last_status: status.unwrap_or_default(),
        caught_up_after: caught_up_after.unwrap_or_default(),
        took: screen.elapsed(),
        peak_mib: forwarder.peak_mib(),
        stragglers: live.stragglers_made,
    };
    verdict::give(&world, &history, &ended, &mut screen).await
}

fn introduce(world: &World, screen: &mut Screen) -> anyhow::Result<()> {
    let events = |org: &str| grouped(world.pulumi().org(org).len() as u64);
    screen.line("")?;
    for line in [
        format!("  {ACME:<6} {:>7} events in the last 30 days, office hours and nights", events(ACME)),
        format!(
            "  {BLITZ:<6} {:>7} events in the last 12 hours, in bursts; one second alone has {DENSE}",
            events(BLITZ)
        ),
        format!("  {CALM:<6} {:>7} events in the last 7 days", events(CALM)),
    ] {
        screen.line(&line)?;
    }
    screen.line("")?;
    screen.say(
        "New events happen in all three while you watch; some show themselves only 13 to 17 seconds after they happened. \
         The forwarder copies everything to three destinations: sentinel (Azure), s3, and file (a folder).",
    )?;
    screen.say(SHORTENED)?;
    screen.line("")?;
    screen.legend()?;
    Ok(())
}

struct Play<'a> {
    world: &'a World,
    forwarder: Forwarder,
    screen: Screen,
    live: Live,
    status: Option<Status>,
    damage_told: bool,
    /// When the thirty days were journaled, after the first start.
    caught_up_after: Option<Duration>,
}

impl Play<'_> {
    async fn begins(&mut self) -> anyhow::Result<()> {
        self.screen.act('①', "The forwarder starts for the first time. The present is polled at once; what lies before it is caught up, oldest first.")?;
        let took = self.forwarder.start().await?;
        let pid = self.forwarder.pid().unwrap_or_default();
        self.screen.note(&format!("process {pid} answers after {} ms", took.as_millis()))?;
        self.until("the catch-up of acme is under way", |status| share(status, ACME) > 0.12).await?;
        Ok(())
    }

    async fn a_token_is_revoked(&mut self) -> anyhow::Result<()> {
        self.screen.act(
            '②',
            "acme's Pulumi token is rotated, clumsily: the old one is revoked before the new one is in its file.",
        )?;
        let token = self.world.pulumi().org(ACME).rotate_token();
        self.until("acme is paused", |status| source(status, ACME) == "paused").await?;
        let party = self.org(ACME).map(|org| org.source.clone()).context("acme has a status")?;
        let (reason, remedy) = (party.reason.unwrap_or_default(), party.remedy.unwrap_or_default());
        self.screen.note(&format!("Pulumi answers 401. acme is paused ({reason}), the others go on. Its status says what to do: “{remedy}”."))?;
        self.during(Duration::from_secs(2)).await?;
        self.world.paths.write_secret(&format!("{ACME}-token"), &token);
        let written = Instant::now();
        self.screen.note("The new token is written into the file. Nobody tells the forwarder.")?;
        self.until("acme reads again", |status| source(status, ACME) == "ok").await?;
        self.screen
            .note(&format!("acme reads again, {:.1} s later, by itself.", written.elapsed().as_secs_f64()))?;
        self.until("acme has caught up a third", |status| share(status, ACME) > 0.34).await?;
        Ok(())
    }

    async fn azure_goes_away(&mut self) -> anyhow::Result<()> {
        self.screen.act(
            '③',
            "Azure is gone: connections are refused. S3 and the folder must not notice; Azure's events wait in the journal.",
        )?;
        self.world.azure().goes_away().await;
        self.during(Duration::from_secs(5)).await?;
        self.until("acme has caught up more than half", |status| share(status, ACME) > 0.58).await?;
        Ok(())
    }

    async fn the_forwarder_is_killed(&mut self) -> anyhow::Result<()> {
        let status = self.status.clone().unwrap_or_default();
        let pid = self.forwarder.pid().unwrap_or_default();
        // Their later looks must be over before the end.
        self.live.no_more_stragglers();
        self.forwarder.kill();
        self.screen.act(
            '④',
            &format!(
                "SIGKILL: process {pid} is dead, with acme's catch-up at {:.0} %, {} events waiting for Azure, {} for S3.",
                (share(&status, ACME) * 100.0).floor(),
                grouped(status.backlog("sentinel")),
                grouped(status.backlog("s3")),
            ),
        )?;
        self.during(Duration::from_millis(1_500)).await?;
        let took = self.forwarder.start().await?;
        let pid = self.forwarder.pid().unwrap_or_default();
        self.screen.note(&format!(
            "Started again as process {pid}: it answers after {} ms and goes on from its journal. Azure is still away.",
            took.as_millis()
        ))?;
        self.during(Duration::from_secs(3)).await?;
        self.until("acme's catch-up goes on", |status| share(status, ACME) > 0.7).await?;
        Ok(())
    }

    async fn azure_comes_back(&mut self) -> anyhow::Result<()> {
        let waiting = self.status.as_ref().map_or(0, |status| status.backlog("sentinel"));
        self.screen.act(
            '⑤',
            &format!(
                "Azure comes back, with {} events waiting for it. The answer to each org's first upload is lost after Azure has \
                 stored it, and so is S3's reply to the next object.",
                grouped(waiting)
            ),
        )?;
        for org in ORGS {
            let lost = ingestion::Fault::AnswerLost(Cut::Close);
            self.world.ingestion().fault_on(&rule_of(org), lost, Times::Next(1));
        }
        self.world.s3().fault(Scope::puts("date="), Fault::ReplyLost(Cut::Close), Times::Next(1));
        self.world.azure().comes_back();
        let back = Instant::now();
        self.until("Azure has what waited for it", |status| status.backlog("sentinel") < 1_000).await?;
        self.screen
            .note(&format!("Azure has what had waited, after {:.1} s.", back.elapsed().as_secs_f64()))?;
        self.until("every org has caught up", Status::caught_up).await?;
        self.screen.note("Every org has caught up: there is no hole between its start and the present.")?;
        Ok(())
    }

    async fn the_source_falls_quiet(&mut self) -> anyhow::Result<()> {
        self.live.stop();
        let quiet = self.world.clock.now();
        self.screen.act(
            '⑥',
            "Nothing new happens any more. The last events travel, and the later looks end that find what showed itself late.",
        )?;
        let looked = quiet.max(self.live.last_straggler);
        let last_straggler = self.live.last_straggler;
        self.until("everything is delivered", |status| {
            let read = |org: &crate::forwarder::Org| {
                org.tip().is_some_and(|tip| tip > looked + 1)
                    && (org.id != ACME || org.settled_until().is_some_and(|until| until > last_straggler))
            };
            status.caught_up() && status.delivered() && status.orgs.iter().all(read)
        })
        .await?;
        let (ended, took) = self.forwarder.stop().await?;
        if !ended.success() {
            bail!("the forwarder ended with {ended} after SIGTERM");
        }
        self.screen.note(&format!(
            "Everything is delivered. The forwarder is asked to end (SIGTERM), and does, after {} ms.",
            took.as_millis()
        ))?;
        Ok(())
    }

    fn org(&self, id: &str) -> Option<&crate::forwarder::Org> {
        self.status.as_ref()?.org(id)
    }

    /// Lets time pass.
    async fn during(&mut self, time: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            self.look().await?;
            sleep(LOOK).await;
        }
        Ok(())
    }

    /// Lets time pass until something is true.
    async fn until(&mut self, what: &str, holds: impl Fn(&Status) -> bool) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            self.look().await?;
            if self.status.as_ref().is_some_and(&holds) {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!(
                    "waited {} s in vain until {what}; the forwarder's logs are in .demo/",
                    PATIENCE.as_secs()
                );
            }
            sleep(LOOK).await;
        }
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        self.live.tick(self.world);
        self.status = self.forwarder.status().await?;
        self.screen.show(self.status.as_ref())?;
        if self.caught_up_after.is_none() && self.org(ACME).is_some_and(|org| org.read_share() >= 1.0) {
            self.caught_up_after = Some(self.screen.elapsed());
        }
        let damaged = self.org(BLITZ).map_or(0, |org| org.coverage.damaged);
        if damaged > 0 && !self.damage_told {
            self.damage_told = true;
            self.screen.note(&format!(
                "{BLITZ}: {damaged} second is declared damaged. It holds {DENSE} events, a page 100, and no call divides a second: \
                 the forwarder keeps what it could read of it, and says so rather than pass over it."
            ))?;
        }
        Ok(())
    }
}

fn share(status: &Status, id: &str) -> f64 {
    status.org(id).map_or(0.0, crate::forwarder::Org::read_share)
}

fn source<'a>(status: &'a Status, id: &str) -> &'a str {
    status.org(id).map_or("", |org| &org.source.state)
}
