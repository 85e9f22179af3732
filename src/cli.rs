//! The command line: what can be asked, how it is answered, and with which exit code.
//!
//! One file for each command below this one. Results go to standard output, errors to standard error: what is wrong, where, and what
//! to do. A command decides nothing about delivery; it loads the configuration and calls what does.

mod adopt;
mod audit;
mod check;
mod config;
mod coverage;
mod manual;
mod progress;
mod quarantine;
mod run;
pub mod status;
#[cfg(test)]
mod tests;
mod verify;

use std::ffi::OsString;
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::clock::Second;
use crate::config::quantity::Period;
use crate::config::settings::{LogFormat, Settings};
use crate::config::{Invalid, Loaded, LogLevel};
use crate::destination::DestinationName;
use crate::event::OrgId;
use crate::journal::{Journal, JournalError};
use crate::metrics::reference;
use crate::probe::probes;

/// How the process ends. These numbers are promises to scripts and service managers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Done; also after SIGTERM.
    Done,
    /// Failed: unusable or damaged state directory, newer state than this version, `--once` with anything undelivered, unhealthy.
    Failed,
    /// Wrong usage.
    Usage,
    /// `check` found something unreachable or not permitted.
    Unreachable,
    /// Another process holds the state directory.
    Busy,
    /// The configuration is invalid.
    Configuration,
}

impl Exit {
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 69,
            Exit::Busy => 75,
            Exit::Configuration => 78,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.code())
    }
}

/// Why a command could not do what it was asked, and the exit code for it.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub error: anyhow::Error,
}

impl Failure {
    pub fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Failure {
        Failure { exit, error: error.into() }
    }

    /// Of a command that needs the state directory for itself.
    fn of_state(error: JournalError) -> Failure {
        match error {
            JournalError::Busy { directory, pid } => Failure::new(
                Exit::Busy,
                anyhow::anyhow!(
                    "process {pid} works with state directory `{directory}`: stop the daemon first, then ask again, then start it; nothing was changed"
                ),
            ),
            error => anyhow::Error::from(error).into(),
        }
    }

    fn usage(text: String) -> Failure {
        Failure { exit: Exit::Usage, error: anyhow::Error::msg(text) }
    }

    /// Whoever read our output has gone away, as `head` does: nobody is left to tell, and nothing failed.
    fn is_closed_output(&self) -> bool {
        let cause = self.error.downcast_ref::<io::Error>();
        cause.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
    }
}

/// The chain of causes is printed here and nowhere else.
impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.error.downcast_ref::<Invalid>() {
            Some(invalid) => {
                let mistakes = invalid.mistakes.len();
                let what = if mistakes == 1 { "a mistake" } else { "mistakes" };
                write!(f, "the configuration has {what}:\n\n{invalid}")
            }
            None => write!(f, "{:#}", self.error),
        }
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Failure {
        Failure::new(Exit::Configuration, invalid)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure { exit: Exit::Failed, error }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::new(Exit::Failed, error)
    }
}

const EXIT_CODES: &str = "\
Exit codes: 0 done; 1 failed, `run --once` left something undelivered, or `verify` found something wrong; \
2 wrong usage; 69 something could not be reached or is not permitted; 75 another process holds the state directory; \
78 the configuration is invalid.";

/// Copies every audit event of many Pulumi organizations into Microsoft Sentinel and S3, loses none, and can prove it.
#[derive(Debug, Parser)]
#[command(name = env!("CARGO_PKG_NAME"), version, after_help = EXIT_CODES)]
struct CommandLine {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Clone, Debug, Default, Args)]
pub struct Global {
    /// The configuration's forwarder.toml [default: $PAF_CONFIG, else config/forwarder.toml, else
    /// /etc/pulumi-audit-forwarder/forwarder.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,

    /// Say more or less than the configuration's log.level
    #[arg(long, global = true, value_name = "LEVEL")]
    log_level: Option<LevelFlag>,

