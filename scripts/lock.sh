#!/usr/bin/env bash
# Renews requirements.lock: exact versions and hashes of everything in pyproject.toml, with its dev extra, for every
# Python and platform it allows. The lock names no registry, so it installs from whichever one pip is set up for.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="$(scripts/find-python "$@")"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet uv
# Without --output-file's old contents in view, every version is the newest that fits.
"$work/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --extra dev \
    --generate-hashes --no-emit-index-url --no-header --output-file "$work/requirements.lock" pyproject.toml

if grep -n '://' "$work/requirements.lock"; then
    echo "The new lock names a host (above); requirements.lock stays as it was." >&2
    exit 1
fi
cp "$work/requirements.lock" requirements.lock
echo "requirements.lock: $(grep -c '==' requirements.lock) packages. Now run make check test, then commit it."
