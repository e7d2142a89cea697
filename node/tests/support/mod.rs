//! Real processes of the real binary, on free ports and in directories of their own, gone when the test ends.

#![allow(dead_code, unreachable_pub, reason = "each test program uses some of it")]
#![allow(
    clippy::unwrap_used,
    reason = "a test ends with the first thing that is not as it should be"
)]

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Long enough for anything that works on a machine that is busy with other tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const POLL: Duration = Duration::from_millis(50);

/// The binary under test, with none of the environment's settings.
pub fn reelraft() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_reelraft"));
    for (name, _) in std::env::vars() {
        if name.starts_with("REELRAFT_") {
            command.env_remove(name);
        }
    }
    command.env("NO_COLOR", "1");
    // Many nodes on one disk.
    command.env("REELRAFT_BALLAST", "1 MiB");
    command
}

/// Runs it to its end.
pub fn run(arguments: &[&str]) -> Output {
    reelraft().args(arguments).output().unwrap()
}

/// Runs it, expects success, and reads its output as JSON.
pub fn run_json(arguments: &[&str]) -> Value {
    let output = run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", error_of(&output));
    serde_json::from_slice(&output.stdout).unwrap()
}

pub fn error_of(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// `count` ports in a row that nobody uses at present.
pub fn free_ports(count: u16) -> u16 {
    // Below the range from which the system gives ports to clients, so that these do not take them in between.
    let seed =
        std::process::id().wrapping_mul(7919).wrapping_add(Instant::now().elapsed().subsec_nanos());
    for attempt in 0..1000_u32 {
        let first = 10_000 + u16::try_from((seed.wrapping_add(attempt * 37)) % 20_000).unwrap();
        let bound: Vec<_> = (first..first + count)
            .map_while(|port| TcpListener::bind(("127.0.0.1", port)).ok())
            .collect();
        if bound.len() == usize::from(count) {
            return first;
        }
    }
    panic!("no {count} free ports in a row");
}

/// Asks until the answer is good.
pub fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(POLL);
    }
}

/// A process of the binary whose output is kept for the case of a failure.
pub struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    /// Starts it; the lines of its standard output can be waited for.
    pub fn start(arguments: &[&str]) -> Self {
        let mut child = reelraft()
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let (sender, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// Waits for a line of standard output that starts with `start`.
    pub fn line(&self, start: &str) -> String {
        let deadline = Instant::now() + PATIENCE * 2;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line =
                self.lines.recv_timeout(left).unwrap_or_else(|_| panic!("no line {start:?}"));
            if line.starts_with(start) {
                return line;
            }
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to stop, and waits until it has.
    pub fn stop(mut self) -> ExitStatus {
        signal(self.child.id(), Signal::TERM);
        wait_for("the process to stop", || self.child.try_wait().unwrap())
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already gone in a test that went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

pub fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // A zombie has ended.
    !stat.is_empty() && !stat.contains(") Z ")
}

/// The process id that a node wrote into its data directory.
pub fn pid_in(dir: &Path) -> Option<u32> {
    fs::read_to_string(dir.join("pid")).ok()?.trim().parse().ok()
}

/// One node started by hand.
pub struct Node {
    pub dir: PathBuf,
    pub http: String,
    pub rpc: String,
    pub process: Process,
}

impl Node {
    pub fn start(dir: &Path) -> Self {
        Self::start_with(dir, &[])
    }

    /// With further arguments.
    pub fn start_with(dir: &Path, arguments: &[&str]) -> Self {
        Self::start_on(dir, free_ports(2), arguments)
    }

    pub fn start_on(dir: &Path, port: u16, arguments: &[&str]) -> Self {
        let node = Self::launch_on(dir, port, arguments);
        wait_for("the node to live", || {
            get(&format!("{}/healthz", node.http)).filter(|(status, _)| *status == 200)
        });
        node
    }

    /// Starts a process that may end at once.
    pub fn launch_on(dir: &Path, port: u16, arguments: &[&str]) -> Self {
        let http = format!("127.0.0.1:{port}");
        let rpc = format!("127.0.0.1:{}", port + 1);
        // Nodes of one cluster have different names.
        let name = dir.file_name().unwrap().to_str().unwrap();
        let directory = dir.to_str().unwrap();
        let mut own =
            vec!["serve", "--data-dir", directory, "--http-listen", &http, "--rpc-listen", &rpc];
        if !arguments.contains(&"--name") {
            own.extend(["--name", name]);
        }
        let process = Process::start(&[&own[..], arguments].concat());
        Self { dir: dir.to_owned(), http: format!("http://{http}"), rpc, process }
    }

    /// Runs a command that goes through the node's socket.
    pub fn admin(&self, arguments: &[&str]) -> Output {
        run(&[arguments, &["--data-dir", self.dir.to_str().unwrap()][..]].concat())
    }

    /// The same, of which success and JSON are expected.
    pub fn admin_json(&self, arguments: &[&str]) -> Value {
        let local = ["--json", "--data-dir", self.dir.to_str().unwrap()];
        run_json(&[arguments, &local[..]].concat())
    }

    /// Founds a cluster of this node.
    pub fn init(&self) {
        self.admin_json(&["cluster", "init"]);
        wait_until_ready(&self.http);
    }

    /// A token for this node's cluster.
    pub fn token(&self, arguments: &[&str]) -> String {
        let made = self.admin_json(&[&["token", "create"][..], arguments].concat());
        made["token"].as_str().unwrap().to_owned()
    }

    /// Lets this node join.
    pub fn join(&self, token: &str, to: &str) -> Output {
        self.admin(&["node", "join", token, "--to", to])
    }

    /// What it says when it cannot join.
    pub fn cannot_join(&self, token: &str, to: &str) -> String {
        let output = self.join(token, to);
        assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        error_of(&output)
    }
}

/// A small HTTP client for one request at a time: status and body.
pub fn http(method: &str, url: &str, body: Option<(&str, Vec<u8>)>) -> Option<(u16, Value)> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().unwrap();
        let mut request = client.request(method.parse().unwrap(), url);
        if let Some((kind, bytes)) = body {
            request = request.header("content-type", kind).body(bytes);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let text = answer.text().await.ok()?;
        Some((status, serde_json::from_str(&text).unwrap_or(Value::String(text))))
    })
}

pub fn get(url: &str) -> Option<(u16, Value)> {
    http("GET", url, None)
}

pub fn wait_until_ready(url: &str) {
    wait_for(&format!("{url} to be ready"), || {
        get(&format!("{url}/readyz")).filter(|(status, _)| *status == 200)
    });
}

/// Bytes that no program takes for a video, the same each time.
pub fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    (0..bytes)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

pub fn read_all(mut from: impl Read) -> String {
    let mut text = String::new();
    from.read_to_string(&mut text).unwrap();
    text
}
