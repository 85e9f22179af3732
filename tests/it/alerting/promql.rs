//! As much of Prometheus' query language as our rules use: which series and labels an expression names, and how it is hurried.

use std::time::Duration;

/// A piece of an expression.
#[derive(Clone, Debug, PartialEq)]
enum Token<'a> {
    /// A name of a metric, a function, a label, or a word of the language.
    Word(&'a str),
    Number(&'a str),
    Duration(&'a str),
    /// With its quotes.
    Text(&'a str),
    /// Anything else, white space included.
    Other(&'a str),
}

/// What is asked of one metric.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Selector {
    pub(crate) name: String,
    /// Label, and the values it may have. Negated ones are not used.
    pub(crate) labels: Vec<(String, Vec<String>)>,
    /// As it stands.
    pub(crate) text: String,
}

const WORDS: [&str; 5] = ["and", "or", "unless", "offset", "bool"];
const GROUPINGS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];

fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = |fits: fn(char) -> bool| rest.find(|c| !fits(c)).unwrap_or(rest.len());
        let (length, token): (usize, fn(&str) -> Token<'_>) = if first.is_ascii_alphabetic() || first == '_' {
            (run(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':'), |text| Token::Word(text))
        } else if first.is_ascii_digit() {
            (run(|c| c.is_ascii_alphanumeric() || c == '.'), |text| {
                if text.ends_with(|c: char| c.is_ascii_alphabetic()) {
                    Token::Duration(text)
                } else {
                    Token::Number(text)
                }
            })
        } else if first == '"' {
            (2 + rest[1..].find('"').expect("a text ends"), |text| Token::Text(text))
        } else {
            (first.len_utf8(), |text| Token::Other(text))
        };
        let (piece, after) = rest.split_at(length);
        tokens.push(token(piece));
        rest = after;
    }
    tokens
}

/// The selectors of an expression, and every label that it groups or matches by.
pub(crate) fn named(text: &str) -> (Vec<Selector>, Vec<String>) {
    let tokens: Vec<Token<'_>> = tokens(text)
        .into_iter()
        .filter(|token| !matches!(token, Token::Other(white) if white.trim().is_empty()))
        .collect();
    let (mut selectors, mut grouped) = (Vec::new(), Vec::new());
    let mut at = 0;
    while let Some(token) = tokens.get(at) {
        at += 1;
        let Token::Word(word) = token else { continue };
        let opened = |with: &str| tokens.get(at) == Some(&Token::Other(with));
        if GROUPINGS.contains(word) {
            if opened("(") {
                let labels = tokens[at..].iter().take_while(|token| **token != Token::Other(")"));
                let labels: Vec<_> = labels.collect();
                at += labels.len();
                for label in labels {
                    if let Token::Word(label) = label {
                        grouped.push((*label).to_owned());
                    }
                }
            }
        } else if !WORDS.contains(word) && !opened("(") && !followed_by_grouping(&tokens[at..]) {
            let mut labels = Vec::new();
            let mut text = (*word).to_owned();
            if opened("{") {
                let inside = tokens[at + 1..].iter().take_while(|token| **token != Token::Other("}"));
                let inside: Vec<_> = inside.cloned().collect();
                at += inside.len() + 2;
                labels = inside.split(|token| *token == Token::Other(",")).map(matcher).collect();
                text = format!("{word}{{{}}}", inside.iter().map(written).collect::<String>());
            }
            selectors.push(Selector { name: (*word).to_owned(), labels, text });
        }
    }
    (selectors, grouped)
}

/// `sum by (…) (…)`: the word before is a function.
fn followed_by_grouping(tokens: &[Token<'_>]) -> bool {
    matches!(tokens.first(), Some(Token::Word("by" | "without")))
}

fn matcher(tokens: &[Token<'_>]) -> (String, Vec<String>) {
    let [Token::Word(label), Token::Other("="), operator @ .., Token::Text(value)] = tokens else {
        panic!("not understood: {tokens:?}");
    };
    let value = value.trim_matches('"');
    let values = match operator {
        [] => vec![value.to_owned()],
        [Token::Other("~")] => value.split('|').map(str::to_owned).collect(),
        other => panic!("not understood: {other:?}"),
    };
    ((*label).to_owned(), values)
}

fn written<'a>(token: &Token<'a>) -> &'a str {
    match token {
        Token::Word(text)
        | Token::Number(text)
        | Token::Duration(text)
        | Token::Text(text)
        | Token::Other(text) => text,
    }
}

/// The same expression with every time divided: durations, and the numbers of sixty and more, which are seconds.
pub(crate) fn hurried(text: &str, factor: u32) -> String {
    let shortened = |token: &Token<'_>| match token {
        Token::Duration(text) => {
            format!("{}ms", (duration(text) / factor).as_millis())
        }
        Token::Number(text) => match text.parse::<f64>() {
            Ok(number) if number >= 60.0 => (number / f64::from(factor)).to_string(),
            _ => (*text).to_owned(),
        },
        other => written(other).to_owned(),
    };
    tokens(text).iter().map(shortened).collect()
}

fn duration(text: &str) -> Duration {
    let (number, unit) = text.split_at(text.len() - 1);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        other => panic!("{other} is no unit of ours"),
    };
    Duration::from_secs(number.parse::<u64>().expect("a duration has one number") * seconds)
}

#[test]
fn an_expression_is_taken_apart() {
    let (selectors, grouped) = named(
        r#"sum by (job, org) (increase(deliveries{destination="s3",outcome=~"a|b"}[1h])) >= 5 unless on (job) min_over_time(x[1h]) > y offset 15m"#,
    );
    let names: Vec<&str> = selectors.iter().map(|selector| selector.text.as_str()).collect();
    assert_eq!(names, [r#"deliveries{destination="s3",outcome=~"a|b"}"#, "x", "y"]);
    assert_eq!(selectors[0].labels[1], ("outcome".to_owned(), vec!["a".to_owned(), "b".to_owned()]));
    assert_eq!(grouped, ["job", "org", "job"]);
    assert_eq!(
        hurried(r#"a{le="600"}[1h] offset 15m > 3600 and b > 0.25 or c < 5"#, 300),
        r#"a{le="600"}[12000ms] offset 3000ms > 12 and b > 0.25 or c < 5"#
    );
}
