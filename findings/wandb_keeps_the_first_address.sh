#!/bin/sh
# wandb 0.31.0: the address of the server is read from WANDB_BASE_URL once a process. A later run keeps the first one, whatever
# the variable says by then, until wandb.teardown(): jobs of one process that change it go to the first one's server.
set -eu
place=$(mktemp -d)
trap 'rm -r "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check wandb==0.31.0
cat >"$place/app.py" <<'PY'
import os

import wandb

def address(url):
    os.environ["WANDB_BASE_URL"] = url
    with wandb.init(mode="offline", settings=wandb.Settings(silent=True)) as run:
        return run.settings.base_url

first, second = address("http://127.0.0.1:8001"), address("http://127.0.0.1:8002")
wandb.teardown()
third = address("http://127.0.0.1:8002")
print("wandb", wandb.__version__, first, second, third)
assert (first, second, third) == ("http://127.0.0.1:8001", "http://127.0.0.1:8001", "http://127.0.0.1:8002")
PY
cd "$place"
venv/bin/python app.py
