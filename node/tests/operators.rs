//! Operators who make mistakes, and several of them at once. Whatever they do ends in a clear message and a cluster that works.

#![allow(
    clippy::unwrap_used,
    reason = "a test ends with the first thing that is not as it should be"
)]

mod support;

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Output, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::*;

/// The exit statuses of `node drain --wait` that its help names, and that of a shell for Ctrl-C.
const CANCELLED: i32 = 3;
const TIMED_OUT: i32 = 4;
const INTERRUPTED: i32 = 130;

fn cluster_of(node: &Node) -> Option<Value> {
    get(&format!("{}/api/v1/cluster", node.http)).map(|(_, cluster)| cluster)
}

/// Waits until all of them see these members, all with their part in the cluster, and these voters.
fn wait_until_agreed(nodes: &[&Node], members: &[u64], voters: &[u64]) {
    for node in nodes {
        let what = format!("{} to see members {members:?} and voters {voters:?}", node.http);
        wait_for(&what, || {
            let cluster = cluster_of(node)?;
            let seen = cluster["nodes"].as_array()?;
            let ids: Vec<u64> = seen.iter().filter_map(|node| node["id"].as_u64()).collect();
            (ids == members
                && seen.iter().all(|node| node["status"] == "up")
                && cluster["leader"].is_u64()
                && cluster["voters"] == json!(voters))
            .then_some(())
        });
    }
}

fn join(node: &Node, to: &Node) {
    let joined = node.join(&to.token(&[]), &to.rpc);
    assert!(joined.status.success(), "{}", error_of(&joined));
}

fn three(home: &Path) -> [Node; 3] {
    let nodes = ["one", "two", "three"].map(|name| Node::start(&home.join(name)));
    nodes[0].init();
    join(&nodes[1], &nodes[0]);
    join(&nodes[2], &nodes[0]);
    wait_until_agreed(&[&nodes[0], &nodes[1], &nodes[2]], &[1, 2, 3], &[1, 2, 3]);
    nodes
}

/// Has operators issue these commands at the same moment, each at a node.
fn at_once(commands: &[(&Node, &[&str])]) -> Vec<Output> {
    let operators: Vec<_> =
        commands.iter().map(|(node, arguments)| operator(node, arguments)).collect();
    operators.into_iter().map(|operator| operator.wait_with_output().unwrap()).collect()
}

