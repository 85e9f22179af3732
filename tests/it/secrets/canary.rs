//! Marked secrets, and the search for them in every form in which they might come out.

use std::collections::{BTreeSet, HashMap};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};

/// So much of a secret is a find: an error may cut what it shows, or a line break may stand in it.
const PIECE: usize = 12;
/// No form is shorter, whatever was cut off where base64 mixes it with its neighbours.
const FORM_MIN: usize = 8;

/// All forms of all secrets, to be searched for at once.
#[derive(Default)]
pub(super) struct Canaries {
    /// Who it is, and the form.
    forms: Vec<(usize, Vec<u8>)>,
    names: Vec<String>,
    /// Forms by how they begin.
    begins: HashMap<u32, Vec<usize>>,
    /// Whether any form may begin so: most places are passed with one look.
    may_begin: Vec<bool>,
}

/// Something was found.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Find {
    pub(super) name: String,
    pub(super) around: String,
}

impl Canaries {
    /// A secret of which a part would be too much.
    pub(super) fn mark(&mut self, name: &str, secret: &str) {
        let bytes = secret.as_bytes();
        assert!(
            secret.is_ascii() && bytes.len() >= FORM_MIN,
            "{name} is too short to be told from other text"
        );
        let pieces: Vec<&[u8]> = bytes.chunks(PIECE).filter(|piece| piece.len() == PIECE).collect();
        for piece in if pieces.is_empty() { vec![bytes] } else { pieces } {
            self.add(name, forms(piece));
        }
    }

    /// A text that has parts which are not secret.
    pub(super) fn mark_whole(&mut self, name: &str, secret: &str) {
        self.add(name, forms(secret.as_bytes()));
    }

    /// A key: as PEM, in hexadecimal, or as a list of bytes.
    pub(super) fn mark_key(&mut self, name: &str, pem: &str) {
        let begins = pem.find("PRIVATE KEY-----").expect("it has a key");
        let lines: Vec<&str> =
            pem[begins..].lines().skip(1).take_while(|line| !line.starts_with('-')).collect();
        let der = STANDARD.decode(lines.concat()).expect("a key in PEM form is base64");
        // What a key is, and not how it is packed: the beginning of all keys of a kind is the same.
        let secret = &der[der.len() / 2..];
        for part in secret.chunks(24).filter(|part| part.len() == 24) {
            let list: Vec<String> = part.iter().map(u8::to_string).collect();
            self.add(name, forms(part));
            self.add(name, vec![list.join(", ").into_bytes(), list.join(",").into_bytes()]);
        }
        // Each line with its own base64, wherever it begins.
        for line in lines.iter().skip(lines.len() / 2).filter(|line| line.len() >= 32) {
            self.add(name, vec![line.as_bytes().to_vec(), line.as_bytes()[..32].to_vec()]);
        }
    }

    fn add(&mut self, name: &str, forms: Vec<Vec<u8>>) {
        let known = self.names.iter().position(|known| known == name);
        let who = known.unwrap_or_else(|| {
            self.names.push(name.to_owned());
            self.names.len() - 1
        });
        if self.may_begin.is_empty() {
            self.may_begin = vec![false; 1 << 16];
        }
        for form in forms {
            assert!(form.len() >= FORM_MIN, "{name}: a form is too short");
            let begin = u32::from_le_bytes([form[0], form[1], form[2], form[3]]);
            self.may_begin[place(begin)] = true;
            self.begins.entry(begin).or_default().push(self.forms.len());
            self.forms.push((who, form));
        }
    }

    /// Who is in there, each once.
    pub(super) fn find(&self, bytes: &[u8]) -> Vec<Find> {
        let (mut found, mut known) = (Vec::new(), BTreeSet::new());
        let mut begin = 0_u32;
        for (at, byte) in bytes.iter().enumerate() {
            begin = (begin >> 8) | (u32::from(*byte) << 24);
            if at < 3 || !self.may_begin[place(begin)] {
                continue;
            }
            let at = at - 3;
            for form in self.begins.get(&begin).into_iter().flatten() {
                let (who, form) = &self.forms[*form];
                if bytes[at..].starts_with(form) && known.insert(*who) {
                    let around = &bytes[at.saturating_sub(120)..(at + form.len() + 60).min(bytes.len())];
                    let around = String::from_utf8_lossy(around).into_owned();
                    found.push(Find { name: self.names[*who].clone(), around });
                }
            }
        }
        found
    }

    pub(super) fn names(&self) -> &[String] {
        &self.names
    }
}

fn place(begin: u32) -> usize {
    (begin.wrapping_mul(0x9E37_79B1) >> 16) as usize
}

/// Plain, in hexadecimal, escaped as URLs and forms do it, and in both kinds of base64 wherever it stands in a longer text.
fn forms(bytes: &[u8]) -> Vec<Vec<u8>> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut all = BTreeSet::from([bytes.to_vec(), hex.to_uppercase().into_bytes(), hex.into_bytes()]);
    for left in ["", "-._", "-._~", "-._*", "-._~!$&'()*+,;=:@"] {
        let escape = |byte: &u8| {
            let stays = byte.is_ascii_alphanumeric() || left.as_bytes().contains(byte);
            if stays { char::from(*byte).to_string() } else { format!("%{byte:02X}") }
        };
        let escaped: String = bytes.iter().map(escape).collect();
        // Only the digits of an escape are in small letters, not the text.
        let small: String = bytes
            .iter()
            .map(|byte| match escape(byte) {
                escape if escape.len() == 3 => escape.to_lowercase(),
                plain => plain,
            })
            .collect();
        all.extend([escaped.into_bytes(), small.into_bytes()]);
    }
    for engine in [STANDARD, URL_SAFE] {
        for before in 0..3 {
            // Without the characters that its neighbours have a share in.
            let encoded = engine.encode([&b"xx"[..before], bytes].concat());
            let until = (before + bytes.len()) / 3 * 4;
            all.insert(encoded.as_bytes()[if before == 0 { 0 } else { 4 }..until].to_vec());
        }
    }
    all.into_iter().collect()
}

#[test]
fn a_canary_is_found_in_every_form_and_in_every_part() {
    const SECRET: &str = "pul-0123456789abcdef~x~and/more+of=it";
    let mut canaries = Canaries::default();
    canaries.mark("it", SECRET);
    let found = |text: &str| !canaries.find(text.as_bytes()).is_empty();
    assert!(found(&format!("token {SECRET},")) && found(SECRET));
    assert!(found("t=pul%2D0123456789abcdef%7Ex&") && found("t=pul%2d0123456789abcdef%7ex&"));
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    assert!(found(&hex) && found(&hex.to_uppercase()));
    for around in ["", "a", "ab", "abc"] {
        for engine in [STANDARD, URL_SAFE] {
            assert!(found(&engine.encode(format!("{around}{SECRET}{around}"))), "{around}");
        }
    }
    // Cut off at either end.
    assert!(found(&SECRET[..15]) && found(&SECRET[10..]));
    assert!(!found("pul-0123456") && !found("") && !found("pul"));
}
