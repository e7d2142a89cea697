//! Measures the block store beside plain files on the same disk, and prints the ratios.
//!
//! `cargo run --release -p node --example blockstore_bench -- [DIRECTORY] [BLOCKS]`
//!
//! Both sides do the same: blocks of 1.5 MiB, hashed and durable when a put returns, hashed again on each read. The plain
//! files are written in the customary way, a temporary file that is fsynced and renamed, and its directory fsynced.

#![allow(clippy::print_stdout, reason = "it is there to print")]

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use bytes::Bytes;
use cluster::ids::BlockHash;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, stream};
use node::store::{BlockStore, RocksBlockStore, RocksOptions};

const BLOCK_BYTES: usize = 3 << 19;
const PARALLEL: usize = 16;

/// What is measured.
trait Subject: Clone + Send + Sync + 'static {
    fn put(&self, hash: BlockHash, bytes: Bytes) -> BoxFuture<'static, anyhow::Result<()>>;
    fn get(&self, hash: BlockHash) -> BoxFuture<'static, anyhow::Result<Bytes>>;
}

#[derive(Clone)]
struct Rocks(RocksBlockStore);

impl Subject for Rocks {
    fn put(&self, hash: BlockHash, bytes: Bytes) -> BoxFuture<'static, anyhow::Result<()>> {
        let store = self.0.clone();
        async move { Ok(store.put(hash, bytes, 1).await?) }.boxed()
    }

    fn get(&self, hash: BlockHash) -> BoxFuture<'static, anyhow::Result<Bytes>> {
        let store = self.0.clone();
        async move { Ok(store.get(hash).await?) }.boxed()
    }
}

#[derive(Clone)]
struct PlainFiles(Arc<PathBuf>);

impl PlainFiles {
    fn path(&self, hash: BlockHash) -> PathBuf {
        self.0.join(hash.to_string())
    }
}

impl Subject for PlainFiles {
    fn put(&self, hash: BlockHash, bytes: Bytes) -> BoxFuture<'static, anyhow::Result<()>> {
        let (path, directory) = (self.path(hash), Arc::clone(&self.0));
        let write = move || {
            anyhow::ensure!(BlockHash::of(&bytes) == hash, "the hash is wrong");
            let temporary = path.with_extension("tmp");
            let mut file = File::create(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_all()?;
            fs::rename(temporary, path)?;
            File::open(&*directory)?.sync_all()?;
            Ok(())
        };
        async { tokio::task::spawn_blocking(write).await? }.boxed()
    }

    fn get(&self, hash: BlockHash) -> BoxFuture<'static, anyhow::Result<Bytes>> {
        let path = self.path(hash);
        let read = move || {
            let bytes = fs::read(path)?;
            anyhow::ensure!(BlockHash::of(&bytes) == hash, "the hash is wrong");
            Ok(bytes.into())
        };
        async { tokio::task::spawn_blocking(read).await? }.boxed()
    }
}

#[derive(Debug, Default)]
struct Figures {
    put_mib_s: f64,
    put_p50: Duration,
    put_p99: Duration,
    written_per_byte: f64,
    read_one_gib_s: f64,
    read_parallel_gib_s: f64,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let parent = arguments.next().map_or_else(|| PathBuf::from("."), PathBuf::from);
    let count = match arguments.next() {
        Some(count) => count.to_string_lossy().parse().context("read the number of blocks")?,
        None => 400,
    };
    let work = tempfile::tempdir_in(&parent).context("make a directory for the benchmark")?;

    let path = work.path().join("plain");
    fs::create_dir(&path)?;
    let plain = measure(&PlainFiles(Arc::new(path)), count).await?;
    report("plain files", &plain);
    let memory_before = memory_mib("VmHWM:")?;

    let store = RocksBlockStore::open(&work.path().join("rocks"), &RocksOptions::default())?;
    let rocks = measure(&Rocks(store.clone()), count).await?;
    report("block store", &rocks);
    println!(
        "             peak memory {} MiB, of these {memory_before} before it",
        memory_mib("VmHWM:")?
    );
    let opened = Instant::now();
    drop(store);
    let store = open_when_free(&work.path().join("rocks")).await?;
    println!("             opened again in {:.0?} with {:?}", opened.elapsed(), store.stats());

