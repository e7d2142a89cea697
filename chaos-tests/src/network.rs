//! A network of its own on this machine, whose cables can be cut.
//!
//! Each host is a network namespace with one cable to a switch, a bridge in a namespace too; the tests themselves sit at one
//! more port of it, so they reach every host at its address whatever is cut between the hosts. Nothing of the machine's own
//! network is touched but for that port. Addresses are of 198.18.0.0/15, which is set aside for the testing of networks
//! (RFC 2544).
//!
//! # Cuts
//!
//! Every cut has a direction: packets from one host to another are lost, silently, where they arrive. Both directions make
//! a partition, one an asymmetric one. A cut is a routing rule of the receiver that sends packets from that source into a
//! black hole; rules come before the table of local addresses here, which the kernel has first otherwise. That needs no
//! packet filter, and holds for connections that are established too.
//!
//! # Cleaning up
//!
//! Everything is in namespaces that are removed when the [`Network`] is dropped. A process that was killed leaves them
//! behind; their names have its id in them, and the next network removes those of processes that are gone.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns};

/// All names begin with this. Names of cables have 15 characters at most, so it is short.
const PREFIX: &str = "rr";

/// Third parts of addresses to try: others may have a network at the same time.
const SUBNETS: u8 = 255;

/// The last part of the tests' own address.
const OWN: u8 = 254;

/// Rules are asked in this order: cuts, then local addresses, then the rest.
const CUT_FIRST: &str = "10";
const LOCAL_NEXT: &str = "20";

/// A host, by its place in its network: from 0.
pub type Host = usize;

/// Some hosts that reach each other, until a cut. Removed when dropped.
#[derive(Debug)]
pub struct Network {
    /// Of this network alone.
    name: String,
    subnet: u8,
    hosts: usize,
    cuts: Vec<(Host, Host)>,
}