    /// Log text or one JSON object a line, whatever the configuration's log.format
    #[arg(long, global = true, value_name = "FORMAT")]
    log_format: Option<FormatFlag>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum LevelFlag {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FormatFlag {
    Text,
    Json,
}

impl Global {
    /// The configuration, secrets checked, with what the command line says of logs. Reloading is calling it again.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration.
    pub fn load(&self) -> Result<Loaded, Invalid> {
        crate::config::load(self.config.as_deref()).map(|loaded| self.over(loaded))
    }

    /// The same for a command that uses no secret.
    ///
    /// # Errors
    /// As [`Global::load`].
    pub fn load_without_secrets(&self) -> Result<Loaded, Invalid> {
        crate::config::load_without_secrets(self.config.as_deref()).map(|loaded| self.over(loaded))
    }

    fn over(&self, mut loaded: Loaded) -> Loaded {
        let log = &mut loaded.settings.log;
        if let Some(level) = self.log_level {
            let level = match level {
                LevelFlag::Error => LogLevel::Error,
                LevelFlag::Warn => LogLevel::Warn,
                LevelFlag::Info => LogLevel::Info,
                LevelFlag::Debug => LogLevel::Debug,
                LevelFlag::Trace => LogLevel::Trace,
            };
            level.as_str().clone_into(&mut log.level);
        }
        match self.log_format {
            Some(FormatFlag::Text) => log.format = LogFormat::Text,
            Some(FormatFlag::Json) => log.format = LogFormat::Json,
            None => {}
        }
        loaded
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon: collect and deliver until told to stop
    ///
    /// SIGTERM and SIGINT let what is under way finish for at most 10 seconds; a second one ends at once. Either way, and after
    /// a crash, the next start goes on where this one stood. A changed configuration is put in force while it runs, and at once at
    /// SIGHUP.
    Run(RunFlags),

    /// Check the configuration, then every credential and permission
    ///
    /// Prints one line for each thing tried: ok, or what to do about it; a warning is no failure. Without --write-probe it writes
    /// nothing anywhere.
    Check(CheckFlags),

    /// Show how far every organization and destination is, and what waits for whom
    ///
    /// Asks the running daemon, else reads the state directory.
    Status(StatusFlags),

    /// Prove that the archive in S3 or in a folder is whole and unchanged
    ///
    /// Walks the claims and objects of every organization and names the first thing that is wrong: exit code 1 then, 0 when all is
    /// right. It writes nothing. Note the head that it prints: only against it, or against the state directory, does it show that the
    /// newest chunks were removed.
    Verify(VerifyFlags),

    /// Show which time of every organization has been read, how late it was looked at, and what is missing
    ///
    /// Reads the state directory, beside a running daemon or without one.
    Coverage(CoverageFlags),

    /// Show who did what to this forwarder, and whether that record was changed
    ///
    /// Starts, stops, reloads, credentials that were exchanged, and decisions of people, oldest first, from `audit.jsonl` in the state
    /// directory. Exit code 1 when a line does not follow the one before it.
    Audit(AuditFlags),

    /// Show the rows that a destination refused for good, and decide about them
    ///
    /// Each of them is whole in the archive.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),

    /// End the pause `fenced`: go on from what another instance has archived in this one's place
    ///
    /// Stop that instance for good, and this daemon, first. What the other archived is taken over, and only events that it does not have
    /// are numbered anew behind it. Nothing is lost; a row may be in Sentinel twice, under one key. Without --yes it says what it
    /// would do, and changes nothing but numbers that have no object: those are settled with an empty one.
    Adopt(AdoptFlags),

    /// Show or explain the configuration, or write a first one
    #[command(subcommand)]
    Config(ConfigCommand),

    /// Print what every metric means, as Markdown
    Metrics,

    /// Print a completion script for a shell
    ///
    /// Bash reads it from ~/.local/share/bash-completion/completions/pulumi-audit-forwarder, fish from
    /// ~/.config/fish/completions/pulumi-audit-forwarder.fish, zsh from a file _pulumi-audit-forwarder in its $fpath.
    Completions {
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },

    /// Print this program's manual page, as troff
    Man,
}

/// `run`.
#[derive(Clone, Debug, Args)]
pub struct RunFlags {
    /// Fetch what is due, deliver everything, and exit: 0 when all is delivered, 1 when something is paused or undelivered
    #[arg(long)]
    pub once: bool,

    /// Longest time for --once, such as 90s, 10m or 2h
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "10m", requires = "once")]
    pub timeout: Duration,
}

/// `check`.
#[derive(Clone, Debug, Default, Args)]
pub struct CheckFlags {
    /// Open no connection: look at the configuration and its secret files only
    #[arg(long)]
    pub offline: bool,

