//! Everything that can happen to the blocks of a cluster happens to one, in an order that a seed decides, while people upload,
//! watch and delete. No wrong byte is ever served; a node that nothing is done to answers every read; and in the end every block
//! has all its copies where they belong, every video that was acknowledged is there, and those that were deleted take no room.
//!
//! `REELRAFT_CHAOS_SEED` repeats an order. What the nodes make of it in time is theirs.

#![allow(clippy::print_stderr, reason = "the figures of a run that passed are worth a look")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chaos_tests::cluster::{Cluster, Ground, Settings, scenario_on};
use chaos_tests::faults::{Fault, inflict};
use chaos_tests::library::Library;
use chaos_tests::network::Network;
use chaos_tests::wait;
use serde_json::Value;

const SETTINGS: &Settings = &[
    ("REELRAFT_CONTENT_COLLECT_AFTER", "1s"),
    ("REELRAFT_HTTP_KEEP_SOURCE", "true"),
    // Reads are to reach the disks.
    ("REELRAFT_CONTENT_CACHE", "1 MiB"),
    ("REELRAFT_CONTENT_CAPACITY", "1 GiB"),
];

/// What a node offers after its weight was changed.
const LIGHTER: &Settings = &[("REELRAFT_CONTENT_CAPACITY", "512 MiB")];

const NODES: usize = 4;

/// Places for nodes that come in the course of a round.
const HOSTS: usize = 8;

/// While something is wrong, and before the next thing: so much goes on.
const UPLOADS: u64 = 2;
const READS: u64 = 60;

/// Videos are encoded on a busy machine, and a fault may cost an election and some timeouts of uploads.
const GOES_ON_WITHIN: Duration = Duration::from_secs(90);

/// Some tens of megabytes are read, copied, moved, deleted.
const SETTLED_WITHIN: Duration = Duration::from_secs(150);

/// Of a slow link: seconds for what a viewer asks for at a time.
const SLOW: &str = "10mbit";

/// Bits that are flipped in the volumes of one node at a time. None of them may hit what is still needed; then more are.
const FLIPS: usize = 12;
const FLIPS_TRIED: usize = 8;

const DAMAGED_BLOCKS: &str = "reelraft_store_damaged_blocks_total";

/// Nodes ping each other twice a second.
const NAMED_WITHIN: Duration = Duration::from_secs(45);

#[derive(Clone, Copy, Debug)]
enum Trouble {
    Killed,
    Paused,
    BitsFlippedRunning,
    BitsFlippedStopped,
    DiskLost,
    DiskFull,
    SlowLink,
    Joined,
    DrainedAndRemoved,
    WeightChanged,
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_outlive_what_happens_to_them_most() -> Result<()> {
    let troubles = [Trouble::Killed, Trouble::BitsFlippedRunning, Trouble::DiskLost];
    round(Ground::default(), troubles).await
}

mod long {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn blocks_outlive_everything_that_can_happen_to_them() -> Result<()> {
        let network = Some(Network::new(HOSTS)?);
        let ground = Ground { network, disks: true, ..Ground::default() };
        let troubles = [
            Trouble::Killed,
            Trouble::Paused,
            Trouble::BitsFlippedRunning,
            Trouble::BitsFlippedStopped,
            Trouble::DiskLost,
            Trouble::DiskFull,
            Trouble::SlowLink,
            Trouble::Joined,
            Trouble::DrainedAndRemoved,
            Trouble::WeightChanged,
        ];
        round(ground, troubles).await
    }
}

/// What a round is about.
struct Round<'a> {
    cluster: &'a mut Cluster,
    library: Library,
    random: fastrand::Rng,
}

async fn round<const N: usize>(ground: Ground, mut troubles: [Trouble; N]) -> Result<()> {
    let seed = match std::env::var("REELRAFT_CHAOS_SEED") {
        Ok(seed) => seed.parse().context("REELRAFT_CHAOS_SEED is a number")?,
        Err(_) => u64::from(fastrand::u32(..)),
    };
    let mut random = fastrand::Rng::with_seed(seed);
    random.shuffle(&mut troubles);
    eprintln!("REELRAFT_CHAOS_SEED={seed}: {troubles:?}");
    let folder = tempfile::tempdir()?;
    scenario_on(ground, NODES, SETTINGS, async |cluster| {
        let library = Library::open(cluster, folder.path(), seed).await?;
        let mut round = Round { cluster, library, random };
        round.library.goes_on(UPLOADS, READS, GOES_ON_WITHIN).await?;
        for trouble in troubles.iter() {
            let began = Instant::now();
            round.suffer(*trouble).await.with_context(|| format!("{trouble:?}, seed {seed}"))?;
            eprintln!("{trouble:?}: over after {:.1?}", began.elapsed());
        }
        round.end().await.with_context(|| format!("in the end, seed {seed}"))
    })
    .await
}

