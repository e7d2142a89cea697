//! Writing a backup.

use std::io::{self, Write};
use std::ops::ControlFlow;
use std::time::SystemTime;

use cluster::catalog;
use cluster::view::{TableId, View};

use super::frame::{Chain, Frame, ROWS_BYTES, Row};
use super::{BackupError, Header, LEFT_OUT, MAGIC};
use crate::VERSION;

/// Writes the tables in `view`, which must not change meanwhile, as they are after entry `index` of the log. Returns how
/// many rows that were. The caller makes the file durable.
///
/// # Errors
/// When the tables cannot be read or `to` cannot be written.
pub fn write(view: &dyn View, index: u64, to: &mut dyn Write) -> Result<u64, BackupError> {
    let system = catalog::system(view)?;
    let mut chain = Chain::new();
    to.write_all(MAGIC)?;
    let header = Header {
        cluster_id: system.cluster_id,
        index,
        version: VERSION.to_owned(),
        created: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
        feature_level: system.level(),
    };
    chain.write(&Frame::Header(header), to)?;
    let mut rows = 0;
    for table in TableId::ALL {
        if !LEFT_OUT.contains(&table) {
            rows += write_table(view, table, &mut chain, to)?;
        }
    }
    chain.write(&Frame::End { rows }, to)?;
    Ok(rows)
}

fn write_table(
    view: &dyn View,
    table: TableId,
    chain: &mut Chain,
    to: &mut dyn Write,
) -> Result<u64, BackupError> {
    let mut total = 0;
    let mut bytes = 0;
    let mut rows = Vec::new();
    let mut failed: Option<io::Error> = None;
    let mut close = |rows: Vec<Row>| {
        total += rows.len() as u64;
        chain.write(&Frame::Rows { table: table.name().to_owned(), rows }, to)
    };
    view.scan(table, &[], &[], &mut |key, value| {
        bytes += key.len() + value.len();
        rows.push(Row { key: key.to_vec(), value: value.to_vec() });
        if bytes >= ROWS_BYTES {
            bytes = 0;
            if let Err(error) = close(std::mem::take(&mut rows)) {
                failed = Some(error);
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    })?;
    if let Some(error) = failed {
        return Err(error.into());
    }
    if !rows.is_empty() {
        close(rows)?;
    }
    Ok(total)
}
