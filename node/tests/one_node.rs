//! One node as a stranger meets it: before it belongs to anything, as a cluster of one, and after a restart.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends with the first thing that is not as it should be"
)]

mod support;

use std::fs;

use support::*;

#[test]
fn a_node_becomes_a_cluster_keeps_it_and_stops_when_asked() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("node");
    let node = Node::start(&dir);

    // Alone, it lives and says what it lacks.
    let (status, readiness) = get(&format!("{}/readyz", node.http)).unwrap();
    assert_eq!(status, 503);
    assert!(readiness["reasons"][0].as_str().unwrap().contains("no cluster"), "{readiness}");
    let (status, problem) =
        http("POST", &format!("{}/api/v1/videos", node.http), Some(("video/mp4", noise(100))))
            .unwrap();
    assert_eq!(status, 503, "{problem}");

    // It has no tokens to give, and founds a cluster once.
    let early = node.admin(&["token", "create"]);
    assert!(error_of(&early).contains("belongs to no cluster"), "{}", error_of(&early));
    let made = node.admin_json(&["cluster", "init"]);
    assert_eq!(made["node_id"], 1);
    wait_until_ready(&node.http);
    let again = node.admin(&["cluster", "init"]);
    assert!(!again.status.success());
    let words = format!("node 1 of cluster {} already", made["cluster_id"].as_str().unwrap());
    assert!(error_of(&again).contains(&words), "{}", error_of(&again));
    assert!(!dir.join("tls/authority.key").exists(), "the catalog has it");

    // What is no video is said to be none, and is listed.
    let file = home.path().join("noise.mp4");
    fs::write(&file, noise(300_000)).unwrap();
    let upload = run(&[
        "video",
        "upload",
        file.to_str().unwrap(),
        "--title",
        "Noise",
        "--wait",
        "--url",
        &node.http,
    ]);
    assert!(!upload.status.success());
    assert!(error_of(&upload).contains("not_a_video"), "{}", error_of(&upload));
    let videos = run_json(&["video", "list", "--json", "--url", &node.http]);
    assert_eq!(videos[0]["title"], "Noise");
    let id = videos[0]["id"].as_str().unwrap().to_owned();

    // One process at a time.
    let second = run(&["serve", "--data-dir", dir.to_str().unwrap()]);
    assert!(!second.status.success());
    assert!(error_of(&second).contains("in use by another node process"), "{}", error_of(&second));

    // It stops in order, and starts again as it was.
    let port = node.http.rsplit_once(':').unwrap().1.parse().unwrap();
    assert!(node.process.stop().success());
    assert_eq!(pid_in(&dir), None);
    assert!(!dir.join("admin.sock").exists());
    let node = Node::start_on(&dir, port, &[]);
    wait_until_ready(&node.http);
    let video = run_json(&["video", "show", &id, "--json", "--url", &node.http]);
    assert_eq!(video["error"]["code"], "not_a_video");
    let nodes = run_json(&["node", "list", "--json", "--url", &node.http]);
    assert_eq!(nodes[0]["name"], "node");
    assert_eq!(nodes[0]["status"], "up");
    let status = run(&["cluster", "status", "--url", &node.http]);
    assert!(String::from_utf8_lossy(&status.stdout).contains("leader 1"), "{status:?}");

    let deleted = run(&["video", "delete", &id, "--url", &node.http]);
    assert!(deleted.status.success(), "{}", error_of(&deleted));
    let gone = run(&["video", "show", &id, "--url", &node.http]);
    assert!(!gone.status.success());
    assert!(error_of(&gone).contains("unknown_video"), "{}", error_of(&gone));
}

#[test]
fn what_a_node_cannot_start_with_is_said_in_words() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("node");
    let dir = dir.to_str().unwrap();
    for (arguments, words) in [
        (vec!["serve", "--config", "/no/such/file.toml"], "/no/such/file.toml"),
        (vec!["serve", "--data-dir", dir, "--set", "http.speed=fast"], "http.speed"),
        (vec!["serve", "--data-dir", "/proc/nowhere"], "/proc/nowhere"),
        (vec!["cluster", "status", "--url", "http://127.0.0.1:1"], "nobody answers"),
        (vec!["cluster", "init", "--data-dir", dir], "no node runs on"),
        (vec!["token", "list", "--data-dir", dir], "there is no such directory"),
        (
            vec!["token", "list", "--data-dir", home.path().to_str().unwrap()],
            "it is no data directory",
        ),
        (vec!["token", "create", "--roles", "king", "--data-dir", dir], "store, gateway"),
        (vec!["video", "upload", "/no/such/clip.mp4"], "/no/such/clip.mp4"),
    ] {
        let output = run(&arguments);
        assert!(!output.status.success(), "{arguments:?}");
        assert!(error_of(&output).contains(words), "{arguments:?}: {}", error_of(&output));
    }

    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = run(&[
        "serve",
        "--data-dir",
        dir,
        "--http-listen",
        &address,
        "--rpc-listen",
        "127.0.0.1:0",
    ]);
    assert!(!output.status.success());
    assert!(error_of(&output).contains(&address), "{}", error_of(&output));

    let deep = home.path().join("d".repeat(120));
    let output = run(&["serve", "--data-dir", deep.to_str().unwrap()]);
    assert!(!output.status.success());
    assert!(error_of(&output).contains("choose a shorter data_dir"), "{}", error_of(&output));

    fs::create_dir_all(home.path().join("node/state")).unwrap();
    fs::write(home.path().join("node/state/CURRENT"), "x").unwrap();
    let output = run(&[
        "serve",
        "--data-dir",
        dir,
        "--http-listen",
        "127.0.0.1:0",
        "--rpc-listen",
        "127.0.0.1:0",
    ]);
    assert!(!output.status.success());
    assert!(error_of(&output).contains("node.json is missing"), "{}", error_of(&output));
}

#[test]
fn a_node_that_is_nobody_any_more_says_why() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("node");
    let node = Node::start(&dir);
    node.init();
    let port = node.http.rsplit_once(':').unwrap().1.parse::<u16>().unwrap();
    assert!(node.process.stop().success());
    let (http, rpc) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", port + 1));
    let start = || {
        let dir = dir.to_str().unwrap();
        let output =
            run(&["serve", "--data-dir", dir, "--http-listen", &http, "--rpc-listen", &rpc]);
        assert!(!output.status.success());
        error_of(&output)
    };

    // A certificate that is lost, damaged or another node's.
    let certificate = fs::read(dir.join("tls/node.crt")).unwrap();
    fs::remove_file(dir.join("tls/node.crt")).unwrap();
    assert!(start().contains("node.crt is missing"), "{}", start());
    fs::write(dir.join("tls/node.crt"), &certificate[..certificate.len() / 2]).unwrap();
    assert!(start().contains("node.crt is damaged"), "{}", start());
    fs::write(dir.join("tls/node.crt"), &certificate).unwrap();
    let identity = fs::read_to_string(dir.join("node.json")).unwrap();
    let other = identity.replace("\"node_id\": 1", "\"node_id\": 2");
    assert_ne!(other, identity);
    fs::write(dir.join("node.json"), other).unwrap();
    assert!(start().contains("certificate of node 1"), "{}", start());
    fs::write(dir.join("node.json"), identity).unwrap();

    // A node that was removed.
    fs::write(dir.join("removed"), "this node was removed\n").unwrap();
    assert!(start().contains("this node was removed"), "{}", start());
    fs::remove_file(dir.join("removed")).unwrap();

    let node = Node::start_on(&dir, port, &[]);
    wait_until_ready(&node.http);
}
