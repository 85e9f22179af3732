//! What differs between two configurations, in the names of the keys: for the log, where a value may have been a secret's place.

use crate::http::Route;

use super::settings::{
    Oidc, OrgSettings, S3Settings, SentinelSettings, Settings, SourceCredentials, SourceSettings,
};
use crate::secret::SecretSource;

/// The keys that differ in what is said of one org. Empty only where nothing does.
pub fn of_org(old: &OrgSettings, new: &OrgSettings) -> Vec<String> {
    let mut keys = Keys(Vec::new());
    keys.compare("org", &old.org, &new.org);
    keys.compare("start", &old.start, &new.start);
    keys.section("source", Some(&old.source), Some(&new.source), of_source);
    keys.section("sentinel", old.sentinel.as_ref(), new.sentinel.as_ref(), of_sentinel);
    keys.section("s3", old.s3.as_ref(), new.s3.as_ref(), of_s3);
    keys.section("file", old.file.as_ref(), new.file.as_ref(), |keys, old, new| {
        keys.compare("file.path", &old.path, &new.path);
    });
    keys.0
}

/// The keys that differ of those that belong to no org.
pub fn of_forwarder(old: &Settings, new: &Settings) -> Vec<String> {
    let mut keys = Keys(of_what_needs_a_restart(old, new));
    keys.compare("log.level", &old.log.level, &new.log.level);
    keys.compare("journal.max_bytes_per_org", &old.journal.max_bytes_per_org, &new.journal.max_bytes_per_org);
    keys.compare("journal.retain", &old.journal.retain, &new.journal.retain);
    keys.0
}

/// The same of those alone that a running process cannot take up.
pub fn of_what_needs_a_restart(old: &Settings, new: &Settings) -> Vec<String> {
    let mut keys = Keys(Vec::new());
    keys.compare("state_dir", &old.state_dir, &new.state_dir);
    keys.compare("admin.listen", &old.admin, &new.admin);
    keys.compare("log.format", &old.log.format, &new.log.format);
    keys.0
}

fn of_source(keys: &mut Keys, old: &SourceSettings, new: &SourceSettings) {
    keys.compare("source.api_url", &old.api_url, &new.api_url);
    keys.compare("source.token", &stored(old).0, &stored(new).0);
    keys.compare("source.next_token", &stored(old).1, &stored(new).1);
    keys.compare("source.oidc", &exchanged(old), &exchanged(new));
    keys.compare("source.poll_interval", &old.poll_interval, &new.poll_interval);
    keys.compare("source.overlap", &old.overlap, &new.overlap);
    keys.compare("source.settle", &old.settle, &new.settle);
    keys.compare("source.rescan_after", &old.rescan_after, &new.rescan_after);
    keys.compare("source.requests_per_second", &old.requests_per_second, &new.requests_per_second);
    keys.compare(
        "source.host_requests_per_second",
        &old.host_requests_per_second,
        &new.host_requests_per_second,
    );
    keys.route("source", &old.route, &new.route);
}

fn stored(source: &SourceSettings) -> (Option<&SecretSource>, Option<&SecretSource>) {
    match &source.credentials {
        SourceCredentials::Stored { token, next_token } => (Some(token), next_token.as_ref()),
        SourceCredentials::Exchanged(_) => (None, None),
    }
}

fn exchanged(source: &SourceSettings) -> Option<&Oidc> {
    match &source.credentials {
        SourceCredentials::Stored { .. } => None,
        SourceCredentials::Exchanged(oidc) => Some(oidc),
    }
}

