//! Addresses of services: what is accepted as one.
//!
//! *Why the client's own parser:* what is checked here must be what is called later.

use std::net::IpAddr;

/// A checked address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Address {
    /// Normalized, without a trailing slash.
    pub(super) url: String,
    /// Unencrypted to another machine: allowed, but worth a warning.
    pub(super) exposed: bool,
}

/// Why an address is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadAddress {
    #[error("give an address such as https://{example}")]
    Unreadable { example: &'static str },
    #[error("give the address without a user name and password: credentials have keys of their own")]
    Credentials,
    #[error("give off, or the proxy's address and port, such as http://proxy.example.com:3128")]
    Proxy,
    #[error(
        "give the proxy without a user name and password: set proxy_username and proxy_password = {{ file = \"…\" }}"
    )]
    ProxyCredentials,
    #[error("give the address without `?` and `#`")]
    Query,
    #[error("give the address without a path, such as https://{example}")]
    Path { example: &'static str },
    #[error(
        "http:// is accepted for loopback addresses only, because whoever listens on the way reads the credentials: \
         use https://, or set allow_http = true in [{section}]"
    )]
    Unencrypted { section: &'static str },
    #[error(
        "https:// is required here, for loopback addresses too: put the certificate's authority into ca_file"
    )]
    AlwaysEncrypted,
}

/// Which addresses a key takes.
pub(super) struct Rule {
    pub(super) section: &'static str,
    pub(super) example: &'static str,
    pub(super) path: bool,
    pub(super) http: Http,
}

/// When `http://` is accepted.
pub(super) enum Http {
    Never,
    Loopback,
    Anywhere,
}

pub(super) fn check(text: &str, rule: &Rule) -> Result<Address, BadAddress> {
    let unreadable = BadAddress::Unreadable { example: rule.example };
    let Ok(url) = reqwest::Url::parse(text) else { return Err(unreadable) };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(unreadable);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BadAddress::Credentials);
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(BadAddress::Query);
    }
    if !rule.path && url.path() != "/" {
        return Err(BadAddress::Path { example: rule.example });
    }
    let exposed = match (url.scheme(), &rule.http) {
        ("https", _) => false,
        (_, Http::Never) => return Err(BadAddress::AlwaysEncrypted),
        _ if is_loopback(&url) => false,
        (_, Http::Loopback) => return Err(BadAddress::Unencrypted { section: rule.section }),
        (_, Http::Anywhere) => true,
    };
    Ok(Address { url: url.as_str().trim_end_matches('/').to_owned(), exposed })
}

/// What is accepted as a proxy.
pub(super) fn proxy(text: &str) -> Result<String, BadAddress> {
    let Ok(url) = reqwest::Url::parse(text) else { return Err(BadAddress::Proxy) };
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none_or(str::is_empty) {
        return Err(BadAddress::Proxy);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BadAddress::ProxyCredentials);
    }
    if url.query().is_some() || url.fragment().is_some() || url.path() != "/" {
        return Err(BadAddress::Proxy);
    }
    Ok(url.as_str().trim_end_matches('/').to_owned())
}

/// Whether what is sent to an address can be read on the way to another machine.
pub(super) fn is_exposed(url: &str) -> bool {
    reqwest::Url::parse(url).is_ok_and(|url| url.scheme() == "http" && !is_loopback(&url))
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(text: &str, http: Http) -> Result<Address, BadAddress> {
        check(text, &Rule { section: "source", example: "api.pulumi.com", path: true, http })
    }

    #[test]
    fn an_address_loses_its_trailing_slash_and_keeps_its_path() {
        let address = checked("https://Pulumi.example:443/api/", Http::Loopback);
        assert_eq!(address, Ok(Address { url: "https://pulumi.example/api".into(), exposed: false }));
    }

    #[test]
    fn unencrypted_is_for_loopback_unless_allowed() {
        for loopback in ["http://127.0.0.1:9", "http://127.9.9.9", "http://[::1]:9", "http://localhost:9"] {
            assert!(checked(loopback, Http::Loopback).is_ok_and(|address| !address.exposed), "{loopback}");
            assert_eq!(checked(loopback, Http::Never), Err(BadAddress::AlwaysEncrypted));
        }
        for elsewhere in ["http://10.0.0.1", "http://localhost.example", "http://127.0.0.1.example"] {
            assert_eq!(
                checked(elsewhere, Http::Loopback),
                Err(BadAddress::Unencrypted { section: "source" }),
                "{elsewhere}"
            );
            assert!(checked(elsewhere, Http::Anywhere).is_ok_and(|address| address.exposed), "{elsewhere}");
        }
    }

    #[test]
    fn a_proxy_is_a_host_and_a_port_without_credentials() {
        assert_eq!(proxy("http://Proxy.example:3128/"), Ok("http://proxy.example:3128".into()));
        assert_eq!(proxy("https://[::1]:3128"), Ok("https://[::1]:3128".into()));
        assert_eq!(proxy("http://me:pw@proxy:3128"), Err(BadAddress::ProxyCredentials));
        for wrong in ["proxy:3128", "socks5://proxy:1080", "http://proxy:3128/path", "http://proxy?a=b", ""] {
            assert_eq!(proxy(wrong), Err(BadAddress::Proxy), "{wrong}");
        }
    }

    #[test]
    fn what_is_no_plain_address_is_refused() {
        assert_eq!(checked("https://me:pw@host", Http::Loopback), Err(BadAddress::Credentials));
        assert_eq!(checked("https://host?a=b", Http::Loopback), Err(BadAddress::Query));
        for wrong in ["api.pulumi.com", "", "ftp://host", "https://", "file:///etc/passwd", "localhost:80"] {
            assert!(matches!(checked(wrong, Http::Loopback), Err(BadAddress::Unreadable { .. })), "{wrong}");
        }
    }
}
