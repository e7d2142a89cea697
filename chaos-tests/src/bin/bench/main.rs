//! The numbers of the project, each as a ratio against a peer measured in the same run on the same machine.
//!
//! `make bench` runs all of them, `make bench ONLY=p4,p6` some. Absolute figures depend on the machine and its mood; the
//! ratios are what counts. Where no peer can be had as a package, the figure that was once measured elsewhere is printed
//! and marked as such.

mod amplification;
mod etcd;
mod failover;
mod idling;
mod load;
mod measure;
mod peers;
mod rebalancing;
mod remote;
mod report;
mod serving;
mod streaming;
mod uploading;
mod writing;

use anyhow::{Result, ensure};

use crate::report::Report;

const NAMES: [&str; 11] = ["p1", "p2", "p3", "p4", "p5", "p6", "p7", "p8", "p9", "p10", "p11"];

#[tokio::main]
async fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args()
        .skip(1)
        .flat_map(|names| names.split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for name in &wanted {
        ensure!(NAMES.contains(&name.as_str()), "{name} is none of {}", NAMES.join(", "));
    }
    let runs = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let mut report = Report::default();
    if runs("p1") {
        serving::run(&mut report).await?;
    }
    if runs("p2") {
        remote::run(&mut report).await?;
    }
    if runs("p3") {
        uploading::run(&mut report).await?;
    }
    if runs("p4") {
        writing::run(&mut report).await?;
    }
    if runs("p5") {
        failover::run(&mut report).await?;
    }
    if runs("p6") {
        streaming::standard_input(&mut report).await?;
    }
    if runs("p7") {
        streaming::foreign_input(&mut report).await?;
    }
    if runs("p8") {
        streaming::full_ladder(&mut report).await?;
    }
    if runs("p9") {
        rebalancing::run(&mut report).await?;
    }
    if runs("p10") {
        amplification::run(&mut report).await?;
    }
    if runs("p11") {
        idling::run(&mut report).await?;
    }
    report.print();
    Ok(())
}
