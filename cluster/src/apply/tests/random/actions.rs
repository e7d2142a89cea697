//! Commands at random, made up of few names and numbers, so that they meet.

use proptest::prelude::*;

use crate::command::{Action, LeaseToken, NewSegment};
use crate::features;
use crate::ids::{NodeId, TokenId, VideoId};
use crate::jobs::{JobId, JobKind};
use crate::plan::{Cuts, Lane, Plan};
use crate::tables::nodes::{NodeRow, Role};
use crate::tables::videos::{VideoError, Visibility};
use crate::testing::{
    TOKEN, admit, birth, block, copy_plan, encode_plan, node, plan_of, public_key, secret_of,
};

fn video_id() -> impl Strategy<Value = VideoId> {
    (0_u8..3).prop_map(|number| VideoId([number; 16]))
}

pub(super) fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0_u64..5, Just(1000), Just(4000), Just(u64::MAX), Just(u64::MAX - 1), any::<u64>()]
}

fn short_number() -> impl Strategy<Value = u32> {
    prop_oneof![0_u32..5, Just(u32::MAX), Just(u32::MAX - 1), any::<u32>()]
}

fn job_id() -> impl Strategy<Value = JobId> {
    (video_id(), prop::sample::select(JobKind::ALL.to_vec()), short_number())
        .prop_map(|(video, kind, piece)| JobId { video, kind, piece })
}

pub(super) fn plan() -> impl Strategy<Value = Plan> {
    let discovered = |plan: Plan| Plan { cuts: Cuts::Discovered, ..plan };
    prop_oneof![
        4 => (1_u64..12).prop_map(encode_plan),
        4 => (1_u64..12).prop_map(copy_plan),
        2 => Just(discovered(copy_plan(3))),
        1 => Just(discovered(encode_plan(3))),
        1 => Just(plan_of(&[("source", Lane::Copy)], 3)),
        1 => Just(plan_of(&[("audio", Lane::Encode)], 3)),
        1 => (number(), number(), short_number()).prop_map(|(duration, cut, scale)| {
            let mut plan = encode_plan(2);
            plan.duration_ms = Some(duration);
            plan.cuts = Cuts::Known(vec![0, cut]);
            for rendition in &mut plan.renditions {
                rendition.timescale = scale;
            }
            plan
        }),
    ]
}

fn segment() -> impl Strategy<Value = NewSegment> {
    (short_number(), number(), number(), short_number()).prop_map(
        |(number, start, duration, len)| {
            let block = block(&format!("any {len}"), len);
            NewSegment { number, start, duration, block }
        },
    )
}

/// Any command but a new layout and a video prepared again: those are made by the schedules of `simulation`.
pub(super) fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![2 => media_action(), 1 => administrative_action()]
}

/// What uploaders, people and workers ask for.
pub(super) fn media_action() -> impl Strategy<Value = Action> {
    let token = || number().prop_map(LeaseToken);
    let kinds = prop::collection::vec(prop::sample::select(JobKind::ALL.to_vec()), 0..3);
    let error = || VideoError { code: "any".into(), detail: "made up".into() };
    prop_oneof![
        (video_id(), prop::option::of(number()), any::<bool>()).prop_map(
            |(id, announced_bytes, keep_source)| Action::CreateVideo {
                id,
                title: "t".into(),
                description: String::new(),
                visibility: Visibility::Private,
                filename: None,
                announced_bytes,
                upload_key: keep_source.then(|| "shared".into()),
                keep_source,
            }
        ),
        (video_id(), number(), prop::collection::vec(short_number(), 0..3), number()).prop_map(
            |(id, offset, lens, put_index)| Action::AppendSource {
                id,
                offset,
                blocks: lens.into_iter().map(|len| block(&format!("any {len}"), len)).collect(),
                put_index,
            }
        ),
        video_id().prop_map(|id| Action::FinishSource { id }),
        video_id().prop_map(move |id| Action::FailVideo { id, error: error() }),
        (video_id(), prop::option::of(number())).prop_map(|(id, if_version)| {
            Action::EditVideo {
                id,
                if_version,
                title: Some("u".into()),
                description: None,
                visibility: Some(Visibility::Public),
            }
        }),
        (video_id(), prop::option::of(number()))
            .prop_map(|(id, if_version)| Action::DeleteVideo { id, if_version }),
        prop::collection::vec((video_id(), short_number()), 0..3)
            .prop_map(|views| Action::CountViews { views }),
        (0_u64..5, kinds, number()).prop_map(|(node, kinds, lease_ms)| Action::ClaimJob {
            node: NodeId(node),
            kinds,
            lease_ms
        }),
        (0_u64..5, prop::collection::vec((job_id(), token()), 0..3), number()).prop_map(
            |(node, leases, lease_ms)| Action::RenewLeases { node: NodeId(node), leases, lease_ms }
        ),
        (0_u64..5, prop::collection::vec(job_id(), 0..3))
            .prop_map(|(node, jobs)| Action::ReleaseJobs { node: NodeId(node), jobs }),
        (job_id(), token(), any::<bool>()).prop_map(move |(job, token, permanent)| {
            Action::FailJob { job, token, permanent, error: error() }
        }),
        (job_id(), token(), plan()).prop_map(|(job, token, plan)| Action::SetPlan {
            job,
            token,
            plan
        }),
        (job_id(), token(), 0_u16..5, prop::collection::vec(segment(), 0..3), number()).prop_map(
            |(job, token, rendition, segments, put_index)| Action::CommitSegments {
                job,
                token,
                rendition,
                init: None,
                segments,
                put_index
            }
        ),
        (job_id(), token(), prop::option::of(prop::collection::vec(number(), 0..4))).prop_map(
            |(job, token, discovered_cuts)| Action::FinishJob {
                job,
                token,
                discovered_cuts,
                source_end: None
            }
        ),
    ]
}

