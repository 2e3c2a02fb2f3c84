#!/bin/bash
# A sweep in six parts on six machines, one for each of the six schemes of the default,
# then joined. The folder must be shared.
# If a part is killed, submit it again: finished runs are not run twice.
#SBATCH --job-name=jaxinit
#SBATCH --array=0-5
#SBATCH --cpus-per-task=16

jaxinit compare --task digits-cnn --seeds 20 --quiet \
  --shard "$SLURM_ARRAY_TASK_ID/6" --out "results/cnn-part-$SLURM_ARRAY_TASK_ID"

# Once all have ended: jaxinit merge results/cnn-part-* -o results/cnn
