#!/bin/bash
# A sweep in eight parts on eight machines, then joined. The folder must be shared.
# If a part is killed, submit it again: finished runs are not run twice.
#SBATCH --job-name=jaxinit
#SBATCH --array=0-7
#SBATCH --cpus-per-task=16

jaxinit compare --task digits-cnn --seeds 20 --quiet \
  --shard "$SLURM_ARRAY_TASK_ID/8" --out "results/cnn-part-$SLURM_ARRAY_TASK_ID"

# Once all have ended: jaxinit merge results/cnn-part-* -o results/cnn
