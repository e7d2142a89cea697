//! The membership changes while the cluster works.

use std::collections::BTreeSet;

use cluster::ids::NodeId;

use super::super::{MembershipError, RaftSettings, TransferError};
use super::harness::{Cluster, Writer, eventually};

fn ids(ids: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    ids.into_iter().map(NodeId).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_node_becomes_three_and_five_and_three_again_while_it_takes_writes() {
    let settings = RaftSettings::default();
    let mut cluster = Cluster::founded(settings).await;
    cluster.propose_on(0).await;
    let mut writer = Writer::start(cluster.nodes[0].consensus().clone());
    cluster.add_learner(settings).await;
    cluster.add_learner(settings).await;
    cluster.change_voters(&ids(1..=3)).await;
    writer.some_more().await;
    cluster.add_learner(settings).await;
    cluster.add_learner(settings).await;
    let leader = cluster.change_voters(&ids(1..=5)).await;
    assert_eq!(leader.membership().voters, ids(1..=5));
    writer.some_more().await;
    writer.end(cluster.nodes[4].consensus()).await;

    // The first two leave, one of which leads.
    writer = Writer::start(cluster.nodes[4].consensus().clone());
    let leader = cluster.leading().await;
    leader.transfer_leadership_to(NodeId(1)).await.ok();
    let leader = cluster.leading().await;
    assert_eq!(
        leader.change_voters(leader.membership().version, &ids(3..=5)).await,
        Err(MembershipError::Leads(NodeId(1)))
    );
    assert_eq!(leader.transfer_leadership_to(NodeId(4)).await.unwrap(), NodeId(4));
    cluster.change_voters(&ids(3..=5)).await;
    writer.some_more().await;
    let leader = cluster.leading().await;
    let membership = leader.membership();
    assert_eq!((membership.voters, membership.learners), (ids(3..=5), ids(1..=2)));
    for gone in 1..=2 {
        for _ in 0..2 {
            cluster.change(async |leader| leader.remove_learner(NodeId(gone)).await).await;
        }
    }
    let leader = cluster.leading().await;
    assert!(leader.membership().learners.is_empty());
    for gone in &mut cluster.nodes[..2] {
        gone.kill().await;
    }
    writer.some_more().await;
    writer.end(cluster.nodes[2].consensus()).await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_make_no_sense_are_refused() {
    let settings = RaftSettings::default();
    let mut cluster = Cluster::start(settings).await;
    cluster.propose_on(0).await;
    let learner = cluster.add_learner(settings).await;
    let leader = cluster.leading().await;
    let follower =
        cluster.nodes.iter().find(|node| !node.consensus().is_leader()).unwrap().consensus();
    let leader_id = leader.status().leader;
    let version = leader.membership().version;
    assert_eq!(
        follower.change_voters(follower.membership().version, &ids(1..=4)).await,
        Err(MembershipError::NotLeader(leader_id))
    );
    assert_eq!(leader.change_voters(version, &ids([])).await, Err(MembershipError::NoVoters));
    assert_eq!(
        leader.change_voters(version, &ids([1, 2, 9])).await,
        Err(MembershipError::NotMember(NodeId(9)))
    );
    assert_eq!(leader.remove_learner(NodeId(1)).await, Err(MembershipError::Voter(NodeId(1))));
    assert_eq!(leader.remove_learner(NodeId(9)).await, Ok(()));
    assert_eq!(leader.finish_change().await, Ok(()));
    assert!(matches!(
        leader.transfer_leadership_to(learner).await,
        Err(TransferError::NotVoter(node)) if node == learner
    ));
    // The same again is no change.
    leader.add_learner(learner, "elsewhere:1").await.unwrap();
    assert_eq!(leader.membership().version, version);

    // Of two decisions on the same membership one counts.
    leader.change_voters(version, &ids([1, 2, 4])).await.unwrap();
    assert_eq!(
        leader.change_voters(version, &ids([1, 3, 4])).await,
        Err(MembershipError::Outdated)
    );
    assert_eq!(leader.membership().voters, ids([1, 2, 4]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_gets_a_snapshot_when_the_log_begins_too_late_for_it() {
    let settings = RaftSettings {
        snapshot_every_entries: 50,
        snapshot_pause_ms: 0,
        keep_entries: 60,
        ..RaftSettings::default()
    };
    let mut cluster = Cluster::founded(settings).await;
    cluster.write_until_purged(0, 20).await;
    let writer = Writer::start(cluster.nodes[0].consensus().clone());
    let learner = cluster.add_learner(settings).await;
    writer.some_more().await;
    let status = cluster.nodes[1].consensus().status();
    assert!(status.snapshot_index > 20, "{status:?}");
    let leader = cluster.leading().await;
    assert!(leader.membership().progress[&learner].silent_for.is_some());
    cluster.change_voters(&ids(1..=2)).await;
    writer.some_more().await;
    writer.end(cluster.nodes[1].consensus()).await;
    cluster.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_voter_is_replaced_in_one_change() {
    let settings = RaftSettings::default();
    let mut cluster = Cluster::start(settings).await;
    cluster.add_learner(settings).await;
    let leader = cluster.leader().await;
    let (dead, other) = ((leader + 1) % 3, (leader + 2) % 3);
    cluster.nodes[dead].kill().await;
    let writer = Writer::start(cluster.nodes[leader].consensus().clone());
    let voters = [leader, other, 3].map(|position| cluster.nodes[position].id.0);
    let consensus = cluster.nodes[leader].consensus();
    consensus.change_voters(consensus.membership().version, &ids(voters)).await.unwrap();
    writer.some_more().await;

    // The newcomer's vote counts: without it there would be no majority now.
    cluster.nodes[other].kill().await;
    writer.some_more().await;
    writer.end(cluster.nodes[3].consensus()).await;

    // The dead one comes back as a learner.
    cluster.nodes[dead].start().await;
    cluster.nodes[other].start().await;
    cluster.assert_equal().await;
    let membership = cluster.leading().await.membership();
    assert_eq!(membership.learners, BTreeSet::from([cluster.nodes[dead].id]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_was_cut_off_by_the_death_of_the_leader_is_finished() {
    let settings = RaftSettings::default();
    let mut cluster = Cluster::start(settings).await;
    cluster.add_learner(settings).await;
    cluster.add_learner(settings).await;
    let leader = cluster.leader().await;
    // The first step reaches the old majority, but not one of the new voters.
    cluster.nodes[3].kill().await;
    cluster.nodes[4].kill().await;
    let changing = tokio::spawn({
        let consensus = cluster.nodes[leader].consensus().clone();
        let voters = ids([cluster.nodes[leader].id.0, 4, 5]);
        async move { consensus.change_voters(consensus.membership().version, &voters).await }
    });
    eventually("the others have the first step", || {
        cluster.nodes[..3].iter().all(|node| node.consensus().membership().joint)
    })
    .await;
    assert!(!cluster.nodes[leader].consensus().membership().committed);
    cluster.nodes[leader].kill().await;
    changing.abort();

    cluster.nodes[3].start().await;
    cluster.nodes[4].start().await;
    cluster.propose_on((leader + 1) % 3).await;
    let consensus = cluster.leading().await;
    let membership = consensus.membership();
    assert!(membership.joint && membership.committed, "{membership:?}");
    assert_eq!(membership.voters_before, ids(1..=3));
    assert_eq!(
        consensus.change_voters(membership.version, &ids(1..=3)).await,
        Err(MembershipError::Unfinished)
    );
    consensus.finish_change().await.unwrap();
    let expected = ids([cluster.nodes[leader].id.0, 4, 5]);
    eventually("the change is finished everywhere", || {
        cluster.running().all(|consensus| {
            let membership = consensus.membership();
            !membership.joint && membership.voters == expected
        })
    })
    .await;
    eventually("one that votes leads", || {
        cluster.nodes[3..].iter().any(|node| node.consensus().is_leader())
    })
    .await;
    cluster.propose_on(3).await;
    cluster.nodes[leader].start().await;
    cluster.assert_equal().await;
}