/// An operator in another terminal.
fn operator(node: &Node, arguments: &[&str]) -> Child {
    reelraft()
        .args(arguments)
        .args(["--data-dir", node.dir.to_str().unwrap()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Whether an operator was told something that passes: on a busy machine somebody else may have to lead in between, a node may
/// stall so long that it counts as away, or has not heard yet that another one holds nothing.
fn passes(refused: &Output) -> bool {
    let said = error_of(refused);
    [
        "may be repeated",
        "not known to be the newest",
        "look once more",
        "has not said yet",
        "does not answer",
    ]
    .iter()
    .any(|passing| said.contains(passing))
}

/// An operator who tries again when they are told to. Returns what they were told in the end.
fn insist(node: &Node, arguments: &[&str]) -> Output {
    wait_for(&format!("{arguments:?} to be decided"), || {
        let output = node.admin(arguments);
        (output.status.success() || !passes(&output)).then_some(output)
    })
}

/// An operator who waits for a drain, tries again when they are told to, and has been told this. With all that comes after.
fn waits<R: Read>(
    node: &Node,
    arguments: &[&str],
    told: &str,
    through: fn(&mut Child) -> Option<R>,
) -> (Child, BufReader<R>) {
    wait_for(&format!("{arguments:?} to say {told}"), || {
        let mut waiting = operator(node, arguments);
        let mut said = BufReader::new(through(&mut waiting).unwrap());
        let mut line = String::new();
        while said.read_line(&mut line).unwrap() > 0 {
            if line.contains(told) {
                return Some((waiting, said));
            }
            line.clear();
        }
        waiting.wait().unwrap();
        None
    })
}

fn drains(witness: &Node, node: u64) -> bool {
    let cluster = cluster_of(witness).unwrap_or_default();
    let nodes = cluster["nodes"].as_array().cloned().unwrap_or_default();
    nodes.iter().any(|seen| seen["id"] == node && seen["drain"].is_object())
}

#[test]
fn two_operators_at_once_found_one_cluster_admit_one_node_and_remove_one() {
    let home = tempfile::tempdir().unwrap();
    let nodes = ["one", "two", "three"].map(|name| Node::start(&home.path().join(name)));
    let [one, two, three] = &nodes;

    // Both found the cluster: there is one.
    let init: &[&str] = &["cluster", "init", "--json"];
    let founded = at_once(&[(one, init), (one, init)]);
    let ids: Vec<Value> = founded
        .iter()
        .filter(|output| output.status.success())
        .map(|output| {
            serde_json::from_slice::<Value>(&output.stdout).unwrap()["cluster_id"].clone()
        })
        .collect();
    wait_until_ready(&one.http);
    let cluster = cluster_of(one).unwrap();
    assert!(!ids.is_empty() && ids.iter().all(|id| *id == cluster["cluster_id"]), "{founded:?}");
    for refused in founded.iter().filter(|output| !output.status.success()) {
        assert!(error_of(refused).contains("is node 1 of cluster"), "{refused:?}");
    }

    // Both let a node join with the one token, which is good for one.
    let token = one.token(&[]);
    let command: &[&str] = &["node", "join", &token, "--to", &one.rpc];
    let joined = at_once(&[(two, command), (three, command)]);
    let late: Vec<_> = joined.iter().filter(|output| !output.status.success()).collect();
    assert_eq!(late.len(), 1, "{joined:?}");
    assert!(error_of(late[0]).contains("as many nodes as it may"), "{joined:?}");
    join(if joined[0].status.success() { three } else { two }, one);
    wait_until_agreed(&[one, two, three], &[1, 2, 3], &[1, 2, 3]);

    // One drains a node, one changes their mind, two remove it. It holds nothing, so that it can go at any moment.
    let mut fourth = Node::start_with(&home.path().join("four"), &["--roles", "gateway"]);
    join(&fourth, one);
    wait_until_agreed(&[one, two, three], &[1, 2, 3, 4], &[1, 2, 3]);
    let conflict = at_once(&[
        (one, &["node", "drain", "4"]),
        (two, &["node", "remove", "4"]),
        (three, &["node", "drain", "4", "--cancel"]),
        (one, &["node", "remove", "4"]),
    ]);
    for output in conflict.iter().filter(|output| !output.status.success() && !passes(output)) {
        assert!(error_of(output).contains("removed from the cluster already"), "{conflict:?}");
    }
    let removed = insist(one, &["node", "remove", "4"]);
    assert!(
        removed.status.success() || error_of(&removed).contains("removed from the cluster already"),
        "{conflict:?}, {removed:?}"
    );
    wait_for("the removed node to end", || fourth.process.exited());
    wait_until_agreed(&[one, two, three], &[1, 2, 3], &[1, 2, 3]);
    // What the log says came last was refused.
    let audit = three.admin_json(&["cluster", "audit"]);
    let about_it = audit.as_array().unwrap().iter().filter(|entry| {
        let action = entry["action"].as_str().unwrap();
        action.contains("node 4") && !action.starts_with("admit")
    });
    let after: Vec<_> = about_it.take_while(|entry| !is_done_removal(entry)).collect();
    for entry in after {
        assert!(entry["outcome"].as_str().unwrap().starts_with("refused"), "{audit}");
    }
}

fn is_done_removal(entry: &Value) -> bool {
    entry["action"].as_str().unwrap().starts_with("remove") && entry["outcome"] == "done"
}

#[test]
fn whoever_waits_for_a_drain_learns_how_it_ends() {
    let home = tempfile::tempdir().unwrap();
    let [one, two, three] = three(home.path());

    // Three copies cannot be on two nodes. The one who waits learns why, and the drain goes on when their time is over.
    // A busy machine may not get as far as one look.
    let wait = ["node", "drain", "3", "--wait", "--json", "--timeout", "10s"];
    let lines = wait_for("the waiting to be over, with a look before", || {
        let late = one.admin(&wait);
        let lines: Vec<Value> = String::from_utf8(late.stdout)
            .unwrap()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        (late.status.code() == Some(TIMED_OUT) && lines.len() > 1).then_some(lines)
    });
    let (last, before) = lines.split_last().unwrap();
    assert_eq!((&last["node"], &last["state"]), (&json!(3), &json!("timed_out")));
    assert!(
        !before.is_empty() && before.iter().all(|line| line["state"] == "draining"),
        "{lines:?}"
    );
    assert_eq!(last["groups"], 1024, "{last}");
    assert!(last["waiting_for"].to_string().contains("add a node first"), "{last}");
    assert!(last["stuck"].as_str().unwrap().contains("add a node first"), "{last}");
    assert!(drains(&two, 3));

    // In words, and at another node.
    let said = wait_for("the waiting to be over, with a look before", || {
        let late = two.admin(&["node", "drain", "3", "--wait", "--timeout", "5s"]);
        let said = error_of(&late);
        (late.status.code() == Some(TIMED_OUT) && said.contains("waits for")).then_some(said)
    });
    assert!(
        said.contains("waits for 1024 groups of blocks") && said.contains("it goes on"),
        "{said}"
    );
    // `cluster doctor` knows that somebody has to do something.
    let doctor = run(&["cluster", "doctor", "--url", &one.http]);
    assert_eq!(doctor.status.code(), Some(1));
    let found = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(
        found.contains("node 3 (three) is being drained") && found.contains("--cancel"),
        "{found}"
    );

    // Ctrl-C ends the waiting alone.
    let wait = ["node", "drain", "3", "--wait"];
    let (mut waiting, said) = waits(&one, &wait, "node 3: waits for", |child| child.stderr.take());
    signal(waiting.id(), Signal::INT);
    let ended = wait_for("the waiting to end", || waiting.try_wait().unwrap());
    assert_eq!(ended.code(), Some(INTERRUPTED));
    let rest = read_all(said);
    assert!(rest.contains("the drain of node 3 goes on"), "{rest}");
    assert!(drains(&two, 3));

    // Somebody else wants to keep it.
    let (mut waiting, said) =
        waits(&one, &[&wait[..], &["--json"]].concat(), r#""state":"draining""#, |child| {
            child.stdout.take()
        });
    let kept = insist(&two, &["node", "drain", "3", "--cancel"]);
    assert!(kept.status.success(), "{}", error_of(&kept));
    let ended = wait_for("the waiting to end", || waiting.try_wait().unwrap());
    assert_eq!(ended.code(), Some(CANCELLED));
    let said = read_all(said);
    assert!(said.trim().ends_with(r#"{"node":3,"state":"cancelled"}"#), "{said}");
    wait_until_agreed(&[&one, &two, &three], &[1, 2, 3], &[1, 2, 3]);
}

#[test]
fn two_operators_at_once_leave_a_cluster_that_works() {
    let home = tempfile::tempdir().unwrap();
    let [one, two, three] = &three(home.path());
    let conflict = at_once(&[
        (one, &["node", "drain", "3"]),
        (two, &["node", "drain", "2"]),
        (three, &["node", "drain", "1"]),
        (two, &["node", "remove", "3"]),
    ]);
    let removed = &conflict[3];
    assert!(!removed.status.success(), "{conflict:?}");
    assert!(passes(removed) || error_of(removed).contains("groups of blocks"), "{conflict:?}");
    // Not all of them can leave.
    let kept: Vec<_> = conflict[..3].iter().filter(|output| !output.status.success()).collect();
    assert!(!kept.is_empty(), "{conflict:?}");
    for output in kept {
        assert!(passes(output) || error_of(output).contains("no other node stays"), "{conflict:?}");
    }
    for (node, id) in [(one, "1"), (two, "2"), (three, "3")] {
        let stays = insist(node, &["node", "drain", id, "--cancel"]);
        assert!(stays.status.success(), "{}", error_of(&stays));
    }
    wait_until_agreed(&[one, two, three], &[1, 2, 3], &[1, 2, 3]);
}

#[test]
fn a_node_that_was_drained_serves_nobody_new_and_can_be_removed() {
    let home = tempfile::tempdir().unwrap();
    let one = Node::start(&home.path().join("one"));
    one.init();
    let mut two = Node::start_with(&home.path().join("two"), &["--roles", "gateway"]);
    join(&two, &one);
    wait_until_agreed(&[&one, &two], &[1, 2], &[1]);
    wait_until_ready(&two.http);

    // It is the one that is asked itself.
    let drained = two.admin(&["node", "drain", "2", "--wait", "--timeout", "60s"]);
    assert!(drained.status.success(), "{}", error_of(&drained));
    let said = String::from_utf8_lossy(&drained.stdout).into_owned();
    assert!(said.contains("has handed over everything: `reelraft node remove 2`"), "{said}");
    let (status, ready) = get(&format!("{}/readyz", two.http)).unwrap();
    assert!(status == 503 && ready.to_string().contains("has been drained"), "{ready}");
    let upload = |node: &Node| {
        let url = format!("{}/api/v1/videos?title=Late", node.http);
        http("POST", &url, Some(("video/mp4", noise(1000)))).unwrap()
    };
    let (status, refused) = upload(&two);
    assert!(status == 503 && refused["code"] == "node_drained", "{refused}");
    assert_eq!(upload(&one).0, 201, "others take uploads");

    let removed = insist(&one, &["node", "remove", "2"]);
    assert!(removed.status.success(), "{}", error_of(&removed));
    wait_for("the removed node to end", || two.process.exited());
    let again = insist(&one, &["node", "drain", "2", "--wait"]);
    assert!(error_of(&again).contains("removed from the cluster already"), "{}", error_of(&again));
    let gone = error_of(&two.admin(&["token", "list"]));
    assert!(gone.contains("no node runs on") && gone.contains("was removed"), "{gone}");
}

#[test]
fn what_cannot_be_removed_says_all_that_is_in_the_way() {
    let home = tempfile::tempdir().unwrap();
    let one = Node::start(&home.path().join("one"));
    one.init();
    wait_until_agreed(&[&one], &[1], &[1]);
    for command in [&["node", "remove", "1"][..], &["node", "remove", "1", "--force"]] {
        let refused = error_of(&one.admin(command));
        for reason in ["no other node stays", "it leads", "it has a vote", "groups of blocks"] {
            assert!(refused.contains(reason), "{reason}: {refused}");
        }
    }
    let refused = error_of(&one.admin(&["node", "drain", "1"]));
    assert!(refused.contains("no other node stays"), "{refused}");
    for command in [
        &["drain", "9"][..],
        &["drain", "9", "--wait"],
        &["remove", "9"],
        &["maintenance", "9", "--end"],
    ] {
        let refused = error_of(&one.admin(&[&["node"], command].concat()));
        assert!(refused.contains("there is no node 9"), "{command:?}: {refused}");
    }

    // The wrong directory.
    let typo = home.path().join("onne");
    let wrong = run(&["node", "drain", "1", "--data-dir", typo.to_str().unwrap()]);
    let said = error_of(&wrong);
    assert!(said.contains("there is no such directory") && !typo.exists(), "{said}");
    let home = run(&["serve", "--data-dir", home.path().to_str().unwrap()]);
    assert!(error_of(&home).contains("is no data directory"), "{}", error_of(&home));
}
