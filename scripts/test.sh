#!/usr/bin/env bash
# All tests that a change must pass. nextest comes last, so that its totals are the last lines.
#
# Arguments go to nextest, and then only nextest runs: `scripts/test.sh -E 'package(cluster)'`.
cd "$(dirname "$0")/.."
source scripts/lib.sh
source scripts/tools.sh

use_tool cargo-nextest

# Always the whole workspace with its tests: Cargo chooses the features of dependencies by what is built together, and
# another choice would compile half of them once more.
step "Compiling reelraft and its tests (the first time with all they depend on: minutes)" \
  cargo build --workspace --bins --tests

# What the tests of real clusters work with: that binary, a browser, and clips that scripts/clips.sh fetches.
export REELRAFT_BIN=${REELRAFT_BIN:-$(target_dir)/debug/reelraft}
for browser in google-chrome chromium-browser chromium; do
  if have "$browser"; then found=$(command -v "$browser"); fi
done
export REELRAFT_CHROMIUM=${REELRAFT_CHROMIUM:-${found:-}}
REELRAFT_CLIPS=$(clips_dir)
export REELRAFT_CLIPS

if (($# == 0)); then
  step "Web app: unit tests" npm --prefix gateway/web run --silent test
  step "Rust: examples in the documentation" cargo test --quiet --workspace --doc
fi
say "Rust: unit tests, then real clusters"
exec cargo nextest run --workspace "$@"
