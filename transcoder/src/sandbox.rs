//! The walls around libav: what the child process gives up before it touches a byte of somebody's upload.
//!
//! All that a job needs is memory, threads, a clock, and two pipes that are open already. So the process gives up the
//! file system (Landlock, and seccomp once more), sockets, starting programs, signalling others, making memory
//! executable, and its claim to ever get a privilege back. Memory and CPU time are bounded by resource limits, so that
//! a decompression bomb ends as a dead child and not as a dead machine.
//!
//! Two independent layers are meant to hold each on its own: Landlock may be missing from a kernel, which the
//! [`Report`] then says; seccomp must be there. A forbidden call fails with `EPERM` instead of killing the process, for
//! libraries try things that they can do without (glibc reads `/proc` and `/sys`).
//!
//! Dying together with the parent (`PR_SET_PDEATHSIG`) is the business of whoever starts the child.

use std::collections::BTreeMap;
use std::io;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus, Scope};
use rlimit::Resource;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter_all_threads,
};
use serde::{Deserialize, Serialize};

/// How much a child may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Bytes of address space. Thread stacks and mapped libraries count, so this is more than the memory in use.
    pub address_space_bytes: u64,
    /// Seconds of CPU time over all threads.
    pub cpu_seconds: u64,
}

impl Default for Limits {
    /// 4 GiB: a 4K ladder with six encoders takes some 2 GiB. Six CPU hours: the longest single job is a source without an
    /// index, encoded in one go; anything bounded by pieces ends in minutes.
    fn default() -> Self {
        Self { address_space_bytes: 4 << 30, cpu_seconds: 6 * 3600 }
    }
}

/// How far Landlock went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Landlock {
    /// Everything that this version of us asks for.
    Full,
    /// The kernel knows only a part of it; the file system is closed.
    Partial,
    /// The kernel has no Landlock, or it is switched off. Seccomp stands alone.
    Missing,
}

/// Which walls are up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub landlock: Landlock,
}

/// Gives up what a job does not need. There is no way back, for this process and its threads.
///
/// Landlock binds the calling thread and those it starts, so this comes before other threads exist.
///
/// # Errors
/// When seccomp or a resource limit is refused: then the process must not go on.
pub fn enter(limits: &Limits) -> io::Result<Report> {
    let landlock = restrict_files_and_network();
    for (resource, limit) in [
        (Resource::AS, limits.address_space_bytes),
        (Resource::CPU, limits.cpu_seconds),
        (Resource::FSIZE, 0),
        (Resource::NOFILE, 0),
        (Resource::CORE, 0),
    ] {
        resource.set(limit, limit)?;
    }
    // The narrower filter first: once the second one is there, no third can be installed.
    for filter in [refuse_clone3()?, allow_list()?] {
        apply_filter_all_threads(&filter).map_err(io::Error::other)?;
    }
    Ok(Report { landlock })
}

fn restrict_files_and_network() -> Landlock {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V6))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(ABI::V6)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(ABI::V6)))
        .and_then(|ruleset| ruleset.create())
        .and_then(|ruleset| ruleset.restrict_self());
    match status.map(|status| status.ruleset) {
        Ok(RulesetStatus::FullyEnforced) => Landlock::Full,
        Ok(RulesetStatus::PartiallyEnforced) => Landlock::Partial,
        Ok(RulesetStatus::NotEnforced) | Err(_) => Landlock::Missing,
    }
}

/// `clone3` hides its flags in memory, where no filter can look. With `ENOSYS` glibc takes `clone` instead.
fn refuse_clone3() -> io::Result<BpfProgram> {
    let rules = BTreeMap::from([(libc::SYS_clone3, vec![])]);
    compile(rules, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS as u32))
}

fn allow_list() -> io::Result<BpfProgram> {
    let always = [
        // The pipes and what is open already.
        libc::SYS_read,
        libc::SYS_write,
        libc::SYS_readv,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_ppoll,
        // Memory. What could make it executable is below.
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_madvise,
        libc::SYS_brk,
        // Threads.
        libc::SYS_clone3, // refused by the other filter, with the error that makes glibc fall back
        libc::SYS_futex,
        libc::SYS_rseq,
        libc::SYS_set_robust_list,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_sigaltstack,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_exit,
        libc::SYS_exit_group,
        // Time and chance.
        libc::SYS_clock_gettime,
        libc::SYS_clock_nanosleep,
        libc::SYS_nanosleep,
        libc::SYS_gettimeofday,
        libc::SYS_getrandom,
        libc::SYS_getrusage,
        libc::SYS_restart_syscall,
    ];
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        always.into_iter().map(|call| (call, vec![])).collect();
    #[cfg(target_arch = "x86_64")]
    rules.insert(libc::SYS_poll, vec![]);

    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![rule(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    let executable = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    rules.insert(libc::SYS_mmap, vec![rule(2, executable.clone(), 0)?]);
    rules.insert(libc::SYS_mprotect, vec![rule(2, executable, 0)?]);
    // Only thread names, and only signals to itself (abort).
    rules.insert(libc::SYS_prctl, vec![rule(0, SeccompCmpOp::Eq, libc::PR_SET_NAME as u64)?]);
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule(0, SeccompCmpOp::Eq, own)?]);
    compile(rules, SeccompAction::Errno(libc::EPERM as u32), SeccompAction::Allow)
}

fn rule(argument: u8, compare: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compare, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(io::Error::other)
}

fn compile(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> io::Result<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    SeccompFilter::new(rules, mismatch, matched, arch)
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}
