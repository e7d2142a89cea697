//! The audit log is bounded, its entries are counted, and its times rise with its indexes up to the catalog's clock.

use super::Findings;
use crate::apply::AUDIT_ROWS_MAX;
use crate::catalog;
use crate::table::KeyRange;
use crate::tables::audit::AUDIT;
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    let system = catalog::system(view)?;
    let rows = AUDIT.collect(view, &KeyRange::all(), usize::MAX)?;
    let found = rows.len() as u64;
    findings.require(found == system.audit_rows && found <= AUDIT_ROWS_MAX, || {
        format!("{found} entries, {} are counted", system.audit_rows)
    });
    let times = rows.iter().map(|(_, row)| row.time_ms).chain([system.time_ms]);
    findings.require(times.is_sorted(), || "its times do not rise".into());
    Ok(())
}
