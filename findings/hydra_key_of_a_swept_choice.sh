#!/bin/sh
# hydra-core 1.3.8: `--multirun group=a,b group.key=2` fails where only the swept choices, and not the default one, have the
# key: overrides that are not swept are applied to the config with the DEFAULT choice first. The same value written as a
# sweep of one, `group.key=choice(2)`, is applied in each job alone and works.
set -eu
place=$(mktemp -d)
trap 'rm -r "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install --quiet --disable-pip-version-check hydra-core==1.3.8
mkdir -p "$place/conf/judge"
printf 'defaults:\n  - judge: plain\n' >"$place/conf/config.yaml"
printf 'name: plain\n' >"$place/conf/judge/plain.yaml"
printf 'name: a\nrepeats: 1\n' >"$place/conf/judge/a.yaml"
printf 'name: b\nrepeats: 1\n' >"$place/conf/judge/b.yaml"
cat >"$place/app.py" <<'PY'
import hydra

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config):
    print("job", config.judge.name, config.judge.repeats)

main()
PY
cd "$place"
venv/bin/python -c 'import hydra; print("hydra-core", hydra.__version__)'
if venv/bin/python app.py -m judge=a,b judge.repeats=2 hydra.sweep.dir="$place/out" >plain.txt 2>&1; then
    echo "the plain override works now"
    exit 1
fi
grep -i "not in struct" plain.txt
venv/bin/python app.py -m judge=a,b 'judge.repeats=choice(2)' hydra.sweep.dir="$place/out" | grep '^job' | tee jobs.txt
test "$(cat jobs.txt)" = "job a 2
job b 2"
