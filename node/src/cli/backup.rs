//! `reelraft backup …`: the catalog in a file, and back.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Subcommand;

use super::local::Local;
use super::output;
use crate::backup::{self, Reader, Summary};
use crate::restore;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Write the catalog to a file, while everything goes on
    ///
    /// Blocks are not in it: they stay on the nodes. Nor is any secret, but what people typed is.
    Create {
        /// The file; it must not exist
        file: PathBuf,
        #[command(flatten)]
        local: Local,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Read a backup and say whether it could be restored
    Verify {
        file: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Make the first node of a new cluster from a backup
    ///
    /// The old cluster's nodes do not belong to the new one; they join it like any others, on empty data directories, into
    /// which their old `content` directory may be moved beforehand.
    Restore {
        file: PathBuf,
        /// The data directory to make
        #[arg(long, env = "REELRAFT_DATA_DIR", value_name = "DIR")]
        data_dir: PathBuf,
        /// Take over the blocks of an old node that is stopped
        #[arg(long, value_name = "OLD_DATA_DIR")]
        blocks: Option<PathBuf>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Create { file, local, json } => {
            let summary = create(&file, &local).await?;
            show(&summary, &format!("{} holds", file.display()), json)
        }
        Command::Verify { file, json } => {
            let summary = backup::verify(open(&file)?)?;
            show(&summary, &format!("{} is whole. It holds", file.display()), json)
        }
        Command::Restore { file, data_dir, blocks, json } => {
            let reader = Reader::open(open(&file)?)?;
            let restored = restore::restore(reader, &data_dir, blocks.as_deref(), &actor()).await?;
            let identity = &restored.identity;
            let cluster_id = hex::encode(identity.cluster_id);
            if json {
                return output::json(&serde_json::json!({
                    "cluster_id": cluster_id,
                    "node_id": identity.node_id,
                    "rows": restored.summary.rows,
                }));
            }
            output::line(&format!(
                "{} is node {} of the new cluster {cluster_id}, with {} rows. Start it: `reelraft serve --data-dir {}`",
                data_dir.display(),
                identity.node_id,
                restored.summary.rows,
                data_dir.display(),
            ));
            Ok(())
        }
    }
}

/// Under another name until it is whole and on disk: a file with the right name is a backup.
async fn create(file: &Path, local: &Local) -> anyhow::Result<Summary> {
    anyhow::ensure!(!file.exists(), "{} exists already", file.display());
    let node = local.operations().await?;
    let mut partial = file.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    let made = async {
        // What people typed is for the owner's eyes.
        let out =
            File::options().write(true).create(true).truncate(true).mode(0o600).open(&partial);
        let mut out = BufWriter::new(out.with_context(|| format!("create {}", partial.display()))?);
        node.backup(&mut out).await?;
        out.flush()?;
        out.get_ref().sync_all()?;
        let summary = backup::verify(open(&partial)?)?;
        fs::rename(&partial, file)?;
        let directory = file.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(directory.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(summary)
    }
    .await;
    if made.is_err() {
        // It may not exist; and if it cannot be removed, its name says what it is.
        let _ = fs::remove_file(&partial);
    }
    made
}

fn open(file: &Path) -> anyhow::Result<BufReader<File>> {
    Ok(BufReader::new(File::open(file).with_context(|| format!("open {}", file.display()))?))
}

fn show(summary: &Summary, beginning: &str, json: bool) -> anyhow::Result<()> {
    if json {
        return output::json(summary);
    }
    let header = &summary.header;
    output::line(&format!(
        "{beginning} {} rows of cluster {} up to entry {} of its log, of {}",
        summary.rows,
        hex::encode(header.cluster_id),
        header.index,
        header.created
    ));
    Ok(())
}

/// Who works without a node that could tell.
pub(super) fn actor() -> String {
    format!("user {} without a node", rustix::process::getuid().as_raw())
}
