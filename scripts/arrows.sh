#!/usr/bin/env bash
# Proves with `cargo tree` that dependencies point where docs/ARCHITECTURE.md says.
#
# Three kinds of rule: which of our crates a crate names, which crates name a heavy dependency, and which crates never
# reach one even through others. Every name in a rule must occur in the workspace, so that a misspelt rule fails too.
cd "$(dirname "$0")/.."
source scripts/lib.sh

members=(chaos-tests cluster gateway node proto transcoder)
wrong=0

complain() {
  printf '  %s\n' "$*" >&2
  wrong=$((wrong + 1))
}

# names PACKAGE EDGES [ARG...]: crate names, one per line, without the package itself.
names() {
  local package=$1 edges=$2
  shift 2
  cargo tree --quiet --target all --package "$package" --edges "$edges" --prefix none --format '{p}' "$@" |
    awk -v self="$package" '$2 ~ /^v[0-9]/ && $1 != self { print $1 }' | sort -u
}

declare -A direct direct_with_tests reached
for package in "${members[@]}"; do
  direct[$package]=$(names "$package" normal,build --depth 1)
  direct_with_tests[$package]=$(names "$package" normal,build,dev --depth 1)
  reached[$package]=$(names "$package" normal,build)
done
everything=$(printf '%s\n' "${members[@]}" "${reached[@]}" | sort -u)

contains() { grep -qx -- "$2" <<<"$1"; }

known() { contains "$everything" "$1" || complain "the rules name $1, which is nowhere in the workspace"; }

# ours PACKAGE MEMBER...: of our crates, the package names exactly these, in its tests too.
ours() {
  local package=$1 member
  shift
  for member in "${members[@]}"; do
    if [[ " $* " == *" $member "* ]]; then
      contains "${direct[$package]}" "$member" || complain "$package must depend on $member"
    else
      ! contains "${direct_with_tests[$package]}" "$member" || complain "$package must not depend on $member"
    fi
  done
}

# only DEPENDENCY PACKAGE...: exactly these packages name the dependency in their Cargo.toml.
only() {
  local dependency=$1 package
  shift
  known "$dependency"
  for package in "${members[@]}"; do
    if [[ " $* " == *" $package "* ]]; then
      contains "${direct[$package]}" "$dependency" || complain "$package should name $dependency itself"
    else
      ! contains "${direct_with_tests[$package]}" "$dependency" || complain "$package must not name $dependency"
    fi
  done
}

# never PACKAGE DEPENDENCY...: the package does not reach these, not even through other crates.
never() {
  local package=$1 dependency
  shift
  for dependency in "$@"; do
    known "$dependency"
    ! contains "${reached[$package]}" "$dependency" ||
      complain "$package must not reach $dependency; see: cargo tree -p $package -e normal,build -i $dependency"
  done
}

# Every member has its rules: a new crate has to say where it stands.
actual=$(cargo tree --quiet --workspace --depth 0 --prefix none --format '{p}' | sed -n 's/ v[0-9].*//p' | sort)
[[ $actual == "$(printf '%s\n' "${members[@]}" | sort)" ]] || complain "the workspace has members without rules here"

ours cluster
ours proto
ours transcoder
ours gateway cluster
ours node cluster gateway proto transcoder
# From outside, like a stranger; the types and invariants of `cluster` at most.
if contains "${direct_with_tests[chaos-tests]}" cluster; then ours chaos-tests cluster; else ours chaos-tests; fi

only axum gateway
only ffmpeg-next transcoder
only openraft node
only rocksdb node
only prost proto
only tonic node proto
only tonic-prost proto
only tonic-prost-build proto

# h2 stands for tonic's transport: the generated code does without it.
never cluster axum ffmpeg-sys-next h2 librocksdb-sys openraft prost tokio tonic
never proto axum ffmpeg-sys-next h2 librocksdb-sys openraft
never transcoder axum h2 librocksdb-sys openraft prost tonic
never gateway ffmpeg-sys-next librocksdb-sys openraft prost tonic
never chaos-tests axum ffmpeg-sys-next librocksdb-sys openraft prost tonic

((wrong == 0)) || fail "$wrong dependency rules are broken"
say "dependency arrows hold (${#members[@]} crates)"
