#!/usr/bin/env bash
# Installs the wheel and detectron2 into an empty environment of each Python and uses them there: import, doctor, init,
# a training of one epoch, an evaluation, a release of it, which comes back from a server by its name, a detector's plan.
#
#   scripts/pythons.sh [VERSION|INTERPRETER ...]      default: 3.10 to 3.13; those that are missing are skipped
#
# An environment takes 5 GB while it is used. Where FFCV can't be built, the images are read from a folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
scripts=$PWD/scripts uv=$PWD/scripts/uv.sh
unset PYTHONPATH VIRTUAL_ENV
# pyenv's shims of versions that are not switched on are found, and fail.
if command -v pyenv >/dev/null; then
  PYENV_VERSION=$(pyenv versions --bare | grep -E '^3\.[0-9]+\.[0-9]+$' | sort -rV | paste -sd:)
  export PYENV_VERSION
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# What the package does without extras.
own_loop='
import timm, torch
from skd_plugins import create_task
task = create_task("sd_dropout", timm.create_model("resnet10t", num_classes=10))
task(torch.randn(4, 3, 64, 64), torch.arange(4))["loss"].backward()
'

# use PYTHON: stops at the first step that fails; its last line says what was used.
use() {
  local environment=$work/env ffcv="with FFCV" format=
  rm -rf "$environment" "$work/use"
  mkdir "$work/use"
  cd "$work/use"
  "$uv" venv --quiet --python "$1" "$environment"
  "$uv" pip install --quiet --python "$environment" "$wheel"
  "$environment/bin/python" -c "$own_loop"
  export PATH=$environment/bin:$PATH SKD_CACHE=$work/use/cache
  if ! "$uv" pip install --quiet --python "$environment" "$wheel[train,ffcv,detection]"; then
    ffcv="without FFCV" format=--folder
    "$uv" pip install --quiet --python "$environment" "$wheel[train,detection]"
  fi
  "$environment/bin/python" "$scripts/install_detectron2.py" "$environment/bin/python"
  python -c 'import skd_plugins; print([getattr(skd_plugins, name) for name in skd_plugins.__all__])'
  skd doctor
  skd init .
  skd write digits --out data --per-class 5 $format
  python recipes/digits_sddropout.py --data data epochs=1 trackers=[]
  skd evaluate runs/resnet10t_digits.sdd/seed0 --data data
  mkdir releases
  python -u -m http.server --bind 127.0.0.1 --directory releases 0 >served 2>&1 &
  server=$!
  until grep -q "port [0-9]" served; do sleep 0.2; done
  skd release runs/resnet10t_digits.sdd/seed0 --tag trial --data data --manifest own.json \
    --url "$(grep -o "http://[^/]*" served)/resnet10t_digits.trial"
  SKD_WEIGHTS_MANIFEST=own.json skd evaluate resnet10t_digits.trial --data data
  kill $server || :
  grep "GET /resnet10t_digits.trial/model.safetensors" served
  python detection/train_net.py --config faster_rcnn_sdd.yaml --dry-run
  python -c 'import timm, torch; print(f"torch {torch.__version__}, timm {timm.__version__},")'
  echo "$ffcv"
}

"$uv" build --quiet --out-dir "$work/dist"
wheel=$(echo "$work"/dist/*.whl)
[[ $# -gt 0 ]] || set -- 3.10 3.11 3.12 3.13
failed=0
for wanted; do
  if ! python=$("$uv" python find "$wanted" 2>/dev/null); then
    echo "Python $wanted: skipped, not found"
    continue
  fi
  SECONDS=0
  use "$python" >"$work/log" 2>&1 & # in an `if`, bash would go on after a failure
  if wait $!; then
    echo "$("$python" -V): works, $(tail -n 2 "$work/log" | paste -sd " "), $SECONDS s"
  else
    failed=1
    cat "$work/log"
    echo "$("$python" -V): FAILED after $SECONDS s, see above"
  fi
done
exit $failed
