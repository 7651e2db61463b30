#!/bin/bash
# Hands the command to a Ray cluster that is running; RAY_ADDRESS names it, for example http://head:8265.
# Ray finds a machine with four free GPUs, and labkit starts a process for each there.
set -euo pipefail
ray job submit --working-dir . --entrypoint-num-gpus 4 -- \
  python -m labkit finetune rows.csv --out runs/rows --processes 4
