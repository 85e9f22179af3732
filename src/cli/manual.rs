//! `man` and `completions`: what other programs need to know of this command line, generated from it.
//!
//! *Why one page for all commands:* they share most options, and whoever looks something up would have to guess the page's name.
//! *Why a command, and not a script of the build:* who installs with cargo, or looks into a container, has nothing but the binary.

use std::io::Write;

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{CommandLine, Exit, Failure};

const FILES: &str = "\
.SH FILES
.TP
\\fIconfig/forwarder.toml\\fR, \\fI/etc/pulumi\\-audit\\-forwarder/forwarder.toml\\fR
What is common to all organizations; the first that exists, unless \\fB\\-\\-config\\fR or \\fB$PAF_CONFIG\\fR names another.
.TP
\\fIorgs/*.toml\\fR
Beside it, one file for each organization. \\fBconfig reference\\fR explains every key of both.
.TP
\\fI/var/lib/pulumi\\-audit\\-forwarder\\fR
The state directory: the journal, and how far every destination is. Keep it.
.SH ENVIRONMENT
.TP
\\fBPAF_CONFIG\\fR
The configuration file, where \\fB\\-\\-config\\fR is not given.
.TP
\\fBPAF_\\fR\\fIKEY\\fR
A key of forwarder.toml in capitals, with __ between the levels, as in \\fBPAF_LOG__LEVEL=debug\\fR. It wins over every file.
.TP
\\fBSTATE_DIRECTORY\\fR
The state directory, where no file says otherwise; systemd sets it.
.TP
\\fBNOTIFY_SOCKET\\fR, \\fBWATCHDOG_USEC\\fR
Where \\fBrun\\fR says that it is ready, is reloaded or ends, how the organizations stand, and, as long as every part of it makes progress, that it lives; systemd sets them.
.TP
\\fBHTTPS_PROXY\\fR, \\fBNO_PROXY\\fR
The proxy, and what is reached without it.
.TP
\\fBNO_COLOR\\fR
With any value, \\fBstatus\\fR prints no colours.
.SH SIGNALS
.TP
\\fBSIGTERM\\fR, \\fBSIGINT\\fR
End \\fBrun\\fR: what is under way has 10 seconds to finish. A second one ends it at once; nothing is lost either way.
.TP
\\fBSIGHUP\\fR
Load the configuration again at once, as \\fBrun\\fR also does by itself when a file changes. One with a mistake changes nothing, and \\fBstatus\\fR says so.
.SH EXIT STATUS
";

const EXITS: [(u8, &str); 6] = [
    (0, "Done; also after SIGTERM."),
    (
        1,
        "Failed: an unusable, damaged or newer state directory, \\fBrun \\-\\-once\\fR with anything undelivered, \\fBstatus \\-\\-healthcheck\\fR of a daemon that makes no progress.",
    ),
    (2, "Wrong usage."),
    (69, "\\fBcheck\\fR found something unreachable or not permitted."),
    (75, "Another process holds the state directory."),
    (78, "The configuration is invalid."),
];

/// Prints the completion script.
pub(super) fn completions(shell: Shell, out: &mut dyn Write) -> Result<Exit, Failure> {
    // The generator panics where it cannot write, so it writes into memory.
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut CommandLine::command(), env!("CARGO_PKG_NAME"), &mut script);
    out.write_all(&script)?;
    Ok(Exit::Done)
}

/// Prints the manual page.
pub(super) fn page(out: &mut dyn Write) -> Result<Exit, Failure> {
    let mut page = Vec::new();
    write_page(&mut page)?;
    out.write_all(&page)?;
    Ok(Exit::Done)
}

fn write_page(page: &mut Vec<u8>) -> std::io::Result<()> {
    let mut whole = CommandLine::command().disable_help_subcommand(true);
    whole.build();
    let man = Man::new(whole.clone()).manual("System Administration");
    man.render_title(page)?;
    man.render_name_section(page)?;
    man.render_synopsis_section(page)?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    page.extend_from_slice(b".SH COMMANDS\n");
    commands(&whole, "", page)?;
    page.extend_from_slice(FILES.as_bytes());
    for (code, meaning) in EXITS {
        writeln!(page, ".TP\n\\fB{code}\\fR\n{meaning}")?;
    }
    Ok(())
}

/// Each command with its own arguments; those that all of them take stand above.
fn commands(parent: &Command, prefix: &str, page: &mut Vec<u8>) -> std::io::Result<()> {
    for command in parent.get_subcommands() {
        let name = format!("{prefix}{}", command.get_name());
        if command.has_subcommands() {
            commands(command, &format!("{name} "), page)?;
            continue;
        }
        // One that is not built again does not get the global options a second time.
        let own = command
            .get_arguments()
            .filter(|argument| !argument.is_global_set() && argument.get_id() != "help");
        let about = command.get_long_about().or(command.get_about()).cloned().unwrap_or_default();
        let lone = own
            .cloned()
            .fold(Command::new(env!("CARGO_PKG_NAME")), Command::arg)
            .about(about)
            .disable_help_flag(true);
        let man = Man::new(lone);
        writeln!(page, ".SS \"{name}\"")?;
        for section in [Man::render_description_section, Man::render_options_section] {
            let mut rendered = Vec::new();
            section(&man, &mut rendered)?;
            // Without the heading: this is a part of a section.
            let lines = rendered.split_inclusive(|byte| *byte == b'\n');
            page.extend(
                lines
                    .filter(|line| {
                        !line.starts_with(b".SH") && !line.starts_with(b".ie") && !line.starts_with(b".el")
                    })
                    .flatten(),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden: the page that is shipped.
    #[test]
    fn the_shipped_manual_page_is_the_generated_one() {
        let mut page = Vec::new();
        write_page(&mut page).unwrap();
        assert!(
            include_str!("../../docs/pulumi-audit-forwarder.1").as_bytes() == page,
            "docs/pulumi-audit-forwarder.1 is not what the command line says; renew it with: \
             cargo run --quiet -- man > docs/pulumi-audit-forwarder.1"
        );
    }

    #[test]
    fn the_manual_page_names_every_command_option_and_exit_code() {
        let mut page = Vec::new();
        write_page(&mut page).unwrap();
        let page = String::from_utf8(page).unwrap().replace("\\-", "-");
        for part in [
            ".SS \"run\"",
            ".SS \"config schema\"",
            "--write-probe",
            "--healthcheck",
            "--timeout",
            "SIGTERM",
            "PAF_CONFIG",
            "\\fB69\\fR",
        ] {
            assert!(page.contains(part), "{part} is not in:\n{page}");
        }
        assert_eq!(
            page.matches("--log-level").count(),
            2,
            "once in the synopsis, once among the options:\n{page}"
        );
        assert_eq!(
            EXITS.map(|(code, _)| code),
            [Exit::Done, Exit::Failed, Exit::Usage, Exit::Unreachable, Exit::Busy, Exit::Configuration]
                .map(Exit::code)
        );
    }

    #[test]
    fn every_shell_gets_a_script_that_knows_the_commands() {
        use clap::ValueEnum;
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            completions(*shell, &mut script).unwrap();
            let script = String::from_utf8(script).unwrap();
            for part in ["healthcheck", "write-probe", "schema"] {
                assert!(script.contains(part), "{shell}: {part}");
            }
        }
    }
}
