"""Sweeps in one process: what is checked before the first job, what is skipped, what fails alone, what goes on."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.errors import DatabaseError, JudgeError
from mmo_rl.report.run_folder import RunFolder

Cli = Callable[..., Any]


def status(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return loaded


def folders(name: str = "default") -> list[Path]:
    return sorted(p for p in Path("runs", name).iterdir() if p.is_dir())


def test_a_sweep_runs_all_jobs_and_shares_folders_with_single_runs(cli: Cli, train: Any) -> None:
    seeds = train(lambda context: float(context.settings.seed))
    assert cli("seed=1", "name=s").code == 0
    ran = cli("-m", "seed=0,1,2", "name=s")
    assert ran.code == 0
    assert seeds == [1, 0, 2]
    assert len(folders("s")) == 3
    assert "skipped (was done)" in ran.out
    assert [line.split()[0] for line in ran.out.splitlines() if line.startswith("seed=")] == [
        "seed=0",
        "seed=1",
        "seed=2",
    ]


def test_one_bad_job_stops_a_sweep_before_it_starts(cli: Cli, train: Any, tmp_path: Path) -> None:
    seeds = train(lambda context: 0.0)
    ran = cli("-m", "seed=0,1", "sampler.max_dropout=0.1,7")
    assert ran.code == 2
    assert "2 of the 4 jobs of this sweep cannot run; nothing was started" in ran.err
    assert "seed=0 sampler.max_dropout=7\n    sampler.max_dropout: found 7" in ran.err
    assert seeds == []
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("bad", ["sampler=hourly,hourlyy", "sampler.max_dropot=0.1,0.2", "+typo=1,2"])
def test_sweeps_over_what_does_not_exist(cli: Cli, train: Any, bad: str) -> None:
    seeds = train(lambda context: 0.0)
    ran = cli("-m", bad)
    assert ran.code == 2
    assert "did you mean" in ran.err or "no such key" in ran.err
    assert seeds == []


def test_a_failing_job_stops_no_other_and_is_repeated_alone(cli: Cli, train: Any) -> None:
    def odd_fails(context: Any) -> float:
        if context.settings.seed == 1:
            raise DatabaseError("gone")
        return 0.0

    train(odd_fails)
    ran = cli("-m", "seed=0,1,2")
    assert ran.code == 1
    assert "1 of the 3 jobs failed" in ran.err
    assert "gone" in ran.out
    seeds = train(lambda context: 0.0)
    assert cli("-m", "seed=0,1,2").code == 0
    assert seeds == [1]


@pytest.mark.parametrize("search", [("seed=0,1",), ("iterations=1,2", "hydra/sweeper=optuna")])
def test_a_key_that_an_endpoint_quotes_is_neither_shown_nor_stored(
    cli: Cli, train: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, search: tuple[str, ...]
) -> None:
    key = "sk-planted-0123456789abcdef"
    monkeypatch.setenv("OPENAI_API_KEY", key)

    def refused(context: Any) -> float:
        raise JudgeError(f"HTTP 401: Incorrect API key provided: {key}")

    train(refused)
    ran = cli("-m", *search)
    assert ran.code == 1
    assert "Incorrect API key provided: ***" in ran.out
    assert key not in ran.out + ran.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and key.encode() in path.read_bytes()]


def test_a_committed_sweep_runs_with_multirun(cli: Cli, train: Any) -> None:
    seeds = train(lambda context: 0.0)
    Path("experiments").mkdir()
    Path("experiments/rates.yaml").write_text(
        "# @package _global_\nname: rates\nhydra: {sweeper: {params: {seed: '4,5'}}}\n"
    )
    assert cli("-m", "+experiments=rates").code == 0
    assert seeds == [4, 5]
    assert len(folders("rates")) == 2


def test_a_sweep_that_grows_runs_only_what_is_new_and_says_so(cli: Cli, train: Any) -> None:
    seeds = train(lambda context: context.settings.seed + 0.5)
    assert cli("-m", "seed=0,1").code == 0
    ran = cli("-m", "seed=0,1,1,2")
    assert ran.code == 0
    assert seeds == [0, 1, 2]
    assert "2 done before, skipped" in ran.out and "1 new" in ran.out
    assert "seed=1  skipped (was done)  1.5" in ran.out  # the stored result, once
    assert ran.out.count("seed=1") == 1


def test_yaml_edited_during_a_sweep_changes_no_job_of_it_and_is_noticed_by_the_next(cli: Cli, train: Any) -> None:
    Path("experiments").mkdir()
    experiment = Path("experiments/mine.yaml")
    experiment.write_text("# @package _global_\nname: mine\niterations: 2\n")
    iterations = []

    def edits(context: Any) -> float:
        iterations.append(context.settings.iterations)
        experiment.write_text("# @package _global_\nname: mine\niterations: 3\n")
        return 1.0

    train(edits)
    assert cli("-m", "+experiments=mine", "seed=0,1").code == 0
    assert iterations == [2, 2]
    ran = cli("-m", "+experiments=mine", "seed=0,1")
    assert iterations == [2, 2, 3, 3]
    assert "2 of another configuration or other inputs than now, run anew" in ran.out
    assert len(folders("mine")) == 4


def test_a_job_that_leaves_with_an_exit_code_fails_alone(cli: Cli, train: Any) -> None:
    seeds = train(lambda context: sys.exit(3) if context.settings.seed == 0 else 1.0)
    ran = cli("-m", "seed=0,1")
    assert ran.code == 1
    assert seeds == [0, 1]
    assert "sys.exit(3)" in ran.out and " runs/default/" in ran.out
    assert "1 failed, 1 done" in ran.out


def test_an_interrupted_sweep_shows_its_table_and_goes_on(cli: Cli, train: Any) -> None:
    def stops(context: Any) -> float:
        if context.settings.seed == 1:
            raise KeyboardInterrupt
        return 1.0

    train(stops)
    ran = cli("-m", "seed=0,1,2")
    assert ran.code == 130
    assert "1 done, 1 interrupted, 1 not started" in ran.out
    assert "the same command continues" in ran.err
    seeds = train(lambda context: 1.0)
    ran = cli("-m", "seed=0,1,2")
    assert ran.code == 0
    assert seeds == [1, 2]
    assert "1 stopped half way, continued" in ran.out


def test_two_sweeps_of_one_name_share_the_work(cli: Cli, train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmo_rl.cli.launch.POLL_S", 0.01)
    assert train(lambda context: 1.0) == []
    assert cli("-m", "seed=0,1").code == 0
    for folder in folders():
        (folder / "status.json").unlink()
    other = RunFolder(folders()[0].resolve())
    with contextlib.ExitStack() as at_work:
        at_work.enter_context(other.locked())
        other.set_status("running")
        ours = set()

        def other_ends(context: Any) -> float:
            ours.add(context.settings.seed)
            other.set_status("done", result=7.25)
            at_work.close()
            return 1.0

        train(other_ends)
        ran = cli("-m", "seed=0,1")
    assert ran.code == 0
    assert len(ours) == 1
    assert "1 at work in another process, waited for" in ran.out
    assert "7.25" in ran.out and "1 done" in ran.out and "1 skipped" in ran.out


@pytest.mark.parametrize(("module", "choice", "extra"), [("hydra_ray_launcher", "launcher=ray", "ray")])
def test_a_launcher_that_is_not_installed(cli: Cli, module: str, choice: str, extra: str, tmp_path: Path) -> None:
    if importlib.util.find_spec(f"hydra_plugins.{module}") is not None:
        pytest.skip(f"{module} is installed")
    ran = cli("-m", f"hydra/{choice}", "seed=0,1")
    assert ran.code == 2
    assert ran.err == (
        f"mmo-rl: hydra/{choice} needs a package that is not installed\n  -> pip install 'mmo-rl[{extra}]'\n"
    )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local", "submitit_slurm"])
def test_launcher_presets_compose_without_a_word(cli: Cli, launcher: str) -> None:
    ran = cli("--cfg", "hydra", f"hydra/launcher={launcher}")
    assert (ran.code, ran.err) == (0, "")
    assert "launcher" in ran.out


def test_brackets_in_names_and_reasons_are_shown_as_they_are(cli: Cli, train: Any) -> None:
    def fails(context: Any) -> float:
        raise DatabaseError("[Errno 13] no way to [/base]")

    train(fails)
    ran = cli("-m", "seed=0,1", "collect.strategies=[balanced],[momentum]")
    assert ran.code == 1
    assert "job 1/4  seed=0 collect.strategies=[balanced]\n" in ran.out
    failed = [line for line in ran.out.splitlines() if "  failed  " in line]
    assert len(failed) == 4
    assert all("collect.strategies=[" in line and "[Errno 13] no way to [/base]" in line for line in failed)
    assert all(line.rstrip().endswith("log.txt") for line in failed)  # one line each, however long


@pytest.mark.parametrize(
    "choice", ["source=embedded", "source=jsonl source.path=play.jsonl collect=none", "database=embedded"]
)
def test_jobs_of_several_hosts_never_share_an_embedded_database(cli: Cli, choice: str, tmp_path: Path) -> None:
    ran = cli("-m", "hydra/launcher=submitit_slurm", "seed=0,1", *choice.split())
    assert ran.code == 2
    assert "which one host alone can use" in ran.err and "source=postgres" in ran.err
    assert not (tmp_path / "runs").exists()


# --- sweeps of sweeps -------------------------------------------------------------------------------------------------


def experiment(name: str, hydra: str, **keys: object) -> None:
    """Writes an experiment of the project in the working directory."""
    Path("experiments").mkdir(exist_ok=True)
    lines = "\n".join(f"{key}: {value}" for key, value in keys.items())
    Path("experiments", f"{name}.yaml").write_text(f"# @package _global_\n{hydra}\nname: {name}\n{lines}\n")


def test_swept_experiments_that_are_sweeps_run_all_of_their_jobs(cli: Cli, train: Any) -> None:
    ran = train(lambda context: float(context.settings.seed))
    experiment("short", "hydra: {sweeper: {params: {seed: 'range(3)'}}}")
    experiment("long", "hydra: {sweeper: {params: {seed: '4,5', iterations: '2,3'}}}")
    experiment("single", "iterations: 7")
    told = cli("-m", "+experiments=short,long,single")
    assert told.code == 0, told.err
    assert len(ran) == 3 + 4 + 1 and "8 done" in told.out
    assert [len(folders(name)) for name in ("short", "long", "single")] == [3, 4, 1]
    assert not Path("runs/default").exists()
    again = cli("-m", "+experiments=short")  # the same jobs as those of the sweep alone
    assert "3 skipped" in again.out and len(ran) == 8
    cli("-m", "+experiments=short,long", "seed=1")  # what is typed counts, as in one sweep
    assert len(ran) == 8 + 2


@pytest.mark.parametrize(
    ("hydra", "told"),
    [
        ("defaults: [{override /hydra/launcher: joblib}]", "hydra/launcher=joblib"),
        ("defaults: [{override /hydra/sweeper: optuna}]", "hydra/sweeper=optuna"),
        ("hydra: {sweeper: {max_batch_size: 2}}", "hydra.sweeper.max_batch_size=2"),
    ],
)
def test_a_swept_experiment_with_a_launcher_or_sweeper_of_its_own_is_refused(
    cli: Cli, train: Any, hydra: str, told: str
) -> None:
    ran = train(lambda context: 0.0)
    experiment("mine", hydra)
    experiment("plain", "iterations: 3")
    refused = cli("-m", "+experiments=plain,mine")
    assert refused.code == 2 and told in refused.err and f"-m {told}" in refused.err
    assert "mine" in refused.err and not ran and not Path("runs").exists()


def test_in_a_search_an_experiment_that_is_a_sweep_fails_with_its_reason(cli: Cli, train: Any) -> None:
    ran = train(lambda context: 0.0)
    experiment("mine", "hydra: {sweeper: {params: {iterations: '2,3'}}}")
    experiment("plain", "iterations: 3")
    told = cli("-m", "hydra/sweeper=optuna", "+experiments=mine,plain", "hydra.sweeper.sampler=grid")
    assert "+experiments=mine is a sweep of its own (iterations=2,3)" in told.out and len(ran) == 1


def test_an_experiment_may_choose_the_sweeper_of_its_sweep(cli: Cli, train: Any) -> None:
    train(lambda context: 0.0)
    experiment("mine", "defaults: [{override /hydra/sweeper: optuna}]")
    assert "there is nothing to search" in cli("-m", "+experiments=mine").err
