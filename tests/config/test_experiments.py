"""The committed experiments: all compose and validate, each says what it asks and costs, and the local ones run."""

from __future__ import annotations

import json
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import create_config_search_path
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import OmegaConf

from mmo_rl.__main__ import main
from mmo_rl.config.project import shipped
from mmo_rl.config.settings import Settings, validate

EXPERIMENTS = sorted(path.stem for path in shipped("experiments").glob("*.yaml"))
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
    loader = ConfigLoaderImpl(create_config_search_path(f"file://{shipped('conf')}"))
    config = loader.load_configuration("config", [f"+experiments={name}", *overrides], run_mode=RunMode.RUN)
    return validate(OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"]))


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
def project() -> Iterator[Path]:
    """A project with a server of its own, for all experiments."""
    root = Path(tempfile.mkdtemp(prefix="mmo_rl-run-"))
    root.chmod(0o755)  # as root the server runs as another user, which has to pass through
    yield root
    shutil.rmtree(root)


@pytest.mark.parametrize("name", LOCAL)
def test_two_iterations_of_every_local_experiment_run(
    name: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of its last arm: where it sweeps over a number, the most extreme one."""
    monkeypatch.setenv("MMO_RL_ROOT", str(project))
    for variable in ("MMO_RL_HOME", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(variable, raising=False)
    if name == "offline":
        assert run(monkeypatch, "+experiments=offline_recording", "seed=0", "collect.windows=4") == 0
    plays = settings(name, *arms(name)[-1]).nodes["collect"] is not None
    small = SMALLEST + SMALLEST_PLAY if plays else SMALLEST
    assert run(monkeypatch, f"+experiments={name}", "seed=0", *arms(name)[-1], *small) == 0
    (folder,) = (project / "runs" / name).iterdir()
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """The exit code of the command line, in this process: what is slow to import is imported once."""
    terminate = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(sys, "argv", ["mmo-rl", "-m", *arguments])
    try:
        return main()
    finally:
        signal.signal(signal.SIGTERM, terminate)
