use std::time::Duration;

use cluster::catalog;
use cluster::command::{Action, Reply};
use cluster::ids::{PublicKeyHash, VideoId};
use cluster::tables::authority::{AuthorityRow, PrivateKey};
use cluster::tables::members::MemberState;
use cluster::tables::videos::Visibility;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

use super::*;
use crate::backup::{self, BackupError};
use crate::raft::{Consensus, RaftSettings};
use crate::rpc::testing;

const OLD: LocalNode = LocalNode { cluster_id: [1; 16], node_id: NodeId(1) };

/// An election of one, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn new() -> Rebirth {
    Rebirth {
        cluster_id: [2; 16],
        authority: AuthorityRow {
            certificate_der: vec![1; 300],
            key_der: PrivateKey(vec![2; 100]),
            created_ms: 3,
        },
        founder: PublicKeyHash::of(b"the founder's key"),
        time_ms: 0,
        actor: "operator".to_owned(),
    }
}

fn create(number: u8) -> Action {
    Action::CreateVideo {
        id: VideoId([number; 16]),
        title: format!("video {number}"),
        description: String::new(),
        visibility: Visibility::Public,
        filename: None,
        announced_bytes: None,
        upload_key: None,
        keep_source: false,
    }
}

fn reborn(first: NodeId) -> LocalNode {
    LocalNode { cluster_id: [2; 16], node_id: first }
}

async fn start(home: &Path, local: LocalNode) -> Consensus {
    Consensus::start(RaftSettings::default(), home, testing::peers(local)).await.unwrap()
}

async fn propose(consensus: &Consensus, action: Action) -> u64 {
    let start = Instant::now();
    loop {
        match consensus.propose(action.clone()).await {
            Ok((Reply::Refused(refusal), _)) => panic!("{action:?} was refused: {refusal}"),
            Ok((_, index)) => return index,
            Err(error) if start.elapsed() > PATIENCE => panic!("{error}"),
            Err(_) => sleep(Duration::from_millis(20)).await,
        }
    }
}

/// A cluster of one with three videos, and a backup of it.
async fn cluster_with_videos(home: &TempDir) -> (Consensus, Vec<u8>) {
    let consensus = start(home.path(), OLD).await;
    consensus.init(&[(OLD.node_id, "127.0.0.1:1".to_owned())]).await.unwrap();
    let birth = Action::InitCluster { cluster_id: [1; 16], authority: None, founder: None };
    propose(&consensus, birth).await;
    for number in 1..=3 {
        propose(&consensus, create(number)).await;
    }
    let (view, index) = consensus.moment().unwrap();
    let mut bytes = Vec::new();
    backup::write(&view, index, &mut bytes).unwrap();
    (consensus, bytes)
}

async fn restored(bytes: &[u8], home: &TempDir) -> anyhow::Result<(NodeId, Summary)> {
    let data_dir = DataDir::open(home.path())?;
    restore_catalog(Reader::open(bytes)?, &data_dir, &new()).await
}

