//! What the benchmarks share: what a process costs, and figures against their aims.

pub mod process;

/// For a figure that is only reported.
pub const NO_AIM: &str = "–";

/// A figure against its aim.
pub struct Figure {
    pub name: String,
    pub value: String,
    pub aim: &'static str,
    pub met: bool,
}

/// The figures as a table in Markdown.
pub fn print(figures: &[Figure]) {
    println!("| Figure | Measured | First aim | |\n|---|---|---|---|");
    for Figure { name, value, aim, met } in figures {
        let verdict = match (*aim, *met) {
            (NO_AIM, _) => "",
            (_, true) => "met",
            (_, false) => "missed",
        };
        println!("| {name} | {value} | {aim} | {verdict} |");
    }
}
