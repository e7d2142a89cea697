//! `reelraft repair …`: the copies that are missing, and whether all are there.

use anyhow::{Context, bail};
use clap::Subcommand;
use gateway::api;
use indicatif::{ProgressBar, ProgressStyle};
use proto::repair::CountReply;

use super::client::{Api, Target};
use super::cluster::read;
use super::local::Local;
use super::output;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Show which copies are being made, how fast, and what that waits for
    Status {
        #[command(flatten)]
        target: Target,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Let no node make missing copies for now
    ///
    /// What people upload gets its copies all the same. Blocks that lack copies are in danger until `repair resume`.
    Pause {
        #[command(flatten)]
        local: Local,
    },
    /// Let all nodes make missing copies again
    Resume {
        #[command(flatten)]
        local: Local,
    },
    /// Ask every node for every block that it should hold
    ///
    /// Ends with a status other than 0 unless all copies are there.
    Verify {
        /// Let the nodes read and hash each copy too, which takes as long as reading all there is
        #[arg(long)]
        read: bool,
        #[command(flatten)]
        local: Local,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Status { target, json } => {
            let cluster = read(&Api::new(&target)?).await?;
            if json {
                return output::json(&serde_json::json!({
                    "under_replicated_blocks": cluster.under_replicated_blocks,
                    "repair": cluster.repair,
                    "nodes": cluster.nodes.iter().map(node_json).collect::<Vec<_>>(),
                }));
            }
            output::line(&page(&cluster));
            Ok(())
        }
        Command::Pause { local } => {
            local.repair().await?.pause(true).await?;
            output::line("repair is paused; `reelraft repair resume` lets it go on");
            Ok(())
        }
        Command::Resume { local } => {
            local.repair().await?.pause(false).await?;
            output::line("repair goes on");
            Ok(())
        }
        Command::Verify { read, local, json } => verify(&local, read, json).await,
    }
}

async fn verify(local: &Local, read: bool, json: bool) -> anyhow::Result<()> {
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}").context("show how far it is")?);
    let counted = local
        .repair()
        .await?
        .count(read, |so_far| {
            bar.tick();
            bar.set_message(format!(
                "{} blocks, {}, {} copies lacking",
                so_far.blocks,
                output::bytes(so_far.bytes),
                so_far.lacking
            ));
        })
        .await?;
    bar.finish_and_clear();
    if json {
        output::json(&count_json(&counted))?;
    } else {
        output::line(&verdict(&counted));
    }
    if is_whole(&counted) { Ok(()) } else { bail!("not all copies are where they should be") }
}

fn is_whole(counted: &CountReply) -> bool {
    counted.lacking == 0
        && counted.unknown == 0
        && counted.lost == 0
        && counted.violations.is_empty()
}

fn verdict(counted: &CountReply) -> String {
    let mut lines = vec![format!(
        "{} blocks ({}) should have {} copies by layout {}.",
        counted.blocks,
        output::bytes(counted.bytes),
        counted.copies,
        counted.layout_epoch
    )];
    if is_whole(counted) {
        lines.push(output::good("All of them are there."));
    }
    for (number, what) in [
        (counted.lost, "blocks are at none of their holders"),
        (counted.lacking, "copies are lacking"),
        (counted.unknown, "copies are at nodes that could not be asked"),
    ] {
        if number > 0 {
            lines.push(output::bad(&format!("! {number} {what}")));
        }
    }
    lines.extend(counted.violations.iter().map(|what| output::bold(&format!("* {what}"))));
    lines.extend(counted.examples.iter().map(|example| format!("  {example}")));
    lines.join("\n")
}

fn count_json(counted: &CountReply) -> serde_json::Value {
    serde_json::json!({
        "whole": is_whole(counted),
        "layout_epoch": counted.layout_epoch,
        "blocks": counted.blocks,
        "bytes": counted.bytes,
        "copies": counted.copies,
        "lacking": counted.lacking,
        "unknown": counted.unknown,
        "lost": counted.lost,
        "violations": counted.violations,
        "examples": counted.examples,
    })
}

fn node_json(node: &api::Node) -> serde_json::Value {
    serde_json::json!({
        "id": node.id,
        "name": node.name,
        "status": node.status,
        "store": node.store,
    })
}

fn page(cluster: &api::Cluster) -> String {
    let repair = &cluster.repair;
    let mut lines = Vec::new();
    if let Some(actor) = &repair.paused_by {
        lines.push(output::bold(&format!(
            "* paused by {actor}; `reelraft repair resume` ends that"
        )));
    }
    lines.push(match cluster.under_replicated_blocks {
        0 => output::good("No copies are missing."),
        missing => output::bad(&format!("! {missing} copies are missing.")),
    });
    let eta = repair.eta_seconds.map(|seconds| {
        let left = std::time::Duration::from_secs(seconds);
        format!(", {} to go", humantime::format_duration(left))
    });
    lines.push(format!(
        "{} copies to be made, {}/s{}",
        repair.queued_blocks,
        output::bytes(repair.bytes_per_second),
        eta.unwrap_or_default()
    ));
    lines.push(match &repair.counted {
        Some(count) => format!(
            "last counted {} ago: {} blocks, {} of {} copies found{}",
            humantime::format_duration(std::time::Duration::from_secs(count.seconds_ago)),
            count.blocks,
            count.copies.saturating_sub(count.lacking + count.unknown),
            count.copies,
            if count.unknown > 0 {
                format!(", {} could not be asked for", count.unknown)
            } else {
                String::new()
            },
        ),
        None => "not counted yet; `reelraft repair verify` does that now".to_owned(),
    });
    lines.push(String::new());
    lines.push(table(cluster));
    lines.join("\n")
}

fn table(cluster: &api::Cluster) -> String {
    let rows = cluster
        .nodes
        .iter()
        .map(|node| {
            let store = node.store.clone().unwrap_or_default();
            let known = |number: Option<u64>| number.map_or("?".to_owned(), |n| n.to_string());
            [
                node.id.to_string(),
                node.name.clone(),
                store.groups.to_string(),
                node.blocks.to_string(),
                known(store.missing_blocks.filter(|_| node.store.is_some())),
                store.quarantined_blocks.to_string(),
                store.queued_blocks.to_string(),
                format!("{}/s", output::bytes(store.repair_bytes_per_second)),
                store.repair_waiting_for.unwrap_or_default(),
            ]
        })
        .collect();
    let header =
        ["ID", "NAME", "GROUPS", "BLOCKS", "LACKS", "DAMAGED", "QUEUED", "RATE", "WAITS FOR"];
    output::table(header, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_whole_only_when_nothing_is_wrong() {
        let whole = CountReply { blocks: 3, copies: 9, ..CountReply::default() };
        assert!(is_whole(&whole) && verdict(&whole).contains("All of them are there."));
        for wrong in [
            CountReply { lacking: 1, ..whole.clone() },
            CountReply { unknown: 1, ..whole.clone() },
            CountReply { lost: 1, ..whole.clone() },
            CountReply { violations: vec!["two in one zone".into()], ..whole.clone() },
        ] {
            assert!(!is_whole(&wrong) && !verdict(&wrong).contains("All of them"), "{wrong:?}");
            assert_eq!(count_json(&wrong)["whole"], false);
        }
    }
}
