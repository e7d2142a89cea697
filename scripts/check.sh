#!/usr/bin/env bash
# Everything that can be said about a change without running it. It goes on after a failure and lists them all at the end.
cd "$(dirname "$0")/.."
source scripts/lib.sh
source scripts/tools.sh

use_tool typos
use_tool cargo-machete
use_tool cargo-deny

failed=()
check() {
  local started=$SECONDS
  say "$1"
  "${@:2}" || failed+=("$1")
  took "$started"
}

check "Rust format (make fix mends it)" cargo fmt --all --check
check "spelling" typos
check "shell scripts" shellcheck --external-sources .ci/run scripts/*.sh
check "dependency arrows" scripts/arrows.sh
check "unused dependencies" cargo machete
check "licences, bans and sources of dependencies" cargo deny --log-level error check licenses bans sources

# The database of known holes is elsewhere on the internet: a machine that cannot reach it says so and goes on.
if timeout 60 cargo deny --log-level off fetch db >/dev/null 2>&1; then
  check "known holes in dependencies" cargo deny --log-level error check advisories
else
  say "known holes in dependencies: NOT CHECKED, the advisory database cannot be reached from here"
fi

check "web app: types, lint, format" npm --prefix gateway/web run --silent check
check "clippy (the first time it reads all dependencies: minutes)" \
  cargo clippy --quiet --workspace --all-targets -- --deny warnings
# The documentation is for those who work on it: private items are in it, and links to them hold.
check "documentation" \
  env RUSTDOCFLAGS="--deny warnings --allow rustdoc::private_intra_doc_links" \
  cargo doc --quiet --workspace --no-deps --document-private-items

if ((${#failed[@]})); then fail "these checks failed:" "${failed[@]}"; fi
say "all checks passed in $SECONDS s"
