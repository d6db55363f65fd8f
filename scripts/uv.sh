#!/usr/bin/env bash
# Runs uv: the one on PATH or, where there is none, a private one that the first call installs into .setup/uv.
set -euo pipefail
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
private=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/.setup/uv

works() { "$1" --version >/dev/null 2>&1; } # a shim that leads nowhere is on PATH and yet no uv

works uv && exec uv "$@"
if ! works "$private/bin/uv"; then
  if python3 -m pip --version >/dev/null 2>&1; then
    # A folder of its own is allowed where Debian marks the system's Python as externally managed.
    python3 -m pip install --quiet --upgrade --target "$private" uv >&2
  elif python3 -c 'import ensurepip, venv' 2>/dev/null; then
    python3 -m venv --clear "$private" && "$private/bin/python" -m pip install --quiet uv >&2
  else
    echo "error: uv can't be installed: python3 has neither pip nor venv (Debian, Ubuntu: apt-get install python3-venv)" >&2
    exit 1
  fi
fi
exec "$private/bin/uv" "$@"
