//! Members of clusters that exist in a test alone, with certificates like any others.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::{Duration, SystemTime};

use cluster::ids::NodeId;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use super::Services;
use super::accept::{LatePresence, Presence};
use super::caller::Roster;
use super::envelope::LocalNode;
use super::peers::Peers;
use super::tls::Tls;
use crate::authority::{Authority, CERTIFICATE_LIFE, SigningRequest};
use crate::credentials::{Credentials, NodeKey};

/// The authorities of the clusters of this process.
static AUTHORITIES: LazyLock<Mutex<BTreeMap<[u8; 16], Arc<Authority>>>> =
    LazyLock::new(Mutex::default);

pub(crate) fn authority(cluster_id: [u8; 16]) -> Arc<Authority> {
    let mut authorities = AUTHORITIES.lock().unwrap();
    let create = || Arc::new(Authority::create(cluster_id, SystemTime::now()).unwrap());
    Arc::clone(authorities.entry(cluster_id).or_insert_with(create))
}

pub(crate) fn credentials(authority: &Authority, local: LocalNode, life: Duration) -> Credentials {
    let key = NodeKey::generate().unwrap();
    let request = SigningRequest::parse(&key.request().unwrap()).unwrap();
    let (cluster, node, now) = (local.cluster_id, local.node_id, SystemTime::now());
    let certificate = authority.sign(&request, cluster, node, now, life).unwrap();
    Credentials::new(key, certificate, authority.certificate().clone()).unwrap()
}

pub(crate) fn tls(local: LocalNode) -> Arc<Tls> {
    let authority = authority(local.cluster_id);
    Tls::new(&credentials(&authority, local, CERTIFICATE_LIFE)).unwrap()
}

pub(crate) fn peers(local: LocalNode) -> Peers {
    Peers::new(local, tls(local))
}

/// Serves as `local`, whose consensus runs on these threads.
pub(crate) async fn serve(
    local: LocalNode,
    listener: TcpListener,
    services: Routes,
    consensus: Handle,
    stop: CancellationToken,
) {
    let services = Services { calls: services.clone(), consensus: services };
    let presence = Presence { consensus, ..present(tls(local)) };
    let presence = watch::Sender::new(Some(presence)).subscribe();
    super::serve(listener, presence, services, stop).await.unwrap();
}

/// Of a node that has belonged to its cluster from the start.
pub(crate) fn at_once(tls: Arc<Tls>) -> LatePresence {
    watch::Sender::new(Some(present(tls))).subscribe()
}

/// Of a node whose consensus runs on the present runtime.
pub(crate) fn present(tls: Arc<Tls>) -> Presence {
    Presence { tls, consensus: Handle::current(), roster: Roster::default() }
}

pub(crate) fn node(cluster: u8, id: u64) -> LocalNode {
    LocalNode { cluster_id: [cluster; 16], node_id: NodeId(id) }
}

pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = super::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}