fn roles() -> impl Strategy<Value = Vec<Role>> {
    prop_oneof![
        3 => Just(Role::ALL.to_vec()),
        1 => prop::collection::vec(prop::sample::select(Role::ALL.to_vec()), 0..3),
    ]
}

fn node_row() -> impl Strategy<Value = NodeRow> {
    (0_u64..9, roles(), 0..=features::NEWEST + 1, 0_u64..9).prop_map(
        |(id, roles, feature_level, named_as)| NodeRow {
            roles,
            name: node(named_as).name,
            // Mostly a program of today.
            feature_level: if named_as == 0 { feature_level } else { features::NEWEST },
            ..node(id)
        },
    )
}

fn token_id() -> impl Strategy<Value = TokenId> {
    prop_oneof![2 => Just(TOKEN), 1 => Just(TokenId([1; 16])), 1 => Just(TokenId([2; 16]))]
}

fn actor() -> impl Strategy<Value = String> {
    prop_oneof![9 => Just("operator".to_owned()), 1 => Just(String::new())]
}

/// What operators, nodes that join and the leader ask for.
pub(super) fn administrative_action() -> impl Strategy<Value = Action> {
    let node_id = || prop_oneof![4 => 1_u64..5, 1 => 0_u64..9].prop_map(NodeId);
    // Around the times of these lives, and beyond.
    let time = || prop_oneof![3 => 1_700_000_000_000_u64..1_700_100_000_000, 1 => number()];
    let authority = |present: bool| {
        let Action::InitCluster { authority, founder, .. } = birth() else { unreachable!() };
        (authority.filter(|_| present), founder.filter(|_| present))
    };
    prop_oneof![
        (any::<[u8; 16]>(), any::<bool>()).prop_map(move |(cluster_id, present)| {
            let (authority, founder) = authority(present);
            Action::InitCluster { cluster_id, authority, founder }
        }),
        node_row().prop_map(|node| Action::RegisterNode { node }),
        (token_id(), roles(), time(), 0_u32..5, actor()).prop_map(
            |(token, roles, expires_ms, uses, actor)| Action::MintToken {
                token,
                secret_hash: secret_of(token),
                roles,
                expires_ms,
                uses,
                actor
            }
        ),
        (token_id(), actor()).prop_map(|(token, actor)| Action::RevokeToken { token, actor }),
        (token_id(), token_id(), 1_u64..9, node_row()).prop_map(|(token, secret, key, node)| {
            let (secret_hash, public_key_hash) = (secret_of(secret), public_key(key));
            Action::AdmitNode { token, secret_hash, public_key_hash, node }
        }),
        (token_id(), 4_u64..20).prop_map(|(token, id)| admit(token, id)),
        (node_id(), actor()).prop_map(|(node, actor)| Action::DrainNode { node, actor }),
        (node_id(), actor()).prop_map(|(node, actor)| Action::CancelDrain { node, actor }),
        (node_id(), any::<bool>(), actor()).prop_map(|(node, force, actor)| Action::RemoveNode {
            node,
            force,
            actor
        }),
        (node_id(), prop::option::of(time()), actor()).prop_map(|(node, until_ms, actor)| {
            Action::SetMaintenance { node, until_ms, actor }
        }),
        (any::<bool>(), actor()).prop_map(|(paused, actor)| Action::PauseRepair { paused, actor }),
        actor().prop_map(|actor| Action::StartScrub { actor }),
        (0..=features::NEWEST + 1).prop_map(|level| Action::RaiseFeatureLevel { level }),
        (prop::collection::vec(0_u64..4, 0..3), number()).prop_map(|(offsets, before)| {
            let hashes = offsets.iter().map(|offset| block(&format!("source {offset}"), 1).hash);
            Action::ReapBlocks { hashes: hashes.collect(), unreferenced_before_ms: before }
        }),
        number().prop_map(|marked_before_ms| Action::ForgetBlocks { marked_before_ms }),
    ]
}
