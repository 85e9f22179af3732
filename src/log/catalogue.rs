//! The catalogue of every message, `docs/logs.md`: read from the source, and held against the [`meanings`](super::meanings).
//!
//! It fails on a message without a meaning and a meaning without a message, on a text that is not constant or stands at two levels, on
//! a field that is not in the list, and on anything of tracing that it cannot read: what is logged is what the page says.
//!
//! *Why tokens and not a syntax tree:* lines are also logged inside other macros (`select!`), where a tree ends.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{Delimiter, TokenStream, TokenTree};

use super::meanings::{FIELDS, INTRODUCTION, MEANINGS};

/// From worst to least, as the page has them.
const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];
/// Other ways to say something, none of which goes through the log.
const PAST_THE_LOG: [&str; 5] = ["print", "println", "eprint", "eprintln", "dbg"];

/// One place where something is logged.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Site {
    level: &'static str,
    module: String,
    message: String,
    fields: BTreeSet<String>,
}

/// Reads a file's tokens.
struct Reader {
    module: String,
    sites: Vec<Site>,
    wrong: Vec<String>,
}

impl Reader {
    fn read(module: &str, source: &str) -> Reader {
        let mut reader = Reader { module: module.to_owned(), sites: Vec::new(), wrong: Vec::new() };
        match source.parse() {
            Ok(tokens) => reader.walk(tokens),
            Err(error) => reader.wrong(&format!("cannot be read: {error}")),
        }
        reader
    }

    fn walk(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let rest = &tokens[at + 1..];
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' && is_test(rest) => {
                    at += 1 + length_of_item(rest);
                    continue;
                }
                TokenTree::Ident(ident) => {
                    let name = ident.to_string();
                    if name == "tracing" {
                        self.path(rest);
                    } else if let [TokenTree::Punct(punct), TokenTree::Group(group), ..] = rest
                        && punct.as_char() == '!'
                    {
                        if let Some(level) = LEVELS.into_iter().find(|level| *level == name) {
                            self.line(level, group.stream());
                        } else if PAST_THE_LOG.contains(&name.as_str()) {
                            self.wrong(&format!("`{name}!` goes past the log"));
                        }
                    }
                }
                TokenTree::Group(group) => self.walk(group.stream()),
                TokenTree::Punct(_) | TokenTree::Literal(_) => {}
            }
            at += 1;
        }
    }

    /// What follows `tracing`: a level's macro, the import of some, or the question whether there is a log.
    fn path(&mut self, rest: &[TokenTree]) {
        let asks: String = rest.iter().take(6).map(ToString::to_string).collect();
        let is_level = |token: &TokenTree| LEVELS.contains(&token.to_string().as_str());
        let known = match rest {
            [a, b, TokenTree::Group(names), ..] if is_colons(a, b) => {
                names.stream().into_iter().all(|token| is_level(&token) || token.to_string() == ",")
            }
            [a, b, level, end, ..] if is_colons(a, b) => {
                is_level(level) && matches!(end.to_string().as_str(), "!" | ";")
            }
            _ => false,
        } || asks == "::dispatcher::has_been_set";
        // The log itself is made of the rest.
        if !known && !self.module.starts_with("log") {
            self.wrong("only error!, warn!, info!, debug! and trace! of tracing are used: the catalogue cannot read the rest");
        }
    }

    /// The inside of a macro: fields, then a constant text.
    fn line(&mut self, level: &'static str, inside: TokenStream) {
        let mut parts: Vec<Vec<TokenTree>> = vec![Vec::new()];
        for token in inside {
            match (&token, parts.last_mut()) {
                (TokenTree::Punct(comma), _) if comma.as_char() == ',' => parts.push(Vec::new()),
                (_, Some(part)) => part.push(token),
                (_, None) => {}
            }
        }
        parts.retain(|part| !part.is_empty());
        let message = parts.pop().and_then(|last| match &last[..] {
            [TokenTree::Literal(literal)] => text(&literal.to_string()),
            _ => None,
        });
        let Some(message) = message.filter(|message| !message.contains(['{', '}'])) else {
            self.wrong(&format!("{level}! does not end with a constant text"));
            return;
        };
        let mut fields = BTreeSet::new();
        for part in parts {
            match field(&part) {
                Some(name) if FIELDS.iter().any(|(known, _)| *known == name) => {
                    if !fields.insert(name.clone()) {
                        self.wrong(&format!("`{name}` twice in: {message}"));
                    }
                }
                Some(name) => self.wrong(&format!("field `{name}` is not in the list, in: {message}")),
                None => self.wrong(&format!("something is neither a field nor the text, in: {message}")),
            }
        }
        self.sites.push(Site { level, module: self.module.clone(), message, fields });
    }

    fn wrong(&mut self, what: &str) {
        self.wrong.push(format!("{}: {what}", self.module));
    }
}

