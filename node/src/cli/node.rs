//! `reelraft node …`.

mod drain;

use std::process::ExitCode;
use std::time::{Duration, UNIX_EPOCH};

use clap::Subcommand;
use gateway::api;

use super::client::{Api, Target};
use super::cluster::{node_table, read};
use super::local::Local;
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
    /// Have a node hand over what it does, so that it can be removed
    ///
    /// It gives up its vote and its leadership, takes no more jobs, and its blocks are copied to others. Any node of the
    /// cluster can be asked; --wait shows what is left.
    Drain(drain::Args),
    /// Take a node out of the cluster for ever
    ///
    /// Refused as long as that would not be safe: drain it first. Its directory is of no use afterwards.
    Remove {
        /// Its id
        id: u64,
        /// It is lost and will not come back
        #[arg(long)]
        force: bool,
        #[command(flatten)]
        local: Local,
    },
    /// Say that somebody works on a node's machine, so that nobody takes over for it
    Maintenance {
        /// Its id
        id: u64,
        /// How long at most, such as 30m or 2h
        #[arg(long = "for", value_name = "TIME", value_parser = humantime::parse_duration, required_unless_present = "end")]
        length: Option<Duration>,
        /// It is over
        #[arg(long, conflicts_with = "length")]
        end: bool,
        #[command(flatten)]
        local: Local,
    },
    /// Let the node on this machine join a cluster
    ///
    /// The node runs already (`reelraft serve`) and belongs to no cluster. When this breaks off, the same command continues.
    Join {
        /// What `reelraft token create` printed on a member
        token: String,
        /// RPC address of a member of the cluster, any of them
        #[arg(long, value_name = "HOST:PORT")]
        to: String,
        #[command(flatten)]
        local: Local,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::List { target, json } => {
            let cluster: api::Cluster = read(&Api::new(&target)?).await?;
            if json {
                output::json(&cluster.nodes)?;
            } else {
                output::line(&node_table(&cluster));
            }
        }
        Command::Drain(args) => return drain::run(args).await,
        Command::Remove { id, force, local } => {
            local.operations().await?.remove(id, force).await?;
            output::line(&format!("node {id} does not belong to the cluster any more"));
        }
        Command::Maintenance { id, length, end: _, local } => {
            let until_ms = local.operations().await?.set_maintenance(id, length).await?;
            output::line(&if until_ms == 0 {
                format!("the maintenance of node {id} is over")
            } else {
                let until = UNIX_EPOCH + Duration::from_millis(until_ms);
                format!(
                    "node {id} is in maintenance until {}",
                    humantime::format_rfc3339_seconds(until)
                )
            });
        }
        Command::Join { token, to, local, json } => {
            let joined = local.node().await?.join(&token, &to).await?;
            let cluster_id = hex::encode(&joined.cluster_id);
            if json {
                output::json(&serde_json::json!({
                    "cluster_id": cluster_id,
                    "node_id": joined.node_id,
                }))?;
            } else {
                let id = joined.node_id;
                output::line(&format!("this is node {id} of cluster {cluster_id} now"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
