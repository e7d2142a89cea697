# shellcheck shell=bash
# The developer tools that are not part of the Rust toolchain, at exact versions, built or downloaded once per machine.
# Sourced by the scripts that need one: `use_tool cargo-deny` puts it on PATH.
#
# They run for seconds and are compiled for minutes, so they are compiled without optimization (time on two cores).

tool_recipe() {
  case $1 in
    cargo-deny) version=0.20.2 how=(cargo_tool) expect="a minute" ;;
    cargo-machete) version=0.9.2 how=(cargo_tool) expect="15 s" ;;
    cargo-nextest) version=0.9.151 how=(cargo_tool --no-default-features --features default-no-update) expect="75 s" ;;
    typos) version=1.52.0 how=(wheel_tool) expect="10 s" ;;
    *) fail "no recipe for the tool $1" ;;
  esac
}

cargo_tool() {
  local name=$1 version=$2 into=$3
  shift 3
  CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_DEBUG=0 CARGO_PROFILE_RELEASE_LTO=off \
    CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 CARGO_PROFILE_RELEASE_STRIP=symbols \
    cargo install --quiet --locked --no-track --root "$into" --target-dir "$into/target" "$@" "$name@$version"
  rm -rf "$into/target"
}

# Its authors publish the compiled program as a Python wheel; Python is not needed to run it.
wheel_tool() {
  local name=$1 version=$2 into=$3
  PIP_ROOT_USER_ACTION=ignore pip3 install --quiet --no-deps --only-binary :all: --target "$into" "$name==$version"
}

install_tool() {
  local name=$1 version=$2 home=$3
  [[ ! -x $home/bin/$name ]] || return 0 # another process was faster
  rm -rf "${home:?}.building"
  "${how[@]:0:1}" "$name" "$version" "$home.building" "${how[@]:1}"
  rm -rf "$home"
  mv -T "$home.building" "$home"
}

use_tool() {
  local name=$1 version how expect tools
  tool_recipe "$name"
  tools=$(cache_dir)/tools
  local home=$tools/$name-$version
  # Any nextest will do: its configuration file says the least version.
  if [[ $name == cargo-nextest ]] && have cargo-nextest; then return; fi
  if [[ ! -x $home/bin/$name ]]; then
    mkdir -p "$tools"
    step "Installing $name $version, once per machine (about $expect)" \
      locked "$tools/lock" install_tool "$name" "$version" "$home"
  fi
  PATH=$home/bin:$PATH
}
