"""Every command in README and docs: composed and validated as the command line does it, without running a job."""

from __future__ import annotations

import argparse
import functools
import re
import shutil
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.hydra import Hydra
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from mmo_rl.cli.help_topics import topic_text
from mmo_rl.cli.job import check_task
from mmo_rl.cli.search import Space
from mmo_rl.cli.sweep import checked
from mmo_rl.config import renamed
from mmo_rl.config.explain import explain
from mmo_rl.config.project import shipped
from mmo_rl.config.settings import COMPONENTS, masked, task_names, validate
from mmo_rl.errors import MmoRlError
from tests.docs.pages import (
    PAGES,
    ROOT,
    Command,
    blocks,
    commands,
    files,
    inline_code,
    simple_commands,
    text,
    yaml_commands,
)

FINISHED_RUNS = ("runs/default/0123456789", "runs/trial/0123456789")
"""Placeholders of the pages: `loader` makes these folders, with the config of a default run."""
NOT_OURS = {"source", "export", "eval", "cd", "git", "producer", "wandb"}
"""First words of lines that call neither mmo-rl nor make: the shell's own, a game's program, and W&B's."""
NOT_INSTALLED = {"hydra/launcher=ray"}
"""Choices that need a package which ``make install`` leaves out: their commands are only checked without them."""
FLAGS_ALONE = {("--help",), ("--version",)}
SEARCH = "SearchSweeper"


