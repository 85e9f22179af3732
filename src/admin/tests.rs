use std::net::Ipv4Addr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;
use crate::clock::{Clock, Second};
use crate::destination::DestinationName;
use crate::problem::{PauseReason, Problem};
use crate::report::tests::settings;

struct Running {
    admin: Admin,
    reports: Reports,
    shutdown: CancellationToken,
}

async fn running() -> Running {
    let metrics = Metrics::new("0.1.0", "test");
    let reports = Reports::new(metrics.clone(), Clock::simulated(Second(1_795_256_100)));
    let shutdown = CancellationToken::new();
    let listen = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let admin = serve(listen, reports.clone(), metrics, Liveness::new(), shutdown.clone())
        .await
        .expect("a free port");
    Running { admin, reports, shutdown }
}

impl Running {
    /// One whole answer, head and body, as text.
    async fn ask(&self, method: &str, path: &str) -> String {
        let mut stream = TcpStream::connect(self.admin.address).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn metrics_status_and_page_are_served_with_headers_that_forbid_everything_else() {
    let running = running().await;
    running.reports.org(&settings("acme", "acme-corp", &[DestinationName::S3]));
    for (path, kind, part) in [
        ("/metrics", "text/plain; version=0.0.4", "pulumi_audit_pages_total{org=\"acme\"} 0\n"),
        ("/api/status", "application/json", "\"id\":\"acme\""),
        ("/", "text/html", "<bdi>acme-corp</bdi>"),
        ("/?q=acme&show=fine&page=2&refresh=off", "text/html", "No organization matches."),
        ("/org/acme", "text/html", "<bdi>acme-corp</bdi>"),
        ("/icon/attention.svg", "image/svg+xml", "<svg "),
        ("/livez", "text/plain", "ok\n"),
    ] {
        let answer = running.ask("GET", path).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{path}: {answer}");
        assert!(answer.contains(&format!("content-type: {kind}")), "{path}: {answer}");
        assert!(answer.contains(part), "{path}: {answer}");
        assert!(answer.contains("content-security-policy: default-src 'none';"), "{path}: {answer}");
        assert!(answer.contains("x-content-type-options: nosniff"), "{path}: {answer}");
        let head = running.ask("HEAD", path).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.ends_with("\r\n\r\n"), "{path}: {head}");
    }
}

#[tokio::test]
async fn only_get_and_head_are_allowed() {
    let running = running().await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"] {
        for path in ["/api/status", "/", "/org/acme", "/icon/fine.svg"] {
            let answer = running.ask(method, path).await;
            assert!(answer.starts_with("HTTP/1.1 405"), "{method} {path}: {answer}");
            assert!(answer.contains("allow: GET,HEAD"), "{answer}");
            assert!(answer.contains("x-content-type-options: nosniff"), "{answer}");
        }
    }
    for path in ["/elsewhere", "/org/acme", "/org/", "/icon/none.svg", "/icon/..%2Fstyle.css"] {
        let answer = running.ask("GET", path).await;
        assert!(answer.starts_with("HTTP/1.1 404"), "{path}: {answer}");
        assert!(answer.contains("content-security-policy: default-src 'none';"), "{path}: {answer}");
    }
}

#[tokio::test]
async fn a_page_refreshes_itself_unless_it_is_asked_not_to() {
    let running = running().await;
    running.reports.org(&settings("acme", "acme-corp", &[DestinationName::S3]));
    for path in ["/", "/org/acme", "/?q=%22", "/org/acme?refresh=on"] {
        assert!(running.ask("GET", path).await.contains("\r\nrefresh: 30\r\n"), "{path}");
    }
    for path in ["/?refresh=off", "/org/acme?refresh=off", "/org/nobody", "/api/status", "/metrics"] {
        assert!(!running.ask("GET", path).await.contains("\r\nrefresh:"), "{path}");
    }
}

