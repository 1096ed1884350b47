# shellcheck shell=bash
# Sourced by run_all.sh and run_tests.sh: makes, brings up to date and enters the study's environment.
#
# An active venv or conda environment is used; otherwise .venv beside this file is made. One file inside
# the environment records what was installed, so that a current environment is entered at once and a
# set-up killed half-way is done again. pip's own configuration decides where packages come from.

STUDY_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)"
# With CUDA wheels the environment takes 6.6 GB, and 9.2 GB while pip keeps the downloads; CPU wheels need less.
SETUP_FREE_GB=${XBUS_SETUP_FREE_GB:-10}

say() { printf 'set-up: %s\n' "$*" >&2; }
die() {
  printf 'set-up stopped: %s\n' "$*" >&2
  exit 1
}

python_is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# The environment's folder in ENV_DIR, and whether it is ours to make in ENV_OWN.
choose_environment() {
  ENV_OWN=no
  if [ -n "${VIRTUAL_ENV:-}" ]; then
    ENV_DIR=$VIRTUAL_ENV
  elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-}" != base ]; then
    ENV_DIR=$CONDA_PREFIX # base is conda's own installation, active without anyone having chosen it
  else
    ENV_DIR=$STUDY_ROOT/.venv
  fi
  if [ "$ENV_DIR" = "$STUDY_ROOT/.venv" ]; then
    ENV_OWN=yes
  else
    [ -x "$ENV_DIR/bin/python" ] ||
      die "the active environment $ENV_DIR has no bin/python. Deactivate it, or activate another."
  fi
  ENV_STATE=$ENV_DIR/.xbusnet-setup
}

# What a current environment's state file says: requirements, Python version, and this checkout's folder.
wanted_state() {
  local sum version
  sum=$(cat "$STUDY_ROOT/pyproject.toml" "$STUDY_ROOT/constraints.txt" | sha256sum)
  version=$("$ENV_DIR/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || return 1
  printf '%s python-%s %s\n' "${sum%% *}" "$version" "$STUDY_ROOT"
}

is_current() {
  local wanted
  [ -f "$ENV_STATE" ] && wanted=$(wanted_state) && [ "$(cat "$ENV_STATE")" = "$wanted" ]
}

# Our .venv has to be made anew when a set-up was killed in it, its Python went away or changed, or it was moved.
must_remake() {
  local wanted state
  wanted=$(wanted_state) || return 0
  [ -f "$ENV_STATE" ] || return 1 # made by someone else, in working order: keep what is in it
  state=$(cat "$ENV_STATE")
  [ "${state#* }" != "${wanted#* }" ]
}

# python3 if it is recent enough, otherwise the newest python3.x that is; it must be able to make a venv.
find_python() {
  local name without_venv=""
  for name in python3 python3.{20..11}; do
    python_is_recent "$name" || continue
    if "$name" -c 'import venv, ensurepip' 2>/dev/null; then
      command -v "$name"
      return
    fi
    without_venv=${without_venv:-$name}
  done
  if [ -n "$without_venv" ]; then
    die "$(command -v "$without_venv") cannot make virtual environments (its venv module lacks ensurepip)." \
      "On Debian and Ubuntu: apt install python3-venv"
  fi
  die "no Python 3.11 or later on the PATH ($(python3 -V 2>&1 || echo 'no python3 at all')). Install one," \
    "or activate a conda environment that has one."
}

need_disk() {
  local free_kb
  free_kb=$(df -Pk "$1" | awk 'NR == 2 { print $4 }')
  [ "$free_kb" -ge $((SETUP_FREE_GB * 1024 * 1024)) ] ||
    die "$1 is on a disk with $((free_kb / 1024 / 1024)) GB free; setting up takes $SETUP_FREE_GB GB." \
      "Free some space, or make an environment on another disk and activate it." \
      "If your pip installs CPU wheels, XBUS_SETUP_FREE_GB=4 is enough."
}

# pip's long output goes to a file; only the steps that take time are said. Bytecode is left to the first import: pip
# would write that of every module of every package, on one core.
install_requirements() {
  local log=$ENV_DIR/xbusnet-setup.log line
  say "installing what is missing (from nothing: up to 2.5 GB to download, some minutes) ..."
  if ! (cd "$STUDY_ROOT" && "$ENV_DIR/bin/python" -m pip install --no-compile -c constraints.txt -e '.[test,dicom,smp]') 2>&1 |
    tee "$log" |
    while IFS= read -r line; do
      case $line in
        *Downloading*' GB)'* | *Downloading*\([0-9][0-9][0-9].[0-9]' MB)'*) say "  ${line#"${line%%[! ]*}"}" ;;
        'Installing collected packages'*) say "  unpacking $(($(wc -w <<<"$line") - 3)) package(s)" ;;
      esac
    done; then
    tail -n 15 "$log" >&2
    die "pip could not install the packages; its whole output is in $log." \
      "When the cause is mended (network, disk, pip's configuration), the same command starts again."
  fi
}

