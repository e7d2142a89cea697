//! The moments in the life of a catalog's files at which a crash matters.
//!
//! In the program nothing happens at them. Tests end a process there, and verify that the next one goes on with the old
//! catalog or the new one.

/// A step after which the files on disk differ from before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CrashPoint {
    PartReceived,
    FileReceived,
    SnapshotPutTogether,
    SnapshotComplete,
    DatabaseCopied,
    DatabaseOpened,
    DatabaseActive,
    DatabaseReplaced,
}

#[cfg(not(test))]
impl CrashPoint {
    pub(crate) const fn reached(self) {}
}

#[cfg(test)]
impl CrashPoint {
    /// Names the point at which a test's child process is to end.
    pub(crate) const VARIABLE: &str = "REELRAFT_TEST_CRASH_POINT";

    pub(crate) const ALL: [Self; 8] = [
        Self::PartReceived,
        Self::FileReceived,
        Self::SnapshotPutTogether,
        Self::SnapshotComplete,
        Self::DatabaseCopied,
        Self::DatabaseOpened,
        Self::DatabaseActive,
        Self::DatabaseReplaced,
    ];

    pub(crate) fn reached(self) {
        if std::env::var(Self::VARIABLE).is_ok_and(|name| name == format!("{self:?}")) {
            std::process::abort();
        }
    }
}
