//! The Azure CLI as a script.

use std::os::unix::fs::PermissionsExt;

use super::*;
use crate::problem::Problem;

struct Fake {
    directory: tempfile::TempDir,
    cli: AzureCli,
}

fn fake(script: &str) -> Fake {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("az");
    std::fs::write(&program, format!("#!/bin/sh\ncd {:?}\n{script}\n", directory.path())).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o700)).unwrap();
    let scope = "https://monitor.azure.com/.default".into();
    Fake { cli: AzureCli { program: program.into(), tenant_id: Some("tenant-1".into()), scope }, directory }
}

async fn refusal(script: &str) -> Problem {
    match fake(script).cli.fetch().await {
        Err(NoToken::Refused(problem)) => problem,
        other => panic!("{:?}", other.map(|(_, life)| life)),
    }
}

#[tokio::test]
async fn az_is_asked_for_a_token_of_the_scope_and_its_end_is_believed() {
    let until = Clock::system().now().0 + 3_000;
    let fake = fake(&format!(
        r#"echo "$@" > asked; echo 'WARNING: old' >&2; echo '{{"accessToken":"t-1","expiresOn":"x","expires_on":{until},"tokenType":"Bearer"}}'"#
    ));
    let (token, life) = fake.cli.fetch().await.unwrap();
    assert_eq!(token.expose(), "t-1");
    assert!((2_990..=3_000).contains(&life.as_secs()));
    assert_eq!(
        std::fs::read_to_string(fake.directory.path().join("asked")).unwrap(),
        "account get-access-token --output json --scope https://monitor.azure.com/.default --tenant tenant-1\n"
    );
}

#[tokio::test]
async fn what_az_says_when_it_refuses_is_passed_on_cut_and_with_a_remedy() {
    let problem =
        refusal("printf \"ERROR: Please run 'az login'\\n\\033[31mto setup account.\" >&2; exit 1").await;
    assert!(
        problem.cause.ends_with("exit status: 1: ERROR: Please run 'az login' [31mto setup account."),
        "{}",
        problem.cause
    );
    assert!(problem.remedy.contains("run `az login --tenant tenant-1`"), "{}", problem.remedy);
    let long = refusal("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1").await;
    assert!(long.cause.len() < 500);
    assert!(refusal("echo '[]'").await.remedy.contains("az login"));
    assert!(refusal(r#"echo '{"accessToken":"canary"}'"#).await.remedy.contains("2.54"));
    let absent = AzureCli { program: "/nowhere/az".into(), tenant_id: None, scope: "s".into() };
    assert!(!absent.is_installed());
    let Err(NoToken::Refused(problem)) = absent.fetch().await else { panic!() };
    assert!(problem.cause.contains("search path"));
}
