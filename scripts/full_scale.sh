#!/usr/bin/env bash
# CIFAR-10 at scale=full: a ResNet-18, both methods, before any attack and under twelve. For a GPU.
#
#     scripts/full_scale.sh DATA OUT [SEED ...]
#
# DATA holds CIFAR-10's parquet files. Run it again after a cut: finished stages and cells lie in
# OUT and are not made again. Each seed's table is written as soon as the seed is done, to
# OUT/tables. OVERRIDES="model=resnet18 method=usp_margin,csp_margin recipe.epochs=24" stands in
# place of model=resnet18.
set -euo pipefail
if [ $# -lt 2 ]; then sed -n '2,9s/^# \{0,1\}//p' "$0" >&2; exit 2; fi
data=$(realpath "$1") out=$(realpath --canonicalize-missing "$2")
shift 2
cd "$(dirname "$0")/.."
attacks=none,finetune,finetune_full,finetune_highest,finetune_smoothed,retrain,retrain_full,retrain_lda_shrunk,prune_finetune,distill,distill_other,distill_hard,distill_finetune
done=() failed=0
for seed in "${@:-0}"; do
  sweep=(table=robustness data=cifar10 "data.path=$data" scale=full
    ${OVERRIDES:-model=resnet18} "attack=$attacks" "output_dir=$out" logger=none)
  # What failed is in the table, and doesn't hold up the seeds after it.
  python run.py -m "${sweep[@]}" "seed=$seed" || failed=1
  done+=("$seed")
  seeds=$(IFS=,; echo "${done[*]}")
  python scripts/report.py --name full --to "$out/tables" "${sweep[@]}" "seed=$seeds"
done
exit "$failed"
