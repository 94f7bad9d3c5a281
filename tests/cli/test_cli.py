"""What people meet: help, one short message an error, exit codes, finished and resumed runs, sweeps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.commands.base import Command, Context
from mmo_rl.config.settings import task_names
from mmo_rl.config.tasks import CheckOptions
from mmo_rl.errors import DatabaseError, NotReady

Cli = Callable[..., Any]


def status(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "status.json").read_text())
    return loaded


def folders(name: str = "default") -> list[Path]:
    return sorted(p for p in Path("runs", name).iterdir() if p.is_dir())


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_teaches_tasks_groups_overrides_examples_and_exit_codes(cli: Cli, tmp_path: Path) -> None:
    ran = cli("--help")
    assert ran.code == 0
    for text in (
        "TASKS",
        *(f"task={name} " for name in task_names()),
        "judge: heuristic, oracle, oracle_trajectory, outcome, panel, recorded, ruler",
        "experiments: base_model, context_vs_mixed, dropout, judge_template, learning_rate,",
        "EXAMPLES",
        "EXIT CODES",
    ):
        assert text in ran.out
    assert ran.out.split("EXAMPLES")[1].split("EXIT CODES")[0].count("mmo-rl") == 5
    assert list(tmp_path.iterdir()) == []


def test_help_comes_whatever_stands_before_it(cli: Cli) -> None:
    told = cli("-m", "seed=0,1", "judge=nobody", "--help")
    assert told.code == 0 and "COMMON OVERRIDES" in told.out


def test_the_config_is_printed_without_being_run(cli: Cli, tmp_path: Path) -> None:
    ran = cli("--cfg", "job", "seed=7")
    assert ran.code == 0
    assert "seed: 7" in ran.out.splitlines()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["--help"], ["--cfg", "job"]])
def test_start_up_imports_nothing_heavy(arguments: list[str], tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import sys
        from mmo_rl.__main__ import main
        sys.argv = ["mmo-rl", *sys.argv[1:]]
        try:
            main()
        except SystemExit:
            pass
        heavy = {"art", "torch", "transformers", "wandb", "litellm", "openai", "pydantic", "asyncpg", "numpy", "rich",
                 "sqlalchemy", "alembic", "altair", "jinja2", "httpx", "mmo_rl.config.composition"}
        print("HEAVY", sorted(heavy & set(sys.modules)))
    """)
    ran = subprocess.run(
        [sys.executable, "-c", script, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines()[-1] == "HEAVY []"


# --- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["sampler.max_dropot=0.1"], "no key or group sampler.max_dropot; did you mean sampler.max_dropout?"),
        (["samplerr=hourly"], "no key or group samplerr; did you mean sampler?"),
        (["sampler=hourlyy"], "Could not find 'sampler/hourlyy'; the choices of sampler: daily"),
        (["sampler=hourlyy"], "did you mean sampler=hourly?"),
        (["sampler=null"], "sampler=null: expected the name of a choice: sampler=NAME; the choices: daily"),
        (["+experiments=pilott"], "Could not find 'experiments/pilott'"),
        (["+experiments=pilott"], "did you mean +experiments=pilot?"),
        (["experiments=pilot"], "did you mean +experiments=pilot?"),
        (["judge=ruler", "judge/template=blindd"], "did you mean judge/template=blind?"),
        (["task=chek"], "did you mean task=check?"),
        (["check"], "did you mean task=check?"),
        (["nonsense"], "expected key=value"),
        (["seed==1="], "'seed==1=' cannot be read: extraneous input '='; quote text"),
        (["name='a"], "a quote or bracket is not closed"),
        (["seed=0,1"], "which needs -m"),
        (["seed=range(1,3)"], "which needs -m"),
        (["+seed=1"], "seed exists already; set it without the +"),
        (["~sed"], "nothing to delete; did you mean seed?"),
        (["+typo=1"], "typo: found 1, but there is no such key"),
        (["+trainer.lrr=1"], "trainer.lrr: found 1, but LocalTrainer has no such key"),
        (["sampler.max_dropout=7"], "sampler.max_dropout: found 7, expected a number below 1"),
        (["seed=abc"], "seed: found 'abc', expected a whole number"),
        (["report.tags=5"], "report.tags: found 5, expected a list"),
        (
            ["-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=x", "seed=0,1"],
            "hydra.launcher.n_jobs: found 'x', expected a whole number from 1 on",
        ),
        (
            ["-m", "hydra/launcher=submitit_local", "hydra.launcher.timeout_min=0", "seed=0,1"],
            "hydra.launcher.timeout_min: found 0, expected a whole number from 1 on",
        ),
        (["--multirun", "--cfg", "job"], "Only one of"),
    ],
)
def test_a_mistake_is_one_line_with_a_hint_and_exit_code_2(
    cli: Cli, tmp_path: Path, arguments: list[str], told: str
) -> None:
    ran = cli(*arguments)
    assert ran.code == 2
    assert told in ran.err
    assert len(ran.err.strip().splitlines()) <= 2  # the message, and what to type
    assert "Traceback" not in ran.err
    assert ran.out == ""
    assert list(tmp_path.iterdir()) == []


