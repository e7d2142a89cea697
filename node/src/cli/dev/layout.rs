//! Which nodes a local cluster has, where they live and where they listen.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};

use crate::config;

/// As many as it takes to lose one.
const NODES_DEFAULT: usize = 3;

/// All of them keep it on the same disk.
const BALLAST: &str = "64 MiB";

/// A local cluster, node 1 first.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) nodes: Vec<Node>,
}

/// One node of it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// From 1.
    pub(super) number: usize,
    /// Its data directory, absolute.
    pub(super) dir: PathBuf,
    pub(super) http: SocketAddr,
    /// `127.0.0.1:port`.
    pub(super) rpc: String,
    /// Jobs at a time: the machine's processors, shared.
    slots: usize,
}

impl Node {
    pub(super) fn config_file(&self) -> PathBuf {
        self.dir.join("node.toml")
    }

    pub(super) fn http_url(&self) -> String {
        format!("http://{}", self.http)
    }

    fn has_identity(&self) -> bool {
        self.dir.join("node.json").exists()
    }

    /// Written anew at each start, so that flags take effect; everything that must not change is checked before.
    fn config_text(&self) -> anyhow::Result<String> {
        let dir = self.dir.to_str().context("the data directory's path is not UTF-8")?;
        let mut text = String::from(
            "# Written by `reelraft dev` at each start. docs/config.toml explains the settings.\n",
        );
        let quoted = serde_json::to_string(dir).context("quote the path")?;
        writeln!(text, "data_dir = {quoted}\nname = \"node-{}\"", self.number)?;
        writeln!(text, "ballast = \"{BALLAST}\"\n")?;
        writeln!(text, "[http]\nlisten = \"{}\"\n", self.http)?;
        writeln!(text, "[rpc]\nlisten = \"{}\"\n", self.rpc)?;
        writeln!(text, "[transcoder]\nslots = {}", self.slots)?;
        Ok(text)
    }
}

impl Layout {
    /// What to start: as many nodes as asked for, or as the data holds, or three.
    ///
    /// # Errors
    /// When the data holds another cluster than the one asked for.
    pub(super) fn plan(
        data: &Path,
        wanted: Option<u16>,
        http_port: u16,
        rpc_port: u16,
    ) -> anyhow::Result<Self> {
        let dir = |number: usize| data.join(format!("node-{number}"));
        let present = (1..).take_while(|number| dir(*number).join("node.toml").exists()).count();
        let founded = (1..=present).any(|number| dir(number).join("node.json").exists());
        let count = match wanted.map(usize::from) {
            Some(wanted) if founded && wanted < present => bail!(
                "{} holds a cluster of {present} nodes, which would miss those left out: leave --nodes out, or choose another \
                 --data",
                data.display()
            ),
            Some(wanted) => wanted,
            None if founded => present,
            None => NODES_DEFAULT,
        };
        for (what, first) in [("--http-port", http_port), ("--rpc-port", rpc_port)] {
            ensure!(
                first > 0 && usize::from(first) + count - 1 <= usize::from(u16::MAX),
                "{what} {first}: {count} ports from there on are not to be had"
            );
        }
        let (http, rpc) = (usize::from(http_port), usize::from(rpc_port));
        ensure!(
            http + count <= rpc || rpc + count <= http,
            "--http-port {http} and --rpc-port {rpc} are too close together for {count} nodes"
        );
        let data =
            std::path::absolute(data).with_context(|| format!("resolve {}", data.display()))?;
        let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let port = |first: u16, number: usize| {
            first + u16::try_from(number - 1).expect("checked above to fit a port")
        };
        let nodes: Vec<Node> = (1..=count)
            .map(|number| Node {
                number,
                dir: data.join(format!("node-{number}")),
                http: SocketAddr::from((Ipv4Addr::LOCALHOST, port(http_port, number))),
                rpc: SocketAddr::from((Ipv4Addr::LOCALHOST, port(rpc_port, number))).to_string(),
                slots: (processors / count).max(1),
            })
            .collect();
        for node in &nodes {
            node.check_continuity(rpc_port)?;
        }
        Ok(Self { nodes })
    }

    /// # Errors
    /// With all ports that somebody else uses.
    pub(super) fn check_ports(&self) -> anyhow::Result<()> {
        let mut taken = Vec::new();
        for node in &self.nodes {
            for (kind, address) in [("HTTP", node.http.to_string()), ("RPC", node.rpc.clone())] {
                // Bound and let go of at once; what comes between is reported by the node itself.
                if let Err(error) = TcpListener::bind(&address) {
                    taken.push(format!("{address} ({kind} of node-{}): {error}", node.number));
                }
            }
        }
        ensure!(
            taken.is_empty(),
            "cannot listen on\n  {}\nIs another cluster running? Stop it, or choose others with --http-port and --rpc-port",
            taken.join("\n  ")
        );
        Ok(())
    }

