#!/usr/bin/env bash
# Makes the environment if there is none, then runs the tests: all of them, or what pytest arguments choose.
# --mutants puts faults into a copy of the library, one at a time, and sees whether the tests notice them.
set -euo pipefail
# shellcheck source=setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$STUDY_ROOT" # test paths are relative to the repository
# One test file at a time on each core, one thread each: threads that wait for one another lose more than they win.
export OMP_NUM_THREADS=1
[ "${1:-}" != --mutants ] || exec python -m tests.mutants "${@:2}"
exec python -m pytest -n auto --dist loadfile "$@"
