//! Commands of all kinds, of which most make sense when they are made and some by the time they arrive.

use fastrand::Rng;

use crate::apply::REAP_BLOCKS_MAX;
use crate::catalog;
use crate::command::{Action, Claim, Reply};
use crate::features;
use crate::ids::{BlockHash, NodeId, TokenId, VideoId};
use crate::jobs::JobKind;
use crate::placement::{GROUPS, Layout};
use crate::tables::nodes::{NodeRow, Role};
use crate::tables::videos::{VideoError, Visibility};
use crate::testing::{
    JUST_NOW, TOKEN, admit, birth, block, copy_plan, encode_plan, mint_at, next_work, node,
};
use crate::view::View;

/// Videos are few, so that commands meet.
const VIDEOS: u8 = 4;

/// Claims that are remembered, stale ones included.
const CLAIMS_MAX: usize = 12;

/// What proposers want, and what they were given.
pub(super) struct Workload {
    claims: Vec<(NodeId, Claim)>,
    /// Whether nearly all is about uploads that are deleted and made again, with the same bytes.
    in_vain: bool,
}

impl Workload {
    pub(super) fn new(rng: &mut Rng) -> Self {
        Self { claims: Vec::new(), in_vain: rng.u8(0..4) == 0 }
    }

    /// Something to propose, by somebody who sees this catalog.
    pub(super) fn next(&self, rng: &mut Rng, view: &dyn View, now_ms: u64) -> Action {
        if self.in_vain && rng.u8(0..20) > 0 {
            return if rng.bool() { in_vain(rng, view) } else { of_garbage(rng, view, now_ms) };
        }
        match rng.u8(0..100) {
            0..40 => self.job(rng, view),
            40..68 => of_video(rng, view),
            68..75 => of_garbage(rng, view, now_ms),
            _ => administrative(rng, view, now_ms),
        }
    }

    /// An answer has arrived.
    pub(super) fn learn(&mut self, action: &Action, reply: &Reply) {
        if let (Action::ClaimJob { node, .. }, Reply::Claimed(Some(claim))) = (action, reply) {
            if self.claims.len() == CLAIMS_MAX {
                self.claims.remove(0);
            }
            self.claims.push((*node, claim.clone()));
        }
    }

    fn job(&self, rng: &mut Rng, view: &dyn View) -> Action {
        let claim = Action::ClaimJob {
            node: some_node(rng),
            kinds: JobKind::ALL.to_vec(),
            lease_ms: 10_000,
        };
        let Some((node, given)) = rng.choice(&self.claims).cloned() else {
            return claim;
        };
        let Claim { job, token } = given;
        match rng.u8(0..40) {
            0..12 => claim,
            12..31 => {
                let plan = if rng.bool() { copy_plan(3) } else { encode_plan(rng.u64(1..6)) };
                next_work(view, &given, plan, rng.u32(0..4))
            }
            31..33 => Action::RenewLeases { node, leases: vec![(job, token)], lease_ms: 10_000 },
            33..34 => Action::ReleaseJobs { node, jobs: vec![job] },
            34..35 => Action::ReleaseJobs { node, jobs: vec![] },
            35..37 => {
                let error = VideoError { code: "broken".into(), detail: "it broke".into() };
                Action::FailJob { job, token, permanent: rng.u8(0..4) == 0, error }
            }
            _ => {
                let copies = self.claims.iter().find(|(_, claim)| claim.job.kind == JobKind::Copy);
                let (_, Claim { job, token }) = copies.cloned().unwrap_or((node, given));
                Action::PrepareAgain { job, token }
            }
        }
    }
}

/// The next thing to do with an upload that will be deleted and made again.
fn in_vain(rng: &mut Rng, view: &dyn View) -> Action {
    let id = VideoId([VIDEOS + rng.u8(0..2); 16]);
    match catalog::video(view, id).expect("memory can be read") {
        None => Action::CreateVideo {
            id,
            title: "in vain".into(),
            description: String::new(),
            visibility: Visibility::Public,
            filename: None,
            announced_bytes: None,
            upload_key: None,
            keep_source: false,
        },
        Some(video) if video.source.received == 0 || rng.u8(0..3) == 0 => {
            let blocks = vec![block("the same again", 1000)];
            Action::AppendSource { id, offset: video.source.received, blocks, put_index: JUST_NOW }
        }
        Some(_) => Action::DeleteVideo { id, if_version: None },
    }
}

