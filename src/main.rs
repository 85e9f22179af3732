//! The binary: the command line, and nothing else.

use std::process::ExitCode;

fn main() -> ExitCode {
    pulumi_audit_forwarder::cli::main()
}