# A .venv of our own, from nothing. The state file stays throughout, so that a kill at any point is seen.
remake_venv() {
  local python
  python=$(find_python) || exit 1
  printf 'unfinished\n' >"$ENV_STATE"
  find "$ENV_DIR" -mindepth 1 -maxdepth 1 ! -path "$ENV_STATE" -exec rm -rf {} +
  need_disk "$ENV_DIR"
  say "making $ENV_DIR with $("$python" -V 2>&1) ($python)"
  "$python" -m venv "$ENV_DIR" || die "$python could not make a virtual environment in $ENV_DIR."
}

make_environment() {
  if [ "$ENV_OWN" = yes ] && must_remake; then
    remake_venv
  fi
  python_is_recent "$ENV_DIR/bin/python" ||
    die "$ENV_DIR has $("$ENV_DIR/bin/python" -V 2>&1); the study needs Python 3.11 or later." \
      "Remove that folder, or activate another environment."
  [ -f "$ENV_STATE" ] || need_disk "$ENV_DIR"
  printf 'unfinished\n' >"$ENV_STATE" || die "cannot write in $ENV_DIR. Deactivate it, or activate another."
  "$ENV_DIR/bin/python" -m pip --version >/dev/null 2>&1 ||
    "$ENV_DIR/bin/python" -m ensurepip --upgrade >/dev/null 2>&1 ||
    die "$ENV_DIR has no pip and none can be added. Install pip in it, or deactivate it."
  install_requirements
  wanted_state >"$ENV_STATE.new"
  mv "$ENV_STATE.new" "$ENV_STATE" # last, when all is well
  say "the environment is ready: $ENV_DIR"
}

set_up() {
  local began=$SECONDS lock
  choose_environment
  if ! is_current; then
    mkdir -p "$ENV_DIR" 2>/dev/null || die "cannot make $ENV_DIR. Make an environment elsewhere and activate it."
    # the folder itself is the lock: nothing to clean up, and free again when its holder ends
    exec {lock}<"$ENV_DIR"
    if command -v flock >/dev/null && ! flock -n "$lock"; then
      say "another set-up is at work in $ENV_DIR; waiting for it ..."
      flock "$lock"
    fi
    is_current || make_environment
    exec {lock}<&-
    say "set-up took $((SECONDS - began)) s"
  fi
}

set_up

# Enter it. The environment's own kernels come before any that the user registered under the same name.
export PATH="$ENV_DIR/bin:$PATH" JUPYTER_PATH="$ENV_DIR/share/jupyter${JUPYTER_PATH:+:$JUPYTER_PATH}"
export PYTHONNOUSERSITE=1
# Where this is set, every process of a study or of the tests would compile all its packages anew: three times the start.
unset PYTHONDONTWRITEBYTECODE
[ "$ENV_OWN" = no ] || export VIRTUAL_ENV="$ENV_DIR"
