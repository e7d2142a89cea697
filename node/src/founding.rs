//! How a cluster is born: the work behind `cluster init`.
//!
//! It happens once in the life of a cluster, at an operator's word, and to one node: everybody else joins with a token. Two
//! halves of a network that each made a cluster of themselves could not be joined again, so nothing here is guessed.
//!
//! # The steps, and why each can be repeated
//!
//! 1. The cluster's authority is made and kept in the node's directory, with a certificate for this node. Whoever stops here
//!    has founded nothing: the next attempt begins anew.
//! 2. `node.json` says which cluster this is. From here on there is no way but forwards.
//! 3. Consensus begins, with this node as its only voter.
//! 4. The first command of the log puts the authority into the catalog, and its key goes from the directory.
//!
//! A node that stops between 2 and 4 goes on by itself when it is started again.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use cluster::catalog;
use cluster::command::{Action, Refusal, Reply};
use cluster::ids::NodeId;
use cluster::tables::authority::{AuthorityRow, PrivateKey};
use tonic::Status;

use crate::authority::{Authority, SigningRequest};
use crate::credentials::TlsDir;
use crate::identity::{Identity, random_id};
use crate::now_ms;
use crate::raft::ProposeError;
use crate::run::{Daemon, Member};

/// What a node says that is asked for what only members can do.
pub const NO_CLUSTER: &str = "this node belongs to no cluster: `reelraft cluster init` founds one, `reelraft node join` joins one";

/// The node that founds a cluster.
const FOUNDER: NodeId = NodeId(1);

/// How long the first election and the first command may take: a few election time-outs, and a slow disk.
const BORN_MAX: Duration = Duration::from_secs(20);

/// Why no cluster was founded.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(
        "this node is node {node} of cluster {cluster_id} already; to found another cluster, start a node on an empty data \
         directory"
    )]
    Already { cluster_id: String, node: NodeId },
    #[error(
        "the new cluster is not born yet; it goes on by itself, and this may be repeated: {0:#}"
    )]
    NotYet(anyhow::Error),
    #[error("{0:#}")]
    Node(anyhow::Error),
}

impl From<InitError> for Status {
    fn from(error: InitError) -> Self {
        let text = error.to_string();
        match error {
            InitError::Already { .. } => Self::already_exists(text),
            InitError::NotYet(_) => Self::aborted(text),
            InitError::Node(_) => Self::failed_precondition(text),
        }
    }
}

/// Founds a cluster of this node alone. Returns who it is now.
///
/// # Errors
/// See [`InitError`].
pub async fn init(daemon: &Arc<Daemon>) -> Result<Identity, InitError> {
    // One at a time: who joins meanwhile has founded nothing.
    let becoming = daemon.becoming().await;
    let unfinished = daemon.tls_dir().authority().map_err(InitError::Node)?.is_some();
    if let Some(identity) = daemon.identity()
        && !unfinished
    {
        return Err(InitError::Already {
            cluster_id: hex::encode(identity.cluster_id),
            node: identity.node_id,
        });
    }
    let life = daemon.config().rpc.certificate_life;
    let prepare = || prepare(&daemon.tls_dir(), life);
    let member = becoming.member(prepare).await.map_err(InitError::Node)?;
    drop(becoming);
    finish(daemon, &member).await.map_err(InitError::NotYet)?;
    Ok(member.identity().clone())
}

/// Steps 1 and what step 2 needs. Nothing that an earlier attempt left has been used for anything.
fn prepare(tls: &TlsDir, life: Duration) -> anyhow::Result<Identity> {
    let (cluster_id, now) = (random_id(), SystemTime::now());
    let authority = Authority::create(cluster_id, now)?;
    let request = SigningRequest::parse(&tls.key()?.request()?)?;
    let certificate = authority.sign(&request, cluster_id, FOUNDER, now, life)?;
    tls.store_authority_key(&authority)?;
    tls.store(&certificate, authority.certificate())?;
    Ok(Identity::new(cluster_id, FOUNDER, Vec::new()))
}

/// Steps 3 and 4. Nothing happens when they have been done.
///
/// # Errors
/// When there is no leader in time, or the authority is damaged.
pub async fn finish(daemon: &Daemon, member: &Member) -> anyhow::Result<()> {
    let tls = daemon.tls_dir();
    let Some(authority) = tls.authority()? else {
        return Ok(());
    };
    let identity = member.identity();
    member.found(&daemon.rpc_addr()).await?;
    let action = Action::InitCluster {
        cluster_id: identity.cluster_id,
        authority: Some(AuthorityRow {
            certificate_der: authority.certificate().to_vec(),
            key_der: PrivateKey(authority.key_der().to_vec()),
            created_ms: now_ms(),
        }),
        founder: Some(tls.key()?.public_key_hash()),
    };
    let born = tokio::time::timeout(BORN_MAX, propose(member, action))
        .await
        .with_context(|| format!("no leader within {BORN_MAX:?}"))??;
    match born {
        Reply::Refused(Refusal::AlreadyInitialized) => {
            // An earlier attempt took effect without anybody learning of it.
            let present = catalog::authority(member.consensus().catalog().as_ref())?;
            if present.is_none_or(|row| row.certificate_der != authority.certificate().as_ref()) {
                bail!("the catalog has another authority than {}", tls.path().display());
            }
        }
        Reply::Refused(refusal) => bail!("{refusal}"),
        Reply::Done
        | Reply::Version(_)
        | Reply::Claimed(_)
        | Reply::Lost(_)
        | Reply::Admitted(_) => {
            tracing::info!(cluster = hex::encode(identity.cluster_id), "the cluster is born");
        }
    }
    tls.forget_authority_key()
}

/// Tries until there is a leader to take it. The caller sets the deadline.
async fn propose(member: &Member, action: Action) -> Result<Reply, ProposeError> {
    loop {
        match member.consensus().propose(action.clone()).await {
            Ok((reply, _)) => return Ok(reply),
            Err(ProposeError::NoLeader(_) | ProposeError::Timeout(_)) => {}
            Err(error) => return Err(error),
        }
    }
}
