//! What an operator can set.
//!
//! Four layers, each above the one before: the defaults, one TOML file, `REELRAFT_*` variables, flags. The crate `config`
//! merges them: it is kept by the command-line group of the Rust project, names the layer and the key when a value is
//! wrong, and takes overrides from any source. clap's own `env` support would have meant to write each setting three times.
//!
//! [`Settings`] is what can be written, [`Config`] what the program works with: everything is checked and derived once, in
//! [`Settings::validate`], and nobody validates again.
//!
//! # Invariants
//!
//! - Unknown keys are refused, in the file and as flags. An unknown `REELRAFT_*` variable is reported, not refused: the
//!   environment is shared with other programs (tests, `make`).
//! - `docs/config.toml` names every setting and its default; a test holds the two together.

mod settings;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use cluster::tables::nodes::Role;

pub use settings::{LogFormat, Settings};

/// One node's configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    pub data_dir: PathBuf,
    /// Bytes at most of room that is kept for a full disk; 0: none.
    pub ballast_bytes_max: u64,
    pub name: String,
    pub zone: String,
    /// Ordered, without duplicates, never empty.
    pub roles: Vec<Role>,
    pub http: HttpConfig,
    pub rpc: RpcConfig,
    /// Bytes offered for blocks; `None`: as many as the file system has.
    pub capacity_bytes: Option<u64>,
    /// Bytes of memory for blocks that are read often.
    pub cache_bytes: u64,
    /// Bytes per second at most for bringing copies where they belong.
    pub repair_bytes_per_second: u32,
    /// How long a node takes to read all its blocks again.
    pub scrub_every: Duration,
    /// How long a block stays after nobody names it any more.
    pub collect_after: Duration,
    /// How long what was collected is remembered; at least `collect_after`.
    pub forget_after: Duration,
    /// Jobs at a time, at least 1.
    pub transcoder_slots: usize,
    pub raft: RaftConfig,
    pub failure: FailureDetection,
    /// How long an upload may stand still before its gateway counts as gone; more than `failure.suspect_after`.
    pub upload_lost_after: Duration,
    pub log: LogConfig,
}

/// Where and how people are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpConfig {
    pub listen: SocketAddr,
    /// `None`: made from the address that was bound.
    pub url: Option<String>,
    pub upload_bytes_max: u64,
    pub anonymous_upload: bool,
    pub keep_source: bool,
}

/// Where other nodes are answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcConfig {
    pub listen: SocketAddr,
    /// Host and port; `None`: the address that was bound.
    pub advertise: Option<String>,
    /// How long the certificates are good for that this node signs. At least [`CERTIFICATE_LIFE_MIN`].
    pub certificate_life: Duration,
}

/// How fast consensus notices that a leader is gone, and how much log it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RaftConfig {
    pub heartbeat: Duration,
    /// At least [`HEARTBEATS_PER_ELECTION_MIN`] heartbeats.
    pub election_min: Duration,
    /// More than `election_min`, so that two followers seldom call at once.
    pub election_max: Duration,
    /// Entries after which the log is cut behind a snapshot.
    pub snapshot_every_entries: u64,
    /// Entries kept in spite of a snapshot; more than `snapshot_every_entries`.
    pub keep_entries: u64,
}

/// When a silent node is called what. Rising.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailureDetection {
    pub ping: Duration,
    pub suspect_after: Duration,
    pub down_after: Duration,
    pub dead_after: Duration,
}

/// What is written about what happens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    pub format: LogFormat,
    /// For `tracing_subscriber::EnvFilter`; known to parse.
    pub filter: String,
}

/// With fewer heartbeats per election time-out, one lost packet deposes a leader.
const HEARTBEATS_PER_ELECTION_MIN: u32 = 3;

/// A certificate that ends sooner would end before its node, which asks after two thirds of its life, has had some tries.
const CERTIFICATE_LIFE_MIN: Duration = Duration::from_secs(10);

/// A certificate that is good for ten years might as well be good for ever.
const CERTIFICATE_LIFE_MAX: Duration = Duration::from_secs(3650 * 24 * 60 * 60);

/// More often would be reading all the time; less often, copies go bad together before anybody looks.
const SCRUB_EVERY_MIN: Duration = Duration::from_secs(3600);
const SCRUB_EVERY_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