    /// Check this organization only, by its id
    #[arg(long, value_name = "ID")]
    pub org: Option<String>,

    /// Create one small object below {prefix}/_probe/ twice, to see that each archive creates only what is absent. It stays there;
    /// without this nothing is written anywhere, and to Azure never
    #[arg(long, conflicts_with = "offline")]
    pub write_probe: bool,

    /// Print one JSON object instead of lines
    #[arg(long)]
    pub json: bool,
}

/// `status`.
#[derive(Clone, Debug, Default, Args)]
pub struct StatusFlags {
    /// Print what /api/status answers
    #[arg(long)]
    pub json: bool,

    /// Print nothing; exit 0 if the daemon is alive and 1 if not
    #[arg(long, conflicts_with = "json")]
    pub healthcheck: bool,
}

/// `adopt`.
#[derive(Clone, Debug, Args)]
pub struct AdoptFlags {
    /// The fenced organization, by its id
    #[arg(long, value_name = "ID")]
    pub org: String,

    /// Do it: the other instance is stopped and will not come back
    #[arg(long)]
    pub yes: bool,
}

/// `verify`.
#[derive(Clone, Debug, Default, Args)]
pub struct VerifyFlags {
    /// Verify this organization only, by its id
    #[arg(long, value_name = "ID")]
    pub org: Option<String>,

    /// s3, file, or a folder that holds a copy of an archive, which needs no configuration [default: every archive that is configured]
    #[arg(long, value_name = "SOURCE")]
    pub source: Option<PathBuf>,

    /// Read only objects with events from this time on, in RFC 3339; claims are read all the same
    #[arg(long, value_name = "TIME", value_parser = second)]
    pub from: Option<Second>,

    /// Read only objects with events before this time
    #[arg(long, value_name = "TIME", value_parser = second)]
    pub until: Option<Second>,

    /// A head that was noted earlier: its claim has to be in the chain
    #[arg(long, value_name = "SHA256", requires = "org", value_parser = head)]
    pub head: Option<String>,

    /// Print one JSON object instead of lines
    #[arg(long)]
    pub json: bool,
}

/// `coverage`.
#[derive(Clone, Debug, Default, Args)]
pub struct CoverageFlags {
    /// Show this organization only, by its id
    #[arg(long, value_name = "ID")]
    pub org: Option<String>,

    /// Show every span; without it the newest, and first those that are missing, damaged or due another look
    #[arg(long, conflicts_with = "json")]
    pub all: bool,

    /// Print one JSON object with every span
    #[arg(long)]
    pub json: bool,
}

/// `audit`.
#[derive(Debug, Args)]
pub struct AuditFlags {
    /// Show every line; without it the newest 50
    #[arg(long)]
    pub all: bool,

    /// Print the lines as they are stored, each a JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum QuarantineCommand {
    /// List the rows in quarantine, and what was decided about others
    ///
    /// A provisional row is sent again by its lane; a final one waits for a person. Reads the state directory, beside a running
    /// daemon or without one.
    List(QuarantineListFlags),

    /// Print the event of a row as it is archived
    ///
    /// Where the journal has let its chunk go, it says where in the archive the event is, and exits with 1.
    Show(RowFlags),