impl Network {
    /// Makes that many hosts, connected with each other and with the tests.
    ///
    /// # Errors
    /// Without the rights to do so (root's), or without the program `ip`.
    pub fn new(hosts: usize) -> Result<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        ensure!(
            nix::unistd::geteuid().is_root(),
            "network namespaces need root: run this test as root, in a container for example"
        );
        ensure!((1..usize::from(OWN)).contains(&hosts), "{hosts} hosts do not fit into a network");
        remove_abandoned()?;
        let process = std::process::id();
        let name = format!("{PREFIX}{process}n{}", MADE.fetch_add(1, Ordering::Relaxed));
        let mut network = Self { name, subnet: 0, hosts, cuts: Vec::new() };
        network.build(process)?;
        Ok(network)
    }

    /// The address of a host.
    #[must_use]
    pub fn address(&self, host: Host) -> Ipv4Addr {
        let last = u8::try_from(host + 1).expect("there are fewer hosts than addresses");
        Ipv4Addr::new(198, 18, self.subnet, last)
    }

    /// A command that becomes `program` in a host: the same process, so it can be signalled.
    #[must_use]
    pub fn command(&self, host: Host, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace(host)]).arg(program);
        command
    }

    /// Does something in a host, on a thread of its own. Sockets that it makes stay in that host.
    ///
    /// # Errors
    /// When the thread cannot go there.
    pub fn inside<T: Send>(&self, host: Host, act: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = place_of(&self.namespace(host));
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                let file = File::open(&namespace)?;
                setns(file, CloneFlags::CLONE_NEWNET)?;
                Ok::<T, anyhow::Error>(act())
            });
            thread.join().map_err(|_| anyhow::anyhow!("a thread inside of a host panicked"))?
        })
        .with_context(|| format!("do something in {}", namespace.display()))
    }

    /// From now on packets from `from` do not reach `to`; those from `to` still reach `from`.
    ///
    /// # Errors
    /// When that is cut already, or the rule cannot be made.
    pub fn cut(&mut self, from: Host, to: Host) -> Result<()> {
        ensure!(!self.cuts.contains(&(from, to)), "from {from} to {to} is cut already");
        self.rule("add", from, to)?;
        self.cuts.push((from, to));
        Ok(())
    }

    /// From now on the two do not reach each other; others reach both.
    ///
    /// # Errors
    /// As [`Self::cut`].
    pub fn part(&mut self, one: Host, other: Host) -> Result<()> {
        self.cut(one, other)?;
        self.cut(other, one)
    }

    /// From now on no other host reaches this one or is reached by it.
    ///
    /// # Errors
    /// As [`Self::cut`].
    pub fn isolate(&mut self, host: Host) -> Result<()> {
        (0..self.hosts).filter(|other| *other != host).try_for_each(|other| self.part(host, other))
    }

    /// Undoes all cuts.
    ///
    /// # Errors
    /// When a rule cannot be removed.
    pub fn heal(&mut self) -> Result<()> {
        while let Some((from, to)) = self.cuts.pop() {
            self.rule("del", from, to)?;
        }
        Ok(())
    }

    /// From now on what the host sends leaves it at this rate, such as `2mbit`, whoever it is for.
    ///
    /// # Errors
    /// Without the program `tc`, or when the host is slow already.
    pub fn slow_down(&self, host: Host, rate: &str) -> Result<()> {
        let namespace = self.namespace(host);
        let shape = ["-n", &namespace, "qdisc", "add", "dev", "cable", "root", "tbf", "rate", rate];
        run("tc", &[&shape[..], &["burst", "32kb", "latency", "400ms"]].concat()).map(|_| ())
    }

    /// Ends that.
    ///
    /// # Errors
    /// When it was not slow.
    pub fn speed_up(&self, host: Host) -> Result<()> {
        let namespace = self.namespace(host);
        run("tc", &["-n", &namespace, "qdisc", "del", "dev", "cable", "root"]).map(|_| ())
    }

    fn rule(&self, action: &str, from: Host, to: Host) -> Result<()> {
        ensure!(from < self.hosts && to < self.hosts && from != to, "no cable from {from} to {to}");
        let source = format!("{}/32", self.address(from));
        let namespace = self.namespace(to);
        ip(&["-n", &namespace, "rule", action, "pref", CUT_FIRST, "from", &source, "blackhole"])
    }

    fn namespace(&self, host: Host) -> String {
        format!("{}h{host}", self.name)
    }

    fn switch(&self) -> String {
        format!("{}s", self.name)
    }

    fn build(&mut self, process: u32) -> Result<()> {
        let switch = self.switch();
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "switch", "type", "bridge"])?;
        ip(&["-n", &switch, "link", "set", "switch", "up"])?;
        let taken = text_of(&["-4", "-o", "addr", "show"])?;
        let first = (process % u32::from(SUBNETS)) as u8;
        let mut subnets = (0..SUBNETS).map(|step| first.wrapping_add(step));
        self.subnet = subnets
            .find(|subnet| !taken.contains(&format!(" 198.18.{subnet}.")))
            .context("find addresses that nobody uses")?;
        // The port's name is the network's: it is in the machine's own namespace.
        self.plug(&self.name, OWN, None)?;
        for host in 0..self.hosts {
            let namespace = self.namespace(host);
            ip(&["netns", "add", &namespace])?;
            ip(&["-n", &namespace, "link", "set", "lo", "up"])?;
            ip(&["-n", &namespace, "rule", "add", "pref", LOCAL_NEXT, "lookup", "local"])?;
            ip(&["-n", &namespace, "rule", "del", "pref", "0"])?;
            self.plug("cable", self.address(host).octets()[3], Some(&namespace))?;
        }
        Ok(())
    }

    /// Puts one end of a cable into the switch, and the other into the namespace, or this process's own.
    fn plug(&self, cable: &str, address: u8, namespace: Option<&str>) -> Result<()> {
        let (switch, port) = (self.switch(), format!("port{address}"));
        let within = |arguments: &[&str]| match namespace {
            Some(namespace) => ip(&[&["-n", namespace], arguments].concat()),
            None => ip(arguments),
        };
        within(&["link", "add", cable, "type", "veth", "peer", "name", &port, "netns", &switch])?;
        ip(&["-n", &switch, "link", "set", &port, "master", "switch", "up"])?;
        within(&["addr", "add", &format!("198.18.{}.{address}/24", self.subnet), "dev", cable])?;
        within(&["link", "set", cable, "up"])
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        // The kernel takes its time to remove what a namespace has; the tests' own port should be gone at once. There is
        // nobody left to tell if it fails; the next network tries again.
        let _ = ip(&["link", "del", &self.name]);
        for namespace in (0..self.hosts).map(|host| self.namespace(host)).chain([self.switch()]) {
            let _ = ip(&["netns", "del", &namespace]);
        }
    }
}

/// Removes what processes have left behind that are gone.
fn remove_abandoned() -> Result<()> {
    let Ok(entries) = std::fs::read_dir(place_of("")) else { return Ok(()) };
    for entry in entries {
        let name = entry.context("list namespaces")?.file_name();
        let Some((process, _)) =
            name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split_once('n'))
        else {
            continue;
        };
        if process.parse::<u32>().is_ok() && !Path::new("/proc").join(process).exists() {
            let _ = ip(&["netns", "del", &name.to_string_lossy()]);
        }
    }
    Ok(())
}

/// Where `ip netns` keeps a namespace.
fn place_of(namespace: &str) -> PathBuf {
    Path::new("/run/netns").join(namespace)
}

fn ip(arguments: &[&str]) -> Result<()> {
    text_of(arguments).map(|_| ())
}

fn text_of(arguments: &[&str]) -> Result<String> {
    run("ip", arguments)
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("run `{program}`: install the package iproute2"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{program} {}: {}", arguments.join(" "), error.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
