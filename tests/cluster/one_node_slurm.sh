#!/usr/bin/env bash
# A Slurm cluster of one node and two pretended GPUs on this machine, to try `./run_all.sh --slurm` where there is none.
#   one_node_slurm.sh up FOLDER      start it; `source FOLDER/env.sh` then points Slurm's commands at it
#   one_node_slurm.sh down FOLDER    cancel its jobs and stop it
# Keys, configuration, state, logs and sockets are in FOLDER alone; every port is a free one on loopback. Needs root and
# Debian's packages slurm-wlm and munge; neither systemd nor cgroups nor a database. Not secure: for tests only.
set -euo pipefail

CPUS=4        # slots, so that two jobs of two threads run at once whatever this machine has
MEMORY=64000  # MB; Slurm is told so and holds nobody to it
GPUS=2        # /dev/null under the name of each device: Slurm counts them and sets CUDA_VISIBLE_DEVICES

say() { printf 'slurm: %s\n' "$*" >&2; }
die() {
  say "$*"
  exit 1
}

# Why this machine cannot do it, or nothing.
obstacle() {
  local command
  [ "$(id -u)" -eq 0 ] || { echo "only root can start Slurm's daemons" && return; }
  for command in munged slurmctld slurmd sbatch; do
    PATH=$PATH:/usr/sbin command -v "$command" >/dev/null ||
      { echo "there is no $command here; on Debian: apt install slurm-wlm munge" && return; }
  done
}

free_ports() { # two that nobody listens on
  python3 - <<'PYTHON'
import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in held))
PYTHON
}

is_since() { # whether Slurm is of this release or later
  printf '%s\n%s\n' "$1" "$(slurmd -V | grep -oE '[0-9]+\.[0-9]+' | head -n 1)" | sort --check=quiet --version-sort
}

write_configuration() { # FOLDER
  local folder=$1 node control_port node_port gpu
  node=$(hostname -s)
  read -r control_port node_port < <(free_ports)
  cat >"$folder/slurm.conf" <<CONF
ClusterName=one-node
SlurmctldHost=$node(127.0.0.1)
SlurmctldPort=$control_port
SlurmdPort=$node_port
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
DefMemPerCPU=100
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=5
MinJobAge=3600
GresTypes=gpu
NodeName=$node NodeAddr=127.0.0.1 CPUs=$CPUS RealMemory=$MEMORY Gres=gpu:$GPUS State=UNKNOWN
PartitionName=all Nodes=$node Default=YES MaxTime=INFINITE State=UP
CONF
  for ((gpu = 0; gpu < GPUS; gpu++)); do ln -s /dev/null "$folder/nvidia$gpu"; done
  printf 'Name=gpu Flags=nvidia_gpu_env File=%s/nvidia[0-%d]\n' "$folder" $((GPUS - 1)) >"$folder/gres.conf"
  echo "CgroupPlugin=$(is_since 24.05 && echo disabled || echo autodetect)" >"$folder/cgroup.conf"
  # the job step plugin hands srun a cleaned environment, so it is told its configuration by a wrapper
  mkdir -p "$folder/bin"
  printf '#!/bin/sh\nSLURM_CONF=%q exec %q "$@"\n' "$folder/slurm.conf" "$(command -v srun)" >"$folder/bin/srun"
  chmod +x "$folder/bin/srun"
  printf 'export SLURM_CONF=%q PATH=%q:"$PATH"\n' "$folder/slurm.conf" "$folder/bin" >"$folder/env.sh"
}

wait_for() { # SECONDS, what, command …
  local left=$1 what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    left=$((left - 1))
    [ "$left" -gt 0 ] || { say "$what did not come up" && return 1; }
    sleep 1
  done
}

is_idle() { sinfo --noheader --format=%T | grep -qx idle; }

up() {
  local folder=$1 reason
  reason=$(obstacle)
  [ -z "$reason" ] || die "$reason"
  [ ! -e "$folder/slurm.conf" ] || die "$folder holds a cluster already; take it down first"
  mkdir -p "$folder"/{state,spool}
  folder=$(cd "$folder" && pwd -P)
  trap 'down "$folder"' ERR INT TERM
  (umask 077 && head -c 1024 /dev/urandom >"$folder/munge.key")
  write_configuration "$folder"
  # shellcheck source=/dev/null
  source "$folder/env.sh"
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munged.seed"
  slurmctld -c -f "$SLURM_CONF"
  slurmd -f "$SLURM_CONF"
  wait_for 60 "the node" is_idle
  trap - ERR INT TERM
  say "up in $folder: $(sinfo --noheader --format='%N, %c CPUs, %G, %T'); source $folder/env.sh"
}

stop() { # PIDFILE: end that process and wait for it
  local pid
  pid=$(cat "$1" 2>/dev/null) || return 0
  kill "$pid" 2>/dev/null || true
  for _ in {1..100}; do
    kill -0 "$pid" 2>/dev/null || return 0
    sleep 0.1
  done
  kill -KILL "$pid" 2>/dev/null || true
}

no_jobs() { [ -z "$(squeue --noheader)" ]; }

down() {
  local folder=$1 job
  folder=$(cd "$folder" 2>/dev/null && pwd -P) || return 0
  trap - ERR INT TERM
  if [ -f "$folder/slurm.conf" ]; then
    # shellcheck source=/dev/null
    source "$folder/env.sh"
    if sinfo >/dev/null 2>&1; then
      for job in $(squeue --noheader --format=%A); do scancel "$job" || true; done
      wait_for 30 "an end of the jobs" no_jobs || true
    fi
    stop "$folder/slurmd.pid"
    stop "$folder/slurmctld.pid"
    stop "$folder/munged.pid"
    rm -rf "$folder"/{state,spool,bin,nvidia*,munge.*,munged.seed,slurm.conf,gres.conf,cgroup.conf,env.sh}
    say "down; its logs stay in $folder"
  fi
}

export PATH=$PATH:/usr/sbin
case "${1:-} $#" in
  "up 2") up "$2" ;;
  "down 2") down "$2" ;;
  "check 1") reason=$(obstacle) && [ -z "$reason" ] || die "$reason" ;;
  *) die "usage: $0 up FOLDER | down FOLDER | check" ;;
esac