    /// Makes the directories and the configuration files.
    ///
    /// # Errors
    /// When they cannot be written.
    pub(super) fn write(&self) -> anyhow::Result<()> {
        for node in &self.nodes {
            fs::create_dir_all(&node.dir)
                .with_context(|| format!("create {}", node.dir.display()))?;
            let file = node.config_file();
            fs::write(&file, node.config_text()?)
                .with_context(|| format!("write {}", file.display()))?;
        }
        Ok(())
    }
}

impl Node {
    /// The members of a cluster know each other by their RPC addresses.
    fn check_continuity(&self, rpc_port: u16) -> anyhow::Result<()> {
        if !self.has_identity() {
            return Ok(());
        }
        let (before, _) =
            config::load(Some(&self.config_file()), &std::collections::BTreeMap::new(), &[])?;
        let first = usize::from(before.rpc.listen.port()) + 1 - self.number;
        ensure!(
            before.rpc.listen.to_string() == self.rpc,
            "the nodes in {} know each other by RPC ports from {first} on: start with --rpc-port {first} instead of {rpc_port}",
            self.dir.parent().unwrap_or(&self.dir).display(),
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn become_member(node: &Node) {
        fs::write(node.dir.join("node.json"), "{}").unwrap();
    }

    #[test]
    fn nodes_take_ports_one_after_the_other() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::plan(home.path(), None, 8080, 9080).unwrap();
        let urls: Vec<String> = layout.nodes.iter().map(Node::http_url).collect();
        assert_eq!(
            urls,
            ["http://127.0.0.1:8080", "http://127.0.0.1:8081", "http://127.0.0.1:8082"]
        );
        assert_eq!(layout.nodes[2].rpc, "127.0.0.1:9082");
    }

    #[test]
    fn what_is_written_is_a_configuration() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::plan(home.path(), Some(2), 8080, 9080).unwrap();
        layout.write().unwrap();
        let node = &layout.nodes[1];
        let (config, _) =
            config::load(Some(&node.config_file()), &std::collections::BTreeMap::new(), &[])
                .unwrap();
        assert_eq!(config.name, "node-2");
        assert_eq!(config.zone, "node-2");
        assert_eq!(config.data_dir, node.dir);
        assert_eq!(config.http.listen, node.http);
        assert_eq!(config.rpc.listen.to_string(), node.rpc);
    }

    #[test]
    fn data_of_a_cluster_decides_how_many_nodes_and_which_rpc_ports() {
        let home = tempfile::tempdir().unwrap();
        let layout = Layout::plan(home.path(), Some(2), 8080, 9080).unwrap();
        layout.write().unwrap();
        layout.nodes.iter().for_each(become_member);

        assert_eq!(Layout::plan(home.path(), None, 8080, 9080).unwrap().nodes.len(), 2);
        assert_eq!(Layout::plan(home.path(), None, 8090, 9080).unwrap().nodes.len(), 2);
        let error = Layout::plan(home.path(), Some(1), 8080, 9080).unwrap_err().to_string();
        assert!(error.contains("cluster of 2 nodes"), "{error}");
        assert_eq!(Layout::plan(home.path(), Some(3), 8080, 9080).unwrap().nodes.len(), 3);
        let error = Layout::plan(home.path(), None, 8080, 9090).unwrap_err().to_string();
        assert!(error.contains("--rpc-port 9080"), "{error}");
    }

    #[test]
    fn ports_must_exist_and_not_overlap() {
        let home = tempfile::tempdir().unwrap();
        assert!(Layout::plan(home.path(), None, 65534, 9080).is_err());
        assert!(Layout::plan(home.path(), None, 0, 9080).is_err());
        assert!(Layout::plan(home.path(), None, 8080, 8082).is_err());
        assert!(Layout::plan(home.path(), None, 8080, 8083).is_ok());
    }

    #[test]
    fn a_port_in_use_is_named() {
        let home = tempfile::tempdir().unwrap();
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let rpc = if address.port() > 30_000 { 20_000 } else { 40_000 };
        let layout = Layout::plan(home.path(), Some(1), address.port(), rpc).unwrap();
        let error = layout.check_ports().unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
    }
}