    /// Have rows sent again, as after the table was repaired
    ///
    /// They go with the next chunk after the daemon was started; those that are accepted leave the quarantine. The daemon must be
    /// stopped while this runs: otherwise it exits with 75 and changes nothing. Who decided, when and why is recorded and logged.
    Retry {
        #[command(flatten)]
        rows: SelectionFlags,

        /// Why, for the record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },

    /// Take rows off the list for good; the archive keeps them
    ///
    /// The daemon must be stopped while this runs: otherwise it exits with 75 and changes nothing. Who decided, when and why is
    /// recorded and logged.
    Drop {
        #[command(flatten)]
        rows: SelectionFlags,

        /// Why, for the record
        #[arg(long, value_name = "TEXT")]
        reason: String,
    },
}

/// `quarantine list`.
#[derive(Clone, Debug, Default, Args)]
pub struct QuarantineListFlags {
    /// List this organization only, by its id
    #[arg(long, value_name = "ID")]
    pub org: Option<String>,

    /// List this destination only
    #[arg(long, value_name = "DESTINATION", value_parser = destination)]
    pub destination: Option<DestinationName>,

    /// List every row and decision; without it the oldest rows and the newest decisions
    #[arg(long, conflicts_with = "json")]
    pub all: bool,

    /// Print one JSON object with every row and decision
    #[arg(long)]
    pub json: bool,
}

/// One row.
#[derive(Clone, Debug, Args)]
pub struct RowFlags {
    /// The organization, by its id
    #[arg(long, value_name = "ID")]
    pub org: String,

    /// The destination that refused it
    #[arg(long, value_name = "DESTINATION", value_parser = destination)]
    pub destination: DestinationName,

    /// The number of its chunk
    #[arg(long, value_name = "NUMBER")]
    pub chunk: u64,

    /// Its place in the chunk; the first is 0
    #[arg(long, value_name = "NUMBER")]
    pub row: u32,
}

/// Rows of one lane.
#[derive(Clone, Debug, Args)]
pub struct SelectionFlags {
    /// The organization, by its id
    #[arg(long, value_name = "ID")]
    pub org: String,

    /// The destination that refused them
    #[arg(long, value_name = "DESTINATION", value_parser = destination)]
    pub destination: DestinationName,

    /// The rows of this chunk
    #[arg(long, value_name = "NUMBER", required_unless_present = "all")]
    pub chunk: Option<u64>,

    /// Of that chunk, this row only; may be given several times
    #[arg(long, value_name = "NUMBER", requires = "chunk")]
    pub row: Vec<u32>,