    println!(
        "block store / plain files: put {:.2}, read one {:.2}, read {PARALLEL} {:.2}",
        rocks.put_mib_s / plain.put_mib_s,
        rocks.read_one_gib_s / plain.read_one_gib_s,
        rocks.read_parallel_gib_s / plain.read_parallel_gib_s,
    );
    Ok(())
}

/// The files are closed by whichever thread has the last handle.
async fn open_when_free(path: &Path) -> anyhow::Result<RocksBlockStore> {
    let mut attempts = 0;
    loop {
        match RocksBlockStore::open(path, &RocksOptions::default()) {
            Ok(store) => return Ok(store),
            Err(error) if attempts == 100 => return Err(error.into()),
            Err(_) => attempts += 1,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn measure(subject: &impl Subject, count: u64) -> anyhow::Result<Figures> {
    let mib = (count as f64) * BLOCK_BYTES as f64 / f64::from(1 << 20);
    let mut figures = Figures::default();
    let written_before = bytes_written()?;
    let began = Instant::now();
    let mut hashes = Vec::new();
    let mut latencies = Vec::new();
    let mut puts = stream::iter(0..count)
        .map(|seed| {
            let subject = subject.clone();
            async move {
                let make = move || {
                    let mut bytes = vec![0; BLOCK_BYTES];
                    blake3::Hasher::new()
                        .update(&seed.to_le_bytes())
                        .finalize_xof()
                        .fill(&mut bytes);
                    (BlockHash::of(&bytes), Bytes::from(bytes))
                };
                let (hash, bytes) = tokio::task::spawn_blocking(make).await?;
                let began = Instant::now();
                subject.put(hash, bytes).await?;
                anyhow::Ok((hash, began.elapsed()))
            }
        })
        .buffer_unordered(PARALLEL);
    while let Some(put) = puts.next().await {
        let (hash, latency) = put.context("put a block")?;
        hashes.push(hash);
        latencies.push(latency);
    }
    figures.put_mib_s = mib / began.elapsed().as_secs_f64();
    latencies.sort_unstable();
    figures.put_p50 = latencies[latencies.len() / 2];
    figures.put_p99 = latencies[latencies.len() * 99 / 100];
    rustix::fs::sync();
    figures.written_per_byte =
        (bytes_written()? - written_before) as f64 / (mib * f64::from(1 << 20));

    // Once to have all of it in the page cache.
    for parallel in [PARALLEL, 1, PARALLEL] {
        let began = Instant::now();
        let mut gets =
            stream::iter(&hashes).map(|hash| subject.get(*hash)).buffer_unordered(parallel);
        while let Some(bytes) = gets.next().await {
            anyhow::ensure!(bytes.context("get a block")?.len() == BLOCK_BYTES);
        }
        let gib_s = mib / 1024.0 / began.elapsed().as_secs_f64();
        if parallel == 1 {
            figures.read_one_gib_s = gib_s;
        } else {
            figures.read_parallel_gib_s = gib_s;
        }
    }
    Ok(figures)
}

fn report(name: &str, figures: &Figures) {
    println!(
        "{name}: put {:.0} MiB/s with {PARALLEL} at once (p50 {:.1?}, p99 {:.1?}), {:.2} bytes written per byte, \
         read and verified {:.2} GiB/s one by one, {:.2} GiB/s with {PARALLEL} at once",
        figures.put_mib_s,
        figures.put_p50,
        figures.put_p99,
        figures.written_per_byte,
        figures.read_one_gib_s,
        figures.read_parallel_gib_s,
    );
}

/// Bytes that this process has had written to disk.
fn bytes_written() -> anyhow::Result<u64> {
    number_in("/proc/self/io", "write_bytes:")
}

fn memory_mib(field: &str) -> anyhow::Result<u64> {
    Ok(number_in("/proc/self/status", field)? / 1024)
}

fn number_in(file: &str, field: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("read {file}"))?;
    text.lines()
        .find_map(|line| line.strip_prefix(field))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .with_context(|| format!("find {field} in {file}"))
}
