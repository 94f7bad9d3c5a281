#!/bin/sh
# install.sh PYTHON VENV STAMP: makes VENV with this project in it, unless STAMP says that nothing has changed.
set -eu
python=$1 venv=$2 stamp=$3

say() { printf '%s\n' "$*" >&2; }

command -v "$python" >/dev/null 2>&1 || {
    say "install: there is no $python. Install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=python3.12 ..."
    exit 2
}
version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
3.11 | 3.12 | 3.13) ;;
*)
    say "install: $python is Python $version; 3.11, 3.12 or 3.13 is needed. Name one: make PYTHON=python3.12 ..."
    exit 2
    ;;
esac
"$python" -c 'import venv, ensurepip' 2>/dev/null || {
    say "install: $python has no venv module. On Debian or Ubuntu: sudo apt install python$version-venv"
    exit 2
}

constraints=constraints/python$version.txt
wanted="$version $(cat pyproject.toml "$constraints" "$0" | cksum) $(pwd)"
if [ -x "$venv/bin/mmo-rl" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

started=$(date +%s)
say "install: into $venv with Python $version (several minutes the first time: torch and its company) ..."
if [ "$("$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)" != "$version" ]; then
    "$python" -m venv --clear "$venv"
fi
rm -f "$stamp"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint "$constraints" \
    --editable '.[local,dev]' 2>"$venv/pip.log" || {
    grep -v '^WARNING' "$venv/pip.log" | tail -n 15 >&2
    say "install: pip failed, see above. Is the package index reachable, and is there disk space (6 GB)? Then: make install"
    exit 1
}
printf '%s\n' "$wanted" >"$stamp"
say "install: done in $(($(date +%s) - started)) s"
