#!/usr/bin/env bash
# The smoke study through a real Slurm, one node on this machine (one_node_slurm.sh): every job is submitted, one fold
# is killed on the way and comes back, and the numbers are those of the same study without Slurm.
#   tests/cluster/test_slurm.sh [FOLDER]     FOLDER keeps outputs and logs; a temporary one is removed at the end
# Needs root, Debian's slurm-wlm and munge, and the study's environment with its extra `slurm`; run_tests.sh does not
# run it.
set -euo pipefail

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(dirname "$(dirname "$HERE")")
SYSTEMS=unet,xbusnet

note() { printf 'test: %s\n' "$*"; }
fail() {
  note "FAILED: $*"
  exit 1
}

if ! reason=$("$HERE/one_node_slurm.sh" check 2>&1); then
  note "skipped, ${reason#slurm: }"
  exit 0
fi
# shellcheck source=../../setup_env.sh
source "$ROOT/setup_env.sh"
python -c 'import snakemake_executor_plugin_slurm' 2>/dev/null || {
  note "skipped, the plugin is not installed: pip install -c constraints.txt -e '.[slurm]'"
  exit 0
}

FOLDER=${1:-}
if [ -z "$FOLDER" ]; then
  FOLDER=$(mktemp -d)
  trap 'rm -rf "$FOLDER"' EXIT
fi
mkdir -p "$FOLDER"
FOLDER=$(cd "$FOLDER" && pwd -P)

study() { # NAME, further flags …: two systems on two folds of the phantom, two iterations each, analyses and report
  local name=$1
  shift
  XBUS_OUTPUTS="$FOLDER/outputs" "$ROOT/run_all.sh" --profile smoke --systems "$SYSTEMS" --folds 0,1 \
    --set iterations=2 --study "$name" "$@"
}

# The cluster's profile with what a person would fill in: this Slurm keeps no accounts, and the test is in a hurry.
# One core per fold, since sums over another number of threads may differ in their last digit.
write_profile() {
  mkdir -p "$FOLDER/profile"
  sed -e 's/train_fold: 4/train_fold: 1/' -e 's/^# slurm-status-command: squeue.*/slurm-status-command: squeue/' \
    "$ROOT/workflow/profiles/slurm/config.yaml" >"$FOLDER/profile/config.yaml"
  printf 'slurm-init-seconds-before-status-checks: 5\nlatency-wait: 10\n' |
    cat <(grep -v '^latency-wait' "$FOLDER/profile/config.yaml") - >"$FOLDER/profile/new"
  mv "$FOLDER/profile/new" "$FOLDER/profile/config.yaml"
}

fold_at_work() { # Slurm's id of a fold that has begun to train: its unfinished folder is there
  local folder fold system
  for folder in "$FOLDER"/outputs/slurm/runs/*/fold_*/.seed_0.*.partial; do
    [ -d "$folder" ] || continue
    fold=$(dirname "$folder")
    system=$(basename "$(dirname "$fold")")
    squeue --noheader --states=RUNNING --format='%A %k' |
      awk -v name="rule_train_fold_wildcards_${system}_${fold##*_}_0" \
        '$2 == name { print $1; found = 1 } END { exit !found }' && return
  done
  return 1
}

kill_one_fold() { # as if the node had run out of memory: every process of the job, at once, no time to clean up
  local job="" pid pids
  until job=$(fold_at_work); do
    kill -0 "$STUDY" 2>/dev/null || fail "the study ended before a fold was seen to train"
    sleep 0.1
  done
  note "kill -9 of Slurm job $job, $(squeue --noheader --job "$job" --format=%k):"
  mapfile -t pids < <(scontrol listpids "$job" | awk 'NR > 1 && $1 > 0 { print $1 }')
  for pid in "${pids[@]}"; do
    note "  process $pid: $(tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | cut -c 1-80)"
  done
  kill -KILL "${pids[@]}" || true # some may have gone with their parents
}

watch_queue() { # a line per job and the GPUs it was given, for the log
  while sleep 2; do squeue --noheader --states=RUNNING --format='%A %C cores %m %b %k' || true; done |
    awk '!seen[$0]++ { print "queue: " $0; fflush() }'
}

note "without Slurm"
study here >"$FOLDER/here.log" 2>&1 || { tail -n 30 "$FOLDER/here.log"; fail "the study failed without Slurm"; }

note "with Slurm"
finish() {
  [ -z "${WATCH:-}" ] || kill -- "-$WATCH" 2>/dev/null || true
  [ -z "${STUDY:-}" ] || kill "$STUDY" 2>/dev/null || true
  "$HERE/one_node_slurm.sh" down "$FOLDER/cluster"
  [ -n "${1:-}" ] || rm -rf "$FOLDER"
}
trap 'finish "${1:-}"' EXIT
"$HERE/one_node_slurm.sh" up "$FOLDER/cluster"
# shellcheck source=/dev/null
source "$FOLDER/cluster/env.sh"
write_profile
set -m
watch_queue >"$FOLDER/queue.log" &
WATCH=$!
set +m
study slurm --slurm-profile "$FOLDER/profile" >"$FOLDER/slurm.log" 2>&1 &
STUDY=$!
kill_one_fold
wait "$STUDY" || { tail -n 60 "$FOLDER/slurm.log"; fail "the study failed under Slurm"; }
STUDY=""
cat "$FOLDER/queue.log"
grep -E 'submitted with SLURM jobid|failed, SLURM status|Trying to restart|steps .* done|Report:' "$FOLDER/slurm.log"

grep -q 'Trying to restart' "$FOLDER/slurm.log" || fail "no job was resubmitted"
same=0
for table in "$FOLDER"/outputs/here/runs/*/fold_*/seed_0/per_image.csv; do
  cmp "$table" "${table/outputs\/here/outputs/slurm}" || fail "Slurm gave other numbers: $table"
  same=$((same + 1))
done
[ "$same" -eq 4 ] || fail "$same runs instead of 4"
for made in "$FOLDER"/outputs/here/notebooks/*.done "$FOLDER"/outputs/here/report/index.html; do
  [ -f "${made/outputs\/here/outputs/slurm}" ] || fail "Slurm made no ${made#"$FOLDER"/outputs/here/}"
done
grep -h cuda_visible_devices "$FOLDER"/outputs/slurm/runs/*/fold_*/seed_0/run.json
if grep -hE 'cuda_visible_devices": (null|"[0-9]*,)' "$FOLDER"/outputs/slurm/runs/*/fold_*/seed_0/run.json; then
  fail "a fold saw no GPU, or more than one"
fi
if grep -vE 'rule_train_fold' "$FOLDER/queue.log" | grep -q gpu; then fail "another job than a fold took a GPU"; fi
note "passed: four folds, equal to those without Slurm, with analyses and report; the killed fold was resubmitted"