fn of_sentinel(keys: &mut Keys, old: &SentinelSettings, new: &SentinelSettings) {
    keys.compare("sentinel.endpoint", &old.endpoint, &new.endpoint);
    keys.compare("sentinel.rule_id", &old.rule_id, &new.rule_id);
    keys.compare("sentinel.stream", &old.stream, &new.stream);
    keys.compare("sentinel.columns", &old.columns, &new.columns);
    keys.compare("sentinel.raw_event", &old.raw_event, &new.raw_event);
    keys.compare("sentinel.heartbeat_stream", &old.heartbeat, &new.heartbeat);
    keys.compare("sentinel.authority", &old.authority, &new.authority);
    keys.compare("sentinel.scope", &old.scope, &new.scope);
    keys.compare("sentinel.identity", &old.identity, &new.identity);
    keys.route("sentinel", &old.route, &new.route);
}

fn of_s3(keys: &mut Keys, old: &S3Settings, new: &S3Settings) {
    keys.compare("s3.bucket", &old.bucket, &new.bucket);
    keys.compare("s3.prefix", &old.prefix, &new.prefix);
    keys.compare("s3.region", &old.region, &new.region);
    keys.compare("s3.endpoint_url", &old.endpoint_url, &new.endpoint_url);
    keys.compare("s3.force_path_style", &old.force_path_style, &new.force_path_style);
    keys.compare("s3.fips", &old.fips, &new.fips);
    keys.compare("s3.dual_stack", &old.dual_stack, &new.dual_stack);
    keys.compare("s3.credentials", &old.credentials, &new.credentials);
    keys.compare("s3.role_arn", &old.role, &new.role);
    keys.compare("s3.sse", &old.encryption, &new.encryption);
    keys.compare("s3.object_lock", &old.object_lock, &new.object_lock);
    keys.compare("s3.storage_class", &old.storage_class, &new.storage_class);
    keys.compare("s3.expected_bucket_owner", &old.expected_bucket_owner, &new.expected_bucket_owner);
    keys.compare("s3.heartbeat_interval", &old.heartbeat_interval, &new.heartbeat_interval);
    keys.compare("s3.checksums", &old.checksums, &new.checksums);
    keys.route("s3", &old.route, &new.route);
}

struct Keys(Vec<String>);

impl Keys {
    fn compare<T: PartialEq>(&mut self, key: &str, old: &T, new: &T) {
        if old != new {
            self.0.push(key.to_owned());
        }
    }

    fn route(&mut self, section: &str, old: &Route, new: &Route) {
        let Route { ca_file, client_certificate, proxy } = old;
        self.compare(&format!("{section}.ca_file"), ca_file, &new.ca_file);
        self.compare(&format!("{section}.client_certificate"), client_certificate, &new.client_certificate);
        self.compare(&format!("{section}.proxy"), proxy, &new.proxy);
    }

    /// A section that came, went, or differs. One that differs in what is not listed above is named as a whole.
    fn section<T: PartialEq>(
        &mut self,
        name: &str,
        old: Option<&T>,
        new: Option<&T>,
        of: fn(&mut Keys, &T, &T),
    ) {
        let known = self.0.len();
        if let (Some(old), Some(new)) = (old, new) {
            of(self, old, new);
        }
        if old != new && self.0.len() == known {
            self.0.push(name.to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::settings::{FileSettings, Start};
    use crate::destination::DestinationName;
    use crate::report::tests::settings;

    #[test]
    fn what_differs_is_named_and_never_shown() {
        let old = settings("acme", "acme-corp", &[DestinationName::File]);
        assert_eq!(of_org(&old, &old), Vec::<String>::new());
        let mut new = old.clone();
        new.org = "canary".into();
        new.start = Start::Now;
        new.source.poll_interval += Duration::from_secs(1);
        let SourceCredentials::Stored { token, next_token } = &mut new.source.credentials else { panic!() };
        *next_token = Some(token.clone());
        new.file = Some(FileSettings { path: "/canary".into() });
        let keys = of_org(&old, &new);
        let expected = ["org", "source.next_token", "source.poll_interval", "file.path"];
        for key in expected {
            assert!(keys.iter().any(|known| known == key), "{key}: {keys:?}");
        }
        assert!(!keys.concat().contains("canary"));
        new.file = None;
        assert!(of_org(&old, &new).contains(&"file".to_owned()), "a section that went");
    }
}
