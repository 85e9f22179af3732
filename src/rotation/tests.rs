use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::*;
use crate::secret::{Place, Secret, SecretSource};

const NOW: Second = Second(1_795_256_100);

/// Two files; a value that ends says so after a colon.
struct Files([PathBuf; 2]);

impl Places for Files {
    type Value = Secret;

    fn keys(&self) -> [&'static str; 2] {
        ["token", "next_token"]
    }

    fn seen(&self, slot: Slot) -> Option<Result<Secret, SecretError>> {
        let path = &self.0[at(slot)];
        let source = SecretSource { place: Place::File(path.clone()), group_may_read: false };
        (slot == Slot::First || std::fs::symlink_metadata(path).is_ok()).then(|| source.read())
    }

    fn fingerprint(value: &Secret) -> Fingerprint {
        value.fingerprint()
    }

    fn expires(value: &Secret) -> Option<Second> {
        value.expose().split_once(':').map(|(_, end)| Second(end.parse().unwrap()))
    }
}

struct Bench {
    folder: tempfile::TempDir,
    rotation: Rotation<Files>,
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    std::fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

fn bench(first: &str, next: Option<&str>) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let places = ["token", "next"].map(|name| folder.path().join(name));
    let bench = Bench { rotation: Rotation::new(Files(places)), folder };
    bench.put("token", first.as_bytes());
    if let Some(next) = next {
        bench.put("next", next.as_bytes());
    }
    bench
}

impl Bench {
    fn put(&self, name: &str, bytes: &[u8]) {
        write(&self.folder.path().join(name), bytes);
    }

    /// Asks a service that takes these values, and answers what it was asked with.
    async fn ask(&mut self, good: &[&str]) -> Vec<String> {
        self.ask_as(good, Refusal::Unknown).await
    }

    async fn ask_as(&mut self, good: &[&str], refusal: Refusal) -> Vec<String> {
        let mut asked = Vec::new();
        let Ok(mut choice) = self.rotation.choose(NOW).await else { return asked };
        loop {
            let value = choice.value().expose().to_owned();
            asked.push(value.clone());
            assert!(asked.len() <= TRIED_MAX + 1);
            if good.contains(&value.as_str()) {
                self.rotation.accepted(&choice);
                return asked;
            }
            match self.rotation.refused(choice, refusal, "401").await {
                Some(other) => choice = other,
                None => return asked,
            }
        }
    }

    async fn is_due(&mut self) -> bool {
        self.rotation.look(NOW).await;
        self.rotation.is_due()
    }

