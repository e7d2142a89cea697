//! The node on this machine, for commands that change the cluster: they go through the socket in its data directory.

use std::path::{Path, PathBuf};

use crate::identity::DataDir;
use crate::rpc::admin::AdminApi;
use crate::rpc::operations::OperationsApi;
use crate::rpc::repair::RepairApi;

/// Which node to speak to.
#[derive(Debug, clap::Args)]
pub(super) struct Local {
    /// The data directory of a node that runs on this machine
    #[arg(long, env = "REELRAFT_DATA_DIR", default_value = "./data/node", value_name = "DIR")]
    data_dir: PathBuf,
}

impl Local {
    /// # Errors
    /// When no node runs on the directory, or this user may not speak to it.
    pub(super) async fn node(&self) -> anyhow::Result<AdminApi> {
        AdminApi::connect(&self.data_dir).await
    }

    pub(super) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Whether the cluster has removed that node.
    pub(super) fn was_removed(&self) -> bool {
        DataDir::ended_because(&self.data_dir).is_some()
    }

    /// For what concerns the whole cluster.
    ///
    /// # Errors
    /// As [`Self::node`].
    pub(super) async fn operations(&self) -> anyhow::Result<OperationsApi> {
        OperationsApi::connect(&self.data_dir).await
    }

    /// For what concerns missing copies.
    ///
    /// # Errors
    /// As [`Self::node`].
    pub(super) async fn repair(&self) -> anyhow::Result<RepairApi> {
        RepairApi::connect(&self.data_dir).await
    }
}
