#!/bin/bash
# sbatch data/jobs/slurm.sh            begins; sbatch data/jobs/slurm.sh --resume   goes on after a stop
# Two machines with four GPUs each; --out must lie on a disk that both see.
#SBATCH --job-name=labkit
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=02:00:00
set -euo pipefail
export HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One torchrun a machine. The first hosts the rendezvous, and is told so: names do not always lead back to it.
srun bash -c '
  torchrun --nnodes "$SLURM_NNODES" --nproc-per-node 4 --rdzv-id "$SLURM_JOB_ID" \
    --rdzv-backend c10d --rdzv-endpoint "$HOST:29500" --rdzv-conf "is_host=$(( SLURM_NODEID == 0 ))" \
    -m labkit finetune rows.csv --out runs/rows "$@"' labkit "$@"
