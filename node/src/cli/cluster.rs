//! `reelraft cluster …`: make one, and see how it is.

mod page;
mod plan;

use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use anyhow::bail;
use clap::Subcommand;
use gateway::api;
use proto::operations::AuditEntry;

use super::backup::actor;
use super::client::{Api, Target};
use super::local::Local;
use super::output;
use crate::restore;

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
    /// Show what would move if nodes came, left or offered more or less, or what is about to move
    Plan(plan::Plan),
    /// Show what operators asked for and what it came to, the newest first
    Audit {
        /// How many entries
        #[arg(long, value_name = "N", default_value_t = 50)]
        limit: u32,
        #[command(flatten)]
        local: Local,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make a new cluster of what one node has, when a majority is lost for good
    ///
    /// For the case that `cluster status` says "no leader" and the voters that are missing will never come back. Stop all
    /// nodes that are left, and choose the one that was up to date the longest. What the lost nodes alone had decided is lost.
    /// The other nodes join the new cluster on empty data directories, into which their `content` may be moved beforehand.
    Recover {
        /// Data directory of the node to go on with; it must not run
        #[arg(long, value_name = "OLD_DATA_DIR")]
        from: PathBuf,
        /// The data directory to make, on the same file system
        #[arg(long, value_name = "NEW_DATA_DIR")]
        data_dir: PathBuf,
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
            output::note(&format!(
                "other nodes join it with a token: reelraft token create --data-dir {}",
                local.data_dir().display()
            ));
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
        Command::Plan(plan) => plan::run(plan).await,
        Command::Audit { limit, local, json } => {
            let entries = local.operations().await?.audit(limit).await?;
            show_audit(&entries, json)
        }
        Command::Recover { from, data_dir, json } => recover(&from, &data_dir, json).await,
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

fn show_audit(entries: &[AuditEntry], json: bool) -> anyhow::Result<()> {
    let time = |entry: &AuditEntry| {
        let at = UNIX_EPOCH + Duration::from_millis(entry.time_ms);
        humantime::format_rfc3339_seconds(at).to_string()
    };
    if json {
        let entries: Vec<_> = entries
            .iter()
            .map(|entry| {
                serde_json::json!({
                    "index": entry.index,
                    "time": time(entry),
                    "actor": entry.actor,
                    "action": entry.action,
                    "outcome": entry.outcome,
                })
            })
            .collect();
        return output::json(&entries);
    }
    let rows = entries
        .iter()
        .map(|entry| {
            [time(entry), entry.actor.clone(), entry.action.clone(), entry.outcome.clone()]
        })
        .collect();
    output::line(&output::table(["TIME", "WHO", "WHAT", "OUTCOME"], rows));
    Ok(())
}

async fn recover(from: &Path, data_dir: &Path, json: bool) -> anyhow::Result<()> {
    let recovered = restore::recover(from, data_dir, &actor()).await?;
    let new = &recovered.restored.identity;
    let (old_cluster, cluster) =
        (hex::encode(recovered.old.cluster_id), hex::encode(new.cluster_id));
    if json {
        return output::json(&serde_json::json!({
            "old_cluster_id": old_cluster,
            "old_node_id": recovered.old.node_id,
            "cluster_id": cluster,
            "node_id": new.node_id,
            "index": recovered.index,
            "decided": recovered.decided,
        }));
    }
    output::line(&format!(
        "{} is node {} of the new cluster {cluster}, with what node {} of cluster {old_cluster} had",
        data_dir.display(),
        new.node_id,
        recovered.old.node_id
    ));
    output::line(&format!(
        "It has the log up to entry {}; up to {} this node knew it to be decided. Whatever the lost nodes decided after \
         entry {} is lost: videos that were accepted then are gone, and changes made then are undone.",
        recovered.index, recovered.decided, recovered.index
    ));
    output::line(&format!(
        "Start it with `reelraft serve --data-dir {}`, then let the other machines join on empty data directories. Never \
         start what is left of the old cluster again.",
        data_dir.display()
    ));
    Ok(())
}

pub(super) async fn read(api: &Api) -> anyhow::Result<api::Cluster> {
    api.get("/api/v1/cluster").await
}
