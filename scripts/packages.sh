#!/usr/bin/env bash
# Makes sure that system packages are there: `packages.sh build`, `packages.sh build check test`, `packages.sh bench`.
#
# On Debian and Ubuntu the missing ones are installed with apt; elsewhere they are named.
# With nothing missing this takes a few milliseconds, so every make target may call it.
cd "$(dirname "$0")/.."
source scripts/lib.sh

# Group, Debian package, and what shows that it is there without dpkg: a command, pkg:MODULE, or - for nothing.
packages='
build  ca-certificates       -
build  clang                 clang++
build  cmake                 cmake
build  g++                   g++
build  libavcodec-dev        pkg:libavcodec
build  libavdevice-dev       pkg:libavdevice
build  libavfilter-dev       pkg:libavfilter
build  libavformat-dev       pkg:libavformat
build  libavutil-dev         pkg:libavutil
build  libclang-dev          -
build  libprotobuf-dev       pkg:protobuf
build  libswresample-dev     pkg:libswresample
build  libswscale-dev        pkg:libswscale
build  pkg-config            pkg-config
build  protobuf-compiler     protoc
check  python3-pip           pip3
check  shellcheck            shellcheck
test   chromium              chromium
test   ffmpeg                ffmpeg
test   iproute2              ip
clips  python3-pip           pip3
bench  etcd-server           etcd
bench  ffmpeg                ffmpeg
bench  nginx-light           nginx
bench  wrk                   wrk
'

provided() {
  case $1 in
    -) ! have dpkg-query ;; # nothing to look for: believed elsewhere, the build will say
    pkg:*) have pkg-config && pkg-config --exists "${1#pkg:}" ;;
    chromium) have chromium || have chromium-browser || have google-chrome ;;
    *) have "$1" ;;
  esac
}

installed=$'\n'
if have dpkg-query; then
  # shellcheck disable=SC2016 # the braces are dpkg-query's
  installed+=$(dpkg-query -W -f='${db:Status-Abbrev}${Package}\n' | sed -n 's/^ii *//p')$'\n'
fi

missing=()
while read -r group package provider; do
  [[ -n $group && " $* " == *" $group "* ]] || continue
  [[ $installed == *$'\n'"$package"$'\n'* ]] || provided "$provider" || missing+=("$package")
done <<<"$packages"
((${#missing[@]})) || exit 0

if ! have apt-get; then
  fail "missing on this machine, by their Debian names: ${missing[*]}" \
    "Install what your system calls them (FFmpeg 5 or newer with headers, clang with libclang, protobuf," \
    "Chromium, ...) and run the command again."
fi

# Ubuntu's Chromium is a snap behind a package of another name.
if grep -qs '^ID=ubuntu' /etc/os-release; then missing=("${missing[@]/#chromium/chromium-browser}"); fi

as_root=()
if ((EUID)); then
  have sudo || fail "packages are missing, and this is neither root nor is there sudo. As root, run:" \
    "apt-get update && apt-get install --no-install-recommends ${missing[*]}"
  as_root=(sudo)
fi
apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o Dpkg::Use-Pty=0)

say "Installing with apt, once (one to five minutes): ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! { "${apt[@]}" update && "${apt[@]}" install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 20 "$log" >&2
  fail "apt could not install the packages; the reason is above"
fi
