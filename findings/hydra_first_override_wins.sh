#!/bin/sh
# hydra-core 1.3.8: of several `override` entries for one group the FIRST in the defaults tree wins. A primary config that
# has `override hydra/sweeper: X` makes the `override /hydra/sweeper: Y` of an experiment a no-op, without a word; the
# documented order of composition (what comes later wins) lets one expect the reverse.
set -eu
place=$(mktemp -d)
trap 'rm -r "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check hydra-core==1.3.8 hydra-joblib-launcher==1.2.0
mkdir -p "$place/conf/experiment"
cat >"$place/conf/config.yaml" <<'YAML'
defaults:
  - _self_
  - override hydra/launcher: basic
x: 1
YAML
cat >"$place/conf/experiment/mine.yaml" <<'YAML'
# @package _global_
defaults:
  - override /hydra/launcher: joblib
x: 2
YAML
cat >"$place/app.py" <<'PY'
import hydra

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config):
    print(hydra.__version__, "x", config.x, "launcher", hydra.core.hydra_config.HydraConfig.get().runtime.choices["hydra/launcher"])

main()
PY
cd "$place"
seen=$(venv/bin/python app.py +experiment=mine hydra.run.dir="$place/out" hydra.job_logging=null 2>/dev/null || venv/bin/python app.py +experiment=mine hydra.run.dir="$place/out")
echo "$seen"
test "$seen" = "1.3.8 x 2 launcher basic"  # the experiment's value is taken, its launcher is not
