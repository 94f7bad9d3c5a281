"""The committed experiments: all compose and validate, each says what it asks and costs, and the local ones run."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from mmo_rl.config.project import shipped
from mmo_rl.config.settings import Settings
from tests.harness.config import compose_settings
from tests.harness.project import Project, committed, read_json, read_rows

EXPERIMENTS = [path.stem for path in committed(shipped("experiments"), "*.yaml")]
SMALLEST = ("iterations=2", "sampler.max_windows=2", "evaluate.markets=2", "evaluate.agents=1", "report=local")
SMALLEST_PLAY = ("collect.windows=4", "collect.agents=5")


def head(name: str) -> str:
    """The comment on top of an experiment."""
    lines = (shipped("experiments") / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    comment = []
    for line in lines[1:]:
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return "\n".join(comment)


def arms(name: str) -> list[list[str]]:
    """The overrides of every job of an experiment with seed 0; one job without any where it is no sweep."""
    swept = OmegaConf.select(
        OmegaConf.load(shipped("experiments") / f"{name}.yaml"), "hydra.sweeper.params", default={}
    )
    params = [f"{key}={values}" for key, values in swept.items() if key != "seed"]
    jobs = BasicSweeper.split_arguments(OverridesParser.create().parse_overrides(params), None)
    return [list(job) for batch in jobs for job in batch]


def settings(name: str, *overrides: str) -> Settings:
    return compose_settings(f"+experiments={name}", *overrides)


def is_local(composed: Settings) -> bool:
    """Whether it trains, and needs neither a key, nor a server, nor weights that are not shipped."""
    nodes = composed.nodes
    targets = [str((nodes[name] or {}).get("_target_")) for name in ("judge", "trainer")]
    source, model = nodes["source"] or {}, nodes["model"] or {}
    remote = any(word in target for word in ("ruler", "serverless") for target in targets)
    return composed.task == "train" and not remote and source.get("dsn_env") is None and model.get("name") == "tiny"


LOCAL = [name for name in EXPERIMENTS if is_local(settings(name, *arms(name)[-1]))]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_job_of_every_experiment_is_valid_and_named_after_its_file(name: str) -> None:
    for job in arms(name):
        made = settings(name, *job)
        recorded = f"{name}_{made.seed}"  # leaves no run folder; others choose it by this name
        assert made.name == (recorded if made.task == "collect" else name)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_an_experiment_says_what_it_asks_with_which_command_and_what_that_takes(name: str) -> None:
    told = head(name)
    assert told.startswith("Question: ") and f"+experiments={name}" in told
    assert re.search(r"\bminutes?\b|\bhours?\b", told) and re.search(r"\bcost|\$", told)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_came_out_or_why_nothing_did_is_written_beside_it(name: str) -> None:
    pages = (shipped("experiments") / "README.md").read_text()
    assert any(mention in pages for mention in (f"\n## {name}\n", f"`{name}`", f"+experiments={name}"))


@pytest.fixture(scope="module")
def project(scratch: Path) -> Iterator[Project]:
    """A project with a server of its own, for all experiments."""
    root, home = (Path(tempfile.mkdtemp(prefix=name, dir=scratch)) for name in ("run-", "home-"))
    home.chmod(0o755)  # as root the server runs as another user, which has to pass through
    yield Project.at(root, home)
    shutil.rmtree(root)
    shutil.rmtree(home)


@pytest.mark.parametrize("name", LOCAL)
def test_two_iterations_of_every_local_experiment_run(name: str, project: Project) -> None:
    """Of its last arm: where it sweeps over a number, the most extreme one."""
    if name == "offline":
        project.run("-m", "+experiments=offline_recording", "seed=0", "collect.windows=4")
    plays = settings(name, *arms(name)[-1]).nodes["collect"] is not None
    small = SMALLEST + SMALLEST_PLAY if plays else SMALLEST
    project.run("-m", f"+experiments={name}", "seed=0", *arms(name)[-1], *small)
    folder = project.folder(f"{name}/*")
    assert read_json(folder / "status.json")["status"] == "done"
    assert len(read_rows(folder / "metrics.jsonl")) == 2
