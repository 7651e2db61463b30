#!/bin/bash
# Run on a machine of a Ray cluster, in a folder that all its machines share and that has rows.csv.
# `ray start --head` begins a cluster, `ray start --address HEAD:6379` adds a machine to it.
# Ray finds four free GPUs, on whichever machines, and starts a process of labkit for each.
set -euo pipefail
export RAY_ADDRESS="${RAY_ADDRESS:-auto}"
python -m labkit finetune rows.csv --out runs/rows --processes 4 --ray "$@"
