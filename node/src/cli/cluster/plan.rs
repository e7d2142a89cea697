//! `reelraft cluster plan`: what a change would move, before it does.

use clap::Args;
use proto::operations::plan_request::{Capacity, NewNode};
use proto::operations::{PlanReply, PlanRequest};

use super::super::local::Local;
use super::super::output;

#[derive(Debug, Args)]
pub(in crate::cli) struct Plan {
    /// A new node that would hold blocks, such as `rack-4:2TB`
    #[arg(long, value_name = "ZONE:CAPACITY", value_parser = new_node)]
    add: Vec<NewNode>,
    /// A node that would be drained
    #[arg(long, value_name = "NODE")]
    drain: Vec<u64>,
    /// A node that would be removed without being drained
    #[arg(long, value_name = "NODE")]
    remove: Vec<u64>,
    /// What a node would offer for blocks, such as `3=500GB`
    #[arg(long, value_name = "NODE=CAPACITY", value_parser = capacity)]
    capacity: Vec<Capacity>,
    #[command(flatten)]
    local: Local,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn bytes(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>().map(|size| size.as_u64())
}

fn new_node(text: &str) -> Result<NewNode, String> {
    let (zone, capacity) = text.rsplit_once(':').ok_or("a zone and a capacity, as rack-4:2TB")?;
    Ok(NewNode { zone: zone.to_owned(), capacity_bytes: bytes(capacity)? })
}

fn capacity(text: &str) -> Result<Capacity, String> {
    let (node, capacity) = text.split_once('=').ok_or("a node and a capacity, as 3=500GB")?;
    let node = node.parse().map_err(|_| format!("`{node}` is no number of a node"))?;
    Ok(Capacity { node, capacity_bytes: bytes(capacity)? })
}

pub(super) async fn run(plan: Plan) -> anyhow::Result<()> {
    let Plan { add, drain, remove, capacity, local, json } = plan;
    let asked = PlanRequest { add, drain, remove, capacity };
    let due = asked == PlanRequest::default();
    let plan = local.operations().await?.plan(asked).await?;
    if json {
        return output::json(&in_json(&plan));
    }
    output::line(&page(&plan, due));
    Ok(())
}

fn in_json(plan: &PlanReply) -> serde_json::Value {
    let nodes: Vec<_> = plan
        .nodes
        .iter()
        .map(|node| {
            serde_json::json!({
                "id": node.id,
                "zone": node.zone,
                "new": node.new,
                "capacity_bytes": node.capacity_bytes,
                "groups_before": node.groups_before,
                "groups_after": node.groups_after,
                "gained": node.gained,
                "lost": node.lost,
                "bytes_before": node.bytes_before,
                "bytes_after": node.bytes_after,
            })
        })
        .collect();
    serde_json::json!({
        "layout_epoch": plan.layout_epoch,
        "copies": plan.copies,
        "bytes": plan.bytes,
        "steps": plan.steps,
        "seconds": plan.seconds,
        "waiting_for": (!plan.waiting_for.is_empty()).then_some(&plan.waiting_for),
        "warnings": plan.warnings,
        "nodes": nodes,
    })
}

/// `due`: nothing was asked for but what is going to happen anyway.
fn page(plan: &PlanReply, due: bool) -> String {
    let mut lines: Vec<String> =
        plan.warnings.iter().map(|warning| output::bad(&format!("! {warning}"))).collect();
    lines.push(match (plan.copies, due) {
        (0, true) => output::good("Nothing is about to move."),
        (0, false) => output::good("Nothing would move."),
        (copies, due) => format!(
            "{} copies of placement groups {}: about {} in {} steps, {} at the rate set for repairs",
            copies,
            if due { "are about to be made" } else { "would be made" },
            output::bytes(plan.bytes),
            plan.steps,
            output::clock(Some(plan.seconds as f64)),
        ),
    });
    if !plan.waiting_for.is_empty() {
        lines.push(format!("The next step waits: {}", plan.waiting_for));
    }
    lines.push(String::new());
    let rows = plan
        .nodes
        .iter()
        .map(|node| {
            [
                if node.new { "new".to_owned() } else { node.id.to_string() },
                node.zone.clone(),
                node.groups_before.to_string(),
                node.groups_after.to_string(),
                format!("+{}", node.gained),
                format!("-{}", node.lost),
                output::bytes(node.bytes_before),
                output::bytes(node.bytes_after),
                output::bytes(node.capacity_bytes),
            ]
        })
        .collect();
    let header = ["NODE", "ZONE", "GROUPS", "THEN", "GETS", "GIVES", "BYTES", "THEN", "OF"];
    lines.push(output::table(header, rows));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use proto::operations::NodePlan;

    use super::*;

    #[test]
    fn what_is_asked_for_is_understood_or_refused() {
        let node = new_node("rack:4:2TB").unwrap();
        assert_eq!((node.zone.as_str(), node.capacity_bytes), ("rack:4", 2_000_000_000_000));
        assert_eq!(capacity("3=1KiB").unwrap(), Capacity { node: 3, capacity_bytes: 1024 });
        for bad in ["rack", "rack:", "rack:much"] {
            new_node(bad).unwrap_err();
        }
        for bad in ["3", "x=1GB", "3=x"] {
            capacity(bad).unwrap_err();
        }
    }

    #[test]
    fn a_plan_fits_a_terminal() {
        let node = NodePlan {
            id: 4,
            zone: "rack-4".to_owned(),
            groups_before: 768,
            groups_after: 614,
            lost: 154,
            bytes_before: 3 << 40,
            bytes_after: 2 << 40,
            capacity_bytes: 4 << 40,
            ..NodePlan::default()
        };
        let plan = PlanReply {
            copies: 614,
            bytes: 600 << 30,
            steps: 77,
            seconds: 9600,
            nodes: vec![node.clone(), NodePlan { new: true, ..node }],
            warnings: vec!["there would be 2 zones".to_owned()],
            waiting_for: "node 3 lacks 7 blocks".to_owned(),
            ..PlanReply::default()
        };
        let text = anstream::adapter::strip_str(&page(&plan, false)).to_string();
        assert!(text.starts_with("! there would be 2 zones\n614 copies"), "{text}");
        assert!(text.lines().skip(4).all(|line| line.chars().count() <= 80), "{text}");
        assert_eq!(in_json(&plan)["nodes"][0]["lost"], 154);
        let none = PlanReply::default();
        assert!(page(&none, true).contains("Nothing is about to move."));
        assert!(page(&none, false).contains("Nothing would move."));
    }
}