fn is_colons(first: &TokenTree, second: &TokenTree) -> bool {
    [first, second].iter().all(|token| token.to_string() == ":")
}

/// Whether `[cfg(test)]` follows.
fn is_test(rest: &[TokenTree]) -> bool {
    let Some(TokenTree::Group(group)) = rest.first() else { return false };
    let text: String = group.stream().into_iter().map(|token| token.to_string()).collect();
    text == "cfg(test)" || text == "cfg(any(test,fuzzing))"
}

/// Up to and with its braces, or its semicolon.
fn length_of_item(tokens: &[TokenTree]) -> usize {
    let ends = |token: &TokenTree| match token {
        TokenTree::Group(group) => group.delimiter() == Delimiter::Brace,
        token => token.to_string() == ";",
    };
    tokens.iter().position(ends).map_or(tokens.len(), |at| at + 1)
}

/// The name in `name = value`, `name`, `%name` and `?name`.
fn field(part: &[TokenTree]) -> Option<String> {
    match part {
        [TokenTree::Ident(name)] => Some(name.to_string()),
        [TokenTree::Punct(sigil), TokenTree::Ident(name)] if matches!(sigil.as_char(), '%' | '?') => {
            Some(name.to_string())
        }
        [TokenTree::Ident(name), TokenTree::Punct(equals), _, ..] if equals.as_char() == '=' => {
            Some(name.to_string())
        }
        _ => None,
    }
}

/// What a string literal says; of escapes only quotes and continued lines.
fn text(literal: &str) -> Option<String> {
    let inside = literal.strip_prefix('"')?.strip_suffix('"')?;
    let mut text = String::new();
    let mut rest = inside;
    while let Some((before, after)) = rest.split_once('\\') {
        text.push_str(before);
        rest = match after.chars().next()? {
            '"' => {
                text.push('"');
                &after[1..]
            }
            '\n' => after.trim_start(),
            _ => return None,
        };
    }
    text.push_str(rest);
    Some(text)
}

