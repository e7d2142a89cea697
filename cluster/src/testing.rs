//! A cluster of three transcoders as tests see it: a catalog in memory, a log, and short words for what people and workers
//! do. After every command all invariants are checked.

use crate::apply::{Applied, TOKEN_USES_MAX, apply};
use crate::catalog;
use crate::command::{Action, BlockRef, Claim, Command, LeaseToken, NewSegment, Refusal, Reply};
use crate::features;
use crate::ids::{BlockHash, ClientId, NodeId, PublicKeyHash, SecretHash, TokenId, VideoId};
use crate::invariants;
use crate::jobs::{JobId, JobKind};
use crate::plan::{Cuts, Lane, Plan, RenditionIndex, RenditionPlan, TrackKind};
use crate::tables::authority::{AuthorityRow, PrivateKey};
use crate::tables::nodes::{NodeRow, Role};
use crate::tables::videos::{VideoError, VideoRow, Visibility};
use crate::view::{MemoryView, Transaction, View};

pub(crate) const LEASE_MS: u64 = 10_000;

/// The put index of blocks that were put after everything in the log.
pub(crate) const JUST_NOW: u64 = u64::MAX;

/// The token that lets nodes join, in the first hour.
pub(crate) const TOKEN: TokenId = TokenId([0x70; 16]);

/// What there is to ask for, by the words for logs: whoever wants to have seen everything counts on this.
pub(crate) const ACTION_NAMES: [&str; 29] = [
    "init_cluster",
    "register_node",
    "set_layout",
    "mint_token",
    "revoke_token",
    "admit_node",
    "drain_node",
    "cancel_drain",
    "remove_node",
    "set_maintenance",
    "raise_feature_level",
    "create_video",
    "append_source",
    "finish_source",
    "fail_video",
    "edit_video",
    "delete_video",
    "count_views",
    "claim_job",
    "renew_leases",
    "release_jobs",
    "fail_job",
    "set_plan",
    "commit_segments",
    "commit_thumbnail",
    "finish_job",
    "prepare_again",
    "reap_blocks",
    "forget_blocks",
];

const BIRTH_MS: u64 = 1_700_000_000_000;

pub(crate) struct World {
    pub(crate) view: MemoryView,
    /// Of the last log entry.
    pub(crate) index: u64,
    pub(crate) now_ms: u64,
    pub(crate) log: Vec<Command>,
}

impl World {
    /// Three members with all roles: a founder, and two that were admitted with [`TOKEN`].
    pub(crate) fn new() -> Self {
        let mut world = Self::unborn();
        world.done(birth());
        world.done(Action::RegisterNode { node: node(1) });
        world.done(mint(&world, TOKEN, &Role::ALL, TOKEN_USES_MAX));
        for id in 2..=3 {
            assert_eq!(world.apply(admit(TOKEN, id)), Reply::Admitted(NodeId(id)));
        }
        world
    }

    /// Three nodes with all roles in a cluster without an authority, as they were before there was admission.
    pub(crate) fn without_authority() -> Self {
        let mut world = Self::unborn();
        world.done(Action::InitCluster { cluster_id: [7; 16], authority: None, founder: None });
        for id in 1..=3 {
            world.done(Action::RegisterNode { node: node(id) });
        }
        world
    }

    /// Nothing at all.
    pub(crate) fn unborn() -> Self {
        Self { view: MemoryView::default(), index: 0, now_ms: BIRTH_MS, log: Vec::new() }
    }

    /// Applies a command of this test's one client.
    pub(crate) fn apply(&mut self, action: Action) -> Reply {
        let sequence = self.log.len() as u64;
        let client = ClientId([1; 16]);
        let command =
            Command { client, sequence, answered_below: sequence, time_ms: self.now_ms, action };
        self.apply_command(command).reply
    }

    /// Applies any command, and checks all invariants.
    pub(crate) fn apply_command(&mut self, command: Command) -> Applied {
        self.index += 1;
        let mut tx = Transaction::new(&self.view);
        let applied = apply(&mut tx, self.index, &command).unwrap();
        let batch = tx.into_batch();
        self.view.write(batch);
        self.log.push(command);
        let violations = invariants::check(&self.view).unwrap();
        assert!(
            violations.is_empty(),
            "after {:?}:\n{}",
            self.log.last(),
            violations.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
        );
        applied
    }

