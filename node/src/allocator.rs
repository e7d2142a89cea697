//! The allocator of the whole process, of C++ as well as of Rust.
//!
//! RocksDB reads each block into a buffer of its own. The C library's allocator maps and unmaps memory for every buffer of
//! that size, and the page faults take several times as long as the read: blocks of 1.5 MiB come out of the page cache at
//! 1.1 GiB/s with it and at more than 8 GiB/s with jemalloc (one thread). mimalloc reads as fast, but an upload of many
//! blocks at once takes 210 to 240 MiB of memory with it, and 130 MiB with jemalloc.
//!
//! jemalloc is built without a prefix, so that `malloc` itself is jemalloc and the C++ and C libraries use it too. Its own
//! thread gives memory back to the system when the node falls idle. Whatever links this crate gets it: the binary, the
//! tests, the benchmarks.

use tikv_jemallocator::Jemalloc;

#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;