/// Every file below `src` that is no test, with its module's name.
fn files() -> Vec<(String, String)> {
    fn below(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut paths = Vec::new();
    below(&root, &mut paths);
    paths.sort();
    let module = |path: &Path| {
        let path = path.strip_prefix(&root).unwrap().with_extension("");
        path.iter().map(|part| part.to_string_lossy().into_owned()).collect::<Vec<_>>().join("::")
    };
    // What only tests use, and what plumbs the log itself.
    let left_out = |module: &str| {
        module.ends_with("::tests")
            || module.starts_with("journal::contract")
            || module.starts_with("hostile")
            || ["log", "log::catalogue", "log::meanings", "log::sink"].contains(&module)
    };
    let files = paths.iter().map(|path| (module(path), fs::read_to_string(path).unwrap()));
    files.filter(|(module, _)| !left_out(module)).collect()
}

/// A message of the page: everything about all its places.
struct Message {
    level: &'static str,
    modules: BTreeSet<String>,
    fields: BTreeSet<String>,
}

/// The page, or everything that is wrong.
fn page(sites: Vec<Site>, mut wrong: Vec<String>) -> Result<String, Vec<String>> {
    let meanings: BTreeMap<&str, &str> = MEANINGS.iter().copied().collect();
    if meanings.len() < MEANINGS.len() {
        wrong.push("a message has two meanings".into());
    }
    let mut messages: BTreeMap<String, Message> = BTreeMap::new();
    for site in sites {
        let message = messages.entry(site.message.clone()).or_insert_with(|| Message {
            level: site.level,
            modules: BTreeSet::new(),
            fields: BTreeSet::new(),
        });
        if message.level != site.level {
            wrong.push(format!("at two levels, {} and {}: {}", message.level, site.level, site.message));
        }
        message.modules.insert(site.module);
        message.fields.extend(site.fields);
    }
    for text in messages.keys().filter(|text| !meanings.contains_key(text.as_str())) {
        wrong.push(format!("no meaning: {text}"));
    }
    for text in meanings.keys().filter(|text| !messages.contains_key(**text)) {
        wrong.push(format!("a meaning, and nobody says it: {text}"));
    }
    for (name, _) in FIELDS {
        if !messages.values().any(|message| message.fields.contains(*name)) {
            wrong.push(format!("no message has the field `{name}`"));
        }
    }
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\n## Fields\n\n| Field | What it holds |\n|---|---|\n");
    for (name, meaning) in FIELDS {
        page.push_str(&format!("| `{name}` | {meaning} |\n"));
    }
    for level in LEVELS {
        let mut of_level: Vec<(&String, &Message)> =
            messages.iter().filter(|(_, message)| message.level == level).collect();
        of_level.sort_by_key(|(text, message)| (message.modules.first(), *text));
        if of_level.is_empty() {
            continue;
        }
        page.push_str(&format!("\n## {level}\n\n| Message | Fields | Module | What it means, and what to do |\n|---|---|---|---|\n"));
        for (text, message) in of_level {
            let code = |names: &BTreeSet<String>| {
                names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
            };
            let (fields, modules) = (code(&message.fields), code(&message.modules));
            page.push_str(&format!("| {text} | {fields} | {modules} | {} |\n", meanings[text.as_str()]));
        }
    }
    Ok(page)
}

fn of(files: &[(String, String)]) -> Result<String, Vec<String>> {
    let readers: Vec<Reader> = files.iter().map(|(module, source)| Reader::read(module, source)).collect();
    let wrong = readers.iter().flat_map(|reader| reader.wrong.clone()).collect();
    page(readers.into_iter().flat_map(|reader| reader.sites).collect(), wrong)
}

#[test]
fn the_catalogue_has_every_message_with_its_level_fields_and_meaning() {
    let page = of(&files()).unwrap_or_else(|wrong| panic!("{}", wrong.join("\n")));
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/logs.md");
    if std::env::var_os("RENEW").is_some() {
        fs::write(&shipped, &page).unwrap();
    }
    assert!(
        fs::read_to_string(&shipped).unwrap_or_default() == page,
        "docs/logs.md is not what the source says; renew it with: RENEW=1 cargo test --lib log::catalogue"
    );
}

/// The same with one more file, which has to be complained about.
fn complaints(source: &str) -> Vec<String> {
    let mut files = files();
    files.push(("another".into(), source.into()));
    of(&files).err().unwrap_or_default()
}

#[test]
fn what_the_catalogue_could_not_hold_is_refused() {
    let refused = [
        (r#"fn f() { tracing::warn!("never heard of"); }"#, "no meaning: never heard of"),
        (
            r#"fn f() { tokio::select! { () = x => tracing::warn!("deep inside") } }"#,
            "no meaning: deep inside",
        ),
        (r#"fn f() { tracing::error!("stopped"); }"#, "at two levels, info and error: stopped"),
        (r#"fn f() { tracing::info!(colour = 1, "stopped"); }"#, "field `colour` is not in the list"),
        (r#"fn f() { tracing::info!(%colour, "stopped"); }"#, "field `colour` is not in the list"),
        (r#"fn f() { tracing::info!(org, org = 1, "stopped"); }"#, "`org` twice"),
        (r#"fn f() { tracing::info!(target: "x", "stopped"); }"#, "neither a field nor the text"),
        (r#"fn f() { tracing::info!(%self.org, "stopped"); }"#, "neither a field nor the text"),
        (r#"fn f() { tracing::info!("stopped {org}"); }"#, "a constant text"),
        (r#"fn f() { tracing::info!("stopped {}", org); }"#, "a constant text"),
        (r#"fn f() { tracing::info!(MESSAGE); }"#, "a constant text"),
        (r#"fn f() { tracing::info!(org); }"#, "a constant text"),
        (r#"use tracing::info as say;"#, "only error!"),
        (r#"use tracing::*;"#, "only error!"),
        (r#"use tracing::{info, event};"#, "only error!"),
        (r#"use tracing as t;"#, "only error!"),
        (r#"fn f() { tracing::dispatcher::get_default(f); }"#, "only error!"),
        (r#"fn f() { tracing::event!(tracing::Level::INFO, "stopped"); }"#, "only error!"),
        (r#"fn f() { tracing::info_span!("stopped"); }"#, "only error!"),
        (r#"#[tracing::instrument] fn f() {}"#, "only error!"),
        (r#"fn f() { eprintln!("stopped"); }"#, "`eprintln!` goes past the log"),
        (r#"fn f() { std::println!("stopped"); }"#, "`println!` goes past the log"),
    ];
    for (source, complaint) in refused {
        let found = complaints(source);
        assert!(found.iter().any(|found| found.contains(complaint)), "{source}: {found:?}");
    }
    let fine = r##"
        use tracing::{info, warn};
        fn f() { if tracing::dispatcher::has_been_set() { info!("stopped"); } tracing::info!(org = %x.y(a, b), destination, "stopped"); log.error("x"); }
        #[cfg(test)]
        mod tests { fn f() { println!("x"); tracing::event!("y"); } }
    "##;
    assert_eq!(complaints(fine), Vec::<String>::new());
}

#[test]
fn a_meaning_without_a_message_is_refused() {
    let mut files = files();
    files.retain(|(module, _)| module != "supervisor");
    let found = of(&files).unwrap_err();
    assert!(found.iter().any(|found| found == "a meaning, and nobody says it: stopped"), "{found:?}");
    assert!(found.iter().any(|found| found == "no message has the field `signal`"), "{found:?}");
}

#[test]
fn a_text_over_two_lines_is_read_as_the_compiler_reads_it() {
    assert_eq!(text("\"one \\\n     line\"").as_deref(), Some("one line"));
    assert_eq!(text(r#""a \"word\"""#).as_deref(), Some(r#"a "word""#));
    assert_eq!(text(r#""a \t""#), None);
}
