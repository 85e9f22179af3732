//! How a section's services are reached: authorities, a certificate of our own, a proxy.

use std::path::{Path, PathBuf};

use super::{NAME_CHARACTERS_MAX, Reader};
use crate::config::address;
use crate::config::{S3Section, SecretPlace, Secrets, SentinelSection, SourceSection};
use crate::http::Route;
use crate::http::route::{ClientCertificate, Proxy, ProxyAccount};

/// The keys of a section that say so.
pub(super) struct Written<'a> {
    section: &'static str,
    ca_file: Option<&'a Path>,
    client_certificate: Option<&'a SecretPlace>,
    client_key: Option<&'a SecretPlace>,
    proxy: Option<&'a str>,
    proxy_username: Option<&'a str>,
    proxy_password: Option<&'a SecretPlace>,
}

impl<'a> Written<'a> {
    pub(super) fn of_source(section: &'a SourceSection) -> Written<'a> {
        Written {
            section: "source",
            ca_file: section.ca_file.as_deref(),
            client_certificate: section.client_certificate.as_ref(),
            client_key: section.client_key.as_ref(),
            proxy: section.proxy.as_deref(),
            proxy_username: section.proxy_username.as_deref(),
            proxy_password: section.proxy_password.as_ref(),
        }
    }

    pub(super) fn of_sentinel(section: &'a SentinelSection) -> Written<'a> {
        Written {
            section: "sentinel",
            ca_file: section.ca_file.as_deref(),
            client_certificate: None,
            client_key: None,
            proxy: section.proxy.as_deref(),
            proxy_username: section.proxy_username.as_deref(),
            proxy_password: section.proxy_password.as_ref(),
        }
    }

    pub(super) fn of_s3(section: &'a S3Section) -> Written<'a> {
        Written {
            section: "s3",
            ca_file: section.ca_file.as_deref(),
            client_certificate: None,
            client_key: None,
            proxy: section.proxy.as_deref(),
            proxy_username: section.proxy_username.as_deref(),
            proxy_password: section.proxy_password.as_ref(),
        }
    }
}

impl Reader<'_> {
    /// `None` where a part of it is wrong. `address` is what the route leads to, where that is known.
    pub(super) fn route(&mut self, written: &Written<'_>, address: Option<&str>) -> Option<Route> {
        let ca_file = self.ca_file(written);
        let client_certificate = self.client_certificate(written);
        let proxy = self.proxy(written, address);
        let route = Route { ca_file: ca_file?, client_certificate: client_certificate?, proxy: proxy? };
        if self.secrets == Secrets::MustBeReadable
            && let Err(error) = self.clients.get(&route)
        {
            let key = [written.section, error.key()];
            if error.key() == "ca_file" {
                self.view.refuse(&key, error.to_string());
            } else {
                self.view.refuse_unseen(&key, error.to_string());
            }
            return None;
        }
        Some(route)
    }

    fn ca_file(&mut self, written: &Written<'_>) -> Option<Option<PathBuf>> {
        let key = [written.section, "ca_file"];
        match written.ca_file {
            None => (!self.view.found_wrong(&key)).then_some(None),
            given => self.path(&key, given, "").map(Some),
        }
    }

    fn client_certificate(&mut self, written: &Written<'_>) -> Option<Option<ClientCertificate>> {
        let (own, key) = ([written.section, "client_certificate"], [written.section, "client_key"]);
        if written.client_certificate.is_none() {
            if written.client_key.is_some() {
                self.view.refuse_unseen(&key, "belongs to client_certificate: set that too, or remove it");
                return None;
            }
            return (!self.view.found_wrong(&own)).then_some(None);
        }
        if written.client_key.is_none() {
            let certificate = self.secret_bytes(&own, written.client_certificate);
            return Some(Some(ClientCertificate { certificate: certificate?, key: None }));
        }
        // Without its key a certificate is no secret: others may read it.
        let certificate = self.secret_source(&own, written.client_certificate).map(|(source, _)| source);
        let key = self.secret_bytes(&key, written.client_key);
        Some(Some(ClientCertificate { certificate: certificate?, key: Some(key?) }))
    }

    fn proxy(&mut self, written: &Written<'_>, address: Option<&str>) -> Option<Proxy> {
        let key = [written.section, "proxy"];
        let (username, password) = ([written.section, "proxy_username"], [written.section, "proxy_password"]);
        let Some(text) = written.proxy else {
            for (key, given) in
                [(&username, written.proxy_username.is_some()), (&password, written.proxy_password.is_some())]
            {
                if given {
                    self.view.refuse_unseen(key, "belongs to proxy: set that too, or remove it");
                    return None;
                }
            }
            return (!self.view.found_wrong(&key)).then_some(Proxy::Environment);
        };
        if text == "off" {
            return Some(Proxy::Off);
        }
        let url = match address::proxy(text) {
            Ok(url) => url,
            // It is not shown where it may hold a password.
            Err(error) if text.contains('@') || text.contains('?') => {
                self.view.refuse_unseen(&key, error.to_string());
                return None;
            }
            Err(error) => {
                self.view.refuse(&key, error.to_string());
                return None;
            }
        };
        if address.is_some_and(address::is_exposed) {
            let text = "would read all that is sent to an http:// address, credentials too: use https:// there, or set this to off";
            self.view.refuse(&key, text);
            return None;
        }
        let both =
            "proxy_username and proxy_password belong together; a proxy that asks for nothing needs neither";
        let account = match (written.proxy_username, written.proxy_password) {
            (None, None) => {
                let wrong = self.view.found_wrong(&username) || self.view.found_wrong(&password);
                if wrong {
                    return None;
                }
                None
            }
            (Some(name), Some(_)) => {
                if name.is_empty()
                    || name.chars().count() > NAME_CHARACTERS_MAX
                    || name.contains(|c: char| c == ':' || c.is_control())
                {
                    self.view.refuse(&username, "give a name without `:`");
                    return None;
                }
                let password = self.secret(&password, written.proxy_password)?;
                Some(ProxyAccount { username: name.to_owned(), password })
            }
            (Some(_), None) => {
                self.view.refuse(&username, both);
                return None;
            }
            (None, Some(_)) => {
                self.view.refuse_unseen(&password, both);
                return None;
            }
        };
        Some(Proxy::Named { url, account })
    }
}
