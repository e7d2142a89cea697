//! Whether all nodes have the same catalog, as far as it can be seen from outside.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::client::Client;
use crate::cluster::Cluster;
use crate::wait;

/// All nodes have applied everything, and agree on who is there, by then.
const EQUAL_WITHIN: Duration = Duration::from_secs(30);

/// What a node knows: all videos that are listed with their versions, and the cluster.
type Known = BTreeMap<String, Value>;

/// Waits until all nodes that run show the same videos and the same members.
///
/// # Errors
/// With the first difference, when there is one for too long.
pub async fn are_equal(cluster: &Cluster) -> Result<()> {
    let clients = cluster.clients()?;
    wait::until("all catalogs are equal", EQUAL_WITHIN, async || {
        let mut first: Option<Known> = None;
        for client in &clients {
            let known = known(client).await?;
            match &first {
                None => first = Some(known),
                Some(first) => {
                    for key in first.keys().chain(known.keys()) {
                        ensure!(
                            first.get(key) == known.get(key),
                            "{} differs in {key}: {:?} and {:?}",
                            client.base,
                            first.get(key),
                            known.get(key)
                        );
                    }
                }
            }
        }
        let known = first.context("look at one node at least")?;
        ensure!(known.len() > 1, "there is no video to compare");
        Ok(Some(()))
    })
    .await
}

/// Read from what the node itself has applied, without asking others.
async fn known(client: &Client) -> Result<Known> {
    let mut known = Known::new();
    let mut cursor = String::new();
    loop {
        let page: Value = client.json(&format!("/api/v1/videos?limit=100&cursor={cursor}")).await?;
        for video in page["items"].as_array().context("items")? {
            let id = video["id"].as_str().context("an id")?;
            let answer =
                client.exchange(Method::GET, &format!("/api/v1/videos/{id}"), &[], None).await?;
            ensure!(answer.status() == StatusCode::OK, "{id}: {}", answer.status());
            let tag = answer.headers().get("etag").context("an ETag")?.to_str()?.to_owned();
            let alone: Value = answer.json().await?;
            ensure!(alone == *video, "{id} is another one in the list");
            known.insert(id.to_owned(), serde_json::json!([tag, alone]));
        }
        match page["next"].as_str() {
            Some(next) => cursor = next.to_owned(),
            None => break,
        }
    }
    let cluster = client.cluster().await?;
    let members: Vec<_> = cluster["nodes"].as_array().context("nodes")?.iter().collect();
    let members: Vec<Value> = members
        .into_iter()
        .map(|node| serde_json::json!([node["id"], node["name"], node["voter"], node["rpc_addr"]]))
        .collect();
    let shared = ["cluster_id", "leader", "term", "voters", "layout_epoch"];
    let shared: Vec<_> = shared.iter().map(|name| &cluster[*name]).collect();
    known.insert("cluster".to_owned(), serde_json::json!([shared, members]));
    Ok(known)
}