    /// Every row of this organization and destination
    #[arg(long, conflicts_with_all = ["chunk", "row"])]
    pub all: bool,
}

fn destination(text: &str) -> Result<DestinationName, String> {
    let names = DestinationName::ALL.map(DestinationName::as_str).join(", ");
    DestinationName::parse(text).ok_or_else(|| format!("it is one of {names}"))
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Print the merged configuration as TOML, each value with the place it came from
    ///
    /// Secrets are shown as the files or variables they are in.
    Show,

    /// Print the JSON Schema of the files, for editors and for whatever writes configurations
    Schema {
        /// One of the two files; without it, both in one schema
        #[arg(value_name = "FILE")]
        file: Option<SchemaOf>,
    },

    /// Print what every key means, as Markdown
    Reference,

    /// Write a commented starter configuration
    ///
    /// Existing files are left alone.
    Init {
        /// Where to write forwarder.toml and orgs/
        #[arg(value_name = "DIR", default_value = "config")]
        directory: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SchemaOf {
    /// forwarder.toml
    Forwarder,
    /// An org's file
    Org,
}

fn duration(text: &str) -> Result<Duration, String> {
    let period = Period::parse(text).filter(|period| !period.0.is_zero());
    period.map(|period| period.0).ok_or_else(|| "give a duration with its unit, such as 10m".into())
}

fn second(text: &str) -> Result<Second, String> {
    Second::parse_rfc3339(text).ok_or_else(|| "give a time such as 2026-11-21T10:15:00Z".into())
}

fn head(text: &str) -> Result<String, String> {
    let is_hash = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash
        .then(|| text.to_ascii_lowercase())
        .ok_or_else(|| "give the 64 hexadecimal digits of a head".into())
}

/// The binary's `main`.
pub fn main() -> ExitCode {
    crate::crash::leave_nothing();
    // One TLS provider for all libraries; an error only says that there is one already.
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    answer(std::env::args_os(), &mut io::stdout(), &mut io::stderr()).into()
}

/// Runs one command line.
fn answer<I, T>(arguments: I, out: &mut (dyn Write + Send), err: &mut dyn Write) -> Exit
where
    I: IntoIterator<Item = T>,
    T: Into<OsString> + Clone,
{
    let line = match CommandLine::try_parse_from(arguments) {
        Ok(line) => line,
        Err(error) => {
            // Help and version are asked for, and go to standard output. A closed output has no one to tell.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            let text = error.render();
            let target: &mut dyn Write = if error.use_stderr() { err } else { out };
            drop(write!(target, "{text}"));
            return exit;
        }
    };
    match execute(line, out) {
        Ok(exit) => exit,
        Err(failure) if failure.is_closed_output() => Exit::Done,
        Err(failure) => {
            drop(writeln!(err, "error: {failure}"));
            failure.exit
        }
    }
}

fn execute(line: CommandLine, out: &mut (dyn Write + Send)) -> Result<Exit, Failure> {
    let CommandLine { global, command } = line;
    match command {
        Command::Run(flags) => run::run(&global, &flags),
        Command::Check(flags) => {
            check::check(&global, &flags, |settings| probes(settings, flags.write_probe), out)
        }
        Command::Status(flags) => status::status(&global, &flags, out),
        Command::Verify(flags) => verify::verify(&global, &flags, out),
        Command::Coverage(flags) => coverage::coverage(&global, &flags, out),
        Command::Audit(flags) => audit::audit(&global, &flags, out),
        Command::Quarantine(command) => quarantine::quarantine(&global, &command, out),
        Command::Adopt(flags) => adopt::adopt(&global, &flags, out),
        Command::Config(ConfigCommand::Show) => config::show(&global, out),
        Command::Config(ConfigCommand::Schema { file }) => config::schema(file, out),
        Command::Config(ConfigCommand::Reference) => config::reference(out),
        Command::Config(ConfigCommand::Init { directory }) => config::init(&directory, out),
        Command::Metrics => {
            out.write_all(reference::markdown().as_bytes())?;
            Ok(Exit::Done)
        }
        Command::Completions { shell } => manual::completions(shell, out),
        Command::Man => manual::page(out),
    }
}

/// The runtime that commands run on.
///
/// # Errors
/// When the system gives no threads.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(no_threads)
}

fn no_threads(error: io::Error) -> Failure {
    anyhow::Error::new(error).context("the system gives no threads: raise the limit of processes").into()
}

/// Keeps the org asked for only.
fn only(settings: &mut Settings, id: Option<&str>) -> Result<(), Failure> {
    let Some(id) = id else { return Ok(()) };
    if !settings.orgs.iter().any(|org| org.id.as_str() == id) {
        let known: Vec<&str> = settings.orgs.iter().map(|org| org.id.as_str()).take(20).collect();
        return Err(Failure::usage(format!(
            "no org `{id}` is configured: --org takes one of {}",
            known.join(", ")
        )));
    }
    settings.orgs.retain(|org| org.id.as_str() == id);
    Ok(())
}

/// Every org that is in the journal, or the one asked for. One that is configured and was never run is known, and has nothing.
async fn known_orgs(
    settings: &Settings,
    journal: &dyn Journal,
    only: Option<&str>,
) -> Result<Vec<OrgId>, Failure> {
    let mut known = journal.orgs().await.map_err(anyhow::Error::from)?;
    known.extend(settings.orgs.iter().map(|org| org.id.clone()));
    known.sort_unstable();
    known.dedup();
    let Some(only) = only else { return Ok(known) };
    match known.iter().find(|id| id.as_str() == only) {
        Some(id) => Ok(vec![id.clone()]),
        None => {
            let known: Vec<&str> = known.iter().map(OrgId::as_str).take(20).collect();
            Err(Failure::usage(format!("no org `{only}` is known: --org takes one of {}", known.join(", "))))
        }
    }
}
