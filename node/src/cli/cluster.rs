//! `reelraft cluster …`: make one, and see how it is.

mod page;

use anyhow::bail;
use clap::Subcommand;
use gateway::api;

use super::client::{Api, Target};
use super::output;
use crate::rpc::admin;

pub(super) use self::page::node_table;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make one cluster of nodes that are running and belong to none
    ///
    /// Asks the node at --to to do it; it has to be one of --nodes. Done once in the life of a cluster. When it breaks off,
    /// the same command continues.
    Init {
        /// RPC address of the node that is asked
        #[arg(long, value_name = "HOST:PORT")]
        to: String,
        /// RPC addresses of all nodes, in the order of their ids
        #[arg(long, value_name = "HOST:PORT,...", value_delimiter = ',', required = true)]
        nodes: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show how the cluster is, problems first
    Status {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Find what is wrong and say what to do about it
    ///
    /// Looks at leadership, copies, disks, clocks, certificates, lag and versions. Ends with a status other than 0 when
    /// somebody has to do something.
    Doctor {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Init { to, nodes, json } => {
            let reply = admin::init(&to, &nodes).await?;
            let cluster_id = hex::encode(&reply.cluster_id);
            if json {
                return output::json(&serde_json::json!({
                    "cluster_id": cluster_id,
                    "node_ids": reply.node_ids,
                }));
            }
            let count = match reply.node_ids.len() {
                1 => "1 node".to_owned(),
                count => format!("{count} nodes"),
            };
            output::line(&format!("cluster {cluster_id} has {count}"));
            for (id, address) in reply.node_ids.iter().zip(&nodes) {
                output::line(&format!("  node {id}  {address}"));
            }
            Ok(())
        }
        Command::Status { target, json } => {
            let cluster = read(&Api::new(&target)?).await?;
            if json {
                return output::json(&cluster);
            }
            output::line(&page::page(&cluster));
            Ok(())
        }
        Command::Doctor { target, json } => {
            let cluster = read(&Api::new(&target)?).await?;
            if json {
                output::json(&cluster.findings)?;
            } else {
                output::line(&page::diagnosis(&cluster));
            }
            if !page::is_sound(&cluster) {
                bail!("the cluster needs attention");
            }
            Ok(())
        }
    }
}

pub(super) async fn read(api: &Api) -> anyhow::Result<api::Cluster> {
    api.get("/api/v1/cluster").await
}
