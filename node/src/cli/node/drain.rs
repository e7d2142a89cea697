//! `reelraft node drain`: have a node hand over what it does, and wait until it has.
//!
//! # Exit status
//!
//! 0 when the drain began (or was cancelled with `--cancel`), with `--wait` when the node can be removed or is gone. Otherwise
//! what went wrong, so that scripts need not read sentences: [`CANCELLED`], [`TIMED_OUT`], [`INTERRUPTED`], 1 for the rest.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use indicatif::{ProgressBar, ProgressStyle};
use proto::operations::watch_drain_reply::State;
use proto::operations::{Waiting, WatchDrainReply};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status};

use crate::cli::local::Local;
use crate::cli::output;
use crate::rpc::operations::OperationsApi;

/// Somebody cancelled the drain that is waited for.
const CANCELLED: u8 = 3;

/// The node was not ready to be removed in time.
const TIMED_OUT: u8 = 4;

/// Ctrl-C, as shells have it.
const INTERRUPTED: u8 = 130;

/// Between two looks.
const POLL: Duration = Duration::from_secs(1);

/// How long the node that is asked may be away: as long as a restart takes, with room.
const ABSENCE_MAX: Duration = Duration::from_secs(60);

/// How long an answer may be kept back while the spinner turns.
const TURN: Duration = Duration::from_millis(120);

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// Its id
    id: u64,
    /// Keep it after all
    #[arg(long)]
    cancel: bool,
    /// Return when the node can be removed
    ///
    /// Shows what it still waits for. Ends with status 3 when somebody cancels the drain, and with 4 when the time of
    /// --timeout is over; Ctrl-C ends the waiting. The drain itself goes on in both of the latter cases.
    #[arg(long, conflicts_with = "cancel")]
    wait: bool,
    /// How long to wait at most, such as 30m or 2h
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = humantime::parse_duration, requires = "wait")]
    timeout: Duration,
    #[command(flatten)]
    local: Local,
    /// Print JSON: with --wait one object on a line for each change, and a last one that says how it ended
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { id, cancel, .. } = args;
    args.local.operations().await?.drain(id, cancel).await?;
    if args.wait {
        let mut shown = Shown::new(id, args.json)?;
        let waited = tokio::select! {
            waited = wait(&args, &mut shown) => waited,
            interrupted = tokio::signal::ctrl_c() => interrupted.map(|()| Ended::Interrupted).context("wait for Ctrl-C"),
        };
        return shown.end(waited?, args.timeout);
    }
    if args.json {
        let state = if cancel { "stays" } else { "draining" };
        output::json_line(&json!({"node": id, "state": state}))?;
    } else if cancel {
        output::line(&format!("node {id} stays"));
    } else {
        output::line(&format!(
            "node {id} is being drained; `reelraft node drain {id} --wait` shows how far it is"
        ));
    }
    Ok(ExitCode::SUCCESS)
}

/// How the waiting ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ended {
    /// It can be removed.
    Drained,
    /// Somebody removed it.
    Removed,
    Cancelled,
    TimedOut,
    Interrupted,
}

/// Looks at the drain until there is nothing to wait for.
async fn wait(args: &Args, shown: &mut Shown) -> anyhow::Result<Ended> {
    // A time too long to be told is as good as none; clap's default shows what is meant.
    let now = Instant::now();
    let deadline = now.checked_add(args.timeout).unwrap_or(now + Duration::from_secs(86_400 * 365));
    let (mut api, mut asked) = (None, None);
    let mut last_answer = Instant::now();
    loop {
        let Ok(seen) = timeout_at(deadline, look(args, &mut api, &mut asked)).await else {
            return Ok(Ended::TimedOut);
        };
        match seen {
            Ok(reply) => {
                last_answer = Instant::now();
                if let Some(ended) = ended(&reply) {
                    return Ok(ended);
                }
                shown.waits(reply.waiting.unwrap_or_default())?;
            }
            Err(Trouble::Final(error)) => return Err(error),
            Err(Trouble::Passing(why)) => {
                last_answer = Instant::now();
                shown.unclear(&why);
            }
            // It is the node itself that is asked, and it has been told.
            Err(Trouble::Away(_)) if asked == Some(args.id) && args.local.was_removed() => {
                return Ok(Ended::Removed);
            }
            Err(Trouble::Away(error)) if last_answer.elapsed() > ABSENCE_MAX => {
                return Err(error.context(format!("wait for the drain of node {}", args.id)));
            }
            Err(Trouble::Away(error)) => shown.unclear(&format!("{error:#}")),
        }
        if timeout_at(deadline, sleep(POLL)).await.is_err() {
            return Ok(Ended::TimedOut);
        }
    }
}

/// Why nothing was learned.
enum Trouble {
    /// The cluster cannot say at present.
    Passing(String),
    /// The node that is asked does not answer.
    Away(anyhow::Error),
    Final(anyhow::Error),
}