impl Round<'_> {
    /// A node that runs.
    fn victim(&mut self) -> Result<usize> {
        let running: Vec<_> = self.cluster.running().map(|node| node.number - 1).collect();
        self.random.choice(running).context("a node runs")
    }

    /// Another one.
    fn witness(&self, victim: usize) -> Result<usize> {
        let mut others = self.cluster.running().map(|node| node.number - 1);
        others.find(|place| *place != victim).context("another node runs")
    }

    async fn goes_on(&self) -> Result<()> {
        self.library.goes_on(UPLOADS, READS, GOES_ON_WITHIN).await
    }

    async fn starts_again(&mut self, place: usize, settings: &Settings) -> Result<()> {
        self.cluster.restart_with(place, settings)?;
        self.cluster.wait_until_ready().await?;
        self.library.meet(self.cluster)?;
        self.library.demand(place);
        Ok(())
    }

    async fn suffer(&mut self, trouble: Trouble) -> Result<()> {
        let victim = self.victim()?;
        match trouble {
            Trouble::Killed => {
                self.library.spare(victim);
                self.cluster.end(victim, Fault::Kill)?;
                self.goes_on().await?;
                self.starts_again(victim, &[]).await?;
            }
            Trouble::Paused => {
                self.library.spare(victim);
                let process = self.cluster.nodes[victim].process_id()?;
                inflict(Fault::Pause, process)?;
                let went_on = self.goes_on().await;
                inflict(Fault::Resume, process)?;
                went_on?;
                self.cluster.wait_until_ready().await?;
                self.library.demand(victim);
            }
            Trouble::BitsFlippedRunning => {
                self.flip(victim)?;
                self.goes_on().await?;
                self.until_found(victim).await?;
            }
            Trouble::BitsFlippedStopped => {
                self.library.spare(victim);
                self.cluster.end(victim, Fault::Terminate)?;
                self.flip(victim)?;
                self.starts_again(victim, &[]).await?;
                self.goes_on().await?;
                self.until_found(victim).await?;
            }
            Trouble::DiskLost => {
                self.library.spare(victim);
                self.cluster.end(victim, Fault::Kill)?;
                wipe(&self.cluster.nodes[victim].data())?;
                self.library.meet(self.cluster)?;
                self.cluster.remove_lost(victim).await?;
                self.cluster.grow(1).await?;
                self.library.meet(self.cluster)?;
                self.goes_on().await?;
                self.until_whole().await?;
                self.newcomer_has_blocks().await?;
            }
            Trouble::DiskFull => self.fill_disk(victim).await?,
            Trouble::SlowLink => {
                self.cluster.network()?.slow_down(victim, SLOW)?;
                self.goes_on().await?;
                self.cluster.network()?.speed_up(victim)?;
            }
            Trouble::Joined => {
                self.cluster.grow(1).await?;
                self.library.meet(self.cluster)?;
                self.goes_on().await?;
                self.newcomer_has_blocks().await?;
            }
            Trouble::DrainedAndRemoved => {
                let witness = self.witness(victim)?;
                self.library.upload_elsewhere(victim);
                self.cluster.drain(victim, witness).await?;
                self.goes_on().await?;
                self.cluster.until_drained(victim, witness).await?;
                self.library.spare(victim);
                self.cluster.remove_drained(victim, witness).await?;
                self.library.meet(self.cluster)?;
            }
            Trouble::WeightChanged => {
                let before = self.groups(victim).await?;
                self.library.spare(victim);
                self.cluster.end(victim, Fault::Terminate)?;
                self.starts_again(victim, LIGHTER).await?;
                // With three nodes each has all groups, whatever it weighs.
                if self.cluster.running().count() > 3 {
                    wait::until("a lighter node gives up groups", SETTLED_WITHIN, async || {
                        let now = self.groups(victim).await?;
                        ensure!(now < before, "{now} groups after {before}");
                        Ok(Some(()))
                    })
                    .await?;
                }
            }
        }
        self.goes_on().await
    }

    /// The node may end, once its ballast is used up; the others go on in any case.
    async fn fill_disk(&mut self, victim: usize) -> Result<()> {
        self.library.spare(victim);
        self.cluster.nodes[victim].disk()?.fill()?;
        let other = self.cluster.nodes[self.witness(victim)?].client()?;
        let name = format!("node-{}", victim + 1);
        wait::until("the full disk is known", NAMED_WITHIN, async || {
            let seen = other.cluster().await?;
            let nodes = seen["nodes"].as_array().context("a list of nodes")?;
            let node = nodes.iter().find(|node| node["name"] == name.as_str());
            let id = &node.context("it is a member")?["id"];
            let findings = seen["findings"].as_array().context("a list of findings")?;
            let named = |finding: &Value| {
                let code = finding["code"].as_str().unwrap_or_default();
                finding["node"] == *id && (code == "disk_full" || code == "ballast_released")
            };
            Ok(findings.iter().any(named).then_some(()))
        })
        .await?;
        self.goes_on().await?;
        self.cluster.nodes[victim].disk()?.make_room()?;
        if self.cluster.ends_by_itself(victim, Duration::ZERO).await.is_ok() {
            eprintln!("node {} ended", victim + 1);
            return self.starts_again(victim, &[]).await;
        }
        self.cluster.wait_until_ready().await?;
        self.library.demand(victim);
        Ok(())
    }

    /// Flips bits all over the volumes of a node, in what has been written there.
    fn flip(&mut self, place: usize) -> Result<()> {
        let volumes = self.cluster.nodes[place].data().join("content/volumes");
        let mut written: Vec<(PathBuf, usize)> = Vec::new();
        for entry in fs::read_dir(&volumes).context("list volumes")? {
            let path = entry?.path();
            let bytes = fs::read(&path)?;
            let places = (0..bytes.len()).filter(|place| bytes[*place] != 0);
            written.extend(places.step_by(1009).map(|place| (path.clone(), place)));
        }
        ensure!(written.len() >= FLIPS, "node {} has hardly a block", place + 1);
        for _ in 0..FLIPS {
            let (path, at) = &written[self.random.usize(..written.len())];
            let file = File::options().read(true).write(true).open(path)?;
            let mut byte = [0];
            file.read_exact_at(&mut byte, *at as u64)?;
            file.write_all_at(&[byte[0] ^ 1 << self.random.u8(..8)], *at as u64)?;
        }
        Ok(())
    }

    /// Waits until all copies are good, some having been found that were not.
    async fn until_found(&mut self, place: usize) -> Result<()> {
        let client = self.cluster.nodes[place].client()?;
        for _ in 0..FLIPS_TRIED {
            self.until_whole().await?;
            if client.metric(DAMAGED_BLOCKS).await? > 0 {
                return Ok(());
            }
            self.flip(place)?;
        }
        bail!("no flipped bit was found")
    }

    /// The placement groups of a node.
    async fn groups(&self, place: usize) -> Result<u64> {
        let node = self.cluster.seen(self.witness(place)?, place).await?.context("a member")?;
        node["store"]["groups"].as_u64().with_context(|| format!("groups of {node}"))
    }

    async fn newcomer_has_blocks(&self) -> Result<()> {
        let newcomer = self.cluster.nodes.len() - 1;
        wait::until("the new node has blocks", SETTLED_WITHIN, async || {
            let node = self.cluster.seen(newcomer, newcomer).await?.context("a member")?;
            Ok((node["blocks"].as_u64() > Some(0)).then_some(()))
        })
        .await
    }

    /// Waits until the cluster itself says that all copies are there, having read them.
    async fn until_whole(&self) -> Result<Value> {
        let witness = self.cluster.running().next().context("a node runs")?;
        let count = ["repair", "verify", "--read", "--json"];
        wait::until("all copies are good", SETTLED_WITHIN, async || {
            let counted: Value =
                serde_json::from_str(&self.cluster.command(&count, witness).await?)?;
            ensure!(counted["whole"] == true, "{counted}");
            Ok(Some(counted))
        })
        .await
    }

    /// What nodes say that they store, each of itself.
    async fn stored(&self) -> Result<Vec<u64>> {
        let mut stored = Vec::new();
        for client in self.cluster.clients()? {
            let seen = client.cluster().await?;
            let nodes = seen["nodes"].as_array().context("a list of nodes")?;
            let me = nodes.iter().find(|node| node["id"] == seen["self"]).context("it is one")?;
            stored.push(me["blocks"].as_u64().context("a number of blocks")?);
        }
        Ok(stored)
    }

    async fn end(mut self) -> Result<()> {
        let used = self.library.close().await?;
        let troubles = self.library.troubles();
        ensure!(troubles.is_empty(), "{}", troubles.join("\n"));
        let began = Instant::now();
        let there = self.library.is_all_there(self.cluster).await?;
        // Nothing is left of what was deleted or moved, and nothing is lacking.
        let (counted, stored) =
            wait::until("there are all copies and no others", SETTLED_WITHIN, async || {
                let counted = self.until_whole().await?;
                let stored = self.stored().await?;
                ensure!(
                    counted["copies"].as_u64() == Some(stored.iter().sum()),
                    "{stored:?} blocks are stored: {counted}"
                );
                Ok(Some((counted, stored)))
            })
            .await?;
        ensure!(used.deletions > 0 && used.reads > 0, "too little happened: {used:?}");
        let settled = began.elapsed();
        self.library.is_all_there(self.cluster).await?;
        eprintln!("{used:?}; {there} videos; settled within {settled:.1?}: {stored:?}, {counted}");
        Ok(())
    }
}

/// Nothing is left of what was there.
fn wipe(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    Ok(())
}
