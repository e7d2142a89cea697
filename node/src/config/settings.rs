//! The settings as they can be written, with their defaults.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use cluster::tables::nodes::Role;
use serde::{Deserialize, Deserializer, Serialize};

use crate::authority::CERTIFICATE_LIFE;

/// The top of the file. What each setting means stands in `docs/config.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    pub data_dir: PathBuf,
    pub ballast: ByteSize,
    pub name: Option<String>,
    pub zone: Option<String>,
    #[serde(deserialize_with = "list_or_text")]
    pub roles: Vec<Role>,
    pub http: HttpSettings,
    pub rpc: RpcSettings,
    pub content: ContentSettings,
    pub transcoder: TranscoderSettings,
    pub raft: RaftSettings,
    pub failure: FailureSettings,
    pub log: LogSettings,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HttpSettings {
    pub listen: SocketAddr,
    pub url: Option<String>,
    pub upload_max: ByteSize,
    pub anonymous_upload: bool,
    pub keep_source: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpcSettings {
    pub listen: SocketAddr,
    pub advertise: Option<String>,
    #[serde(with = "humantime_serde")]
    pub certificate_life: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ContentSettings {
    pub capacity: Option<ByteSize>,
    pub cache: ByteSize,
    pub repair_per_second: ByteSize,
    #[serde(with = "humantime_serde")]
    pub scrub_every: Duration,
    #[serde(with = "humantime_serde")]
    pub collect_after: Duration,
    #[serde(with = "humantime_serde")]
    pub forget_after: Duration,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TranscoderSettings {
    pub slots: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftSettings {
    #[serde(with = "humantime_serde")]
    pub heartbeat: Duration,
    #[serde(with = "humantime_serde")]
    pub election_min: Duration,
    #[serde(with = "humantime_serde")]
    pub election_max: Duration,
    pub snapshot_every_entries: u64,
    pub keep_entries: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FailureSettings {
    #[serde(with = "humantime_serde")]
    pub ping: Duration,
    #[serde(with = "humantime_serde")]
    pub suspect_after: Duration,
    #[serde(with = "humantime_serde")]
    pub down_after: Duration,
    #[serde(with = "humantime_serde")]
    pub dead_after: Duration,
    #[serde(with = "humantime_serde")]
    pub upload_lost_after: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    pub format: LogFormat,
    pub filter: String,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For collectors: one JSON object a line.
    Json,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("./data/node"),
            ballast: ByteSize::gib(1),
            name: None,
            zone: None,
            roles: vec![Role::Store, Role::Gateway, Role::Transcoder],
            http: HttpSettings::default(),
            rpc: RpcSettings::default(),
            content: ContentSettings::default(),
            transcoder: TranscoderSettings::default(),
            raft: RaftSettings::default(),
            failure: FailureSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, 8080)),
            url: None,
            upload_max: ByteSize::gib(1),
            anonymous_upload: true,
            keep_source: false,
        }
    }
}

impl Default for RpcSettings {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 9080)),
            advertise: None,
            certificate_life: CERTIFICATE_LIFE,
        }
    }
}

impl Default for ContentSettings {
    fn default() -> Self {
        Self {
            capacity: None,
            cache: ByteSize::mib(32),
            repair_per_second: ByteSize::mib(64),
            scrub_every: Duration::from_secs(14 * 24 * 3600),
            collect_after: Duration::from_secs(3600),
            forget_after: Duration::from_secs(48 * 3600),
        }
    }
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(80),
            election_min: Duration::from_millis(300),
            election_max: Duration::from_millis(500),
            snapshot_every_entries: 20_000,
            keep_entries: 50_000,
        }
    }
}

impl Default for FailureSettings {
    fn default() -> Self {
        Self {
            ping: Duration::from_millis(500),
            suspect_after: Duration::from_secs(3),
            down_after: Duration::from_secs(10),
            dead_after: Duration::from_secs(600),
            upload_lost_after: Duration::from_secs(120),
        }
    }
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info,openraft=error".to_owned() }
    }
}

impl Settings {
    /// The paths of all settings, such as `http.listen`.
    #[must_use]
    pub fn keys() -> Vec<String> {
        fn collect(prefix: &str, value: &serde_json::Value, keys: &mut Vec<String>) {
            let serde_json::Value::Object(fields) = value else {
                keys.push(prefix.to_owned());
                return;
            };
            for (name, field) in fields {
                let path =
                    if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
                collect(&path, field, keys);
            }
        }
        let defaults = serde_json::to_value(Self::default())
            .expect("settings are plain values with text as keys");
        let mut keys = Vec::new();
        collect("", &defaults, &mut keys);
        keys
    }
}

/// A list in the file, `store,gateway` in a variable or a flag.
fn list_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Role>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum ListOrText {
        List(Vec<String>),
        Text(String),
    }
    let names = match ListOrText::deserialize(deserializer)? {
        ListOrText::List(names) => names,
        ListOrText::Text(text) => text.split(',').map(|name| name.trim().to_owned()).collect(),
    };
    names
        .into_iter()
        .map(|name| {
            let name = serde::de::value::StringDeserializer::<D::Error>::new(name);
            Role::deserialize(name)
        })
        .collect()
}