    /// Applies what must not be refused.
    #[track_caller]
    pub(crate) fn done(&mut self, action: Action) -> Reply {
        let reply = self.apply(action.clone());
        assert!(!matches!(reply, Reply::Refused(_)), "{action:?} came to {reply:?}");
        reply
    }

    /// Applies what must be refused, and must change nothing.
    #[track_caller]
    pub(crate) fn refused(&mut self, action: Action) -> Refusal {
        let before = self.lasting_rows();
        let reply = self.apply(action.clone());
        assert_eq!(self.lasting_rows(), before, "a refused command has changed something");
        match reply {
            Reply::Refused(refusal) => refusal,
            Reply::Done
            | Reply::Version(_)
            | Reply::Claimed(_)
            | Reply::Lost(_)
            | Reply::Admitted(_) => {
                panic!("{action:?} came to {reply:?}")
            }
        }
    }

    /// Everything but what a refused command changes too.
    pub(crate) fn lasting_rows(&self) -> MemoryView {
        use crate::view::TableId;

        self.view.without(&[TableId::System, TableId::Sessions, TableId::Replies, TableId::Audit])
    }

    pub(crate) fn wait(&mut self, ms: u64) {
        self.now_ms = self.now_ms.saturating_add(ms);
    }

    pub(crate) fn video(&self, id: VideoId) -> VideoRow {
        catalog::video(&self.view, id).unwrap().expect("the test has created it")
    }

    pub(crate) fn create(&mut self, number: u8, announced_bytes: Option<u64>) -> VideoId {
        let id = VideoId([number; 16]);
        self.done(Action::CreateVideo {
            id,
            title: format!("Video {number}"),
            description: String::new(),
            visibility: Visibility::Public,
            filename: Some("a.mp4".into()),
            announced_bytes,
            upload_key: Some(format!("key-{number}")),
            keep_source: false,
        });
        id
    }

    pub(crate) fn append(&mut self, id: VideoId, bytes: u32) {
        let offset = self.video(id).source.received;
        let blocks = vec![block(&format!("source {id} {offset}"), bytes)];
        self.done(Action::AppendSource { id, offset, blocks, put_index: JUST_NOW });
    }

    /// A video of 1000 bytes, all of them there.
    pub(crate) fn upload(&mut self, number: u8) -> VideoId {
        let id = self.create(number, Some(1000));
        self.append(id, 1000);
        self.done(Action::FinishSource { id });
        id
    }

    /// An upload with this plan.
    pub(crate) fn upload_with_plan(&mut self, number: u8, plan: Plan) -> VideoId {
        let id = self.upload(number);
        self.plan(id, plan);
        id
    }

    /// Does the prepare job of a video that is the only one to be prepared.
    pub(crate) fn plan(&mut self, id: VideoId, plan: Plan) {
        let claim = self.claim(1, &[JobKind::Prepare]).expect("there is a job to prepare");
        assert_eq!(claim.job.video, id);
        self.done(Action::SetPlan { job: claim.job, token: claim.token, plan });
    }

    pub(crate) fn claim(&mut self, node: u64, kinds: &[JobKind]) -> Option<Claim> {
        let action =
            Action::ClaimJob { node: NodeId(node), kinds: kinds.to_vec(), lease_ms: LEASE_MS };
        let Reply::Claimed(claim) = self.done(action) else {
            panic!("a claim is answered with a claim");
        };
        claim
    }

    pub(crate) fn claim_any(&mut self, node: u64) -> Option<Claim> {
        self.claim(node, &JobKind::ALL)
    }

    pub(crate) fn finish(&mut self, claim: &Claim) {
        self.done(finish(claim));
    }

    pub(crate) fn fail(&mut self, claim: &Claim) {
        let error = VideoError { code: "crashed".into(), detail: "signal 11".into() };
        self.done(Action::FailJob { job: claim.job, token: claim.token, permanent: false, error });
    }

