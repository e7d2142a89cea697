//! Nodes that leave a cluster for good: those that are drained and removed, as operators do it, and those that are lost.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::wait;

/// A node that is drained has handed over all by then: copying some megabytes on a busy machine, and the seconds that a new
/// layout needs to settle.
pub const DRAINED_WITHIN: Duration = Duration::from_secs(90);

/// A node that is lost is known as such within seconds.
const REMOVED_WITHIN: Duration = Duration::from_secs(60);

/// A node that is removed is told so within seconds, and ends.
const ENDED_WITHIN: Duration = Duration::from_secs(30);

impl Cluster {
    /// What the node at `witness` says of the one at `place`, if it knows it.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn seen(&self, witness: usize, place: usize) -> Result<Option<Value>> {
        let seen = self.nodes[witness].client()?.cluster().await?;
        let nodes = seen["nodes"].as_array().context("a list of nodes")?;
        let name = format!("node-{}", self.nodes[place].number);
        Ok(nodes.iter().find(|node| node["name"] == name.as_str()).cloned())
    }

    /// Has the node at `place` drained, by an operator at `witness`.
    ///
    /// # Errors
    /// When that is refused.
    pub async fn drain(&self, place: usize, witness: usize) -> Result<()> {
        self.operate(&["node", "drain", &self.id(place, witness).await?], witness).await?;
        Ok(())
    }

    /// Waits until a node that is being drained has nothing left that is its alone.
    ///
    /// # Errors
    /// When it has, for too long.
    pub async fn until_drained(&self, place: usize, witness: usize) -> Result<()> {
        wait::until("a node is drained", DRAINED_WITHIN, async || {
            let node = self.seen(witness, place).await?.context("it is still a member")?;
            let drain = &node["drain"];
            ensure!(drain["waiting_for"] == json!([]), "{drain}");
            ensure!(node["voter"] == false && drain["groups"] == 0, "{node}");
            Ok(Some(()))
        })
        .await
    }

    /// Has a node removed that was drained. It ends, and never starts again.
    ///
    /// # Errors
    /// When it is not let go, or does not know that it was.
    pub async fn remove_drained(&mut self, place: usize, witness: usize) -> Result<()> {
        let id = self.id(place, witness).await?;
        wait::until("a drained node is removed", DRAINED_WITHIN, async || {
            self.operate(&["node", "remove", &id], witness).await.map(Some)
        })
        .await?;
        let status = self.ends_by_itself(place, ENDED_WITHIN).await?;
        ensure!(!status.success(), "it ended with {status}");
        self.restart(place)?;
        let status = self.ends_by_itself(place, ENDED_WITHIN).await?;
        ensure!(!status.success(), "it was started again and ended with {status}");
        let said = self.nodes[place].printed()?;
        ensure!(said.contains("was removed from its cluster"), "{said}");
        ensure!(self.seen(witness, place).await?.is_none(), "it is still listed");
        Ok(())
    }

    /// Takes a node out of the cluster for ever that was killed and will not come back.
    ///
    /// # Errors
    /// When it runs, or the cluster does not let it go in time.
    pub async fn remove_lost(&self, place: usize) -> Result<()> {
        let lost = &self.nodes[place];
        ensure!(lost.process_id().is_err(), "node {} runs", lost.number);
        let witness = self.running().next().context("somebody has to be told")?.number - 1;
        let id = wait::until("the lost node is known", REMOVED_WITHIN, async || {
            self.id(place, witness).await.map(Some)
        })
        .await?;
        wait::until("a lost node is removed", REMOVED_WITHIN, async || {
            self.operate(&["node", "remove", &id, "--force"], witness).await.map(Some)
        })
        .await?;
        Ok(())
    }

    /// Runs an operator's command on the machine of the node at `place`.
    ///
    /// # Errors
    /// What it says when it fails.
    pub async fn operate(&self, arguments: &[&str], place: usize) -> Result<String> {
        self.command(arguments, &self.nodes[place]).await
    }

    /// The id of the node at `place`, as the one at `witness` knows it.
    async fn id(&self, place: usize, witness: usize) -> Result<String> {
        let node = self.seen(witness, place).await?;
        let id = node.with_context(|| format!("node {} is not known", place + 1))?["id"].clone();
        Ok(id.as_str().map_or_else(|| id.to_string(), str::to_owned))
    }
}