def test_all_wrong_overrides_are_told_at_once(cli: Cli) -> None:
    ran = cli("sampler.max_dropot=0.1", "sed=1", "sampler=hourlyy", "judg.credit=decision")
    assert ran.code == 2
    for told in ("sampler.max_dropout?", "did you mean seed?", "sampler=hourly?", "judge.credit?"):
        assert told in ran.err


def test_a_password_on_the_command_line_is_refused_before_anything_is_written(cli: Cli, tmp_path: Path) -> None:
    ran = cli("source.dsn=postgresql://u:s3cretpw@host/db")
    assert ran.code == 2
    assert "source.dsn_env=DATABASE_URL" in ran.err
    assert "s3cretpw" not in ran.err
    assert list(tmp_path.iterdir()) == []


def test_an_experiment_that_is_a_sweep_needs_multirun(cli: Cli) -> None:
    Path("experiments").mkdir()
    Path("experiments/rates.yaml").write_text("# @package _global_\nhydra: {sweeper: {params: {seed: '0,1'}}}\n")
    ran = cli("+experiments=rates", "iterations=2")
    assert ran.code == 2
    assert "seed=0,1" in ran.err
    assert "-> mmo-rl -m +experiments=rates iterations=2" in ran.err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(cli: Cli, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    ran = cli()
    tmp_path.chmod(0o700)
    assert ran.code in (1, 2)
    assert "Permission denied" in ran.err


def test_a_file_in_the_place_of_the_runs_folder(cli: Cli) -> None:
    Path("runs").write_text("")
    ran = cli()
    assert ran.code == 1
    assert str(Path("runs").resolve()) in ran.err
    assert len(ran.err.strip().splitlines()) == 2


# --- single runs ------------------------------------------------------------------------------------------------------


def test_a_finished_run_is_told_and_not_repeated(cli: Cli, train: Any) -> None:
    def body(context: Any) -> float:
        context.run_folder.write_summary({"eval/pnl_base": 1.0, "eval/pnl_trained": 2.5})
        return 1.5

    seeds = train(body)
    assert cli("seed=3").code == 0
    (folder,) = folders()
    assert status(folder)["status"] == "done"
    assert status(folder)["result"] == 1.5
    assert (folder / "config.yaml").exists()
    assert "seed=3" in (folder / "overrides.yaml").read_text()
    again = cli("seed=3")
    assert again.code == 0
    assert "finished" in again.out
    assert "2.5" in again.out
    assert str(folder.resolve()) in again.out
    assert seeds == [3]


def test_a_finished_run_is_told_without_the_engines(train: Any, cli: Cli, tmp_path: Path) -> None:
    train(lambda context: context.run_folder.write_summary({"eval/pnl_base": 1.0}))
    assert cli().code == 0
    script = (
        "import sys; from mmo_rl.__main__ import main; sys.argv=['mmo-rl']; code=main(); "
        "print('LAST', code, sorted({'art','torch','transformers','wandb','litellm'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "finished" in ran.stdout
    assert ran.stdout.splitlines()[-1] == "LAST 0 []"


def test_a_changed_config_moves_the_old_run_aside(cli: Cli, train: Any) -> None:
    seeds = train(lambda context: 1.0)
    Path("experiments").mkdir()
    experiment = Path("experiments/mine.yaml")
    experiment.write_text("# @package _global_\nname: mine\nseed: 1\n")
    assert cli("+experiments=mine").code == 0
    experiment.write_text("# @package _global_\nname: mine\nseed: 2\n")
    ran = cli("+experiments=mine")
    assert ran.code == 0
    new, old = folders("mine")
    assert old.name == f"{new.name}.1"
    assert str(old.resolve()) in ran.out
    assert seeds == [1, 2]


def test_a_failed_run_tells_why_keeps_the_traceback_and_runs_again(cli: Cli, train: Any) -> None:
    def fails(context: Any) -> None:
        raise DatabaseError("no server answers", hint="start it")

    train(fails)
    ran = cli()
    assert ran.code == 1
    assert ran.err == "mmo-rl: no server answers\n  -> start it\n"
    (folder,) = folders()
    assert status(folder)["status"] == "failed"
    assert "no server answers" in status(folder)["error"]
    assert "Traceback" in (folder / "log.txt").read_text()

    train(lambda context: 2.0)
    ran = cli()
    assert ran.code == 0
    assert "failed before" in ran.out
    assert status(folder)["status"] == "done"
    assert status(folder)["error"] is None


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_log_on_a_full_disk_hides_no_error(cli: Cli, train: Any) -> None:
    def fail(context: Any) -> None:
        raise DatabaseError("the disk is full", hint="make room")

    train(fail)
    cli()
    (folder,) = folders()
    (folder / "log.txt").unlink()
    (folder / "log.txt").symlink_to("/dev/full")
    ran = cli()
    assert (ran.code, ran.err) == (1, "mmo-rl: the disk is full\n  -> make room\n")


def test_a_defect_is_told_in_one_line_and_in_full_on_demand(cli: Cli, train: Any) -> None:
    train(lambda context: {}["missing"])
    ran = cli()
    assert ran.code == 1
    assert "unexpected KeyError: 'missing'" in ran.err
    assert "log.txt" in ran.err
    assert "Traceback" not in ran.err
    ran = cli(full_error=True)
    assert "Traceback" in ran.err
    assert ran.err.splitlines()[-2].startswith("mmo-rl: unexpected KeyError")


def test_secrets_do_not_reach_the_log(cli: Cli, train: Any) -> None:
    def fails(context: Any) -> None:
        raise RuntimeError("cannot connect to postgresql://u:s3cretpw@host/db")

    train(fails)
    cli()
    (folder,) = folders()
    for path in folder.iterdir():
        assert "s3cretpw" not in path.read_text(), path


def test_exit_codes_of_tasks(cli: Cli, train: Any) -> None:
    def not_ready(context: Any) -> None:
        raise NotReady("3 windows, 5 needed", hint="mmo-rl task=collect")

    train(not_ready)
    assert cli("seed=1").code == 3
    train(lambda context: 3)
    assert cli("seed=2").code == 3
    train(lambda context: 3.0)
    assert cli("seed=3").code == 0


@pytest.mark.parametrize("override", ["+judge.api_key=hunter2", "trainer.token=hunter2", "+password=hunter2"])
def test_a_short_secret_is_not_repeated(cli: Cli, override: str, tmp_path: Path) -> None:
    ran = cli(override)
    assert ran.code == 2 and "hunter2" not in ran.out + ran.err
    assert "environment variable" in ran.err
    assert not (tmp_path / "runs").exists()


def test_a_sweep_whose_play_would_be_useless_starts_nothing(cli: Cli, tmp_path: Path) -> None:
    ran = cli("-m", "seed=0,1", "sampler.min_agents=9")
    assert ran.code == 2 and "sampler.min_agents=9" in ran.err
    assert not (tmp_path / "runs").exists()


def test_tasks_without_a_run_folder_leave_none(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    async def run(context: Context, options: CheckOptions) -> None:
        assert context.folder is None
        print(f"format {options.format}")

    monkeypatch.setattr("mmo_rl.commands.check.COMMAND", Command(run=run))
    ran = cli("task=check", "check.format=json")
    assert (ran.code, ran.out) == (0, "format json\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("stop", "interactive"),
    [(signal.SIGINT, True), (signal.SIGTERM, True), (signal.SIGTERM, False), (signal.SIGHUP, True)],
)
def test_an_interrupted_run_says_how_to_go_on(stop: signal.Signals, interactive: bool, tmp_path: Path) -> None:
    """What a script starts in the background ignores Ctrl-C; it still ends when it is told to terminate."""
    script = "" if interactive else "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
    script += textwrap.dedent("""
        import asyncio, sys
        from dataclasses import replace
        import mmo_rl.commands.train as train
        from mmo_rl.__main__ import main

        async def run(context, options):
            print("READY", flush=True)
            await asyncio.sleep(600)

        train.COMMAND = replace(train.COMMAND, run=run)
        sys.argv = ["mmo-rl"]
        sys.exit(main())
    """)
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "READY\n"
    process.send_signal(stop)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "the same command continues" in err
    assert "Traceback" not in err
    (folder,) = (tmp_path / "runs" / "default").iterdir()
    assert status(folder)["status"] == "interrupted"


def test_the_shell_completes_groups_choices_and_experiments(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def completions(line: str) -> set[str]:
        monkeypatch.setenv("COMP_LINE", f"mmo-rl {line}")
        monkeypatch.setenv("COMP_POINT", str(len(f"mmo-rl {line}")))
        return set(cli("-sc", "query=bash").out.split())

    assert {"sampler=", "sampler."} <= completions("samp")
    assert completions("sampler=") >= {"sampler=hourly", "sampler=daily"}
    assert "+experiments=pilot" in completions("+experiments=")
    assert "hydra/launcher=joblib" in completions("hydra/launcher=")
    assert "sampler.max_dropout=" in completions("sampler.max_d")
    assert "eval" in cli("-sc", "install=bash").out or "complete" in cli("-sc", "install=bash").out
