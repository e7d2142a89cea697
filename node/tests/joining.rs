//! Nodes that join a cluster, and everything that stands in their way.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends with the first thing that is not as it should be"
)]

mod support;

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

use support::*;

/// A cluster of one.
fn founder(home: &Path, name: &str) -> Node {
    let node = Node::start(&home.join(name));
    node.init();
    node
}

fn wait_until_all_are_up(node: &Node, count: usize) -> serde_json::Value {
    wait_for(&format!("{count} nodes to have their part"), || {
        let (_, cluster) = get(&format!("{}/api/v1/cluster", node.http))?;
        let up = cluster["nodes"].as_array()?.iter().filter(|node| node["status"] == "up").count();
        (up == count).then_some(cluster)
    })
}

#[test]
fn three_nodes_come_together_by_hand() {
    let home = tempfile::tempdir().unwrap();
    let first = founder(home.path(), "one");

    let token = first.token(&["--uses", "2"]);
    let second = Node::start(&home.path().join("two"));
    let third = Node::start(&home.path().join("three"));
    let joined = second.join(&token, &first.rpc);
    assert!(joined.status.success(), "{}", error_of(&joined));
    assert!(String::from_utf8_lossy(&joined.stdout).contains("node 2"), "{joined:?}");
    // Any member lets nodes in.
    let joined = third.join(&token, &second.rpc);
    assert!(joined.status.success(), "{}", error_of(&joined));

    wait_until_all_are_up(&first, 3);
    for node in [&first, &second, &third] {
        wait_until_ready(&node.http);
    }
    let cluster = wait_for("three voters", || {
        let (_, cluster) = get(&format!("{}/api/v1/cluster", third.http))?;
        (cluster["voters"] == serde_json::json!([1, 2, 3])).then_some(cluster)
    });
    assert!(cluster["leader"].is_number(), "{cluster}");
    // What was handed out is listed, and is used up.
    let tokens = first.admin_json(&["token", "list"]);
    assert_eq!(tokens[0]["state"], "used", "{tokens}");
    assert_eq!(tokens[0]["nodes"], serde_json::json!([2, 3]), "{tokens}");
    assert!(!token.contains(tokens[0]["id"].as_str().unwrap()));

    // The first one may go now: it was a member like any other.
    first.process.kill();
    wait_for("the other two to take writes", || {
        let url = format!("{}/api/v1/videos?title=Later", second.http);
        let (status, _) = http("POST", &url, Some(("video/mp4", noise(1000))))?;
        (status == 201).then_some(())
    });
}

#[test]
fn tokens_let_in_whom_they_are_for() {
    let home = tempfile::tempdir().unwrap();
    let first = founder(home.path(), "one");
    let second = Node::start(&home.path().join("two"));
    let to = &first.rpc;

    // Texts that are none, and tokens that nobody made.
    let token = first.token(&[]);
    assert!(second.cannot_join("hello", to).contains("begins with rrj1_"));
    assert!(second.cannot_join(&token[..token.len() - 3], to).contains("was all of it copied?"));
    let swapped = if token.ends_with('A') { "B" } else { "A" };
    let wrong = format!("{}{swapped}", &token[..token.len() - 1]);
    assert!(second.cannot_join(&wrong, to).contains("no such token"));

    // Expired, revoked, for something else.
    let brief = first.token(&["--expires", "1s"]);
    wait_for("the token to expire", || {
        let tokens = first.admin_json(&["token", "list"]);
        tokens.as_array()?.iter().any(|token| token["state"] == "expired").then_some(())
    });
    let expired = second.cannot_join(&brief, to);
    assert!(expired.contains("has expired"), "{expired}");
    let revoked = first.admin_json(&["token", "create"]);
    let gone = first.admin(&["token", "revoke", &revoked["id"].as_str().unwrap()[..12]]);
    assert!(gone.status.success(), "{}", error_of(&gone));
    let refused = second.cannot_join(revoked["token"].as_str().unwrap(), to);
    assert!(refused.contains("perhaps it was revoked"), "{refused}");
    let again = first.admin(&["token", "revoke", revoked["id"].as_str().unwrap()]);
    assert!(error_of(&again).contains("there is no token"), "{}", error_of(&again));
    let gateways = first.token(&["--roles", "gateway"]);
    let refused = second.cannot_join(&gateways, to);
    assert!(refused.contains("role store is not among"), "{refused}");
    let never = first.admin(&["token", "create", "--uses", "0"]);
    assert!(error_of(&never).contains("lets in 1 to"), "{}", error_of(&never));

    // Nothing of this has used it up. Once it has let a node in, it is.
    let joined = second.join(&token, to);
    assert!(joined.status.success(), "{}", error_of(&joined));
    let third = Node::start(&home.path().join("three"));
    let used = third.cannot_join(&token, to);
    assert!(used.contains("as many nodes as it may"), "{used}");

    // A name that somebody has.
    let namesake = Node::start_with(&home.path().join("four"), &["--name", "one"]);
    let refused = namesake.cannot_join(&first.token(&[]), to);
    assert!(refused.contains("node 1 has the name"), "{refused}");
}

