#!/usr/bin/env bash
# The two things that make cannot install for you: Rust through rustup, and Node. Says what is wrong before a build does.
cd "$(dirname "$0")/.."
source scripts/lib.sh

node_least=20.19

have cargo || fail "Rust is missing" "Install it with rustup (see rust-lang.org), then run the command again."
if ! cargo --version >/dev/null 2>&1 || ! cargo clippy --version >/dev/null 2>&1 || ! cargo fmt --version >/dev/null 2>&1; then
  have rustup || fail "this needs the Rust that rust-toolchain.toml names, with clippy and rustfmt"
  step "Installing the Rust toolchain that rust-toolchain.toml names (a minute)" rustup --quiet toolchain install
fi

{ have node && have npm; } || fail "Node with npm is missing" "Install Node $node_least or newer (see nodejs.org)."
node=$(node --version)
oldest=$(printf '%s\n' "$node_least" "${node#v}" | sort -V | head -n 1)
[[ $oldest == "$node_least" ]] || fail "Node is $node" "The web app needs $node_least or newer (see nodejs.org)."
