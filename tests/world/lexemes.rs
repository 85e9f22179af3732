//! JSON as bytes: takes objects and arrays apart without changing, or even understanding, what stands in them.
//!
//! It serves the truth: an event with an odd number, a lone surrogate or invalid UTF-8 must come out of the archive byte for
//! byte, and a parser that builds values would lose exactly that. It never recurses, so that depth is no danger.

/// Drops white space outside strings.
pub fn minify(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len());
    let (mut inside, mut escaped) = (false, false);
    for &byte in json {
        if inside {
            out.push(byte);
            inside = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
            out.push(byte);
            inside = byte == b'"';
        }
    }
    out
}

/// Adds white space where it means nothing.
pub fn spread(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 5 / 4);
    let (mut inside, mut escaped) = (false, false);
    for &byte in json {
        out.push(byte);
        if inside {
            inside = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else {
            match byte {
                b'"' => inside = true,
                b':' => out.push(b' '),
                b',' | b'{' | b'[' => out.extend_from_slice(b"\n\t "),
                b'}' => out.extend_from_slice(b"\r\n"),
                _ => {}
            }
        }
    }
    out
}

/// The members of an object in their order, keys without quotes, both as they stand in the minified text. Nothing if this is
/// no object.
pub fn members(minified: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    parts(minified, b'{', b'}')?
        .into_iter()
        .map(|part| {
            let end = string_end(part)?;
            let value = part.get(end..)?.strip_prefix(b":")?;
            (!value.is_empty()).then_some((&part[1..end - 1], value))
        })
        .collect()
}

/// The elements of an array. Nothing if this is no array.
pub fn elements(minified: &[u8]) -> Option<Vec<&[u8]>> {
    parts(minified, b'[', b']')
}

/// The value of the first member of this name.
pub fn member<'a>(minified: &'a [u8], name: &str) -> Option<&'a [u8]> {
    members(minified)?.into_iter().find(|(key, _)| *key == name.as_bytes()).map(|(_, value)| value)
}

/// A string's text, read leniently: what no text can hold becomes U+FFFD.
pub fn text(value: &[u8]) -> Option<String> {
    let inner = value.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    let lossy = String::from_utf8_lossy(inner);
    let mut units: Vec<u16> = Vec::with_capacity(lossy.len());
    let mut rest = lossy.chars();
    while let Some(char) = rest.next() {
        let char = match char {
            '\\' => match rest.next()? {
                'n' => '\n',
                't' => '\t',
                'r' => '\r',
                'b' => '\u{8}',
                'f' => '\u{c}',
                'u' => {
                    let digits: String = rest.by_ref().take(4).collect();
                    units.push(u16::from_str_radix(&digits, 16).ok()?);
                    continue;
                }
                other => other,
            },
            other => other,
        };
        units.extend_from_slice(char.encode_utf16(&mut [0; 2]));
    }
    Some(String::from_utf16_lossy(&units))
}

fn parts(minified: &[u8], open: u8, close: u8) -> Option<Vec<&[u8]>> {
    let inner = minified.strip_prefix(&[open])?.strip_suffix(&[close])?;
    let mut parts = Vec::new();
    if inner.is_empty() {
        return Some(parts);
    }
    let (mut depth, mut start, mut at) = (0u32, 0, 0);
    while at < inner.len() {
        match inner[at] {
            b'"' => {
                at += string_end(&inner[at..])?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                parts.push(&inner[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push(&inner[start..]);
    Some(parts)
}

/// Where the string that begins here ends: the position behind its closing quote.
fn string_end(json: &[u8]) -> Option<usize> {
    if json.first() != Some(&b'"') {
        return None;
    }
    let mut escaped = false;
    for (at, &byte) in json.iter().enumerate().skip(1) {
        if escaped {
            escaped = false;
        } else if byte == b'\\' {
            escaped = true;
        } else if byte == b'"' {
            return Some(at + 1);
        }
    }
    None
}
