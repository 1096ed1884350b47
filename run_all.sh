#!/usr/bin/env bash
# Makes the environment if there is none, then runs the study. `./run_all.sh --help` lists the flags.
set -euo pipefail
# shellcheck source=setup_env.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
exec python -m xbuslib study "$@"
