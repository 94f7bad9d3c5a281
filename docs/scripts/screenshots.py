"""Takes the pictures in docs/images/ of report.html, compare.html and the viewer, by headless Chromium of real runs.

    python docs/scripts/screenshots.py           # trains what is missing: a default run, sixteen short ones
    python docs/scripts/screenshots.py --only view

The runs lie in the project root like any others, so a second call only takes the pictures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from mmo_rl.config.project import project_root

IMAGES = Path(__file__).resolve().parents[1] / "images"
MMO_RL = [sys.executable, "-m", "mmo_rl"]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
]
SIZE = "1100,1250"
LARGEST = 300_000
NAME = "screenshots"
SWEEP = [
    *("-m", "+experiments=quick", f"name={NAME}", "seed=0,1,2"),
    "trainer.learning_rate=1e-4,5e-4,1e-3,2e-3,4e-3",
]

LOOKED_AT = ["name=looked_at", "iterations=3", "collect.agents=6", "evaluate=none", "report=local"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--only", choices=["report", "compare", "view"])
    only = parser.parse_args().only
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is installed; on Debian or Ubuntu: sudo apt-get install chromium")
    root = project_root()
    if only in (None, "report"):
        subprocess.run([*MMO_RL], check=True)
        take(browser, finished(root / "runs" / "default") / "report.html", IMAGES / "report.png")
    if only in (None, "view"):
        subprocess.run([*MMO_RL, *LOOKED_AT], check=True)
        with tempfile.TemporaryDirectory() as folder:
            pages = [f"view.output={folder}", "view.runs=runs/looked_at"]
            subprocess.run([*MMO_RL, "task=view", *pages], check=True, cwd=root)
            take(browser, sorted(Path(folder).glob("runs/*/*/windows/*.html"))[-1], IMAGES / "view.png")
    if only in (None, "compare"):
        subprocess.run([*MMO_RL, *SWEEP], check=True)
        pages = root / "runs" / "compare" / NAME
        subprocess.run(
            [*MMO_RL, "task=compare", f"compare.runs=runs/{NAME}/*", f"compare.output={pages}"], check=True, cwd=root
        )
        take(browser, pages / "compare.html", IMAGES / "compare.png")


def finished(experiment: Path) -> Path:
    """The default run with seed 0: the one of its experiment whose overrides are empty."""
    for status in experiment.glob("*/status.json"):
        overrides = (status.parent / "overrides.yaml").read_text("utf-8").strip()
        if json.loads(status.read_text("utf-8"))["status"] == "done" and overrides in ("", "[]"):
            return status.parent
    sys.exit(f"{experiment} holds no finished run with the defaults")


def take(browser: str, page: Path, picture: Path) -> None:
    """Renders the top of a page into a PNG; raises where that is no small picture."""
    with tempfile.TemporaryDirectory() as profile:
        size = [f"--window-size={SIZE}", f"--user-data-dir={profile}"]
        subprocess.run(
            [browser, *QUIET, *size, f"--screenshot={picture}", page.resolve().as_uri()],
            check=True,
            capture_output=True,
            timeout=120,
        )
    weight = picture.stat().st_size
    print(f"{picture}: {weight:,} bytes")
    if weight > LARGEST:
        sys.exit(f"{picture} is larger than {LARGEST:,} bytes")


if __name__ == "__main__":
    main()
