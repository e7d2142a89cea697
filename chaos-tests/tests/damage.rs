//! What is on the disk of one node is damaged, while it is stopped and while it runs. The node never goes on with less than it
//! had: what can be had again it gets from its log and from the others, otherwise it refuses to start, says what to do, and
//! that helps. The cluster goes on meanwhile.

#![allow(clippy::print_stderr, reason = "the figures of a run that passed are worth a look")]

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos_tests::cluster::{Cluster, scenario};
use chaos_tests::faults::Fault;
use chaos_tests::workload::Workload;
use chaos_tests::{catalogs, wait};

/// As long as a majority is left, writes go on within about a second; here encoders and compilers may run beside.
const WRITES_WITHIN: Duration = Duration::from_secs(45);

/// Writes that are acknowledged between two faults, beyond the first.
const BETWEEN_FAULTS: u64 = 100;

/// A start that is refused ends within a second, on a machine that has nothing else to do.
const REFUSED_WITHIN: Duration = Duration::from_secs(30);

/// Bytes at the end of a log of which nobody was told: a mark of what is on disk, which itself may not be.
const TORN_BYTES: u64 = 5;

/// What is flipped, and what is flipped in addition: the same bit of the same byte would mend it.
const BIT: u8 = 0x10;
const OTHER_BIT: u8 = 0x20;

#[tokio::test(flavor = "multi_thread")]
async fn a_node_never_goes_on_with_less_than_it_had() -> Result<()> {
    scenario(3, async |cluster| {
        let load = Workload::start(cluster).await?;
        let place = (cluster.leader().await? + 1) % 3;
        // A start brings what the logs have to sorted files; then there is something in both.
        for _ in 0..2 {
            load.acknowledges(BETWEEN_FAULTS, WRITES_WITHIN).await?;
            cluster.end(place, Fault::Kill)?;
            cluster.restart(place)?;
            cluster.wait_until_ready().await?;
        }
        load.acknowledges(BETWEEN_FAULTS, WRITES_WITHIN).await?;
        cluster.end(place, Fault::Kill)?;

        let data = cluster.nodes[place].data();
        let kept = data.with_extension("kept");
        copy(&data, &kept)?;
        for part in [Part::LogRecords, Part::LogTable, Part::CatalogTable] {
            flip(&part.file(&data)?, BIT)?;
            refuses(cluster, place).await.with_context(|| format!("{part:?}"))?;
            // Whoever tries again gets no further, though the first try may have changed files.
            refuses(cluster, place).await.with_context(|| format!("{part:?}, once more"))?;
            load.goes_on(WRITES_WITHIN).await?;
            fs::remove_dir_all(&data)?;
            copy(&kept, &data)?;
        }
        fs::remove_dir_all(kept)?;

        // What a power failure leaves of the last record.
        let log = File::options().write(true).open(Part::LogRecords.file(&data)?)?;
        log.set_len(log.metadata()?.len() - TORN_BYTES)?;
        drop(log);
        cluster.restart(place)?;
        cluster.wait_until_ready().await?;

        // The log has what the catalog lacks.
        load.acknowledges(BETWEEN_FAULTS, WRITES_WITHIN).await?;
        cluster.end(place, Fault::Kill)?;
        flip(&Part::CatalogRecords.file(&data)?, BIT)?;
        cluster.restart(place)?;
        cluster.wait_until_ready().await?;

        // Under a node that runs: it may find out at any time, and does so at its next start.
        let parts = [Part::CatalogTable, Part::LogRecords];
        for part in parts {
            // It may be about to replace the file.
            wait::until("a file is damaged", WRITES_WITHIN, async || {
                flip(&part.file(&data)?, BIT).map(Some)
            })
            .await?;
        }
        load.acknowledges(BETWEEN_FAULTS, WRITES_WITHIN).await?;
        // It may have ended by itself.
        let _ = cluster.end(place, Fault::Kill);
        // It may also have replaced the files by others before it read the damage.
        for part in parts {
            flip(&part.file(&data)?, OTHER_BIT)?;
        }
        refuses(cluster, place).await.context("damaged while it ran")?;

        // As it said: another node takes its place.
        cluster.remove_lost(place).await?;
        cluster.grow(1).await?;
        load.use_nodes(cluster);
        load.acknowledges(BETWEEN_FAULTS, WRITES_WITHIN).await?;
        let summary = load.finish(cluster).await?;
        catalogs::are_equal(cluster).await?;
        summary.ensure_meaningful(3 * BETWEEN_FAULTS as usize)?;
        eprintln!("{summary:?}");
        Ok(())
    })
    .await
}

/// What of a node's data is damaged.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// The newest entries of the log.
    LogRecords,
    /// Older ones, and the vote.
    LogTable,
    /// The newest changes of the catalog.
    CatalogRecords,
    /// The rest of it.
    CatalogTable,
}

impl Part {
    /// The largest file of that kind below a data directory.
    fn file(self, data: &Path) -> Result<PathBuf> {
        let catalog = || -> Result<PathBuf> {
            let active = fs::read_to_string(data.join("state/active"))?;
            Ok(data.join("state").join(active.trim()))
        };
        let (folder, extension) = match self {
            Self::LogRecords => (data.join("raft"), "log"),
            Self::LogTable => (data.join("raft"), "sst"),
            Self::CatalogRecords => (catalog()?, "log"),
            Self::CatalogTable => (catalog()?, "sst"),
        };
        let mut largest = None;
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            if entry.path().extension().is_some_and(|found| found == extension) {
                largest = largest.max(Some((entry.metadata()?.len(), entry.path())));
            }
        }
        let (_, path) = largest.with_context(|| format!("{self:?}: nothing in {folder:?}"))?;
        Ok(path)
    }
}

/// Flips one bit of a byte in the first half of a file.
fn flip(path: &Path, bit: u8) -> Result<()> {
    let bytes = fs::read(path)?;
    // Zeros may be nothing but padding.
    let middle = bytes.len() / 2;
    let position = (middle / 2..middle).find(|position| bytes[*position] != 0);
    let position = position.with_context(|| format!("{} is empty", path.display()))?;
    // In place: a node may have it open.
    let file = File::options().write(true).open(path)?;
    file.write_all_at(&[bytes[position] ^ bit], position as u64)?;
    Ok(())
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let copied = Command::new("cp").arg("-aT").args([from, to]).status()?;
    ensure!(copied.success(), "copy {}: {copied}", from.display());
    Ok(())
}

/// The node does not start, or not for long, and says what to do.
async fn refuses(cluster: &mut Cluster, place: usize) -> Result<()> {
    let before = cluster.nodes[place].printed()?.len();
    cluster.restart(place)?;
    let status = cluster.ends_by_itself(place, REFUSED_WITHIN).await?;
    ensure!(!status.success(), "it ended as if it had been stopped");
    let printed = cluster.nodes[place].printed()?;
    let said = &printed[before..];
    ensure!(
        said.contains("move")
            && said.contains("data directory away and let")
            && said.contains("join again"),
        "it does not say what to do: {said}"
    );
    Ok(())
}