    /// Commits segments of `seconds` each.
    pub(crate) fn commit(
        &mut self,
        claim: &Claim,
        rendition: RenditionIndex,
        numbers: std::ops::Range<u32>,
        seconds: u64,
    ) {
        self.done(commit(claim, rendition, numbers, seconds));
    }

    /// Commits all that a claim of a plan with 4 s segments asks for, and finishes it.
    pub(crate) fn work(&mut self, claim: &Claim) {
        let video = self.video(claim.job.video);
        let plan = video.plan.expect("there is a plan");
        let numbers = match (claim.job.kind, &plan.cuts) {
            (JobKind::Piece, _) => plan.piece(claim.job.piece).expect("there is such a piece"),
            (_, Cuts::Known(cuts)) => 0..cuts.len() as u32,
            (_, Cuts::Discovered) => 0..3,
        };
        if claim.job.kind == JobKind::Thumbnail {
            let block = block("poster", 100);
            let (job, token) = (claim.job, claim.token);
            self.done(Action::CommitThumbnail { job, token, block, put_index: JUST_NOW });
        }
        for (index, rendition) in plan.indexed() {
            if rendition.made_by() == claim.job.kind {
                self.commit(claim, index, numbers.clone(), 4);
            }
        }
        self.finish(claim);
    }

    /// Lets node 1 work until nothing is left to claim. The jobs in the order in which they were done.
    pub(crate) fn work_off(&mut self) -> Vec<JobId> {
        let mut done = Vec::new();
        while let Some(claim) = self.claim_any(1) {
            self.work(&claim);
            done.push(claim.job);
        }
        done
    }
}

pub(crate) fn birth() -> Action {
    let authority = AuthorityRow {
        certificate_der: vec![1; 400],
        key_der: PrivateKey(vec![2; 100]),
        created_ms: BIRTH_MS,
    };
    Action::InitCluster {
        cluster_id: [7; 16],
        authority: Some(authority),
        founder: Some(public_key(1)),
    }
}

/// The key that node `id` has in these tests.
pub(crate) fn public_key(id: u64) -> PublicKeyHash {
    PublicKeyHash::of(&id.to_be_bytes())
}

/// The hash of the secret that each token has in these tests.
pub(crate) fn secret_of(token: TokenId) -> SecretHash {
    SecretHash::of(&token.0)
}

/// A token for an hour.
pub(crate) fn mint(world: &World, token: TokenId, roles: &[Role], uses: u32) -> Action {
    mint_at(world.now_ms, token, roles, uses)
}

/// A token for an hour from `now_ms` on.
pub(crate) fn mint_at(now_ms: u64, token: TokenId, roles: &[Role], uses: u32) -> Action {
    Action::MintToken {
        token,
        secret_hash: secret_of(token),
        roles: roles.to_vec(),
        expires_ms: now_ms.saturating_add(3_600_000),
        uses,
        actor: "operator".into(),
    }
}

/// The node that these tests call `id` joins. It gets that id if it is the next one.
pub(crate) fn admit(token: TokenId, id: u64) -> Action {
    Action::AdmitNode {
        token,
        secret_hash: secret_of(token),
        public_key_hash: public_key(id),
        node: NodeRow { id: NodeId(0), ..node(id) },
    }
}

pub(crate) fn node(id: u64) -> NodeRow {
    NodeRow {
        id: NodeId(id),
        name: format!("node-{id}"),
        zone: format!("zone-{id}"),
        roles: vec![Role::Store, Role::Gateway, Role::Transcoder],
        http_url: format!("http://127.0.0.1:{}", 8080 + id),
        rpc_addr: format!("127.0.0.1:{}", 9080 + id),
        version: "0.1.0".into(),
        capacity_bytes: 1 << 40,
        feature_level: features::NEWEST,
    }
}

pub(crate) fn block(content: &str, len: u32) -> BlockRef {
    BlockRef { hash: BlockHash::of(content.as_bytes()), len }
}

pub(crate) fn finish(claim: &Claim) -> Action {
    Action::FinishJob {
        job: claim.job,
        token: claim.token,
        discovered_cuts: None,
        source_end: None,
    }
}