fn of_garbage(rng: &mut Rng, view: &dyn View, now_ms: u64) -> Action {
    let before_ms = now_ms.saturating_sub([0, 0, 1_000][rng.usize(0..3)]);
    if rng.u8(0..3) == 0 {
        return Action::ForgetBlocks { marked_before_ms: before_ms };
    }
    let hashes = catalog::waiting_blocks(view, before_ms, REAP_BLOCKS_MAX);
    let mut hashes = hashes.expect("memory can be read");
    if rng.u8(0..20) == 0 {
        // More than there may be.
        hashes = vec![BlockHash([0; 32]); REAP_BLOCKS_MAX + 1];
    }
    Action::ReapBlocks { hashes, unreferenced_before_ms: before_ms }
}

fn some_node(rng: &mut Rng) -> NodeId {
    NodeId(rng.u64(1..6))
}

fn of_video(rng: &mut Rng, view: &dyn View) -> Action {
    let number = rng.u8(0..VIDEOS);
    let id = VideoId([number; 16]);
    let present = catalog::video(view, id).expect("memory can be read");
    let if_version = match &present {
        Some(video) if rng.bool() => Some(video.version),
        Some(_) | None => None,
    };
    match rng.u8(0..32) {
        0..8 => Action::CreateVideo {
            id,
            title: format!("Video {number}"),
            description: String::new(),
            visibility: Visibility::Public,
            filename: None,
            announced_bytes: rng.bool().then_some(2000),
            upload_key: Some(format!("key-{}", rng.u8(0..VIDEOS))),
            keep_source: rng.bool(),
        },
        8..16 => {
            let offset = present.map_or(0, |video| video.source.received);
            let blocks = vec![block(&format!("{number} {offset}"), 1000)];
            Action::AppendSource { id, offset, blocks, put_index: JUST_NOW }
        }
        16..19 => Action::FinishSource { id },
        19..20 => {
            let error = VideoError { code: "gone".into(), detail: "it broke off".into() };
            Action::FailVideo { id, error }
        }
        20..24 => Action::EditVideo {
            id,
            if_version,
            title: Some(format!("title {}", rng.u8(..))),
            description: None,
            visibility: Some(Visibility::Unlisted),
        },
        24..26 => Action::DeleteVideo { id, if_version },
        _ => Action::CountViews { views: vec![(id, rng.u32(1..5)), (VideoId([9; 16]), 1)] },
    }
}

fn administrative(rng: &mut Rng, view: &dyn View, now_ms: u64) -> Action {
    let actor = ["ada", "grace"][rng.usize(0..2)].to_owned();
    let node_id = some_node(rng);
    let token = if rng.bool() { TOKEN } else { TokenId([rng.u8(1..3); 16]) };
    match rng.u8(0..25) {
        0..2 => {
            let row = node(node_id.0);
            let zone = format!("zone-{}", rng.u8(0..3));
            Action::RegisterNode { node: NodeRow { zone, ..row } }
        }
        2..3 => Action::SetLayout { layout: next_layout(view) },
        3..7 => mint_at(now_ms, token, &Role::ALL, rng.u32(1..3)),
        7..8 => Action::RevokeToken { token, actor },
        8..13 => admit(token, rng.u64(4..9)),
        13..15 => Action::DrainNode { node: node_id, actor },
        15..18 => Action::CancelDrain { node: node_id, actor },
        18..20 => Action::RemoveNode { node: node_id, force: rng.bool(), actor },
        20..22 => {
            let until_ms = rng.bool().then_some(now_ms + 100_000);
            Action::SetMaintenance { node: node_id, until_ms, actor }
        }
        22..24 => Action::RaiseFeatureLevel { level: rng.u32(1..=features::NEWEST + 1) },
        _ => birth(),
    }
}

/// The next layout, over all nodes; how well it is made does not matter here.
fn next_layout(view: &dyn View) -> Layout {
    let nodes = catalog::nodes(view).expect("memory can be read");
    let epoch = catalog::layout(view).expect("memory can be read").epoch() + 1;
    let holders = nodes.iter().map(|node| node.id).cycle().take(usize::from(GROUPS));
    Layout::new(epoch, 1, holders.collect()).expect("one holder for each group")
}
