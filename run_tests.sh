#!/usr/bin/env bash
# Makes the environment if there is none, then runs the tests: all of them, or what pytest arguments choose.
# --full    also looks for unsafe code (bandit) and known faults of the installed packages (pip-audit), and says how
#           long it took
# --faults  kills and breaks a small study at every stage (tests/faults), then reads 50 000 generated inputs; hours
# --mutants puts faults into a copy of the library, one at a time, and sees whether the tests notice them
set -euo pipefail
# shellcheck source=setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$STUDY_ROOT" # test paths are relative to the repository
# One test file at a time on each core, one thread each: threads that wait for one another lose more than they win.
export OMP_NUM_THREADS=1

# The tests and the two audits; every part is run though an earlier one failed.
full() {
  local failed=() began=$SECONDS
  python -c 'import bandit, pip_audit' 2>/dev/null || python -m pip install -q -c constraints.txt -e '.[audit]'
  python -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@" || failed+=(tests)
  echo "tests: $((SECONDS - began)) s"
  python -m bandit -q -c pyproject.toml -r xbuslib || failed+=(bandit)
  python -m tests.audit || failed+=(pip-audit)
  echo "full run: $((SECONDS - began)) s, failed: ${failed[*]:-nothing}"
  [ ${#failed[@]} -eq 0 ]
}

case "${1:-}" in
  --full) full "${@:2}" ;;
  --faults)
    python -m tests.faults "${@:2}"
    exec python -m tests.faults.generated
    ;;
  --mutants) exec python -m tests.mutants "${@:2}" ;;
  *) exec python -m pytest -n auto --dist loadfile --no-loadscope-reorder "$@" ;;
esac
