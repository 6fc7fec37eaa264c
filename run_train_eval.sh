#!/bin/sh
# Set up the project if needed, then preprocess, train and evaluate one scene.
#   sh run_train_eval.sh                                                              the embedded demo scene
#   sh run_train_eval.sh --dataset 7scenes --scene redkitchen --dataset_dir DIR …     a real one; any option of the three stages may follow
# Scenes are written to ./dataset, runs to ./logs (--data_dir, --log_dir). sh run_train_eval.sh --help lists everything.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
sh "$root/scripts/setup.sh"
exec "$(dirname "$(sh "$root/scripts/setup.sh" --python)")/d2s" pipeline "$@"
