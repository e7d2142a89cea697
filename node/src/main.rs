//! The binary: parse, dispatch, nothing more.

use std::process::ExitCode;

fn main() -> ExitCode {
    node::cli::main()
}
