#!/usr/bin/env bash
# Makes the environment if there is none, then runs the tests: all of them, or what pytest arguments choose.
set -euo pipefail
# shellcheck source=setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
cd "$STUDY_ROOT" # test paths are relative to the repository
exec python -m pytest "$@"