async fn assert_lives(home: &Path, local: LocalNode, videos: u8) {
    // Twice: what was restored has to survive a start like anything else.
    for round in 0..2 {
        let consensus = start(home, local).await;
        propose(&consensus, create(100 + round)).await;
        let view = consensus.catalog();
        for number in 1..=videos {
            assert!(catalog::video(view.as_ref(), VideoId([number; 16])).unwrap().is_some());
        }
        let system = catalog::system(view.as_ref()).unwrap();
        assert_eq!((system.cluster_id, system.generation), (local.cluster_id, 1));
        let member = catalog::member(view.as_ref(), local.node_id).unwrap().unwrap();
        assert_eq!(member.state, MemberState::Member);
        drop(view);
        consensus.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_becomes_a_cluster_of_one() {
    let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (consensus, bytes) = cluster_with_videos(&old).await;
    // What is written after the backup is not in it.
    propose(&consensus, create(4)).await;
    let (first, summary) = restored(&bytes, &new).await.unwrap();
    assert!(first > NodeId(0) && summary.rows > 0);
    assert_lives(new.path(), reborn(first), 3).await;
    consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_backup_leaves_nothing_behind() {
    let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let (consensus, mut bytes) = cluster_with_videos(&old).await;
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let error = restored(&bytes, &new).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(BackupError::Damaged { .. })), "{error}");
    bytes[middle] ^= 1;
    let (first, _) = restored(&bytes, &new).await.unwrap();
    assert_lives(new.path(), reborn(first), 3).await;
    // And nobody restores over a living catalog.
    let error = restored(&bytes, &new).await.unwrap_err().to_string();
    assert!(error.contains("empty") || error.contains("node.json is missing"), "{error}");
    consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_cluster_gives_up_nothing_that_it_has() {
    let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    let error = recover(old.path(), new.path(), "operator").await.unwrap_err().to_string();
    assert!(error.contains("belongs to no node"), "{error}");
    let slip = old.path().join("slip");
    let error = recover(&slip, new.path(), "operator").await.unwrap_err().to_string();
    assert!(error.contains("there is no directory") && !slip.exists(), "{error}");
    DataDir::open(old.path())
        .unwrap()
        .adopt(&Identity::new(OLD.cluster_id, OLD.node_id, Vec::new()))
        .unwrap();
    let (consensus, _) = cluster_with_videos(&old).await;
    let last = propose(&consensus, create(4)).await;
    consensus.shutdown().await;
    drop(consensus);
    let blocks = old.path().join("content");
    fs::create_dir(&blocks).unwrap();
    fs::write(blocks.join("blocks"), b"of videos").unwrap();

    let recovered = recover(old.path(), new.path(), "operator").await.unwrap();
    assert_eq!(recovered.old.node_id, OLD.node_id);
    assert!(recovered.index >= last && recovered.decided <= recovered.index);
    let identity = recovered.restored.identity;
    assert_ne!(identity.cluster_id, OLD.cluster_id);
    assert_eq!(fs::read(new.path().join("content/blocks")).unwrap(), b"of videos");
    let data_dir = DataDir::open(new.path()).unwrap();
    assert_eq!(data_dir.identity().unwrap().unwrap(), identity);
    let credentials = data_dir.tls().load().unwrap();
    assert_eq!(
        (credentials.cluster_id(), credentials.node_id()),
        (identity.cluster_id, identity.node_id)
    );
    drop(data_dir);
    let local = LocalNode { cluster_id: identity.cluster_id, node_id: identity.node_id };
    assert_lives(new.path(), local, 4).await;
    let error = recover(old.path(), new.path(), "operator").await.unwrap_err().to_string();
    assert!(error.contains("already"), "{error}");

    assert!(!new.path().join("recovered.backup").exists() && !new.path().join("salvaged").exists());

    // A machine that starts the old node by itself must not have it take videos that nobody will find again.
    let error = DataDir::open(old.path()).unwrap().refuse_removed().unwrap_err().to_string();
    assert!(error.contains("went on in") && error.contains("must never start"), "{error}");
    // Its own files were only read: its databases go on where they were.
    let consensus = start(old.path(), OLD).await;
    propose(&consensus, create(5)).await;
    consensus.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_broke_off_says_what_to_do_with_what_it_left() {
    let (old, new) = (TempDir::new().unwrap(), TempDir::new().unwrap());
    DataDir::open(old.path())
        .unwrap()
        .adopt(&Identity::new(OLD.cluster_id, OLD.node_id, Vec::new()))
        .unwrap();
    fs::create_dir(new.path().join("state")).unwrap();
    fs::write(new.path().join("state/CURRENT"), b"half").unwrap();
    let error = recover(old.path(), new.path(), "operator").await.unwrap_err().to_string();
    assert!(error.contains("broke off") && error.contains("content"), "{error}");
}
