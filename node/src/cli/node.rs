//! `reelraft node …`.

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
        Command::Join { token, to, local, json } => {
            let joined = local.node().await?.join(&token, &to).await?;
            let cluster_id = hex::encode(&joined.cluster_id);
            if json {
                return output::json(&serde_json::json!({
                    "cluster_id": cluster_id,
                    "node_id": joined.node_id,
                }));
            }
            output::line(&format!("this is node {} of cluster {cluster_id} now", joined.node_id));
            Ok(())
        }
    }
}
