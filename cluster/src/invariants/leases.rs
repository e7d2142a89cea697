//! The index of leases names exactly the jobs that have one: a job that is done has none. No two leases have one token.

use std::collections::BTreeSet;

use super::Findings;
use crate::table::KeyRange;
use crate::tables::jobs::{JOBS, LEASES};
use crate::view::{View, ViewError};

pub(super) fn check(view: &dyn View, findings: &mut Findings<'_>) -> Result<(), ViewError> {
    let mut expected = BTreeSet::new();
    let mut tokens = BTreeSet::new();
    for (job, row) in JOBS.collect(view, &KeyRange::all(), usize::MAX)? {
        if let Some(lease) = row.lease {
            expected.insert((lease.node, job));
            findings.require(tokens.insert(lease.token), || {
                format!("the token of {job}, {}, is given twice", lease.token.0)
            });
        }
    }
    let found: BTreeSet<_> = LEASES.keys(view, &KeyRange::all(), usize::MAX)?.into_iter().collect();
    for (node, job) in found.symmetric_difference(&expected) {
        findings.require(false, || {
            format!("{job} and the index do not agree on a lease of node {node}")
        });
    }
    Ok(())
}