#[test]
fn a_node_joins_the_cluster_that_its_token_is_for_and_no_other() {
    let home = tempfile::tempdir().unwrap();
    let ours = founder(home.path(), "ours");
    let theirs = founder(home.path(), "theirs");
    let node = Node::start(&home.path().join("new"));
    let token = ours.token(&[]);

    let refused = node.cannot_join(&token, &theirs.rpc);
    assert!(refused.contains("does not belong to the cluster that this token is for"), "{refused}");
    for (to, words) in [
        ("nowhere", "has the form host:port"),
        ("127.0.0.1:1", "nobody answers on 127.0.0.1:1"),
        (ours.http.trim_start_matches("http://"), "is it the HTTP port?"),
        // A node that is no member itself, here the one that wants to join.
        (&node.rpc, "hangs up"),
    ] {
        let refused = node.cannot_join(&token, to);
        assert!(refused.contains(words), "{to}: {refused}");
    }

    // A member stays where it is.
    let refused = theirs.cannot_join(&token, &ours.rpc);
    assert!(refused.contains("this node is node 1 of cluster"), "{refused}");

    // A node that could not be reached where it says it is.
    let astray =
        Node::start_with(&home.path().join("astray"), &["--rpc-advertise", "0.0.0.0:9080"]);
    let refused = astray.cannot_join(&token, &ours.rpc);
    assert!(refused.contains("rpc.advertise"), "{refused}");

    // In the end it joins, and a cluster is not founded by a member.
    let joined = node.join(&token, &ours.rpc);
    assert!(joined.status.success(), "{}", error_of(&joined));
    let refused = node.cannot_join(&token, &ours.rpc);
    assert!(refused.contains("this node is node 2 of cluster"), "{refused}");
    let init = node.admin(&["cluster", "init"]);
    assert!(error_of(&init).contains("this node is node 2 of cluster"), "{}", error_of(&init));
}

#[test]
fn a_join_that_broke_off_is_repeated_by_the_same_node() {
    let home = tempfile::tempdir().unwrap();
    let first = founder(home.path(), "one");
    let token = first.token(&[]);
    let dir = home.path().join("two");
    let second = Node::start(&dir);
    let joined = second.join(&token, &first.rpc);
    assert!(joined.status.success(), "{}", error_of(&joined));

    // As if it had died before it wrote down who it is: all it has is its key.
    let port = second.http.rsplit_once(':').unwrap().1.parse().unwrap();
    second.process.kill();
    let key = fs::read(dir.join("tls/node.key")).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    fs::create_dir_all(dir.join("tls")).unwrap();
    fs::write(dir.join("tls/node.key"), key).unwrap();
    let second = Node::start_on(&dir, port, &[]);
    let joined = second.join(&token, &first.rpc);
    assert!(joined.status.success(), "{}", error_of(&joined));
    assert!(String::from_utf8_lossy(&joined.stdout).contains("node 2"), "{joined:?}");
    assert_eq!(first.admin_json(&["token", "list"])[0]["nodes"], serde_json::json!([2]));
}