@pytest.fixture(scope="module", autouse=True)
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project folder with the runs that the pages name, and the example that `mmo-rl init` writes."""
    root = tmp_path_factory.mktemp("project")
    shutil.copytree(ROOT / "example", root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MMO_RL_ROOT", str(root))
        for name in ("WANDB_API_KEY", "VIEW_TOKEN"):  # as the pages tell before the commands that ask for them
            patch.setenv(name, "not-a-key")
        patch.chdir(root)
        yield root


@pytest.fixture(scope="module")
def loader(project: Path) -> Iterator[ConfigLoader]:
    """Hydra's loader as the entry point starts it; a task's own checks compose with it, too."""
    hydra = Hydra.create_main_hydra_file_or_module(
        calling_file=None, calling_module="mmo_rl.__main__", config_path=str(shipped("conf")), job_name="docs"
    )
    settings = validate(without_hydra(hydra.config_loader.load_configuration("config", [], run_mode=RunMode.RUN)))
    for run in FINISHED_RUNS:
        (project / run).mkdir(parents=True)
        (project / run / "config.yaml").write_text(yaml.safe_dump(masked(settings)))
    yield hydra.config_loader
    GlobalHydra.instance().clear()


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_is_valid(page: str, loader: ConfigLoader) -> None:
    wrong = [f"{command}\n    {problem}" for command in commands(page) if (problem := problem_of(command, loader))]
    assert not wrong, "\n".join(wrong)


def test_every_command_in_comments_of_yaml_files_is_valid(loader: ConfigLoader) -> None:
    wrong = [f"{command}\n    {problem}" for command in yaml_commands() if (problem := problem_of(command, loader))]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("page", PAGES)
def test_every_key_named_in_prose_exists(page: str) -> None:
    named = {code.partition("=")[0] for code in inline_code(page)}
    of_ours = {key for key in named if key.startswith(GROUPS) and re.fullmatch(r"[a-z_]+(\.[a-z_]+)+", key)}
    assert sorted(key for key in of_ours - KEYS if not key.endswith(SUFFIXES)) == []


def test_the_files_of_the_example_are_shown_as_they_are() -> None:
    shown = files("docs/own_project.md")
    assert len(shown) == 7
    for name, content in shown.items():
        assert content == (ROOT / "example" / name).read_text()


def test_every_extra_is_described() -> None:
    rows = [line.split("|")[1] for line in text("docs/configuration.md").splitlines() if line.startswith("| `")]
    assert EXTRAS - {"dev"} <= set(re.findall(r"`(\w+)`", " ".join(rows)))


@pytest.mark.parametrize("page", PAGES)
def test_no_command_escapes_these_tests(page: str) -> None:
    assert not re.findall(r"^ {4,}(?:[A-Z_]+=\S+ )?(?:mmo-rl|make) .*$", text(page), re.MULTILINE)
    others = [content for language, content, _ in blocks(page) if language not in ("sh", "text")]
    assert not [content for content in others if re.search(r"^(mmo-rl|make) ", content, re.MULTILINE)]


def test_the_pages_hold_many_commands() -> None:
    ours = [command for page in PAGES for command in commands(page) if command.words[0] == "mmo-rl"]
    assert len(ours) > 60
    assert len({command for command in ours if "-m" in command.words}) > 10


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("mmo-rl sampler.window_hour=2", "did you mean"),
        ("mmo-rl judge=rulr", "rulr"),
        ("mmo-rl judge=strict judge.penalty=2", "judge.penalty"),
        ("mmo-rl collect.strategies=[my_project.strategies.Carefull]", "Carefull"),
        ("mmo-rl --help judge=strickt", "strickt"),
        ("mmo-rl trainer.learning_rate=-1", "trainer.learning_rate"),
        ("mmo-rl -m seed=0,1 sampler.max_dropot=0.1", "max_dropot"),
        ("mmo-rl -m seed=0,1 sampler.max_dropout=0.1,7", "sampler.max_dropout"),
        ("mmo-rl seed=0,1", "needs -m"),
        ("mmo-rl +experiments=dropout", "-m"),
        ("mmo-rl +experiments=pilott", "pilott"),
        ("mmo-rl -m hydra/sweeper=optuna trainer.learning_rat='interval(1e-5,1e-2)'", "learning_rat"),
        ("mmo-rl task=serve 'serve.runs=[runs/elsewhere/0123456789]'", "runs/elsewhere"),
        ("DATABASE_URL=x producer | mmo-rl task=import source=jsonl source.pat=-", "source.pat"),
        ("mmo-rl --hlep", "--hlep"),
        ("make tests", "tests"),
        ("pip install 'mmo-rl[srv]'", "srv"),
        ("python benchmarks/speed.py", "speed.py"),
        ("mmorl seed=1", "mmorl"),
    ],
)
def test_a_wrong_command_is_found(line: str, said: str, loader: ConfigLoader) -> None:
    problems = [problem for command in simple_commands(line, "here") if (problem := problem_of(command, loader))]
    assert len(problems) == 1 and said in problems[0]


def problem_of(command: Command, loader: ConfigLoader) -> str | None:
    """What is wrong with a command, or None."""
    program, *arguments = command.words
    program = program.removeprefix(".venv/bin/")
    if program == "mmo-rl":
        return problem_of_mmo_rl(tuple(arguments), loader)
    if program == "make":
        targets = [word for word in arguments if "=" not in word]
        missing = [t for t in targets if not re.search(rf"^{re.escape(t)}:", text("Makefile"), re.MULTILINE)]
        return f"no target {missing} in the Makefile" if missing else None
    if program.startswith("python"):
        files = [word for word in arguments if "/" in word]
        return f"no file {files}" if not all((ROOT / file).exists() for file in files) else None
    if program == "pip":
        extras = set(re.findall(r"\w+", arguments[-1].partition("[")[2]))
        unknown = extras - EXTRAS if re.match(r"mmo-rl|\./mmo_rl", arguments[-1]) else set()
        return f"no extra {sorted(unknown)} in pyproject.toml" if unknown else None
    return None if program in NOT_OURS else f"{program} is not known"


@functools.cache
def problem_of_mmo_rl(arguments: tuple[str, ...], loader: ConfigLoader) -> str | None:
    """What is wrong with the arguments of mmo-rl, as the command line would say it."""
    try:
        check_mmo_rl(arguments, loader)
    except (MmoRlError, HydraException, argparse.ArgumentError) as error:
        return str(explain(error, list(arguments)))
    return None


def check_mmo_rl(typed: Sequence[str], loader: ConfigLoader) -> None:
    """Composes and validates a command line as Hydra and the checked sweeper do; raises what they raise."""
    arguments = [a for a in typed if a not in NOT_INSTALLED and not (NOT_INSTALLED & {*typed} and "hydra." in a)]
    if tuple(arguments) in FLAGS_ALONE:
        return
    if arguments[0] == "init":
        assert len(arguments) <= 2
        return
    if arguments[0] == "--help":
        assert [topic_text(topic) for topic in arguments[1:]]
        return
    arguments = renamed.renamed_overrides(arguments)
    parser = argparse.ArgumentParser(exit_on_error=False, add_help=False)
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--cfg", choices=["job", "hydra", "all"])
    parser.add_argument("-sc", "--shell-completion", action="store_true")
    parser.add_argument("overrides", nargs="*")
    known, unknown = parser.parse_known_intermixed_args(list(arguments))
    if unknown:
        raise MmoRlError(f"{unknown} is no flag of mmo-rl")
    if known.shell_completion:
        assert known.overrides in (["install=bash"], ["install=zsh"], ["install=fish"])
    elif known.multirun:
        check_sweep(known.overrides, loader)
    else:
        check_run(known.overrides, loader)


def check_run(overrides: list[str], loader: ConfigLoader) -> None:
    config = loader.load_configuration("config", overrides, run_mode=RunMode.RUN)
    if config.hydra.sweeper.get("params"):
        raise MmoRlError("this experiment is a sweep and needs -m")
    settings = validate(without_hydra(config))
    check_task(settings, tuple(overrides))


def check_sweep(overrides: list[str], loader: ConfigLoader) -> None:
    """All jobs of a grid, or the first point of a search."""
    master = loader.load_configuration("config", overrides, run_mode=RunMode.MULTIRUN)
    params = master.hydra.sweeper.get("params") or {}
    own = [o for o in overrides if not o.startswith(("hydra.", "hydra/"))]
    parser = OverridesParser.create(config_loader=loader)
    parsed = parser.parse_overrides([*(f"{key}={value}" for key, value in params.items()), *own])
    if master.hydra.sweeper._target_.endswith(SEARCH):
        space = Space.of(parsed)
        jobs = space.overrides(next(space.points()))
    else:
        grid = [list(job) for batch in BasicSweeper.split_arguments(parsed, None) for job in batch]
        jobs = covering(grid, but={"seed", *params})
    checked(jobs, compose=lambda job: loader.load_sweep_config(master, job))


def covering(grid: list[list[str]], *, but: set[str]) -> list[list[str]]:
    """Jobs of a grid in which every value of every key occurs, ``but`` for keys whose values are tested elsewhere (an
    experiment's own) or need no test of their own: all jobs of all grids would take minutes."""
    seen: set[str] = set()
    taken = []
    for job in grid[:1] + grid[:0:-1]:
        values = {override for override in job if override.partition("=")[0] not in but}
        if not values <= seen or not taken:
            taken.append(job)
        seen |= values
    return taken


def without_hydra(config: DictConfig) -> DictConfig:
    return OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])


def all_keys() -> Iterator[str]:
    """Every key that some YAML file of conf/ has, dotted."""
    for path in shipped("conf").rglob("*.yaml"):
        content = yaml.safe_load(path.read_text("utf-8")) or {}
        *folders, _ = path.relative_to(shipped("conf")).with_suffix("").parts
        at_top = "# @package _global_" in path.read_text("utf-8") or not folders
        yield from dotted(content, "" if at_top else ".".join(folders))


def dotted(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, Mapping) else ():
        name = f"{prefix}.{key}".lstrip(".")
        yield name
        yield from dotted(value, name)


KEYS = {*all_keys(), *(f"{group}.{former}" for group, keys in renamed.KEYS.items() for former in keys)}
GROUPS = tuple(f"{name}." for name in (*COMPONENTS, *task_names(), "hydra.launcher", "hydra.sweeper"))
SUFFIXES = (".html", ".csv", ".json", ".jsonl", ".md", ".py")
"""Names of files that begin like a key: ``report.html``."""
EXTRAS = set(tomllib.loads(text("pyproject.toml"))["project"]["optional-dependencies"])
