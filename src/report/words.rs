//! Values as people read them, on a terminal and on the status page: lengths of time, and text that others wrote.

/// The two largest units: `45s`, `2m 10s`, `3h 5m`, `8d 1h`.
pub(crate) fn length(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3_600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {}m", minutes % 60),
        _ => format!("{days}d {}h", hours % 24),
    }
}

/// Text that cannot move the cursor, begin a line or turn the reading direction: some of it comes from a service.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_invisible(character) {
            clean.extend(character.escape_default());
        } else {
            clean.push(character);
        }
    }
    clean
}

/// What has no width, or changes how its neighbours are read: `acme` and `ac\u{200b}me` must not look alike.
fn is_invisible(character: char) -> bool {
    matches!(
        character,
        '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
    )
}

/// At most so many characters, with a mark where more were there.
pub(crate) fn cut(text: &str, characters: usize) -> String {
    match text.char_indices().nth(characters) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// `12,345`: long numbers are compared at a glance.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1 organization`, `12 organizations`: a count and its noun, which forms its plural with an s.
pub(crate) fn counted(number: u64, noun: &str) -> String {
    format!("{} {noun}{}", grouped(number), if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_seen_is_spelled_out() {
        assert_eq!(clean("a\u{202e}b\u{200b}c\u{1b}[2J\n"), "a\\u{202e}b\\u{200b}c\\u{1b}[2J\\n");
        assert_eq!(clean("Ünïcode 組織 مؤسسة 🙂"), "Ünïcode 組織 مؤسسة 🙂");
    }

    #[test]
    fn long_texts_are_cut_between_characters_and_long_numbers_grouped() {
        assert_eq!((cut("äöü", 3), cut("äöüß", 3)), ("äöü".to_owned(), "äöü…".to_owned()));
        let numbers = [0, 999, 1_000, 98_304, 1_234_567].map(grouped);
        assert_eq!(numbers, ["0", "999", "1,000", "98,304", "1,234,567"]);
        assert_eq!((counted(1, "row"), counted(1_200, "row")), ("1 row".to_owned(), "1,200 rows".to_owned()));
    }
}