pub(crate) fn commit(
    claim: &Claim,
    rendition: RenditionIndex,
    numbers: std::ops::Range<u32>,
    seconds: u64,
) -> Action {
    let segments = numbers
        .map(|number| NewSegment {
            number,
            start: u64::from(number) * seconds * 1000,
            duration: seconds * 1000,
            block: block(&format!("{} {rendition} {number}", claim.job.video), 5000),
        })
        .collect();
    let init = block(&format!("init {rendition}"), 700);
    Action::CommitSegments {
        job: claim.job,
        token: claim.token,
        rendition,
        init: Some((init, "avc1.64001f".into())),
        segments,
        put_index: JUST_NOW,
    }
}

/// What a worker would do next: its plan, some of its segments in any order, its poster, or the end.
pub(crate) fn next_work(view: &dyn View, claim: &Claim, new_plan: Plan, part: u32) -> Action {
    let &Claim { job, token } = claim;
    let plan = catalog::video(view, job.video).unwrap().and_then(|video| video.plan);
    let Some(plan) = plan else {
        return Action::SetPlan { job, token, plan: new_plan };
    };
    if job.kind == JobKind::Thumbnail && part > 0 {
        let block = block("poster", 10);
        return Action::CommitThumbnail { job, token, block, put_index: JUST_NOW };
    }
    let numbers = match (&plan.cuts, plan.piece(job.piece)) {
        (_, Some(piece)) if job.kind == JobKind::Piece => piece,
        (Cuts::Known(cuts), _) => 0..cuts.len() as u32,
        (Cuts::Discovered, _) => 0..4,
    };
    let missing: Vec<_> = plan
        .indexed()
        .filter(|(_, rendition)| rendition.made_by() == job.kind)
        .filter(|(index, _)| {
            let present = catalog::segments(view, job.video, *index, numbers.start, numbers.end);
            present.unwrap().len() < numbers.len()
        })
        .map(|(index, _)| index)
        .collect();
    match missing.get(part as usize % missing.len().max(1)) {
        Some(rendition) => {
            // From some number on: leaves gaps, and fills them later.
            let from =
                if part == 3 { numbers.start + numbers.len() as u32 / 2 } else { numbers.start };
            commit(claim, *rendition, from..numbers.end, 4)
        }
        None => {
            let discovered = job.kind == JobKind::Copy && plan.cuts == Cuts::Discovered;
            let discovered_cuts = discovered.then(|| vec![0, 4000, 8000, 12_000]);
            Action::FinishJob { job, token, discovered_cuts, source_end: None }
        }
    }
}

pub(crate) fn rendition(name: &str, lane: Lane) -> RenditionPlan {
    let kind = if name == "audio" { TrackKind::Audio } else { TrackKind::Video };
    let (width, height) = if name == "audio" { (0, 0) } else { (640, 360) };
    RenditionPlan {
        name: name.into(),
        kind,
        lane,
        width,
        height,
        frame_rate_millis: 25_000,
        bitrate_max: 800_000,
        timescale: 1000,
    }
}

/// A plan of so many segments of 4 s, in milliseconds, for these renditions.
pub(crate) fn plan_of(renditions: &[(&str, Lane)], segments: u64) -> Plan {
    Plan {
        duration_ms: Some(segments * 4000),
        width: 640,
        height: 360,
        renditions: renditions.iter().map(|(name, lane)| rendition(name, *lane)).collect(),
        cuts: Cuts::Known((0..segments).map(|number| number * 4000).collect()),
        recipe: vec![1, 2, 3],
    }
}

/// Two encoded rungs and encoded sound: renditions 0, 1 and 2.
pub(crate) fn encode_plan(segments: u64) -> Plan {
    plan_of(&[("360p", Lane::Encode), ("720p", Lane::Encode), ("audio", Lane::Encode)], segments)
}

/// Copied pictures and sound and one encoded rung: renditions 0, 1 and 2.
pub(crate) fn copy_plan(segments: u64) -> Plan {
    plan_of(&[("source", Lane::Copy), ("audio", Lane::Copy), ("360p", Lane::Encode)], segments)
}

/// A token that no claim has given.
pub(crate) fn stale(claim: &Claim) -> Claim {
    Claim { job: claim.job, token: LeaseToken(claim.token.0 + 1_000_000) }
}
