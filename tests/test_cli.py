"""What people meet: help, one short message an error, exit codes, finished and resumed runs, sweeps."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.__main__ import main
from mmo_rl.cli.job import Outcome, outcome
from mmo_rl.cli.settings import task_names
from mmo_rl.errors import DatabaseError, NotReady


@dataclass
class Ran:
    code: int
    out: str
    err: str


Cli = Callable[..., Ran]


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Cli]:
    """Runs a command line in this process, in an empty folder."""
    for name in ("MMO_RL_ROOT", "MMO_RL_HOME", "HYDRA_FULL_ERROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.chdir(tmp_path)
    terminate = signal.getsignal(signal.SIGTERM)

    def run(*arguments: str, full_error: bool = False) -> Ran:
        monkeypatch.setenv("HYDRA_FULL_ERROR", str(int(full_error)))
        monkeypatch.setattr(sys, "argv", ["mmo-rl", *arguments])
        vars(outcome).update(vars(Outcome()))
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as exit_:
            code = exit_.code if isinstance(exit_.code, int) else 1
        captured = capsys.readouterr()
        return Ran(code, captured.out, captured.err)

    yield run
    signal.signal(signal.SIGTERM, terminate)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], list[int]]:
    """Puts a function in the place of the training loop; gives the list of the seeds that it was called with."""

    def replace(body: Callable[..., Any]) -> list[int]:
        seeds: list[int] = []

        async def run(context: Any) -> Any:
            seeds.append(context.settings.seed)
            return body(context)

        monkeypatch.setattr("mmo_rl.tasks.train.run", run)
        return seeds

    return replace


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
        "judge: heuristic, oracle, oracle_trajectory, outcome, panel, ruler",
        "experiments: base_model, context_vs_mixed, context_vs_mixed_steps, dropout, judge_template, learning_rate,",
        "EXAMPLES",
        "EXIT CODES",
    ):
        assert text in ran.out
    assert ran.out.split("EXAMPLES")[1].split("EXIT CODES")[0].count("mmo-rl") == 5
    assert list(tmp_path.iterdir()) == []


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
                 "sqlalchemy", "alembic", "altair", "jinja2", "httpx", "mmo_rl.config"}
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
    async def run(context: Any, *, format: str = "table", steps: bool = True) -> None:
        assert context.run_folder is None
        print(f"format {format}")

    monkeypatch.setattr("mmo_rl.tasks.check.run", run)
    ran = cli("task=check", "check.format=json")
    assert (ran.code, ran.out) == (0, "format json\n")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on(stop: signal.Signals, tmp_path: Path) -> None:
    script = textwrap.dedent("""
        import asyncio, sys
        import mmo_rl.tasks.train as train
        from mmo_rl.__main__ import main

        async def run(context):
            print("READY", flush=True)
            await asyncio.sleep(60)

        train.run = run
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


# --- sweeps -----------------------------------------------------------------------------------------------------------


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


def test_a_committed_sweep_runs_with_multirun(cli: Cli, train: Any) -> None:
    seeds = train(lambda context: 0.0)
    Path("experiments").mkdir()
    Path("experiments/rates.yaml").write_text(
        "# @package _global_\nname: rates\nhydra: {sweeper: {params: {seed: '4,5'}}}\n"
    )
    assert cli("-m", "+experiments=rates").code == 0
    assert seeds == [4, 5]
    assert len(folders("rates")) == 2
