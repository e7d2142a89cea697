# shellcheck shell=bash
# What the other scripts share: messages, timed steps, and where things that outlive a clone are kept. Sourced, not run.

set -euo pipefail
shopt -s inherit_errexit # or a failure inside $(...) would go unnoticed

if [[ -t 1 && -z ${NO_COLOR:-} ]]; then
  bold=$'\e[1m' red=$'\e[31m' plain=$'\e[0m'
else
  bold='' red='' plain=''
fi

say() { printf '%s==>%s %s\n' "$bold" "$plain" "$*"; }

fail() {
  printf '%serror:%s %s\n' "$red" "$plain" "$1" >&2
  shift
  if (($#)); then printf '       %s\n' "$@" >&2; fi
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# took START: how long it has been since then, where that is worth a line.
took() {
  local seconds=$((SECONDS - $1))
  ((seconds < 5)) || printf '    took %d s\n' "$seconds"
}

# step TITLE COMMAND...: says what runs, and afterwards how long it took. A failure ends the script, so this must not stand
# where bash ignores failures inside functions (`if`, `||`, `!`).
step() {
  local started=$SECONDS
  say "$1"
  "${@:2}"
  took "$started"
}

# The directory for what one machine builds once for all its clones. Where it cannot be written, or is not wanted
# (REELRAFT_NO_CACHE=1), the clone keeps its own below target/, so that nothing else needs to know the difference.
cache_dir() {
  local dir=${REELRAFT_CACHE:-${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/reelraft}
  if [[ -n ${REELRAFT_NO_CACHE:-} ]] || ! mkdir -p "$dir" 2>/dev/null || [[ ! -w $dir ]]; then
    dir=$(target_dir)/cache
    mkdir -p "$dir"
  fi
  (cd "$dir" && pwd)
}

# Where scripts/clips.sh keeps real clips.
clips_dir() { realpath -m "${REELRAFT_CLIPS:-$(cache_dir)/clips}"; }

target_dir() { realpath -m "${CARGO_TARGET_DIR:-target}"; }

# locked FILE COMMAND...: runs the command while no other process of this machine holds the lock.
locked() {
  local file=$1
  shift
  (
    flock --nonblock 9 || {
      say "another build is at it; waiting for its result"
      flock 9
    }
    "$@"
  ) 9>"$file"
}
