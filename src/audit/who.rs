//! The person who acts, as the system knows them: a name for the record, not a proof.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt;

/// Longest part of `/etc/passwd` that is read.
const PASSWD_BYTES_MAX: u64 = 4 * 1024 * 1024;
const NAME_CHARACTERS_MAX: usize = 64;

/// `ada (uid 1000)`, `uid 1000` where no name is known, `root (uid 0), through sudo by ada`.
pub fn who() -> String {
    let uid = std::fs::metadata("/proc/self").ok().map(|process| process.uid());
    let mut passwd = Vec::new();
    let read =
        File::open("/etc/passwd").and_then(|file| file.take(PASSWD_BYTES_MAX).read_to_end(&mut passwd));
    let passwd = if read.is_ok() { String::from_utf8_lossy(&passwd).into_owned() } else { String::new() };
    let sudo = std::env::var("SUDO_USER").ok();
    described(uid, &passwd, sudo.as_deref())
}

fn described(uid: Option<u32>, passwd: &str, sudo: Option<&str>) -> String {
    let Some(uid) = uid else { return "an unknown user".to_owned() };
    let name = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = plain(fields.next()?)?;
        (fields.nth(1)?.parse() == Ok(uid)).then_some(name)
    });
    let who = name.map_or_else(|| format!("uid {uid}"), |name| format!("{name} (uid {uid})"));
    match sudo.and_then(plain) {
        Some(sudo) if uid == 0 => format!("{who}, through sudo by {sudo}"),
        _ => who,
    }
}

/// A name that can be one.
fn plain(name: &str) -> Option<&str> {
    let fits = |character: char| character.is_ascii_alphanumeric() || "._-@".contains(character);
    let whole = !name.is_empty() && name.len() <= NAME_CHARACTERS_MAX && name.chars().all(fits);
    whole.then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nada:x:1000:1000::/home/ada:/bin/sh\n";

    #[test]
    fn a_person_has_a_number_a_name_where_there_is_one_and_whoever_came_through_sudo() {
        assert_eq!(described(Some(1000), PASSWD, None), "ada (uid 1000)");
        assert_eq!(described(Some(7), PASSWD, None), "uid 7");
        assert_eq!(described(Some(0), PASSWD, Some("ada")), "root (uid 0), through sudo by ada");
        assert_eq!(described(Some(0), PASSWD, Some("a\nb")), "root (uid 0)");
        assert_eq!(described(Some(1000), PASSWD, Some("eve")), "ada (uid 1000)", "only root came that way");
        assert_eq!(described(None, PASSWD, None), "an unknown user");
    }

    #[test]
    fn this_process_has_somebody() {
        assert!(who().contains("uid"), "{}", who());
    }
}