/// One look, through the connection in `api` if there is one. Finds out which node is `asked`, once.
async fn look(
    args: &Args,
    api: &mut Option<OperationsApi>,
    asked: &mut Option<u64>,
) -> Result<WatchDrainReply, Trouble> {
    if asked.is_none() {
        let node = args.local.node().await.map_err(Trouble::Away)?;
        let identity = node.identify().await.map_err(Trouble::Away)?;
        *asked = Some(identity.node_id);
    }
    let node = match api {
        Some(node) => node,
        None => api.insert(args.local.operations().await.map_err(Trouble::Away)?),
    };
    let answer = node.watch_drain(args.id).await;
    answer.map_err(|status| {
        let trouble = trouble(&status);
        if let Trouble::Away(_) = trouble {
            *api = None;
        }
        trouble
    })
}

fn trouble(status: &Status) -> Trouble {
    let text = status.message().to_owned();
    if status.code() == Code::Aborted {
        Trouble::Passing(text)
    } else if [Code::Unavailable, Code::Cancelled, Code::Unknown].contains(&status.code()) {
        // It has ended, or is starting and says so.
        Trouble::Away(crate::rpc::admin::words(status))
    } else {
        Trouble::Final(crate::rpc::admin::words(status))
    }
}

/// Whether there is nothing left to wait for.
fn ended(reply: &WatchDrainReply) -> Option<Ended> {
    match reply.state() {
        State::Removed => Some(Ended::Removed),
        State::Stays => Some(Ended::Cancelled),
        State::Draining | State::Unspecified => reply
            .waiting
            .as_ref()
            .is_some_and(|waiting| waiting.reasons.is_empty())
            .then_some(Ended::Drained),
    }
}

/// What was shown last, and how.
struct Shown {
    node: u64,
    to: To,
    waiting: Option<Waiting>,
    text: String,
}

/// Where the progress goes: nothing of it is a result, except for programs.
enum To {
    /// One line that is written again and again, and what has to be read above it.
    Terminal(ProgressBar),
    /// A line for each change.
    Lines,
    Json,
}

impl Shown {
    fn new(node: u64, json: bool) -> anyhow::Result<Self> {
        let bar = ProgressBar::new_spinner();
        let to = if json {
            To::Json
        } else if bar.is_hidden() {
            To::Lines
        } else {
            let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}")
                .context("lay out the progress line")?;
            bar.set_style(style);
            bar.set_message(format!("node {node} is being drained"));
            bar.enable_steady_tick(TURN);
            To::Terminal(bar)
        };
        Ok(Self { node, to, waiting: None, text: String::new() })
    }

    fn waits(&mut self, waiting: Waiting) -> anyhow::Result<()> {
        let stuck = waiting.stuck.clone();
        let newly_stuck =
            !stuck.is_empty() && self.waiting.as_ref().is_none_or(|before| before.stuck.is_empty());
        if let To::Json = self.to {
            if self.waiting.as_ref() != Some(&waiting) {
                output::json_line(&object(self.node, "draining", Some(&waiting)))?;
            }
        } else {
            let text = format!("node {}: {}", self.node, brief(&waiting));
            self.say(text);
            if newly_stuck {
                self.remark(&format!("its blocks stay where they are: {stuck}"));
            }
        }
        self.waiting = Some(waiting);
        Ok(())
    }

    /// Nobody can say how far it is.
    fn unclear(&mut self, why: &str) {
        self.say(format!("node {}: nobody can say at present how far it is: {why}", self.node));
    }

    fn say(&mut self, text: String) {
        if text == self.text {
            return;
        }
        match &self.to {
            To::Terminal(bar) => bar.set_message(text.clone()),
            To::Lines => output::note(&text),
            To::Json => {}
        }
        self.text = text;
    }

    /// What should not be overwritten.
    fn remark(&self, text: &str) {
        match &self.to {
            To::Terminal(bar) => bar.suspend(|| output::note(text)),
            To::Lines => output::note(text),
            To::Json => {}
        }
    }

    fn end(self, ended: Ended, limit: Duration) -> anyhow::Result<ExitCode> {
        let node = self.node;
        if let To::Terminal(bar) = &self.to {
            bar.finish_and_clear();
        }
        let (state, status, text) = match ended {
            Ended::Drained => (
                "drained",
                0,
                format!("node {node} has handed over everything: `reelraft node remove {node}`"),
            ),
            Ended::Removed => (
                "removed",
                0,
                format!(
                    "somebody removed node {node} meanwhile: it belongs to the cluster no more"
                ),
            ),
            Ended::Cancelled => (
                "cancelled",
                CANCELLED,
                format!(
                    "the drain of node {node} was cancelled meanwhile; `reelraft cluster audit` shows by whom"
                ),
            ),
            Ended::TimedOut => {
                let waiting = self.waiting.as_ref();
                let reasons = waiting.map(|waiting| list(&waiting.reasons)).unwrap_or_default();
                let limit = humantime::format_duration(limit);
                (
                    "timed_out",
                    TIMED_OUT,
                    format!(
                        "node {node} has not handed over everything within {limit}; it goes on{reasons}"
                    ),
                )
            }
            Ended::Interrupted => (
                "interrupted",
                INTERRUPTED,
                format!(
                    "the drain of node {node} goes on; `reelraft node drain {node} --cancel` ends it"
                ),
            ),
        };
        if let To::Json = self.to {
            let waiting = self.waiting.as_ref().filter(|_| status != 0 && status != CANCELLED);
            output::json_line(&object(node, state, waiting))?;
        } else {
            match ended {
                Ended::Drained | Ended::Removed => output::line(&text),
                Ended::Interrupted => output::note(&text),
                Ended::Cancelled | Ended::TimedOut => output::error(&anyhow!(text)),
            }
        }
        Ok(ExitCode::from(status))
    }
}

