#!/bin/bash
# One sweep by all GPUs of four machines at once. The folder must be shared.
# If a machine fails, the others end; submit it again, and it goes on.
#SBATCH --job-name=jaxinit
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8

srun jaxinit compare --distributed --task digits-cnn --seeds 200 \
  --out results/digits-cnn
