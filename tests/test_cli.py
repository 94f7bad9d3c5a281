"""What people meet: help, one short message an error, exit codes, finished and resumed runs, sweeps."""

from __future__ import annotations

import contextlib
import importlib.util
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
from mmo_rl.report.run_folder import RunFolder


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
    assert "2 of another configuration than now, run anew" in ran.out
    assert len(folders("mine")) == 4


def test_a_job_that_leaves_with_an_exit_code_fails_alone(cli: Cli, train: Any) -> None:
    seeds = train(lambda context: sys.exit(3) if context.settings.seed == 0 else 1.0)
    ran = cli("-m", "seed=0,1")
    assert ran.code == 1
    assert seeds == [0, 1]
    assert "sys.exit(3)" in ran.out and str(folders()[0].resolve().parent) in ran.out
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


# --- searches ---------------------------------------------------------------------------------------------------------

SEARCH = ("-m", "hydra/sweeper=optuna", "name=search", "iterations=int(interval(1,9))", "sampler.max_dropout=0,0.3")


def test_a_search_counts_all_its_trials_and_continues(cli: Cli, train: Any) -> None:
    import warnings

    warnings.simplefilter("ignore", ResourceWarning)
    train(lambda context: -abs(context.settings.iterations - 4.0))
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=4")
    assert ran.code == 0, ran.err
    assert ran.out.count(" done ") == 4
    assert "best: trial" in ran.out
    seeds = train(lambda context: -abs(context.settings.iterations - 4.0))
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=4")
    assert ran.code == 0
    assert seeds == []
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=6")
    assert "4 of 6 trials are finished" in ran.out
    assert ran.out.count(" done ") == 6
    tried = [line.split()[1:3] for line in ran.out.splitlines() if " done " in line and "iterations=" in line]
    assert len({tuple(t) for t in tried}) > 3  # a search that goes on does not repeat its first trials
    assert Path("runs/search/optuna.db").exists()
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=1", "seed=5")
    assert "a new search begins" in ran.out


def test_failed_and_killed_trials_are_run_again(cli: Cli, train: Any) -> None:
    def fails(context: Any) -> float:
        raise DatabaseError("gone")

    train(fails)
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler=random")
    assert ran.code == 1
    assert ran.out.count(" failed ") == 2 and "gone" in ran.out and "log.txt" in ran.out

    def stops(context: Any) -> float:
        raise KeyboardInterrupt

    train(stops)
    assert cli(*SEARCH, "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler=random").code == 130
    train(lambda context: 1.0)
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler=random")
    assert ran.code == 0
    assert "0 of 2 trials are finished, 2 failed" in ran.out
    assert sum(" done " in line for line in ran.out.splitlines()) == 2


def test_a_grid_search_ends_with_its_grid(cli: Cli, train: Any) -> None:
    train(lambda context: float(context.settings.iterations))
    search = (
        "-m",
        "hydra/sweeper=optuna",
        "name=grid",
        "hydra.sweeper.sampler=grid",
        "hydra.sweeper.direction=minimize",
    )
    ran = cli(*search, "iterations=range(1,4)", "sampler.max_dropout=0,0.3", "hydra.sweeper.n_jobs=4")
    assert ran.code == 0
    assert len(folders("grid")) == 6
    assert "iterations=1" in ran.out.split("best:")[1]
    ran = cli(*search, "sampler.max_dropout=interval(0,0.3)")
    assert ran.code == 2 and "an interval has no grid" in ran.err


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["seed=1"], "there is nothing to search"),
        (["iterations=1,2", "evaluate=none"], "a search needs a number from every job"),
        (["iterations=1,2", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials: found 0, expected a whole number"),
        (["iterations=1,2", "hydra.sweeper.sampler=cma"], "found 'cma', expected one of tpe, random, grid"),
        (["sampler.max_dropout=interval(2,5)"], "sampler.max_dropout"),
        (["iterations=interval(1,9)"], "KEY='int(interval(1,9))'"),
        (["trainer.learning_rate=tag(log,interval(0,1))"], "low > 0"),
    ],
)
def test_searches_that_cannot_be(cli: Cli, train: Any, overrides: list[str], told: str, tmp_path: Path) -> None:
    seeds = train(lambda context: 0.0)
    ran = cli("-m", "hydra/sweeper=optuna", *overrides)
    assert ran.code == 2, ran.err
    assert told in ran.err
    assert seeds == []
    assert not (tmp_path / "runs").exists()


def test_a_trial_without_a_number_says_so(cli: Cli, train: Any) -> None:
    train(lambda context: None)
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=1")
    assert "a search needs a number" in ran.out
