#!/usr/bin/env bash
# Make a second environment with the CUDA build of torch, for the static GPU tests on a machine without a GPU.
# About 5 GB; the test environment in .venv stays as it is.
#
#     scripts/cuda_venv.sh [FOLDER]    # default: .cuda-venv
set -euo pipefail
cd "$(dirname "$0")/.."
folder="${1:-.cuda-venv}"
if [ -e "$folder/installed" ] && [ "$folder/installed" -nt pyproject.toml ] && [ "$folder/installed" -nt requirements.lock ]; then
    exit 0
fi
torch="$(sed -n 's/^torch==//p' requirements.lock)"
[ -n "$torch" ] || { echo "error: requirements.lock names no version of torch" >&2; exit 2; }
free="$(df --output=avail -k . | tail -1)"
[ "$free" -gt 8000000 ] || { echo "error: $((free / 1000000)) GB of disk space are free here; the CUDA build takes 8 GB" >&2; exit 2; }
[ -x "$folder/bin/python" ] || "${PYTHON:-python3}" -m venv "$folder"
install="$folder/bin/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock"
# "===" takes the plain version, which is the CUDA build on Linux, even where an index also has a +cpu one.
$install "torch===$torch" --editable . pytest hypothesis
"$folder/bin/python" -c 'import sys, torch; sys.exit(0 if torch.version.cuda else f"error: torch {torch.__version__} is no CUDA build")'
touch "$folder/installed"
