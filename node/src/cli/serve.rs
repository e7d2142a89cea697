//! `reelraft serve`: one node, until it is asked to stop.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, anyhow, ensure};
use rustix::process::{
    Pid, Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit,
};
use tracing_subscriber::EnvFilter;

use super::shutdown::Shutdown;
use crate::config::{self, Config, LogConfig, LogFormat, Override};
use crate::files::{REMEDY_FOR_FULL_DISK, says_disk_is_full};
use crate::run;

/// One node. `docs/config.toml` explains each setting.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The configuration file
    #[arg(long, env = "REELRAFT_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the node keeps everything
    #[arg(long, value_name = "DIR")]
    data_dir: Option<String>,
    /// What people call it
    #[arg(long)]
    name: Option<String>,
    /// What may fail together with it
    #[arg(long)]
    zone: Option<String>,
    /// What it does: store,gateway,transcoder
    #[arg(long, value_name = "ROLES")]
    roles: Option<String>,
    /// Where people reach it
    #[arg(long, value_name = "IP:PORT")]
    http_listen: Option<String>,
    /// Where nodes reach it
    #[arg(long, value_name = "IP:PORT")]
    rpc_listen: Option<String>,
    /// The address that other nodes are told, where it differs
    #[arg(long, value_name = "HOST:PORT")]
    rpc_advertise: Option<String>,
    /// How log lines are written: text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Any other setting, such as http.keep_source=true
    #[arg(long = "set", value_name = "SETTING=VALUE", value_parser = setting)]
    settings: Vec<Override>,
    /// Stop when the process with this id, which started this one, ends
    #[arg(long, hide = true, value_name = "PID")]
    stop_with_parent: Option<i32>,
}

fn setting(text: &str) -> Result<Override, String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected SETTING=VALUE".to_owned()),
    }
}

pub(super) fn run(args: Args) -> anyhow::Result<()> {
    if let Some(parent) = args.stop_with_parent {
        stop_with(parent)?;
    }
    abort_on_panic();
    let variables: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let (config, unknown) = config::load(args.config.as_deref(), &variables, &args.overrides())?;
    start_log(&config.log)?;
    allow_open_files();
    for name in unknown {
        tracing::warn!(name, "no setting has this variable: is it a slip of the pen?");
    }
    serve(config)
}

/// HTTP and the loops run here; consensus has a thread of its own, so that no request can delay a heartbeat.
fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("reelraft")
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(async {
        let mut shutdown = Shutdown::listen()?;
        run::serve(config, async move { shutdown.requested().await }).await
    });
    // Whatever still runs has had its time.
    runtime.shutdown_timeout(run::LEFTOVERS_MAX);
    result.map_err(with_remedy)
}

/// Says what to do, where whoever failed cannot know it.
fn with_remedy(error: anyhow::Error) -> anyhow::Error {
    let text = format!("{error:#}");
    if says_disk_is_full(&text) { anyhow!("{text}. {REMEDY_FOR_FULL_DISK}") } else { error }
}

impl Args {
    fn overrides(&self) -> Vec<Override> {
        let flags = [
            ("data_dir", &self.data_dir),
            ("name", &self.name),
            ("zone", &self.zone),
            ("roles", &self.roles),
            ("http.listen", &self.http_listen),
            ("rpc.listen", &self.rpc_listen),
            ("rpc.advertise", &self.rpc_advertise),
            ("log.format", &self.log_format),
        ];
        flags
            .into_iter()
            .filter_map(|(key, value)| Some((key.to_owned(), value.clone()?)))
            .chain(self.settings.iter().cloned())
            .collect()
    }
}

/// Systems give a process a thousand open files, which a gateway with many viewers uses up, and allow it far more when it asks.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, ?limit, "the limit of open files stays as it is");
    }
}

/// The supervisor of a local cluster must not leave nodes behind, however it ends.
fn stop_with(parent: i32) -> anyhow::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))
        .context("bind this process to its parent")?;
    // It may have ended before that.
    ensure!(
        getppid().map(Pid::as_raw_nonzero).is_some_and(|now| now.get() == parent),
        "the process that started this one has ended"
    );
    Ok(())
}

/// Half a node is worse than none: another thread could go on with what the one that panicked left behind. The next start is
/// the same as after `kill -9`.
fn abort_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

fn start_log(log: &LogConfig) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(filter_of(&log.filter)).context("read log.filter")?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match log.format {
        LogFormat::Text => lines
            .with_ansi(
                std::io::IsTerminal::is_terminal(&std::io::stderr())
                    && std::env::var_os("NO_COLOR").is_none(),
            )
            .try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("start the log: {error}"))
}

/// The operator's filter, and silence from consensus' library below errors unless the filter speaks of it: what it has to
/// say to operators, this program says itself.
fn filter_of(wanted: &str) -> String {
    if wanted.contains("openraft") { wanted.to_owned() } else { format!("{wanted},openraft=error") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_library_of_consensus_is_quiet_unless_it_is_asked_for() {
        assert_eq!(filter_of("info,node=debug"), "info,node=debug,openraft=error");
        assert_eq!(filter_of("info,openraft=debug"), "info,openraft=debug");
        for wanted in ["info", "info,node=debug", ""] {
            EnvFilter::try_new(filter_of(wanted)).unwrap();
        }
    }

    #[test]
    fn settings_have_a_name_and_a_value() {
        assert_eq!(setting("a.b=c=d").unwrap(), ("a.b".to_owned(), "c=d".to_owned()));
        assert!(setting("a.b").is_err());
        assert!(setting("=c").is_err());
    }
}
