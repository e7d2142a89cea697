//! The command line: nouns, then verbs.
//!
//! `serve` and `dev` run nodes. What only looks, and what concerns videos, is a client of the HTTP API, like any other program;
//! what changes the cluster itself goes through the socket in the data directory of a node on this machine.
//!
//! # Rules
//!
//! - Results go to standard output, everything else to standard error. Every listing takes `--json`.
//! - An error ends with a status other than 0, says what went wrong and, where that is known, what to do.

mod backup;
mod client;
mod cluster;
mod dev;
mod local;
mod node;
mod output;
mod repair;
mod scrub;
mod serve;
mod shutdown;
mod token;
mod video;

use std::process::ExitCode;

use anyhow::Context;
use clap::{Parser, Subcommand};

/// Three or more machines become one video site.
#[derive(Debug, Parser)]
#[command(name = "reelraft", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a cluster of several nodes on this machine
    Dev(dev::Args),
    /// Run one node
    Serve(Box<serve::Args>),
    /// Found a cluster; see how it is
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// See the nodes; let this one join
    #[command(subcommand)]
    Node(node::Command),
    /// Hand out the right to join the cluster
    #[command(subcommand)]
    Token(token::Command),
    /// See to missing copies
    #[command(subcommand)]
    Repair(repair::Command),
    /// Have all blocks read again and checked; see how far that is
    #[command(subcommand)]
    Scrub(scrub::Command),
    /// Write the catalog to a file, and make a cluster from one
    #[command(subcommand)]
    Backup(backup::Command),
    /// Upload, list, show and delete videos
    #[command(subcommand)]
    Video(video::Command),
    /// Print the version
    Version,
    /// Do one job on a video; started by a node, which speaks to it through pipes
    #[command(hide = true)]
    MediaWorker,
}

/// Runs the program.
#[must_use]
pub fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(status) => status,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(*args)?,
        Command::Dev(args) => on_one_thread(dev::run(args))?,
        Command::Node(command) => return on_one_thread(node::run(command)),
        Command::Scrub(command) => return on_one_thread(scrub::run(command)),
        Command::Cluster(command) => on_one_thread(cluster::run(command))?,
        Command::Token(command) => on_one_thread(token::run(command))?,
        Command::Repair(command) => on_one_thread(repair::run(command))?,
        Command::Backup(command) => on_one_thread(backup::run(command))?,
        Command::Video(command) => on_one_thread(video::run(command))?,
        Command::Version => output::line(&format!("reelraft {}", crate::VERSION)),
        Command::MediaWorker => return Ok(crate::media::worker_main()),
    }
    Ok(ExitCode::SUCCESS)
}

/// A client has one thing to do. `dev` needs it as well: the kernel tells children of the end of the *thread* that started
/// them, so that has to be the one that lasts.
fn on_one_thread<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(work)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_grammar_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_contract_parses() {
        for line in [
            "dev --nodes 3 --data ./data/dev --http-port 8080 --rpc-port 9080",
            "serve --config node.toml",
            "cluster init --data-dir ./data/node --json",
            "token create --roles store,gateway --expires 30m --uses 2 --data-dir ./data/node",
            "token list --json",
            "token revoke 0123abcd",
            "node join rrj1_AAAA --to 127.0.0.1:9080 --data-dir ./data/other",
            "cluster status --json",
            "cluster doctor --json",
            "cluster audit --limit 10 --json",
            "cluster recover --from ./old --data-dir ./new",
            "node drain 3",
            "node drain 3 --cancel",
            "node drain 3 --wait --timeout 30m --json",
            "node remove 3 --force",
            "node maintenance 3 --for 2h",
            "node maintenance 3 --end",
            "repair status --json",
            "repair pause --data-dir ./data/node",
            "repair resume",
            "repair verify --read --json",
            "scrub start --json",
            "scrub status --wait --timeout 30m --json --data-dir ./data/node",
            "backup create catalog.backup",
            "backup verify catalog.backup --json",
            "backup restore catalog.backup --data-dir ./new --blocks ./old",
            "node list --json --url http://127.0.0.1:8080",
            "video upload clip.mp4 --title T --visibility unlisted --wait",
            "video list --json",
            "video show 0123456789abcdef0123456789abcdef",
            "video delete 0123456789abcdef0123456789abcdef",
            "version",
        ] {
            let words = std::iter::once("reelraft").chain(line.split(' '));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("{line}: {error}");
            }
        }
    }
}
