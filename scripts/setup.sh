#!/usr/bin/env bash
# Sets everything up: system packages, uv, an environment with the locked packages, FFCV, detectron2, this project.
#
#   scripts/setup.sh [--tests]      --tests: also a browser, in which the tests look at reports
#
# VENV is the environment's folder (.venv); PYTHON is an interpreter or a version for it (any from 3.10 to 3.13).
# Repeats only what is needed: when nothing changed since the last run it returns at once.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
venv=${VENV:-.venv}
quiet=--quiet
[[ -t 2 ]] && quiet= # someone may want to see 5 GB arrive
python=$venv/bin/python
native=skd_plugins/data/beton/native
tests=
[[ ${1:-} == --tests ]] && tests=1

say() { printf '== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2 && exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

# What set-up depends on. The tree's place is part of it, because the environment refers to it.
state() { { pwd; cat pyproject.toml requirements.lock scripts/{setup,uv}.sh scripts/install_detectron2.py "$native"/{compile.py,crop.c}; } | cksum; }

# install_packages NAME...: the missing ones of these Debian packages.
install_packages() {
  local missing=() package as_root=() command
  for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
  done
  [[ ${#missing[@]} == 0 ]] && return
  command="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
  if [[ $(id -u) != 0 ]]; then
    # sudo may ask for a password only if somebody is there to type it.
    has sudo && { [[ -t 0 ]] || sudo -n true 2>/dev/null; } ||
      die "system packages are missing, and you are neither root nor allowed to use sudo. Run as root: $command"
    as_root=(sudo)
  fi
  say "system packages: ${missing[*]}"
  "${as_root[@]}" apt-get -q -o DPkg::Lock::Timeout=300 update >/dev/null ||
    say "apt-get update failed; trying with the lists that are there"
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
    install --no-install-recommends "${missing[@]}" >/dev/null ||
    die "system packages could not be installed. Run as root: $command"
}

system_packages() {
  if ! has apt-get; then
    say "no apt here; FFCV needs OpenCV 4, libturbojpeg (both with headers), pkg-config, git and a C++ compiler"
  else
    local needed=(g++ git libjpeg-dev libopencv-dev libturbojpeg0-dev pkg-config)
    has python3 || needed+=(python3)
    uv --version >/dev/null 2>&1 || .setup/uv/bin/uv --version >/dev/null 2>&1 ||
      python3 -m pip --version >/dev/null 2>&1 || python3 -c 'import ensurepip, venv' 2>/dev/null ||
      needed+=(python3-venv)
    install_packages "${needed[@]}"
  fi
  has pkg-config || die "pkg-config is missing"
  local library
  for library in opencv4 libturbojpeg; do
    pkg-config --exists "$library" || die "pkg-config does not find $library (headers and library); install it first"
  done
}

browser() {
  if has chromium || has chromium-browser || has google-chrome; then return; fi
  # Not on Ubuntu, where the package is a snap.
  has apt-get && grep -qx 'ID=debian' /etc/os-release && (install_packages chromium) ||
    say "no chromium: the tests that look at pages will be skipped"
}

environment() {
  [[ ! -e $venv || -x $python ]] || die "$venv is there but has no Python that runs; remove it and try again"
  [[ -x $python ]] || scripts/uv.sh venv --quiet --python "${PYTHON:->=3.10,<3.14}" "$venv"
  "$python" -c 'import sys; raise SystemExit(not (3, 10) <= sys.version_info < (3, 14))' ||
    die "$venv has $("$python" -V), not 3.10 to 3.13; remove it and try again"
  local headers
  headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  if [[ ! -f $headers/Python.h ]]; then
    has apt-get || die "the headers of $("$python" -V) are missing ($headers/Python.h)"
    install_packages "$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')"
  fi
}

[[ -z $tests ]] || browser
stamp=$venv/.set-up
if [[ -x $python && -f $stamp && $(<"$stamp") == "$(state)" ]]; then
  exit 0
fi
system_packages
say "uv: $(scripts/uv.sh --version)"
environment
say "$("$python" -V) in $venv; installing the packages of requirements.lock (5 GB the first time)"
# uv, not pip: pip's settings may select a CPU build of torch that does not fit the torchvision of the index.
scripts/uv.sh pip install $quiet --python "$python" --no-deps -r requirements.lock -e . ||
  die "the packages could not be installed (see above); uv does not read pip's settings: a mirror goes into UV_DEFAULT_INDEX"
"$python" "$native/compile.py" || say "going on without the decoder: .beton files can't be read, image folders can"
if ! "$python" scripts/install_detectron2.py "$python"; then
  [[ -z $tests ]] || exit 1
  say "going on without detectron2: all but detection works; the next set-up tries again"
  exit 0
fi
# Many containers forbid Python to write bytecode; each process would then compile torch anew, for 12 s. A few packages
# hold templates, which do not compile.
"$python" -m compileall -qq -j 0 "$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" || true
state >"$stamp"
say "set up in $SECONDS s"