#[tokio::test]
async fn readyz_says_what_is_missing_until_nothing_is() {
    let running = running().await;
    let org = running.reports.org(&settings("acme", "acme-corp", &[DestinationName::S3]));
    running.reports.set_config(true, None);
    running.reports.set_state_open();
    let answer = running.ask("GET", "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nfirst sweep of acme has not ended\n"), "{answer}");
    org.first_sweep_ended();
    assert!(running.ask("GET", "/readyz").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn hostile_names_and_texts_are_escaped_on_the_page() {
    let running = running().await;
    let hostile = "<script>alert('x')</script>\"&";
    let org = running.reports.org(&settings("acme", hostile, &[DestinationName::S3]));
    org.lane(DestinationName::S3).paused(&Problem {
        reason: PauseReason::Configuration,
        cause: hostile.into(),
        remedy: hostile.into(),
    });
    running.reports.set_config(false, Some(hostile.into()));
    let page = running.ask("GET", "/").await;
    assert!(!page.contains("<script") && !page.contains("alert('x')"), "{page}");
    let escaped = "&#60;script&#62;alert(&#39;x&#39;)&#60;/script&#62;&#34;&#38;";
    // Configuration, cause, remedy, and the name.
    assert_eq!(page.matches(escaped).count(), 4, "{page}");
    let page = running.ask("GET", "/org/acme").await;
    assert!(!page.contains("<script") && !page.contains("alert('x')"), "{page}");
    // The name, cause and remedy, and the cause in the table.
    assert_eq!(page.matches(escaped).count(), 4, "{page}");
    let page = running.ask("GET", "/?q=%3Cscript%3E%22%20autofocus%20onfocus=%22").await;
    assert!(!page.contains("<script") && !page.contains("\" autofocus"), "{page}");
    assert!(page.contains("value=\"&#60;script&#62;&#34; autofocus onfocus=&#34;\""), "{page}");
    let status = running.ask("GET", "/api/status").await;
    let body: Status = serde_json::from_str(status.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body.orgs[0].org, hostile);
}

#[tokio::test]
async fn a_taken_port_is_named_with_the_setting_to_change() {
    let running = running().await;
    let reports = running.reports.clone();
    let metrics = reports.metrics().clone();
    let second =
        serve(running.admin.address, reports, metrics, Liveness::new(), CancellationToken::new()).await;
    let text = second.expect_err("the port is taken").to_string();
    assert!(
        text.starts_with(&format!("cannot listen on {} (`[admin] listen`): ", running.admin.address)),
        "{text}"
    );
}

#[tokio::test]
async fn a_shutdown_ends_the_endpoints() {
    let running = running().await;
    running.shutdown.cancel();
    running.admin.task.await.expect("it ends in order");
    assert!(TcpStream::connect(running.admin.address).await.is_err());
}

#[tokio::test]
async fn silent_connections_are_closed_and_make_room() {
    let running = running().await;
    let mut silent = Vec::new();
    for _ in 0..80 {
        silent.push(TcpStream::connect(running.admin.address).await.unwrap());
    }
    tokio::time::pause();
    // More than can be open at once say nothing; a probe behind them is answered all the same, once they are too old.
    assert!(running.ask("GET", "/livez").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn endpoints_that_answer_no_more_are_stalled_and_those_that_never_did_are_not() {
    let liveness = Liveness::new();
    // Half a second of patience.
    liveness.watched_within(Duration::from_secs(1));
    let listener = async || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (here, nobody) = (listener().await, listener().await.local_addr().unwrap());
    let there = here.local_addr().unwrap();
    let asking = |name, address| tokio::spawn(answers(liveness.clone(), liveness.quiet_pulse(name), address));
    let asked = [asking("never there", nobody), asking("once there", there)];
    for _ in 0..2 {
        // The second question shows that the first was answered.
        let (mut stream, _) = here.accept().await.unwrap();
        let mut question = [0; 22];
        stream.read_exact(&mut question).await.unwrap();
        assert_eq!(&question, b"HEAD /livez HTTP/1.1\r\n");
        stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\n\r\n").await.unwrap();
    }
    drop(here);
    let mut stalled = Vec::new();
    for _ in 0..3_000 {
        stalled = liveness.stalled();
        if !stalled.is_empty() {
            break;
        }
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stalled, ["once there"]);
    asked.iter().for_each(|task| task.abort());
}
