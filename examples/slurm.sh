#!/bin/bash
# Two machines of eight GPUs each, under Slurm: sbatch examples/slurm.sh RECIPE --data DATA --out RUN
# The run's folder and the data must be seen by all machines. A job that is begun again goes on where it was.
#SBATCH --job-name=lowerbound
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --signal=TERM@120
set -e
export MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export WORLD_SIZE=$SLURM_NTASKS
export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK
srun --kill-on-bad-exit=1 bash -c \
  'RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID exec lowerbound train "$@" --resume' lowerbound "$@"
