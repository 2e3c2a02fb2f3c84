#!/bin/bash
# One sweep by all GPUs of four machines at once: the folder must be shared. Arguments are
# those of jaxinit compare:
#   sbatch examples/slurm_distributed.sh --task digits-cnn --seeds 200
# If a machine fails, the others end; requeue the job, and it goes on.
#SBATCH --job-name=jaxinit
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --requeue

srun --kill-on-bad-exit=1 jaxinit compare "$@" --distributed --quiet --out results/distributed
