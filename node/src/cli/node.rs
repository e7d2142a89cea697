//! `reelraft node …`.

use clap::Subcommand;
use gateway::api;

use super::client::{Api, Target};
use super::cluster::{node_table, read};
use super::output;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List the nodes of the cluster
    List {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::List { target, json } => {
            let cluster: api::Cluster = read(&Api::new(&target)?).await?;
            if json {
                return output::json(&cluster.nodes);
            }
            output::line(&node_table(&cluster));
            Ok(())
        }
    }
}
