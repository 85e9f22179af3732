use super::is_local;

#[test]
fn plain_http_to_this_machine_goes_past_every_proxy_and_nothing_else_does() {
    for url in [
        "http://169.254.169.254/metadata/identity/oauth2/token?api-version=2018-02-01",
        "http://localhost:42356/msi/token",
        "http://127.0.0.1:41741/MSI/token/",
        "http://[::1]:80/",
    ] {
        assert!(is_local(url), "{url}");
    }
    for url in [
        "https://127.0.0.1/",
        "http://10.0.0.1/",
        "http://example.com/",
        "https://login.microsoftonline.com/",
        "http://localhost.example/",
        "",
    ] {
        assert!(!is_local(url), "{url}");
    }
}
