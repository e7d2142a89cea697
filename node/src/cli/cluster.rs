//! `reelraft cluster …`: make one, and see how it is.

mod page;

use anyhow::bail;
use clap::Subcommand;
use gateway::api;

use super::client::{Api, Target};
use super::local::Local;
use super::output;

pub(super) use self::page::node_table;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Found a cluster of the node on this machine
    ///
    /// Done once in the life of a cluster, on one node; all others join it (`reelraft token create`, `reelraft node join`).
    Init {
        #[command(flatten)]
        local: Local,
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
        Command::Init { local, json } => {
            let founded = local.node().await?.init().await?;
            let cluster_id = hex::encode(&founded.cluster_id);
            if json {
                return output::json(&serde_json::json!({
                    "cluster_id": cluster_id,
                    "node_id": founded.node_id,
                }));
            }
            output::line(&format!("cluster {cluster_id} has 1 node"));
            output::note("other nodes join it with a token: reelraft token create");
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
