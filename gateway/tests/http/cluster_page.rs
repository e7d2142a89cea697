//! How the node and the cluster are.

use axum::http::StatusCode;
use gateway::api::{Cluster, NodeStatus, Readiness};
use gateway::backend::DrainObservation;
use metrics_exporter_prometheus::PrometheusBuilder;

use crate::site::{Site, path};

#[tokio::test]
async fn a_node_is_alive_and_ready_or_says_why_not() {
    let site = Site::new();
    site.get("/healthz").await.expect(StatusCode::OK);
    let ready: Readiness = site.get("/readyz").await.expect(StatusCode::OK).json();
    assert_eq!(ready, Readiness { ready: true, reasons: vec![] });
    site.memory.not_ready.lock().unwrap().push("no leader".to_owned());
    let not: Readiness = site.get("/readyz").await.expect(StatusCode::SERVICE_UNAVAILABLE).json();
    assert_eq!(not, Readiness { ready: false, reasons: vec!["no leader".to_owned()] });
    site.get("/healthz").await.expect(StatusCode::OK);
}

#[tokio::test]
async fn metrics_are_prometheus_text() {
    let answer = Site::new().get("/metrics").await.expect(StatusCode::OK);
    assert!(answer.header("content-type").starts_with("text/plain; version=0.0.4"));
    assert!(answer.text().contains("up 1"));
}

#[test]
fn requests_are_counted_by_route_and_not_by_address() {
    let recorder = PrometheusBuilder::new().build_recorder();
    let handle = recorder.handle();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorder, || {
        runtime.block_on(async {
            let site = Site::new();
            let video = site.video().await;
            for path in
                [path(&video), path(&video), "/api/v1/videos/unknown".into(), "/nothing".into()]
            {
                site.get(&path).await;
            }
        });
    });
    let text = handle.render();
    for line in [
        r#"reelraft_http_requests_total{route="/api/v1/videos/{id}",status="2xx"} 2"#,
        r#"reelraft_http_requests_total{route="/api/v1/videos/{id}",status="4xx"} 1"#,
        r#"reelraft_http_requests_total{route="other",status="4xx"} 1"#,
        "reelraft_upload_bytes_total 1000",
        "reelraft_uploads 0",
    ] {
        assert!(text.lines().any(|known| known == line), "{line} in {text}");
    }
}

#[tokio::test]
async fn the_cluster_has_all_fields_of_the_contract() {
    let site = Site::new();
    site.video().await;
    let answer = site.get("/api/v1/cluster").await.expect(StatusCode::OK);
    let mut json: serde_json::Value = answer.json();
    // Not in the contract, and grows with what nodes tell.
    let store = json["nodes"][0].as_object_mut().unwrap().remove("store").unwrap();
    assert_eq!(store["groups"], 7);
    assert_eq!(
        json,
        serde_json::json!({
            "cluster_id": "09".repeat(16),
            "self": 7,
            "leader": 7,
            "term": 3,
            "voters": [7],
            "layout_epoch": 1,
            "under_replicated_blocks": 2,
            "nodes": [{
                "id": 7, "name": "seven", "zone": "a", "roles": ["store", "gateway", "transcoder"], "status": "up",
                "voter": true, "http_url": "http://127.0.0.1:8080", "rpc_addr": "127.0.0.1:9080", "version": "0.1.0",
                "applied_index": site.memory.index(), "blocks": 4, "bytes": 5, "capacity_bytes": 1u64 << 30,
                "last_seen_seconds": 1.5,
            }],
            "repair": {
                "queued_blocks": 6, "bytes_per_second": 0, "eta_seconds": null, "waiting_for": null,
                "paused_by": null,
                "counted": {
                    "seconds_ago": 0, "layout_epoch": 0, "blocks": 0, "copies": 12, "lacking": 2, "unknown": 0,
                },
            },
            "groups": {"settled": 1000, "moving": 20, "releasing": 4},
            "garbage": {"waiting_blocks": 3, "waiting_bytes": 30, "backlog_blocks": 0},
            "jobs": {"queued": 1, "running": 0},
            "findings": [{
                "severity": "warning", "code": "disk_low", "node": 7, "summary": "the disk is almost full",
                "remedy": "Free some space.",
            }],
        })
    );
    assert_eq!(answer.json::<Cluster>().nodes[0].status, NodeStatus::Up);
}

#[tokio::test]
async fn a_node_that_is_drained_says_what_it_waits_for() {
    let site = Site::new();
    *site.memory.drain.lock().unwrap() = Some(DrainObservation {
        groups: 512,
        copies_missing: None,
        votes: true,
        uploads: 2,
        stuck: Some("add a node first".to_owned()),
        waiting_for: vec!["it has a vote".to_owned()],
        ..DrainObservation::default()
    });
    let cluster: serde_json::Value =
        site.get("/api/v1/cluster").await.expect(StatusCode::OK).json();
    let drain = &cluster["nodes"][0]["drain"];
    assert_eq!(
        *drain,
        serde_json::json!({
            "groups": 512, "copies_missing": null, "leads": false, "votes": true, "jobs": 0, "uploads": 2,
            "stuck": "add a node first", "waiting_for": ["it has a vote"],
        })
    );
    // And the documentation knows all of it.
    let document: serde_json::Value =
        site.get("/api/openapi.json").await.expect(StatusCode::OK).json();
    let documented = &document["components"]["schemas"]["Drain"]["properties"];
    for field in drain.as_object().unwrap().keys() {
        assert!(documented[field].is_object(), "{field}: {documented}");
    }
}

#[tokio::test]
async fn the_site_says_what_it_takes() {
    let json: serde_json::Value =
        Site::new().get("/api/v1/site").await.expect(StatusCode::OK).json();
    assert_eq!(
        json,
        serde_json::json!({
            "name": "Reelraft", "version": env!("CARGO_PKG_VERSION"),
            "max_upload_bytes": 8 << 20, "anonymous_upload": true,
        })
    );
}
