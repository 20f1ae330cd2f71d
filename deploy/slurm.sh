#!/bin/bash
# A search on Slurm; deploy/README.md explains it.
#
#   sbatch deploy/slurm.sh
#
# Yours: the #SBATCH lines, the environment that has maskcls, and the folders of --data and --storage.

#SBATCH --job-name=maskcls
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --gpus-per-node=1
# symmetric-run ends every Ray of this user on its nodes, and Ray has fixed ports.
#SBATCH --exclusive
#SBATCH --time=1-00:00:00
# A job that lost a node, or was preempted, is queued again, and goes on from the storage.
#SBATCH --requeue
#SBATCH --open-mode=append

set -euo pipefail

export PATH="$HOME/maskcls/bin:$PATH"

# Whoever reaches a node's ports would else run code there. The home is the same on all nodes, and so is the token.
ray get-auth-token --generate > /dev/null
export RAY_AUTH_MODE=token
# Each node decodes the photos onto its own disk; by default that would be the home, which all nodes share.
export MASKCLS_CACHE="/tmp/$USER/maskcls"
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=300

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --cpus-per-task="$SLURM_CPUS_PER_TASK" \
    --kill-on-bad-exit=1 \
    ray symmetric-run --address "$head:${RAY_PORT:-6379}" --min-nodes "$SLURM_JOB_NUM_NODES" \
    --num-cpus "$SLURM_CPUS_PER_TASK" --num-gpus "${SLURM_GPUS_ON_NODE:-0}" -- \
    maskcls search --space backbones --data "$HOME/faces" --storage "$HOME/runs" --runs "/tmp/$USER/runs" \
    --name first --begin-or-resume --trials 100 \
    --address auto
