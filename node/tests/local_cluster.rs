//! `reelraft dev`: three real nodes, started, watched, broken and stopped.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends with the first thing that is not as it should be"
)]

mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use support::*;

struct Dev {
    data: PathBuf,
    http_port: u16,
    process: Process,
}

impl Dev {
    fn start(data: &Path, first_port: u16, nodes: Option<&str>) -> Self {
        let (http, rpc) = (first_port.to_string(), (first_port + 3).to_string());
        let mut arguments =
            vec!["dev", "--data", data.to_str().unwrap(), "--http-port", &http, "--rpc-port", &rpc];
        if let Some(nodes) = nodes {
            arguments.extend(["--nodes", nodes]);
        }
        Self { data: data.to_owned(), http_port: first_port, process: Process::start(&arguments) }
    }

    fn url(&self, number: u16) -> String {
        format!("http://127.0.0.1:{}", self.http_port + number - 1)
    }

    fn dir(&self, number: u16) -> PathBuf {
        self.data.join(format!("node-{number}"))
    }

    fn pid(&self, number: u16) -> u32 {
        pid_in(&self.dir(number)).unwrap()
    }
}

fn upload_noise(url: &str) -> (u16, serde_json::Value) {
    http("POST", &format!("{url}/api/v1/videos?title=Noise"), Some(("video/mp4", noise(50_000))))
        .unwrap()
}

#[test]
fn three_nodes_start_survive_without_a_majority_as_readers_and_stop() {
    let home = tempfile::tempdir().unwrap();
    let ports = free_ports(6);
    let dev = Dev::start(home.path(), ports, Some("3"));
    assert_eq!(dev.process.line("ready"), format!("ready {}", dev.url(1)));

    // Ready means all of it: three nodes, a leader, a layout, and writes that work.
    let cluster = run_json(&["cluster", "status", "--json", "--url", &dev.url(2)]);
    assert_eq!(cluster["voters"], serde_json::json!([1, 2, 3]));
    assert!(cluster["layout_epoch"].as_u64().unwrap() >= 1, "{cluster}");
    for (node, number) in cluster["nodes"].as_array().unwrap().iter().zip(1..) {
        assert_eq!(node["status"], "up", "{cluster}");
        assert_eq!(node["name"], format!("node-{}", node["id"]), "{cluster}");
        assert_eq!(node["id"], number, "{cluster}");
    }
    assert_eq!(cluster["nodes"].as_array().unwrap().len(), 3);
    assert!(cluster["leader"].is_number(), "{cluster}");
    let (status, video) = upload_noise(&dev.url(3));
    assert_eq!(status, 201, "{video}");
    let id = video["id"].as_str().unwrap().to_owned();
    wait_for("every node to know why the video failed", || {
        (1..=3)
            .all(|number| {
                get(&format!("{}/api/v1/videos/{id}", dev.url(number)))
                    .is_some_and(|(_, video)| video["error"]["code"] == "not_a_video")
            })
            .then_some(())
    });

    // Without a majority: writes are refused soon, reads go on, and the others are seen to be gone.
    let survivor = 2;
    for number in [1, 3] {
        signal(dev.pid(number), Signal::KILL);
    }
    let asked = Instant::now();
    let (status, problem) = upload_noise(&dev.url(survivor));
    assert_eq!(status, 503, "{problem}");
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    let (status, _) = get(&format!("{}/api/v1/videos/{id}", dev.url(survivor))).unwrap();
    assert_eq!(status, 200);
    let (status, _) = get(&format!("{}/api/v1/videos", dev.url(survivor))).unwrap();
    assert_eq!(status, 200);
    wait_for("the cluster page to show who is gone", || {
        let (_, cluster) = get(&format!("{}/api/v1/cluster", dev.url(survivor)))?;
        let nodes = cluster["nodes"].as_array()?.clone();
        let suspects = nodes.iter().filter(|node| node["status"] != "up").count();
        (suspects == 2 && cluster["leader"].is_null()).then_some(())
    });

    // One of them comes back, by hand, and writes work again.
    let config = dev.dir(1).join("node.toml");
    let returned = Process::start(&["serve", "--config", config.to_str().unwrap()]);
    wait_until_ready(&dev.url(1));
    wait_for("writes to work again", || {
        let (status, _) = upload_noise(&dev.url(1));
        (status == 201).then_some(())
    });
    assert!(returned.stop().success());

    // What the supervisor started, it stops.
    let pid = dev.pid(survivor);
    assert!(dev.process.stop().success());
    assert!(!is_running(pid));

    // The same data continues, with as many nodes as it has.
    let dev = Dev::start(home.path(), ports, None);
    dev.process.line("ready");
    for number in 1..=3 {
        let (status, video) = get(&format!("{}/api/v1/videos/{id}", dev.url(number))).unwrap();
        assert_eq!((status, &video["error"]["code"]), (200, &serde_json::json!("not_a_video")));
    }

    // Nodes do not outlive their supervisor.
    let pids: Vec<u32> = (1..=3).map(|number| dev.pid(number)).collect();
    dev.process.kill();
    wait_for("the nodes to end with their supervisor", || {
        (!pids.iter().any(|pid| is_running(*pid))).then_some(())
    });
}

#[test]
fn a_cluster_of_one_grows_when_it_is_started_with_more() {
    let home = tempfile::tempdir().unwrap();
    let ports = free_ports(6);
    let dev = Dev::start(home.path(), ports, Some("1"));
    dev.process.line("ready");
    let cluster = run_json(&["cluster", "status", "--json", "--url", &dev.url(1)]);
    assert_eq!(cluster["voters"], serde_json::json!([1]));
    let (status, _) = upload_noise(&dev.url(1));
    assert_eq!(status, 201);
    assert!(dev.process.stop().success());

    let dev = Dev::start(home.path(), ports, Some("3"));
    dev.process.line("ready");
    let grown = run_json(&["cluster", "status", "--json", "--url", &dev.url(3)]);
    assert_eq!(grown["cluster_id"], cluster["cluster_id"]);
    assert_eq!(grown["voters"], serde_json::json!([1, 2, 3]));
    assert!(grown["nodes"].as_array().unwrap().iter().all(|node| node["status"] == "up"));
    let videos = run_json(&["video", "list", "--json", "--url", &dev.url(2)]);
    assert_eq!(videos.as_array().unwrap().len(), 1);
    assert!(dev.process.stop().success());
}

#[test]
fn a_port_in_use_stops_the_start_and_leaves_nothing_behind() {
    let home = tempfile::tempdir().unwrap();
    let first = free_ports(2);
    let _taken = std::net::TcpListener::bind(("127.0.0.1", first + 1)).unwrap();
    let http = first.to_string();
    let rpc = (first + 1).to_string();
    let data = home.path().join("data");
    let output = run(&[
        "dev",
        "--nodes",
        "1",
        "--data",
        data.to_str().unwrap(),
        "--http-port",
        &http,
        "--rpc-port",
        &rpc,
    ]);
    assert!(!output.status.success());
    assert!(error_of(&output).contains(&format!("127.0.0.1:{rpc}")), "{}", error_of(&output));
    assert!(!data.exists());
}
