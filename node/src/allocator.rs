//! The allocator of the whole process, of C++ as well as of Rust.
//!
//! RocksDB reads each block into a buffer of its own. The C library's allocator maps and unmaps memory for every buffer of
//! that size, and the page faults take several times as long as the read: blocks of 1.5 MiB come out of the page cache at
//! 1.1 GiB/s with it and at more than 8 GiB/s with jemalloc (one thread). mimalloc reads as fast, but an upload of many
//! blocks at once takes 210 to 240 MiB of memory with it, and 130 MiB with jemalloc.
//!
//! jemalloc is built without a prefix, so that `malloc` itself is jemalloc and the C++ and C libraries use it too. Its own
//! thread gives memory back to the system while the node runs. Whatever links this crate gets it: the binary, the tests,
//! the benchmarks.

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

/// How jemalloc works, in its own words (jemalloc(3), "TUNING"). An upload passes blocks through many threads; by default
/// each of four arenas per processor keeps what it freed for ten seconds, and an upload of 1 GiB raised a node by 121 MiB.
/// With an arena per processor, and half a second, it is under 64 MiB at the same speed. Keeping nothing at all would be
/// another 10 MiB less, and almost half the speed.
///
/// The environment variable `MALLOC_CONF` wins over it.
#[allow(unsafe_code, reason = "jemalloc reads the symbol of this name; nothing else may define it")]
#[unsafe(export_name = "malloc_conf")]
static CONFIGURATION: &[u8] =
    b"background_thread:true,percpu_arena:phycpu,dirty_decay_ms:500,muzzy_decay_ms:0\0";
