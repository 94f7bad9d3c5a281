"""CPU time of `mmo-rl --help` and `mmo-rl --cfg job` against a bare Hydra app with as many groups and choices.

    python benchmarks/startup.py [--repetitions 7] [--json]

Both are measured in pairs, in turn, in one run; the ratio is that of the medians, and its goal is at most 1.5. The bare
app has the same tree of groups and choices, with the same YAML in each, and nothing of this project's code.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from mmo_rl.config.project import shipped

GOAL = 1.5
APP = """
import hydra

@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(cfg):
    pass

main()
"""


def bare_app(folder: Path) -> Path:
    """A Hydra app with a copy of our config tree, less what needs our plugins and resolvers."""
    conf = folder / "conf"
    shutil.copytree(shipped("conf"), conf)
    shutil.rmtree(conf / "hydra")
    shutil.copytree(shipped("experiments"), conf / "experiments")
    for path in conf.rglob("*.yaml"):
        text = re.sub(r"(?m)^hydra:.*\n(?:[ ].*\n|\n)*", "", path.read_text("utf-8"))
        text = re.sub(r"(?m)^  - override hydra/.*\n", "", text)
        path.write_text(text.replace("${mmo_rl.home:}", "home"), "utf-8")
    app = folder / "app.py"
    app.write_text(APP, "utf-8")
    return app


def cpu_seconds(command: list[str], cwd: Path) -> float:
    """User and system time of one run of ``command``."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, cwd=cwd, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    result: dict[str, object] = {"repetitions": arguments.repetitions, "goal": GOAL, "python": sys.version.split()[0]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        app = bare_app(folder)
        (folder / "empty").mkdir()
        os.environ["PYTHONDONTWRITEBYTECODE"] = ""
        for label, flags in (("help", ["--help"]), ("cfg_job", ["--cfg", "job"])):
            ours, bare = [sys.executable, "-m", "mmo_rl", *flags], [sys.executable, str(app), *flags]
            pairs = [
                (cpu_seconds(ours, folder / "empty"), cpu_seconds(bare, folder))
                for _ in range(arguments.repetitions + 1)
            ]
            ours_s, bare_s = (
                statistics.median(column) for column in zip(*pairs[1:], strict=True)
            )  # the first warms up
            result[label] = {"mmo_rl_cpu_s": ours_s, "bare_cpu_s": bare_s, "ratio": ours_s / bare_s}
    if arguments.json:
        print(json.dumps(result))
        return
    for label in ("help", "cfg_job"):
        row = result[label]
        assert isinstance(row, dict)
        print(
            f"{label:8} mmo-rl {row['mmo_rl_cpu_s']:.3f} s, bare Hydra {row['bare_cpu_s']:.3f} s CPU: "
            f"ratio {row['ratio']:.2f} (goal: at most {GOAL})"
        )


if __name__ == "__main__":
    main()
