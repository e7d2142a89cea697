#!/usr/bin/env bash
# Plants bugs that the tests exist to find, one at a time, and demands that they find each.
#
# A test that cannot fail proves nothing, and nobody notices when one has become such a test. Each file in scripts/planted is
# a small patch with, above it, what is wrong with it, what to build (`Run:`, arguments of nextest) and which tests have to
# fail (`Tests:`, a filter of nextest). The same tests have to pass before.
#
# All this happens in a copy of the tree with a target directory of its own. What was compiled of others' crates is linked
# into that one, so only crates of this workspace are compiled; both are gone in the end. Arguments are names of patches
# (`one-copy`), all without any.
cd "$(dirname "$0")/.."
source scripts/lib.sh
source scripts/tools.sh

use_tool cargo-nextest

clone=$PWD
compiled=$(target_dir)
scratch=$(mktemp -d "${TMPDIR:-/tmp}/reelraft-planted.XXXXXX")
# Patches are applied there, whatever repository that may lie in.
export GIT_CEILING_DIRECTORIES=$scratch
mkdir -p "$compiled"
# Beside what it links to: hard links do not reach other file systems.
target=$(mktemp -d "$compiled/planted.XXXXXX")
trap 'rm -rf "${scratch:?}" "${target:?}"' EXIT
tree=$scratch/tree log=$scratch/log

# The tree as it is, committed or not. Files are as old as the copy, so that Cargo compiles them.
copy_tree() {
  mkdir "$tree"
  git ls-files -z --cached --others --exclude-standard |
    { grep -zvxFf <(git ls-files -z --deleted) || true; } | tar -c --null -T - | tar -xm -C "$tree"
  # What is not committed and yet shapes the build.
  if [[ -f .cargo/local.toml ]]; then cp .cargo/local.toml "$tree/.cargo/"; fi
  if [[ -d gateway/web/dist ]]; then cp -r gateway/web/dist "$tree/gateway/web/"; fi
}

# Compilers replace libraries as whole files, so those can be shared; everything that is written in place is copied. Nothing
# of the workspace's own: it would be taken for newer than it is.
link_compiled() {
  local from=$compiled/debug into=$target/debug own
  [[ -d $from/deps ]] || return 0
  own=$(cargo metadata --no-deps --format-version 1 |
    grep -oE '"crate_types":\["lib"\],"name":"[^"]+"' | cut -d '"' -f 8 | tr - _ | paste -sd '|')
  mkdir -p "$into/deps"
  (cd "$from" && find deps -type f \( -name '*.rlib' -o -name '*.rmeta' -o -name '*.so' \) -print0 |
    { grep -zvE "^deps/lib($own)-" || true; } | xargs -0 cp -l -t "$into/deps")
  (cd "$from" && find deps -type f -name '*.d' -print0 |
    { grep -zvE "^deps/($own)-" || true; } | xargs -0 cp -p -t "$into/deps")
  cp -a "$from/build" "$from/.fingerprint" "$into/"
  find "$into/.fingerprint" "$into/build" -mindepth 1 -maxdepth 1 -regextype egrep \
    -regex ".*/(${own//_/[-_]})-[0-9a-f]{16}" -exec rm -rf {} +
}

field() { sed -n "s/^$1: //p" "$clone/scripts/planted/$2.patch"; }

# outcome PATCH: runs its tests, and says how nextest ended.
outcome() {
  local run status=0
  read -ra run <<<"$(field Run "$1")"
  (
    cd "$tree"
    CARGO_TARGET_DIR=$target cargo nextest run --no-fail-fast --color never \
      --failure-output never --status-level fail --final-status-level none "${run[@]}" -E "$(field Tests "$1")"
  ) >"$log" 2>&1 || status=$?
  echo "$status"
}

readonly tests_failed=100 # nextest's own, in contrast to a build that failed or a filter that names no test

names=("$@")
if ((${#names[@]} == 0)); then
  # Those that need the fewest crates first.
  for package in cluster node; do
    while read -r patch; do
      names+=("$(basename "$patch" .patch)")
    done < <(grep -lE "^Run: -p $package " scripts/planted/*.patch)
  done
fi
for name in "${names[@]}"; do
  [[ -f scripts/planted/$name.patch ]] || fail "there is no scripts/planted/$name.patch"
  git apply --check "scripts/planted/$name.patch" ||
    fail "scripts/planted/$name.patch does not fit the code any more" "plant the same bug anew, by hand, and save the diff"
done

step "Copying the tree" copy_tree
link_compiled
say "Nothing planted: these tests have to pass"
for name in "${names[@]}"; do
  began=$SECONDS
  status=$(outcome "$name")
  if ((status != 0)); then
    cat "$log" >&2
    fail "the tests that are to find $name do not pass without it (nextest: $status)"
  fi
  printf '    %-24s %4d s\n' "$name" $((SECONDS - began))
done

survivors=() table=()
for name in "${names[@]}"; do
  began=$SECONDS
  say "Planting $name: $(head -n 1 "scripts/planted/$name.patch")"
  git -C "$tree" apply "$clone/scripts/planted/$name.patch"
  status=$(outcome "$name")
  case $status in
    0)
      survivors+=("$name")
      found="NOTHING"
      ;;
    "$tests_failed")
      # TIMEOUT and SIGABRT are ways to fail too.
      found=$(sed -nE 's/^ +(FAIL|TIMEOUT|ABORT|SIG[A-Z]+) \[[^]]*\] +(\([^)]*\) )?//p' "$log" | sort -u)
      more=$(($(wc -l <<<"$found") - 1))
      found=$(head -n 1 <<<"$found")
      ((more == 0)) || found+=" and $more more"
      ;;
    *)
      cat "$log" >&2
      fail "with $name planted, nextest ended with $status: that is no test that failed"
      ;;
  esac
  table+=("$(printf '%-24s %4d s  %s' "$name" $((SECONDS - began)) "$found")")
  git -C "$tree" apply --reverse "$clone/scripts/planted/$name.patch"
done

say "Planted, and found by"
printf '    %s\n' "${table[@]}"
((${#survivors[@]} == 0)) || fail "no test found: ${survivors[*]}"
