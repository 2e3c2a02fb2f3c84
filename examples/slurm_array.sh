#!/bin/bash
# A sweep in parts, one a machine, then joined: the folder must be shared. By default six
# parts for the six schemes of the default. Arguments are those of jaxinit compare:
#   sbatch examples/slurm_array.sh --task digits-cnn --seeds 20
# If a part is killed, requeue it: what is finished is not made twice.
#SBATCH --job-name=jaxinit
#SBATCH --array=0-5
#SBATCH --cpus-per-task=16

jaxinit compare "$@" --quiet \
  --shard "$SLURM_ARRAY_TASK_ID/$SLURM_ARRAY_TASK_COUNT" \
  --out "results/part-$SLURM_ARRAY_TASK_ID"

# Once all have ended: jaxinit merge results/part-* -o results/all
