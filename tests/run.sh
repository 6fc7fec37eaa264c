#!/bin/sh
# Set up the project with what tests need, then linter, types, tests. Arguments go to pytest: sh tests/run.sh tests/unit/geometry -k camera
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
sh "$root/scripts/setup.sh" dev
python=$(sh "$root/scripts/setup.sh" --python)
cd "$root"
"$python" scripts/visdom_page.py || :  # what tests/integration/test_visdom_page.py looks at in a browser, and is skipped without
# One thread: the tests' arrays are small, and the threads of several libraries would fight for the cores.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MPLBACKEND=Agg

failed=""
echo "== ruff"
"$python" -m ruff check --output-format concise . || failed="$failed ruff"
echo "== mypy"
"$python" -m mypy || failed="$failed mypy"
echo "== pytest"
"$python" -m pytest -q "$@" || exit $?
[ -z "$failed" ] || { echo "failed:$failed (above)" >&2; exit 1; }
