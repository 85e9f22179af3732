//! The table of faults in the documentation is complete, and everything that it names is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

const TABLE: &str = include_str!("../../docs/faults.md");
const MAKEFILE: &str = include_str!("../../Makefile");
/// Where the crash sweep names its kinds of faults.
const SWEEP: &str = include_str!("../crash_sweep/point.rs");

/// Every fault that was ever written down. A row may be argued away in its last column; it may not go missing.
const NUMBERS: [(&str, &[u32]); 11] = [
    ("A", &[1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 13]),
    ("B", &[1, 2, 3, 5, 6, 7, 9, 10, 11, 12, 13, 14, 16, 17]),
    ("C", &[1, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 18, 19]),
    ("D", &[1, 2, 3, 5, 6, 7, 8, 10, 12, 13, 15, 16]),
    ("E", &[1, 2, 3, 4, 7, 9, 11, 12, 17, 18, 19, 20, 21, 22]),
    ("F", &[1, 2, 5, 7, 8, 9, 10]),
    ("G", &[1, 3, 5, 6, 7, 8, 9, 11, 12]),
    ("H", &[1, 3, 4, 5, 6, 7]),
    ("J", &[1, 2, 3, 6, 7, 8]),
    ("K", &[1, 2, 3, 4, 6, 9, 10]),
    ("M", &[1, 2, 6]),
];

struct Row {
    number: String,
    /// What must hold.
    holds: String,
    shown: String,
}

fn rows() -> Vec<Row> {
    let cells = TABLE.lines().filter_map(|line| {
        let cells: Vec<&str> = line.strip_prefix("| ")?.strip_suffix(" |")?.split(" | ").collect();
        let [number, _, holds, shown] = cells[..] else { return None };
        let (letter, digits) = number.split_at_checked(1)?;
        let is_number = letter.chars().all(|c| c.is_ascii_uppercase()) && digits.parse::<u32>().is_ok();
        is_number.then(|| Row { number: number.into(), holds: holds.into(), shown: shown.into() })
    });
    cells.collect()
}

/// What stands between backquotes.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in
        fs::read_dir(folder).expect("the folder is there").map(|entry| entry.expect("it can be read"))
    {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The names of all tests in the repository.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for folder in ["src", "tests"] {
        sources(&root.join(folder), &mut files);
    }
    let mut names = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(&file).expect("the file is text");
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
                is_test = true;
            } else if !line.starts_with("#[") {
                let name = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ");
                if let (true, Some((name, _))) = (is_test, name.and_then(|name| name.split_once('('))) {
                    names.insert(name.to_owned());
                }
                is_test = false;
            }
        }
    }
    names
}

#[test]
fn every_fault_is_in_the_table_once_and_in_order() {
    let there: Vec<String> = rows().into_iter().map(|row| row.number).collect();
    let due =
        NUMBERS.iter().flat_map(|(letter, numbers)| numbers.iter().map(move |n| format!("{letter}{n}")));
    let mut due: Vec<String> = due.collect();
    let mut sorted = there.clone();
    due.sort();
    sorted.sort();
    assert_eq!(sorted, due);
}

#[test]
fn every_fault_says_what_must_hold_and_what_shows_it() {
    let tests = tests();
    assert!(tests.len() > 400, "the tests are found: {}", tests.len());
    let mut wrong = Vec::new();
    for Row { number, holds, shown } in rows() {
        let mut evidence = 0;
        for name in quoted(&shown) {
            let is_there = if let Some(target) = name.strip_prefix("make ") {
                MAKEFILE.lines().any(|line| line.starts_with(&format!("{target}:")))
            } else if let Some(kind) = name.strip_prefix("crash-sweep:") {
                SWEEP.contains(&format!("\"{kind}\""))
            } else if name.contains('_') {
                tests.contains(name)
            } else {
                // A word of the explanation, such as a command of the program.
                continue;
            };
            evidence += 1;
            if !is_there {
                wrong.push(format!("{number}: there is no `{name}`"));
            }
        }
        if evidence == 0 {
            wrong.push(format!("{number}: nothing shows it: {shown}"));
        }
        if holds.is_empty() {
            wrong.push(format!("{number}: what must hold?"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
