//! How the node and the cluster are.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cluster::catalog;

use crate::api;
use crate::backend::{CopyCount, Finding, NodeObservation, StoreObservation};
use crate::consistency::Fresh;
use crate::docs::{ReadHeaders, ReadProblems};
use crate::error::ApiError;
use crate::state::Shared;

const NO_STORE: [(header::HeaderName, HeaderValue); 1] =
    [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];

/// The process is alive.
#[utoipa::path(get, path = "/healthz", tag = "cluster", responses((status = OK, content_type = "text/plain", body = String)))]
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether this node can serve.
#[utoipa::path(
    get, path = "/readyz", tag = "cluster",
    responses((status = OK, body = api::Readiness), (status = SERVICE_UNAVAILABLE, body = api::Readiness)),
)]
pub(crate) async fn readyz(State(gateway): State<Shared>) -> Response {
    let mut reasons = gateway.backend.not_ready_because();
    if gateway.stopping.is_cancelled() {
        reasons.push("the node is stopping".to_owned());
    }
    let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let readiness = api::Readiness { ready: reasons.is_empty(), reasons };
    (status, NO_STORE, Json(readiness)).into_response()
}

/// Metrics for Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "cluster", responses((status = OK, content_type = "text/plain; version=0.0.4", body = String)))]
pub(crate) async fn metrics(State(gateway): State<Shared>) -> Response {
    const EXPOSITION: HeaderValue =
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    (NO_STORE, [(header::CONTENT_TYPE, EXPOSITION)], gateway.backend.metrics()).into_response()
}

/// What this site is and takes.
#[utoipa::path(get, path = "/api/v1/site", tag = "cluster", responses((status = OK, body = api::Site)))]
pub(crate) async fn site(State(gateway): State<Shared>) -> Json<api::Site> {
    Json(api::Site {
        name: gateway.settings.site_name.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        max_upload_bytes: gateway.settings.upload_bytes_max,
        anonymous_upload: gateway.settings.anonymous_upload,
    })
}

/// The cluster as this node sees it.
#[utoipa::path(
    get, path = "/api/v1/cluster", tag = "cluster", params(ReadHeaders),
    responses((status = OK, body = api::Cluster), ReadProblems),
)]
pub(crate) async fn cluster(State(gateway): State<Shared>, _: Fresh) -> Result<Response, ApiError> {
    let seen = gateway.backend.observe();
    let jobs = catalog::jobs(&*gateway.backend.catalog())?;
    let backlogs = seen.nodes.iter().filter_map(|node| node.store.as_ref());
    let backlog_blocks = backlogs.map(|store| store.backlog.blocks).sum();
    let cluster = api::Cluster {
        cluster_id: if seen.cluster_id == [0; 16] {
            String::new()
        } else {
            seen.cluster_id.iter().map(|byte| format!("{byte:02x}")).collect()
        },
        this_node: seen.this_node,
        leader: seen.leader,
        term: seen.term,
        voters: seen.voters,
        layout_epoch: seen.layout_epoch,
        under_replicated_blocks: seen.under_replicated_blocks,
        nodes: seen.nodes.into_iter().map(node).collect(),
        repair: api::Repair {
            queued_blocks: seen.repair.queued_blocks,
            bytes_per_second: seen.repair.bytes_per_second,
            eta_seconds: seen.repair.eta_seconds,
            waiting_for: seen.repair.waiting_for,
            paused_by: seen.repair_paused_by,
            counted: seen.counted.map(counted),
        },
        groups: api::Groups {
            settled: seen.groups.settled,
            moving: seen.groups.moving,
            releasing: seen.groups.releasing,
        },
        garbage: api::Garbage {
            waiting_blocks: seen.waiting_garbage.blocks,
            waiting_bytes: seen.waiting_garbage.bytes,
            backlog_blocks,
        },
        jobs: api::Jobs { queued: jobs.queued, running: jobs.running },
        findings: seen.findings.into_iter().map(finding).collect(),
    };
    Ok((NO_STORE, Json(cluster)).into_response())
}

fn counted(count: CopyCount) -> api::CopyCount {
    api::CopyCount {
        seconds_ago: count.age.as_secs(),
        layout_epoch: count.layout_epoch,
        blocks: count.blocks,
        copies: count.copies,
        lacking: count.lacking,
        unknown: count.unknown,
    }
}

fn store(seen: StoreObservation) -> api::Store {
    api::Store {
        groups: seen.groups,
        missing_blocks: seen.missing_blocks,
        quarantined_blocks: seen.quarantined_blocks,
        queued_blocks: seen.repair.queued_blocks,
        repair_bytes_per_second: seen.repair.bytes_per_second,
        repair_eta_seconds: seen.repair.eta_seconds,
        repair_waiting_for: seen.repair.waiting_for,
        disk_free_bytes: seen.disk.map(|(free, _)| free),
        disk_total_bytes: seen.disk.map(|(_, total)| total),
        refuses_blocks: seen.refuses_blocks,
        allocated_bytes: seen.allocated_bytes,
        surplus_blocks: seen.surplus.map(|surplus| surplus.blocks),
        surplus_bytes: seen.surplus.map_or(0, |surplus| surplus.bytes),
        backlog_blocks: seen.backlog.blocks,
        scrub: seen.scrub.map(|scrub| api::Scrub {
            running: scrub.running,
            progress: f64::from(scrub.progress_millionths) / 1e6,
            bytes_per_second: scrub.bytes_per_second,
            eta_seconds: scrub.eta_seconds,
            age_seconds: scrub.age.map(|age| age.as_secs()),
            damaged_blocks: scrub.damaged_blocks,
        }),
    }
}

fn finding(found: Finding) -> api::Finding {
    api::Finding {
        severity: found.severity.into(),
        code: found.code.to_owned(),
        node: found.node,
        summary: found.summary,
        remedy: found.remedy,
    }
}

fn node(seen: NodeObservation) -> api::Node {
    api::Node {
        id: seen.node.id,
        name: seen.node.name,
        zone: seen.node.zone,
        roles: seen.node.roles.into_iter().map(Into::into).collect(),
        status: seen.status.into(),
        voter: seen.voter,
        http_url: seen.node.http_url,
        rpc_addr: seen.node.rpc_addr,
        version: seen.node.version,
        applied_index: seen.applied_index,
        blocks: seen.blocks,
        bytes: seen.bytes,
        capacity_bytes: seen.node.capacity_bytes,
        last_seen_seconds: seen.last_seen.as_secs_f64(),
        drain: seen.drain.map(|drain| api::Drain {
            groups: drain.groups,
            copies_missing: drain.copies_missing,
            leads: drain.leads,
            votes: drain.votes,
            jobs: drain.jobs,
            uploads: drain.uploads,
            stuck: drain.stuck,
            waiting_for: drain.waiting_for,
        }),
        store: seen.store.map(store),
    }
}
