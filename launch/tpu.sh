#!/bin/bash
# Prunes chains on a TPU pod slice: the same command on all hosts of it, which find each other.
#
#   launch/tpu.sh NAME ZONE --config=configs/prune.py --workdir=/mnt/shared/runs/mine ...
#
# NAME and ZONE are the slice's, as `gcloud compute tpus tpu-vm list` prints them; arguments behind
# them are those of the prune job. Beforehand, on all hosts (--worker=all): the clone at
# ~/greedy_prune_jax with its .venv and `pip install 'jax[tpu]'` in it, and a shared file system (a
# Filestore share, say) mounted for the workdir. Leave the terminal open (tmux): the processes end
# with it. The same command goes on where they were. DRY_RUN=1 prints it and runs nothing.
set -euo pipefail

name=${1:?the first argument is the name of the TPU pod slice}
zone=${2:?the second argument is its zone}
shift 2

printf -v arguments ' %q' "$@"
job="cd greedy_prune_jax && .venv/bin/python -m greedy_prune_jax.jobs.prune --distributed$arguments"
command=(
  gcloud compute tpus tpu-vm ssh "$name" --zone="$zone" --worker=all --command="$job"
)
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  echo
else
  exec "${command[@]}"
fi
