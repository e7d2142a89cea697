#!/usr/bin/env bash
# Builds RocksDB once per machine and tells Cargo where the result is.
#
# RocksDB is a few hundred C++ files: 6 to 16 minutes on two cores, again for every clone, every profile and every
# `cargo clean`. So one static archive is kept in the cache directory, under a name made from all that shapes it, and
# `.cargo/local.toml` (not committed, included by `.cargo/config.toml`) points librocksdb-sys at it. Plain `cargo build`
# profits from then on; without that file, Cargo compiles RocksDB by itself like any other dependency.
#
# An archive counts only once its directory has its final name, and it gets that by one rename at the very end.
# `rocksdb.sh --key` prints the name and its ingredients and builds nothing.
cd "$(dirname "$0")/.."
source scripts/lib.sh

settings=.cargo/local.toml

if [[ -n ${ROCKSDB_LIB_DIR:-}${ROCKSDB_COMPILE:-} ]]; then
  say "RocksDB as set in the environment (ROCKSDB_LIB_DIR or ROCKSDB_COMPILE)"
  exit 0
fi

# clang needs a third less time for it than g++ does, and its code is no slower.
cc=cc cxx=c++
if have clang && have clang++; then cc=clang cxx=clang++; fi

# Everything that changes the archive: the exact crate and its features as the workspace resolves them, the C library it
# includes, the CPU instructions it may use, the platform and the compiler.
ingredients() {
  cargo tree --quiet --package librocksdb-sys --edges normal --depth 1 --prefix none --format '{p} {f}' |
    grep -E '^(librocksdb-sys|lz4-sys) '
  sed -n '/^\[target\./p; /^rustflags/p' .cargo/config.toml
  printf 'RUSTFLAGS=%s CXXFLAGS=%s\n' "${RUSTFLAGS:-}" "${CXXFLAGS:-}"
  rustc -vV | grep '^host:'
  "$cxx" --version | head -n 1
}

key() {
  local all version
  all=$(ingredients)
  version=$(sed -n 's/^librocksdb-sys v\([^ ]*\).*/\1/p' <<<"$all")
  printf '%s-%s\n' "$version" "$(sha256sum <<<"$all" | cut -c1-16)"
}

# Cargo is silent for all that time. The lock's descriptor is closed here, and what sleeps holds no terminal or pipe open.
report_progress() {
  while sleep 60 >/dev/null 2>&1 && kill -0 "$$" 2>/dev/null; do
    printf '    %d of some 340 files\n' "$(find "$1" -path '*librocksdb-sys*' -name '*.o' | wc -l)"
  done
}

build() {
  local into=$1 work
  [[ ! -f $into/librocksdb.a ]] || return 0 # somebody else built it while this process waited for the lock
  rm -rf "${into%/*}"/.building.*           # what a killed build left behind; nobody else holds the lock
  work=$(mktemp -d "${into%/*}/.building.XXXXXX")
  report_progress "$work" 9>&- &
  # shellcheck disable=SC2064 # the values are meant as they are now
  trap "kill $! 2>/dev/null || true; rm -rf '$work'" EXIT
  trap 'exit 130' INT TERM
  env CC="$cc" CXX="$cxx" ROCKSDB_COMPILE=1 \
    CARGO_PROFILE_RELEASE_OPT_LEVEL=3 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_LTO=off \
    cargo build --release --package librocksdb-sys --target-dir "$work/target"
  mkdir "$work/out"
  cp "$work"/target/release/build/librocksdb-sys-*/out/librocksdb.a "$work/out/"
  ingredients >"$work/out/ingredients"
  sync "$work"/out/*
  mv -T "$work/out" "$into"
}

if [[ ${1:-} == --key ]]; then
  key
  ingredients
  exit 0
fi

cache=$(cache_dir)/rocksdb
mkdir -p "$cache"
name=$(key)
if [[ ! -f $cache/$name/librocksdb.a ]]; then
  step "Building RocksDB, once per machine: 6 to 16 minutes on two cores, kept in $cache" \
    locked "$cache/lock" build "$cache/$name"
fi

# Written only when it says something new: Cargo looks at the values, people look at the date.
wanted="# Written by scripts/rocksdb.sh. Without this file Cargo compiles RocksDB itself.
[env]
ROCKSDB_LIB_DIR = \"$cache/$name\"
ROCKSDB_STATIC = \"1\""
[[ -f $settings && $(<"$settings") == "$wanted" ]] || printf '%s\n' "$wanted" >"$settings"