    fn in_use(&self) -> Option<&'static str> {
        self.rotation.standing().in_use.map(|in_use| in_use.key)
    }

    fn warning(&self) -> String {
        self.rotation.standing().warning.unwrap_or_default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_replaced_value_is_taken_over_while_the_old_one_still_works() {
    let mut bench = bench("one\n", None);
    assert_eq!(bench.ask(&["one"]).await, ["one"]);
    bench.put("token", b"two\n");
    assert!(bench.is_due().await);
    assert_eq!(bench.ask(&["one", "two"]).await, ["two"]);
    assert!(!bench.is_due().await);
    assert_eq!(bench.ask(&["two"]).await, ["two"]);
    assert_eq!((bench.rotation.taken(), bench.warning()), (1, String::new()));
}

#[tokio::test(start_paused = true)]
async fn a_replaced_value_that_is_refused_leaves_the_old_one_in_use_and_is_said_once() {
    let mut bench = bench("one", None);
    bench.ask(&["one"]).await;
    bench.put("token", b"wrong");
    assert_eq!(bench.ask(&["one"]).await, ["wrong", "one"]);
    let warning = bench.warning();
    assert!(warning.contains("token") && warning.contains("401") && !warning.contains("wrong"), "{warning}");
    for _ in 0..3 {
        assert_eq!(bench.ask(&["one"]).await, ["one"], "it is not tried again");
    }
    assert_eq!(bench.warning(), warning);
    bench.put("token", b"right");
    assert_eq!(bench.ask(&["one", "right"]).await, ["right"]);
    assert_eq!(bench.warning(), "");
}

#[tokio::test(start_paused = true)]
async fn the_next_value_takes_over_when_the_first_is_refused_and_the_first_when_it_is_replaced() {
    let mut bench = bench("one", Some("two"));
    assert_eq!(bench.ask(&["one"]).await, ["one"]);
    assert_eq!(bench.ask(&["two"]).await, ["one", "two"]);
    assert_eq!(bench.in_use(), Some("next_token"));
    assert_eq!(bench.rotation.standing().given_up.as_deref(), Some("401"));
    assert_eq!(bench.ask(&["two"]).await, ["two"]);
    bench.put("token", b"three");
    assert_eq!(bench.ask(&["two", "three"]).await, ["three"]);
    assert_eq!(bench.in_use(), Some("token"));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_moved_to_the_first_place_is_that_places_from_then_on() {
    let mut bench = bench("one", Some("two"));
    bench.ask(&["one"]).await;
    bench.ask(&["two"]).await;
    bench.put("token", b"two");
    assert_eq!(bench.ask(&["two"]).await, ["two"]);
    assert_eq!(bench.in_use(), Some("token"));
    std::fs::remove_file(bench.folder.path().join("next")).unwrap();
    assert_eq!(bench.ask(&["two"]).await, ["two"]);
    assert_eq!((bench.in_use(), bench.warning()), (Some("token"), String::new()));
}

#[tokio::test(start_paused = true)]
async fn where_all_are_refused_one_is_asked_with_at_a_time_in_turn_until_one_changes() {
    let mut bench = bench("one", Some("two"));
    bench.ask(&["one"]).await;
    assert_eq!(bench.ask(&[]).await, ["one", "two"]);
    assert_eq!(bench.in_use(), None);
    let mut asked = Vec::new();
    for _ in 0..4 {
        assert!(!bench.is_due().await);
        asked.extend(bench.ask(&[]).await);
    }
    assert_eq!(asked, ["one", "two", "one", "two"]);
    bench.put("next", b"three");
    assert!(bench.is_due().await);
    assert_eq!(bench.ask(&["three"]).await, ["three"]);
    assert_eq!(bench.in_use(), Some("next_token"));
}

#[tokio::test(start_paused = true)]
async fn a_value_that_may_not_do_what_it_is_for_gives_its_turn_to_the_other_at_the_next_try() {
    let mut bench = bench("one", Some("two"));
    bench.ask(&["one"]).await;
    assert_eq!(bench.ask_as(&[], Refusal::Forbidden).await, ["one"]);
    assert!(!bench.is_due().await);
    assert_eq!(bench.ask_as(&[], Refusal::Forbidden).await, ["two"]);
    assert_eq!(bench.ask_as(&["one"], Refusal::Forbidden).await, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn a_value_that_lives_too_long_gives_way_to_the_other_at_once_and_once() {
    let mut bench = bench("one", Some("two"));
    bench.ask(&["one"]).await;
    assert_eq!(bench.ask_as(&["two"], Refusal::TooLong).await, ["one", "two"]);
    assert_eq!(bench.ask_as(&[], Refusal::TooLong).await, ["two", "one"]);
    assert_eq!(bench.ask_as(&[], Refusal::TooLong).await, ["two"], "then one at a time");
    assert_eq!(bench.ask_as(&["one"], Refusal::TooLong).await, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_said_to_have_changed_is_tried_where_nobody_has_tried_it() {
    let mut bench = bench("one", Some("two"));
    bench.ask(&["one"]).await;
    assert!(!bench.is_due().await);
    bench.rotation.nudged();
    assert_eq!(bench.ask(&["one", "two"]).await, ["two"]);
    bench.rotation.nudged();
    assert_eq!(bench.ask(&["one", "two"]).await, ["two"], "both are known, and nothing swings to and fro");
}

#[tokio::test(start_paused = true)]
async fn before_a_value_ends_the_other_one_is_tried_once() {
    let end = NOW.0 + Files::BEFORE_EXPIRY_SECONDS;
    let (later, soon) = (format!("one:{}", end + 1), format!("one:{end}"));
    let mut early = bench(&later, Some("two"));
    for _ in 0..2 {
        assert_eq!(early.ask(&[&later, "two"]).await, [later.as_str()]);
    }
    let mut ending = bench(&soon, Some("two"));
    assert_eq!(ending.ask(&[&soon]).await, [soon.as_str()]);
    assert_eq!(ending.ask(&[&soon]).await, ["two", soon.as_str()], "refused: the one that ends stays in use");
    assert_eq!(ending.ask(&[&soon]).await, [soon.as_str()]);
    ending.put("next", b"three");
    assert_eq!(ending.ask(&[&soon, "three"]).await, ["three"]);
}

#[tokio::test(start_paused = true)]
async fn a_restart_begins_with_the_value_that_was_in_use() {
    let mut bench = bench("one", Some("two"));
    bench.rotation.begin_with(Slot::Next);
    assert_eq!(bench.ask(&["two"]).await, ["two"]);
    assert_eq!((bench.in_use(), bench.rotation.taken()), (Some("next_token"), 0));
    let mut alone = self::bench("one", None);
    alone.rotation.begin_with(Slot::Next);
    assert_eq!(alone.ask(&["one"]).await, ["one"]);
}

#[tokio::test(start_paused = true)]
async fn wrong_values_are_tried_a_few_times_and_then_seldom() {
    let mut bench = bench("one", None);
    bench.ask(&["one"]).await;
    let mut wrong = 0;
    for round in 0..120 {
        bench.put("token", format!("wrong{round}").as_bytes());
        wrong += bench.ask(&["one"]).await.len() - 1;
        sleep(Duration::from_secs(1)).await;
    }
    assert!((REFUSALS_MAX..=3 * REFUSALS_MAX).contains(&wrong), "{wrong} in two minutes");
    let mut forbidden = 0;
    for round in 0..240 {
        bench.put("token", format!("forbidden{round}").as_bytes());
        forbidden += bench.ask_as(&["one"], Refusal::Forbidden).await.len() - 1;
        sleep(Duration::from_secs(30)).await;
    }
    assert!((REFUSALS_MAX..=3 * REFUSALS_MAX).contains(&forbidden), "{forbidden} in two hours");
    assert_eq!(bench.in_use(), Some("token"));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_is_written_while_it_is_read_is_left_alone_until_it_holds_still() {
    let mut bench = bench("one", None);
    bench.ask(&["one"]).await;
    let path = bench.folder.path().join("token");
    let writer = tokio::spawn(async move {
        for length in 0..=20 {
            write(&path, &b"another-secret-whole"[..length]);
            sleep(SETTLE / 2).await;
        }
    });
    let mut asked = Vec::new();
    for _ in 0..20 {
        asked.extend(bench.ask(&["one", "another-secret-whole"]).await);
        sleep(Duration::from_millis(7)).await;
    }
    writer.await.unwrap();
    asked.extend(bench.ask(&["one", "another-secret-whole"]).await);
    asked.dedup();
    assert_eq!(asked, ["one", "another-secret-whole"]);
}

#[tokio::test(start_paused = true)]
async fn half_a_value_that_holds_still_is_refused_and_replaces_nothing() {
    let mut bench = bench("one", None);
    bench.ask(&["one"]).await;
    bench.put("token", b"anoth");
    assert_eq!(bench.ask(&["one", "another"]).await, ["anoth", "one"]);
    bench.put("token", b"another");
    assert_eq!(bench.ask(&["one", "another"]).await, ["another"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_no_secret_replaces_nothing_and_is_said() {
    let path_of = |bench: &Bench| bench.folder.path().join("token");
    let cases: [(&str, &[u8], &str); 7] = [
        ("empty", b"", "empty"),
        ("a newline alone", b"\n", "empty"),
        ("two lines", b"two\nlines\n", "more than one line"),
        ("two trailing newlines", b"two\n\n", "more than one line"),
        ("a space", b"two words", "white space"),
        ("no UTF-8", b"\xff\xfe\x00", "UTF-8"),
        ("a NUL", b"two\0", "white space inside"),
    ];
    for (name, bytes, said) in cases {
        let mut bench = bench("one", None);
        bench.ask(&["one"]).await;
        bench.put("token", bytes);
        assert!(!bench.is_due().await, "{name}");
        assert_eq!(bench.ask(&["one"]).await, ["one"], "{name}");
        let warning = bench.warning();
        assert!(warning.contains(said) && warning.contains("stays in use"), "{name}: {warning}");
        assert_eq!(bench.in_use(), Some("token"), "{name}");
        bench.put("token", b"\xef\xbb\xbftwo\r\n");
        assert_eq!(
            bench.ask(&["one", "two"]).await,
            ["two"],
            "{name}: a byte order mark and one newline are cut"
        );
        assert_eq!(bench.warning(), "", "{name}");
    }
    for (name, spoil) in [
        ("absent", (|path| std::fs::remove_file(path).unwrap()) as fn(&Path)),
        ("readable by all", |path| std::fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap()),
        ("a directory", |path| {
            std::fs::remove_file(path).unwrap();
            std::fs::create_dir(path).unwrap();
        }),
    ] {
        let mut bench = bench("one", None);
        bench.ask(&["one"]).await;
        spoil(&path_of(&bench));
        assert_eq!(bench.ask(&["one"]).await, ["one"], "{name}");
        assert!(bench.warning().contains("stays in use"), "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn kubernetes_swaps_the_folder_behind_a_link_and_the_value_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("..data");
    let generation = |name: &str, value: &str| {
        let version = folder.path().join(name);
        std::fs::create_dir(&version).unwrap();
        write(&version.join("token"), value.as_bytes());
        // As the kubelet does it: a new link beside, renamed over the old one.
        let beside = folder.path().join("..data_tmp");
        symlink(name, &beside).unwrap();
        std::fs::rename(&beside, &data).unwrap();
    };
    generation("..2026_11_21_1", "one");
    symlink("..data/token", folder.path().join("token")).unwrap();
    let places = ["token", "next"].map(|name| folder.path().join(name));
    let mut bench = Bench { rotation: Rotation::new(Files(places)), folder: tempfile::tempdir().unwrap() };
    assert_eq!(bench.ask(&["one"]).await, ["one"]);
    for round in 2..10 {
        let value = format!("value{round}");
        generation(&format!("..2026_11_21_{round}"), &value);
        std::fs::remove_dir_all(folder.path().join(format!("..2026_11_21_{}", round - 1))).unwrap();
        assert_eq!(bench.ask(&[&value]).await, [value.as_str()]);
    }
    assert_eq!(bench.rotation.taken(), 8);
    assert_eq!(bench.warning(), "");
}

#[tokio::test(start_paused = true)]
async fn a_value_that_could_not_be_read_at_first_is_taken_when_it_comes() {
    let mut bench = bench("", None);
    assert_eq!(bench.ask(&["one"]).await, [""; 0]);
    assert!(!bench.is_due().await);
    bench.put("token", b"one");
    assert!(bench.is_due().await);
    assert_eq!(bench.ask(&["one"]).await, ["one"]);
}

#[test]
fn what_both_places_hold_is_one_fingerprint() {
    let one = bench("one", None);
    let both = bench("one", Some("two"));
    let present = |bench: &Bench| present(bench.rotation.places());
    assert!(present(&one).is_some() && present(&both).is_some());
    assert_ne!(present(&one), present(&both));
    let before = present(&both);
    both.put("next", b"three");
    assert_ne!(present(&both), before);
    both.put("token", b"");
    both.put("next", b"");
    assert_eq!(present(&both), None);
}

/// One place that somebody else keeps: what he says now, and what was heard of him.
#[derive(Default)]
struct Remote {
    says: std::sync::Mutex<Option<Result<String, SecretError>>>,
    heard: std::sync::Mutex<Option<String>>,
}

impl Remote {
    fn says(&self, says: Result<&str, SecretError>) {
        *self.says.lock().unwrap() = Some(says.map(str::to_owned));
    }

    fn forgets(&self) {
        *self.heard.lock().unwrap() = None;
    }
}

fn away() -> SecretError {
    SecretError::Unavailable { place: "elsewhere".into(), wait: None, cause: "nobody answers".into() }
}

impl Places for std::sync::Arc<Remote> {
    type Value = Secret;

    fn keys(&self) -> [&'static str; 2] {
        ["secret", "next_secret"]
    }

    fn seen(&self, slot: Slot) -> Option<Result<Secret, SecretError>> {
        let heard = || self.heard.lock().unwrap().clone().map(Secret::new).ok_or_else(away);
        (slot == Slot::First).then(heard)
    }

    async fn read(&self, slot: Slot, freshness: Freshness) -> Option<Result<Secret, SecretError>> {
        if slot == Slot::Next {
            return None;
        }
        if freshness == Freshness::Renewed || self.heard.lock().unwrap().is_none() {
            match self.says.lock().unwrap().clone()? {
                Ok(value) => *self.heard.lock().unwrap() = Some(value),
                Err(error) => return Some(Err(error)),
            }
        }
        self.seen(slot)
    }

    fn fingerprint(value: &Secret) -> Fingerprint {
        value.fingerprint()
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_kept_elsewhere_stays_in_use_while_nobody_answers_and_is_asked_for_when_it_is_refused()
 {
    let remote = std::sync::Arc::<Remote>::default();
    let mut rotation = Rotation::new(remote.clone());
    remote.says(Err(away()));
    assert!(matches!(rotation.choose(NOW).await, Err(SecretError::Unavailable { .. })));
    remote.says(Ok("one"));
    let choice = rotation.choose(NOW).await.ok().unwrap();
    rotation.accepted(&choice);

    // What was heard is no longer good, and nobody answers: that says nothing against the value in use.
    remote.forgets();
    remote.says(Err(away()));
    rotation.look(NOW).await;
    assert_eq!(rotation.choose(NOW).await.ok().unwrap().value().expose(), "one");
    assert_eq!(rotation.standing().warning, None);

    // Looking asks nobody; a refusal does.
    remote.says(Ok("one"));
    rotation.choose(NOW).await.ok().unwrap();
    remote.says(Ok("two"));
    rotation.look(NOW).await;
    assert!(!rotation.is_due());
    let choice = rotation.choose(NOW).await.ok().unwrap();
    assert_eq!(choice.value().expose(), "one");
    let choice = rotation.refused(choice, Refusal::Unknown, "401").await.expect("another is there");
    assert_eq!(choice.value().expose(), "two");
    rotation.accepted(&choice);
    assert_eq!(rotation.standing().in_use.map(|in_use| in_use.fingerprint), Some(choice.fingerprint));
    assert!(!rotation.is_due(), "it is tried once");
}