/// When the node is killed, after the command that it works on has been given: before, in the middle of, and after everything
/// that it writes down.
const KILLED_AFTER_MS: [u64; 4] = [10, 60, 150, 400];

/// Gives a command to the node, and kills it in the middle. It starts again on what it has written.
fn interrupted(node: Node, arguments: &[&str], after: Duration) -> Node {
    let (dir, port) = (node.dir.clone(), node.http.rsplit_once(':').unwrap().1.parse().unwrap());
    let mut command = reelraft()
        .args(arguments)
        .args(["--data-dir", dir.to_str().unwrap()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    std::thread::sleep(after);
    node.process.kill();
    command.wait().unwrap();
    Node::start_on(&dir, port, &[])
}

#[test]
fn a_founding_that_is_killed_anywhere_comes_to_its_end() {
    let home = tempfile::tempdir().unwrap();
    for after in KILLED_AFTER_MS {
        let node = Node::start(&home.path().join(format!("after-{after}")));
        let node = interrupted(node, &["cluster", "init"], Duration::from_millis(after));
        let again = node.admin(&["cluster", "init"]);
        let founded = again.status.success() || error_of(&again).contains("already");
        assert!(founded, "after {after} ms: {}", error_of(&again));
        wait_until_ready(&node.http);
        node.token(&[]);
        assert!(!node.dir.join("tls/authority.key").exists(), "after {after} ms");
    }
}

#[test]
fn a_join_that_is_killed_anywhere_comes_to_its_end() {
    let home = tempfile::tempdir().unwrap();
    let first = founder(home.path(), "one");
    let mut members = Vec::new();
    for (after, count) in KILLED_AFTER_MS.into_iter().zip(2..) {
        let token = first.token(&[]);
        let join = ["node", "join", &token, "--to", &first.rpc];
        let node = Node::start(&home.path().join(format!("after-{after}")));
        let node = interrupted(node, &join, Duration::from_millis(after));
        let again = node.admin(&join);
        let joined = again.status.success()
            || error_of(&again).contains(&format!("this node is node {count} of cluster"));
        assert!(joined, "after {after} ms: {}", error_of(&again));
        wait_until_ready(&node.http);
        // One node, however often it asked.
        let nodes = run_json(&["node", "list", "--json", "--url", &first.http]);
        assert_eq!(nodes.as_array().unwrap().len(), count, "after {after} ms: {nodes}");
        members.push(node);
    }
}

#[test]
fn two_operators_at_once_do_one_thing() {
    let home = tempfile::tempdir().unwrap();
    let first = Node::start(&home.path().join("one"));
    let second = Node::start(&home.path().join("two"));
    let at_once = |node: &Node, arguments: &[&str]| {
        let start = || {
            let mut command = reelraft();
            command.args(arguments).arg("--data-dir").arg(&node.dir);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        };
        [start(), start()].map(|operator| operator.wait_with_output().unwrap())
    };
    let founded = at_once(&first, &["cluster", "init"]);
    assert!(founded.iter().any(|output| output.status.success()), "{founded:?}");
    wait_until_ready(&first.http);

    let token = first.token(&["--uses", "2"]);
    let joined = at_once(&second, &["node", "join", &token, "--to", &first.rpc]);
    assert!(joined.iter().any(|output| output.status.success()), "{joined:?}");
    let refused = joined.iter().find(|output| !output.status.success()).unwrap();
    assert!(error_of(refused).contains("this node is node 2"), "{}", error_of(refused));
    let tokens = first.admin_json(&["token", "list"]);
    assert_eq!(tokens[0]["uses_left"], 1, "{tokens}");
}

#[test]
fn a_removed_node_is_told_and_never_comes_back() {
    let home = tempfile::tempdir().unwrap();
    let first = founder(home.path(), "one");
    // Nodes that hold no blocks can go at once. One that runs is told by the others; one that was away, when it comes back.
    let gateways = ["--roles", "gateway"];
    let token = first.token(&["--uses", "3", "--roles", "gateway"]);
    for (name, id, is_away) in [("two", "2", false), ("three", "3", true)] {
        let mut node = Node::start_with(&home.path().join(name), &gateways);
        let joined = node.join(&token, &first.rpc);
        assert!(joined.status.success(), "{}", error_of(&joined));
        wait_until_ready(&node.http);
        wait_until_all_are_up(&first, 2);
        let (dir, port) = (node.dir.clone(), node.http.rsplit_once(':').unwrap().1.to_owned());
        // It has to be known first that it holds nothing.
        let remove = || {
            wait_for("the node to be removed", || {
                let removed = first.admin(&["node", "remove", id]);
                removed.status.success().then_some(()).or_else(|| {
                    let error = error_of(&removed);
                    assert!(error.contains("cannot be removed now"), "{error}");
                    None
                })
            });
        };
        if is_away {
            assert!(node.process.stop().success());
            remove();
            // It may be told before anybody sees that it lives.
            node = Node::launch_on(&dir, port.parse().unwrap(), &gateways);
        } else {
            remove();
        }
        let status = wait_for("the node to end", || node.process.exited());
        assert!(!status.success());
        let again = run(&["serve", "--data-dir", dir.to_str().unwrap()]);
        assert!(!again.status.success());
        assert!(error_of(&again).contains("was removed from its cluster"), "{}", error_of(&again));

        // Its key is known. Only an empty directory is a new node.
        fs::remove_file(dir.join("removed")).unwrap();
        fs::remove_file(dir.join("node.json")).unwrap();
        for database in ["raft", "state", "content"] {
            fs::remove_dir_all(dir.join(database)).unwrap();
        }
        let node = Node::start_with(&dir, &gateways);
        let refused = node.cannot_join(&token, &first.rpc);
        assert!(refused.contains("was removed from the cluster"), "{refused}");
    }
    let new = Node::start_with(&home.path().join("four"), &gateways);
    let joined = new.join(&token, &first.rpc);
    assert!(joined.status.success(), "{}", error_of(&joined));
    assert!(String::from_utf8_lossy(&joined.stdout).contains("node 4"), "{joined:?}");
}

#[test]
fn certificates_are_renewed_by_themselves_while_the_cluster_works() {
    let home = tempfile::tempdir().unwrap();
    let brief = ["--set", "rpc.certificate_life=10s"];
    let first = Node::start_with(&home.path().join("one"), &brief);
    first.init();
    let second = Node::start_with(&home.path().join("two"), &brief);
    let joined = second.join(&first.token(&[]), &first.rpc);
    assert!(joined.status.success(), "{}", error_of(&joined));
    wait_until_all_are_up(&first, 2);

    // Each gets its next certificate when two thirds of the first one's life are over, and the one after that.
    let signed_at = |node: &Node| -> SystemTime {
        fs::metadata(node.dir.join("tls/node.crt")).unwrap().modified().unwrap()
    };
    for node in [&first, &second] {
        let before = signed_at(node);
        wait_for("a new certificate", || (signed_at(node) > before).then_some(()));
        let next = signed_at(node);
        wait_for("the certificate after that", || (signed_at(node) > next).then_some(()));
    }
    // The first ones have ended by now. New connections are made with those that followed.
    let third = Node::start_with(&home.path().join("three"), &brief);
    let joined = third.join(&first.token(&[]), &second.rpc);
    assert!(joined.status.success(), "{}", error_of(&joined));
    wait_until_all_are_up(&third, 3);
}