/// The prefix of the variables.
const VARIABLE_PREFIX: &str = "REELRAFT_";

/// Variables with the prefix that are no settings of a node: for the command line, and for the commands of the repository.
const OTHER_VARIABLES: [&str; 8] = [
    "REELRAFT_CONFIG",
    "REELRAFT_URL",
    "REELRAFT_BIN",
    "REELRAFT_CACHE",
    "REELRAFT_NO_CACHE",
    "REELRAFT_CHROMIUM",
    "REELRAFT_CLIPS",
    "REELRAFT_SCREENSHOTS",
];

/// A setting, by its path (`http.listen`), and its value as text.
pub type Override = (String, String);

/// Merges the layers and checks the result. Also returns the names of variables that look like settings and are none.
///
/// # Errors
/// With the file, the setting and what is wrong with it.
pub fn load(
    file: Option<&Path>,
    variables: &BTreeMap<String, String>,
    flags: &[Override],
) -> anyhow::Result<(Config, Vec<String>)> {
    let keys = Settings::keys();
    let mut builder = config::Config::builder();
    if let Some(path) = file {
        builder = builder.add_source(config::File::from(path).format(config::FileFormat::Toml));
    }
    for key in &keys {
        if let Some(value) = variables.get(&variable_of(key)) {
            builder = builder
                .set_override(key, value.as_str())
                .with_context(|| format!("take {} from the environment", variable_of(key)))?;
        }
    }
    for (key, value) in flags {
        ensure!(
            keys.contains(key),
            "there is no setting {key:?}; docs/config.toml has all of them"
        );
        builder =
            builder.set_override(key, value.as_str()).with_context(|| format!("set {key}"))?;
    }
    let source = file.map_or_else(|| "the settings".to_owned(), |path| path.display().to_string());
    let settings: Settings = builder
        .build()
        .and_then(config::Config::try_deserialize)
        .with_context(|| format!("read {source}"))?;

    let unknown = variables
        .keys()
        .filter(|name| {
            name.starts_with(VARIABLE_PREFIX) && !OTHER_VARIABLES.contains(&name.as_str())
        })
        .filter(|name| !keys.iter().any(|key| variable_of(key) == **name))
        .cloned()
        .collect();
    Ok((settings.validate().with_context(|| format!("check {source}"))?, unknown))
}

/// `http.listen` → `REELRAFT_HTTP_LISTEN`.
fn variable_of(key: &str) -> String {
    format!("{VARIABLE_PREFIX}{}", key.replace('.', "_").to_uppercase())
}

impl Settings {
    /// Checks everything that can be checked without touching the machine, and fills in what follows from the rest.
    ///
    /// # Errors
    /// With the setting, what is wrong and what to do.
    pub fn validate(self) -> anyhow::Result<Config> {
        let name = self.name.unwrap_or_else(machine_name);
        ensure!(!name.trim().is_empty(), "name is empty: give the node a name");
        ensure!(
            !self.roles.is_empty(),
            "roles is empty: name at least one of store, gateway, transcoder"
        );
        let mut roles = self.roles;
        roles.sort_unstable();
        roles.dedup();

        if let Some(url) = &self.http.url {
            ensure!(
                url.starts_with("http://") || url.starts_with("https://"),
                "http.url is {url:?}: it starts with http:// or https://"
            );
        }
        ensure!(
            self.http.upload_max.as_u64() > 0,
            "http.upload_max is 0: no upload would be taken"
        );
        ensure!(
            (CERTIFICATE_LIFE_MIN..=CERTIFICATE_LIFE_MAX).contains(&self.rpc.certificate_life),
            "rpc.certificate_life is not between {} and {}",
            humantime::format_duration(CERTIFICATE_LIFE_MIN),
            humantime::format_duration(CERTIFICATE_LIFE_MAX)
        );
        if let Some(advertise) = &self.rpc.advertise {
            ensure!(
                advertise
                    .rsplit_once(':')
                    .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok()),
                "rpc.advertise is {advertise:?}: it has the form host:port"
            );
        }

