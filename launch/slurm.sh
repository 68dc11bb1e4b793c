#!/bin/bash
# Prunes chains on SLURM: one process on each node, which uses all GPUs of its node.
#
#   sbatch --nodes=4 --gpus-per-node=8 launch/slurm.sh --config=configs/prune.py --workdir=DIR ...
#
# Arguments are those of the prune job. Submit from the clone; it and the workdir must lie on a file
# system that all nodes share. The processes find each other through SLURM's variables. A job that
# was killed, or ran out of time, goes on where it was: submit the same again, with as many nodes as
# you like. `DRY_RUN=1 bash launch/slurm.sh ...` prints the command and runs nothing.
#
#SBATCH --job-name=prune
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --output=%x-%j.log
set -euo pipefail

# Left alone, JAX gives a task the one GPU that has the task's number on its node.
JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((${SLURM_GPUS_ON_NODE:-1} - 1)))
export JAX_LOCAL_DEVICE_IDS

# srun would not take over --cpus-per-task from sbatch (since Slurm 22.05).
command=(
  srun --kill-on-bad-exit=1 --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}"
  "${PYTHON:-.venv/bin/python}" -m greedy_prune_jax.jobs.prune --distributed "$@"
)
if [[ -n ${DRY_RUN:-} ]]; then
  printf '%q ' "${command[@]}"
  echo
else
  exec "${command[@]}"
fi
