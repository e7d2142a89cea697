#!/usr/bin/env bash
# Mends what `make check` finds and a machine can mend. Read the difference before committing it.
cd "$(dirname "$0")/.."
source scripts/lib.sh
source scripts/tools.sh

use_tool typos

step "clippy's simple suggestions" cargo clippy --quiet --fix --allow-dirty --allow-staged --workspace --all-targets
step "Rust format" cargo fmt --all
step "spelling" typos --write-changes
step "web app: lint and format" npm --prefix gateway/web run --silent fix