        let raft = RaftConfig {
            heartbeat: self.raft.heartbeat,
            election_min: self.raft.election_min,
            election_max: self.raft.election_max,
            snapshot_every_entries: self.raft.snapshot_every_entries,
            keep_entries: self.raft.keep_entries,
        };
        ensure!(
            !raft.heartbeat.is_zero(),
            "raft.heartbeat is 0: heartbeats need a pause between them"
        );
        ensure!(
            raft.election_min >= raft.heartbeat * HEARTBEATS_PER_ELECTION_MIN,
            "raft.election_min is less than {HEARTBEATS_PER_ELECTION_MIN} times raft.heartbeat: one lost heartbeat would depose the leader"
        );
        ensure!(
            raft.election_max > raft.election_min,
            "raft.election_max is not above raft.election_min: followers would call for elections at the same time"
        );
        ensure!(raft.snapshot_every_entries > 0, "raft.snapshot_every_entries is 0");
        ensure!(
            raft.keep_entries > raft.snapshot_every_entries,
            "raft.keep_entries is not above raft.snapshot_every_entries: a node that has just received a snapshot would need \
             the next one"
        );

        let failure = FailureDetection {
            ping: self.failure.ping,
            suspect_after: self.failure.suspect_after,
            down_after: self.failure.down_after,
            dead_after: self.failure.dead_after,
        };
        ensure!(!failure.ping.is_zero(), "failure.ping is 0: pings need a pause between them");
        ensure!(
            failure.ping * 2 <= failure.suspect_after
                && failure.suspect_after < failure.down_after
                && failure.down_after < failure.dead_after,
            "failure: suspect_after must be at least two pings, and suspect_after < down_after < dead_after"
        );
        ensure!(
            self.failure.upload_lost_after > failure.suspect_after,
            "failure.upload_lost_after is not above failure.suspect_after: uploads would be given up before anybody can know \
             that their node is gone"
        );

        let repair_bytes_per_second = u32::try_from(self.content.repair_per_second.as_u64())
            .ok()
            .filter(|bytes| *bytes > 0)
            .context("content.repair_per_second is not between 1 byte and 4 GiB")?;

        ensure!(
            (SCRUB_EVERY_MIN..=SCRUB_EVERY_MAX).contains(&self.content.scrub_every),
            "content.scrub_every is not between {} and {}",
            humantime::format_duration(SCRUB_EVERY_MIN),
            humantime::format_duration(SCRUB_EVERY_MAX)
        );
        ensure!(
            self.content.forget_after >= self.content.collect_after,
            "content.forget_after is below content.collect_after: what nobody has named yet would go before what nobody names \
             any more"
        );

        let slots = match self.transcoder.slots {
            Some(0) => {
                bail!("transcoder.slots is 0: leave the role \"transcoder\" out of roles instead")
            }
            Some(slots) => slots,
            None => std::thread::available_parallelism().map_or(1, |n| n.get() / 2).max(1),
        };
        tracing_subscriber::EnvFilter::try_new(&self.log.filter)
            .with_context(|| format!("log.filter is {:?}", self.log.filter))?;

        Ok(Config {
            data_dir: self.data_dir,
            ballast_bytes_max: self.ballast.as_u64(),
            zone: self.zone.unwrap_or_else(|| name.clone()),
            name,
            roles,
            http: HttpConfig {
                listen: self.http.listen,
                url: self.http.url.map(|url| url.trim_end_matches('/').to_owned()),
                upload_bytes_max: self.http.upload_max.as_u64(),
                anonymous_upload: self.http.anonymous_upload,
                keep_source: self.http.keep_source,
            },
            rpc: RpcConfig {
                listen: self.rpc.listen,
                advertise: self.rpc.advertise,
                certificate_life: self.rpc.certificate_life,
            },
            capacity_bytes: self.content.capacity.map(|capacity| capacity.as_u64()),
            cache_bytes: self.content.cache.as_u64(),
            repair_bytes_per_second,
            scrub_every: self.content.scrub_every,
            collect_after: self.content.collect_after,
            forget_after: self.content.forget_after,
            transcoder_slots: slots,
            raft,
            failure,
            upload_lost_after: self.failure.upload_lost_after,
            log: LogConfig { format: self.log.format, filter: self.log.filter },
        })
    }
}

/// What the machine calls itself.
pub(crate) fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests;