/// For programs, with the names of the HTTP API.
fn object(node: u64, state: &str, waiting: Option<&Waiting>) -> Value {
    let Some(waiting) = waiting else {
        return json!({"node": node, "state": state});
    };
    json!({
        "node": node,
        "state": state,
        "groups": waiting.groups,
        "copies_missing": waiting.copies_missing,
        "leads": waiting.leads,
        "votes": waiting.votes,
        "jobs": waiting.jobs,
        "uploads": waiting.uploads,
        "waiting_for": waiting.reasons,
        "stuck": (!waiting.stuck.is_empty()).then_some(&waiting.stuck),
    })
}

/// Reasons below each other.
fn list(reasons: &[String]) -> String {
    reasons.iter().map(|reason| format!("\n  - {reason}")).collect()
}

/// What is waited for in a few words, the first ones the most important.
fn brief(waiting: &Waiting) -> String {
    let count = |count: u64, one: &str, many: &str| match count {
        0 => None,
        1 => Some(format!("1 {one}")),
        count => Some(format!("{count} {many}")),
    };
    let words = [
        count(u64::from(waiting.groups), "group of blocks", "groups of blocks"),
        waiting.copies_missing.and_then(|copies| count(copies, "copy", "copies")),
        waiting.leads.then(|| "another leader".to_owned()),
        waiting.votes.then(|| "another voter".to_owned()),
        count(waiting.jobs, "job", "jobs"),
        count(waiting.uploads, "upload", "uploads"),
    ];
    let words: Vec<String> = words.into_iter().flatten().collect();
    if words.is_empty() {
        // What is left has no number: others have to look, or to answer.
        waiting.reasons.join("; ")
    } else {
        format!("waits for {}", words.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(state: State, reasons: &[&str]) -> WatchDrainReply {
        let reasons = reasons.iter().map(|reason| (*reason).to_owned()).collect();
        WatchDrainReply {
            state: state.into(),
            waiting: Some(Waiting { reasons, ..Waiting::default() }),
        }
    }

    #[test]
    fn the_waiting_ends_when_nothing_is_left_or_somebody_else_decides() {
        assert_eq!(ended(&reply(State::Draining, &["it leads"])), None);
        assert_eq!(ended(&reply(State::Draining, &[])), Some(Ended::Drained));
        assert_eq!(ended(&reply(State::Stays, &[])), Some(Ended::Cancelled));
        assert_eq!(ended(&reply(State::Removed, &[])), Some(Ended::Removed));
        // A node that says nothing of what is left has not said that nothing is.
        let silent = WatchDrainReply { state: State::Draining.into(), waiting: None };
        assert_eq!(ended(&silent), None);
    }

    #[test]
    fn a_line_names_all_that_is_left() {
        let waiting = Waiting {
            groups: 512,
            copies_missing: Some(1),
            leads: true,
            votes: true,
            jobs: 2,
            uploads: 1,
            ..Waiting::default()
        };
        assert_eq!(
            brief(&waiting),
            "waits for 512 groups of blocks, 1 copy, another leader, another voter, 2 jobs, 1 upload"
        );
        let reasons = vec!["node 2 has to look once more".to_owned()];
        assert_eq!(
            brief(&Waiting { reasons, ..Waiting::default() }),
            "node 2 has to look once more"
        );
    }

    #[test]
    fn only_what_may_pass_is_waited_for() {
        assert!(matches!(trouble(&Status::aborted("no leader")), Trouble::Passing(_)));
        assert!(matches!(trouble(&Status::unavailable("gone")), Trouble::Away(_)));
        assert!(matches!(trouble(&Status::not_found("there is no node 9")), Trouble::Final(_)));
    }
}
