"""Writes constraints/python3.X.txt for the interpreter that runs it: the versions that pip would install today.

    python3.12 constraints/lock.py

Nothing is installed; pip resolves in a throw-away virtual environment.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"
HEADER = f"""\
# Exact versions of what `make install` puts into .venv on Python {VERSION}, made by constraints/lock.py. The packages
# with the CUDA libraries, which some builds of torch bring along, are left to torch.
"""
FOLLOWS_TORCH = re.compile(r"nvidia-|cuda-|triton$")


def main() -> None:
    project = tomllib.loads((HERE.parent / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(r for extra in ("local", "dev") for r in project["optional-dependencies"][extra]),
    ]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        report, requirements = Path(folder, "report.json"), Path(folder, "requirements.txt")
        requirements.write_text("\n".join([*wanted]), "utf-8")
        pip = [str(Path(folder, "bin", "python")), "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed"]
        subprocess.run([*pip, "--report", str(report), "-r", str(requirements)], check=True)
        resolved = json.loads(report.read_text("utf-8"))["install"]
    pins = {re.sub(r"[-_.]+", "-", p["metadata"]["name"]).lower(): p["metadata"]["version"] for p in resolved}
    lines = [f"{n}=={v.partition('+')[0]}" for n, v in sorted(pins.items()) if not FOLLOWS_TORCH.match(n)]
    (HERE / f"python{VERSION}.txt").write_text(HEADER + "\n".join(lines) + "\n", "utf-8")


if __name__ == "__main__":
    main()
