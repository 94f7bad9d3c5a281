"""One's own project folder: its choices and code are found, checked and recorded; what does not fit is refused."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra

import mmo_rl
from mmo_rl.config import extensions
from mmo_rl.config.composition import compose
from mmo_rl.config.project import has_choices, job_key, project_root, shipped
from mmo_rl.errors import ConfigError
from mmo_rl.judge.base import Judge
from mmo_rl.market.base import Script
from tests.harness.config import compose_settings
from tests.harness.project import Project


@pytest.fixture
def own(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    """A project that `mmo-rl init` wrote; what other tests imported from theirs is gone before it, its own after."""
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in extensions._state.on_path])
    monkeypatch.setattr(extensions, "_state", extensions._State())
    monkeypatch.setenv("MMO_RL_ROOT", str(project.root))
    monkeypatch.chdir(project.root)
    _forget_modules()
    project.run("init", cwd=project.root)
    yield project
    _forget_modules()


def _forget_modules() -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] in ("my_project", "mine")]:
        del sys.modules[name]


# --- what is found ----------------------------------------------------------------------------------------------------


def test_all_kinds_of_the_example_are_valid_and_built(own: Project) -> None:
    settings = compose_settings("+experiments=strict_judge", f"home={own.home}")
    components = compose(settings)
    judge: Judge = components.judge
    assert type(judge).__module__ == "my_project.judges"
    assert settings.node("market")["drift_bias"] == -0.05
    assert components.sampler.rules.dropout == "my_project.rules.keep_winners"
    assert components.collector is not None
    played = [seat.name for seat in components.collector.seats if isinstance(seat, Script)]
    assert {"Careful", "balanced"} <= set(played)
    ruler = compose_settings("judge=ruler", "judge/template=results", f"home={own.home}")
    assert ruler.node("judge")["template"]["name"] == "results"
    record = extensions.record()
    assert record is not None
    assert set(record["sources"]) == {f"my_project/{n}.py" for n in ("__init__", "judges", "rules", "strategies")}


def test_init_overwrites_nothing(own: Project) -> None:
    (own.root / "README.md").write_text("mine")
    (own.root / "my_project" / "rules.py").unlink()
    told = own.run("init", code=2)
    assert "README.md exists; nothing was written" in told
    assert (own.root / "README.md").read_text() == "mine" and not (own.root / "my_project" / "rules.py").exists()


def test_init_writes_every_file_of_the_example(own: Project) -> None:
    example = shipped("example")
    wanted = {p.relative_to(example).as_posix() for p in example.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    written = {p.relative_to(own.root).as_posix() for p in own.root.rglob("*") if p.is_file() and p.suffix != ".pyc"}
    assert {name.replace("gitignore", ".gitignore") for name in wanted} == written


@pytest.mark.parametrize(
    ("files", "counts"),
    [
        (["conf/judge/mine.yaml"], True),
        (["conf/judge/template/mine.yaml"], True),
        (["conf/judge/mine.yaml", "conf/config.yaml"], False),
        (["conf/dataset/theirs.yaml"], False),
        (["conf/readme.txt"], False),
    ],
)
def test_a_conf_folder_of_ours_makes_a_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], counts: bool
) -> None:
    monkeypatch.delenv("MMO_RL_ROOT", raising=False)
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("{}")
    below = tmp_path / "notebooks"
    below.mkdir()
    monkeypatch.chdir(below)
    assert has_choices(tmp_path / "conf") == counts
    assert project_root() == (tmp_path if counts else below)


def test_an_own_choice_of_a_shipped_name_wins_and_says_so(own: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    path = own.root / "conf" / "sampler" / "daily.yaml"
    path.parent.mkdir()
    path.write_text("defaults: [hourly, _self_]\nmin_agents: 2\n")
    assert compose_settings("sampler=daily").node("sampler")["min_agents"] == 2
    told = own.run("task=new_experiment", "from=nowhere", "name=n", "sampler=daily", code=2)
    assert f"sampler=daily is {path}, not the shipped choice of this name." in told


# --- what is refused --------------------------------------------------------------------------------------------------

MISTAKES = """
class NoJudge:
    def __init__(self, *, penalty: float = 0.1) -> None:
        self.credit = penalty

LIMIT = 3
"""


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["judge._target_=os.system"], "found 'os.system', but there is no module os in"),
        (["judge._target_=subprocess.Popen"], "other code is never run from a config"),
        (["judge._target_=hydra.utils.call"], "no installed package registers it"),
        (["judge._target_=my_project.mistakes.NoJudge"],
         "my_project.mistakes.NoJudge is no judge: it has no aclose(), findings, min_agreement, needs_truth, score(), "
         "tallies, usage; mmo_rl.judge.base.Judge says what each is"),
        (["judge._target_=my_project.judges.StrictJudg"], "has no StrictJudg; did you mean StrictJudge?"),
        (["judge._target_=my_project.mistakes.LIMIT"], "expected a class"),
        (["judge._target_=my_project.syntax.X"], "my_project/syntax.py, line 2: SyntaxError"),
        (["judge._target_=my_project.imports.X"], "my_project/imports.py, line 3: ModuleNotFoundError: No module"),
        (["judge._target_=my_project.nothing.X"], "there is no module my_project.nothing"),
        (["judge._target_=mmo_rl.report.local_report.LocalReport"], "LocalReport is no judge"),
        (["+judge.penalti=1"], "StrictJudge has no such key; did you mean judge.penalty?"),
        (["judge.penalty=2"], "judge.penalty: found 2, expected a number of at most 1"),
        (["judge=stric"], "did you mean judge=strict? (looked in"),
        (["sampler.dropout=my_project.mistakes.LIMIT"], "is no dropout rule: it is of type int"),
        (["sampler.dropout=sprad"], "did you mean spread?"),
        (["collect.strategies=[my_project.mistakes.LIMIT]"], "cannot play: it is of type int"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_with_the_reason(own: Project, overrides: list[str], told: str) -> None:
    (own.root / "my_project" / "mistakes.py").write_text(MISTAKES)
    (own.root / "my_project" / "syntax.py").write_text("x = 1\ndef f(:\n")
    (own.root / "my_project" / "imports.py").write_text("import sys\n\nimport nowhere\n")
    ran = own.attempt("judge=strict", *overrides)
    assert (ran.code, ran.out) == (2, "")
    assert told in ran.err
    assert len(ran.err.strip().splitlines()) <= 2
    assert not (own.root / "runs").exists()


def test_a_module_that_an_installed_one_hides_is_told(own: Project) -> None:
    (own.root / "json.py").write_text("class Mine: ...\n")
    assert "Python takes another module named json first" in own.run("judge._target_=json.Mine", code=2)


# --- packages, other folders ------------------------------------------------------------------------------------------


def test_an_installed_package_adds_choices_and_classes(
    own: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = tmp_path / "site"
    (site / "their_judges" / "conf" / "judge").mkdir(parents=True)
    (site / "their_judges" / "__init__.py").write_text((own.root / "my_project" / "judges.py").read_text())
    (site / "their_judges" / "conf" / "judge" / "theirs.yaml").write_text("_target_: their_judges.StrictJudge\n")
    metadata = site / "their_judges-1.5.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: their-judges\nVersion: 1.5\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(site)])
    with pytest.raises(ConfigError, match="no installed package registers it"):
        compose_settings("judge=strict", "judge._target_=their_judges.StrictJudge")
    (metadata / "entry_points.txt").write_text(
        "[mmo_rl.components]\nstrict = their_judges:StrictJudge\n[mmo_rl.conf]\ntheirs = their_judges.conf\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])  # entry points are read once for a path
    assert compose_settings("judge=theirs", "+judge.penalty=0.5").node("judge")["penalty"] == 0.5
    record = extensions.record()
    assert record is not None
    package = record["packages"]["their_judges.StrictJudge"]
    assert (package["package"], package["version"]) == ("their-judges", "1.5")
    sys.modules.pop("their_judges", None)


def test_a_config_dir_adds_choices_and_is_repeated(own: Project, tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "choices" / "judge").mkdir(parents=True)
    (other / "choices" / "judge" / "lenient.yaml").write_text("_target_: mine.Lenient\nshare: 2\n")
    (other / "mine.py").write_text("class Lenient:\n    def __init__(self, *, share: float) -> None: ...\n")
    told = own.run("--config-dir", str(other / "choices"), "judge=lenient", code=2)
    assert "mine.Lenient is no judge: it has no aclose()" in told
    experiment = own.root / "experiments" / "grid.yaml"
    experiment.write_text("# @package _global_\nhydra: {sweeper: {params: {seed: '0,1'}}}\n")
    told = own.run("--config-dir", str(other / "choices"), "+experiments=grid", code=2)
    assert f"-> mmo-rl --config-dir {other / 'choices'} -m +experiments=grid" in told


# --- help -------------------------------------------------------------------------------------------------------------


def test_help_on_a_group_lists_choices_with_their_first_comment(own: Project) -> None:
    told = own.run("--help", "judge")
    assert "  oracle             Every decision against what came true" in told
    assert f"no language model, no cost. [{own.root / 'conf' / 'judge' / 'strict.yaml'}]" in told


def test_help_on_a_choice_gives_keys_comments_types_ranges_and_defaults(own: Project) -> None:
    told = own.run("--help", "judge=strict")
    assert "judge.penalty=0.2    a number at least 0 and at most 1\n      of each failed action" in told
    told = own.run("--help", "market=bull")
    assert "market.drift_bias=0.05    a number at least -1 and at most 1; default of the class 0.0" in told
    assert "market.unit_usd=500.0    a number above 0\n      margin of one unit of size in a ticker" in told
    told = own.run("--help", "task=check")
    assert "check.format=table    one of 'table', 'json'" in told
    assert "did you mean judge?" in own.run("--help", "jugde", code=2)
    assert "did you mean judge=strict?" in own.run("--help", "judge=strikt", code=2)


@pytest.mark.parametrize(
    "group", ["judge", "sampler", "source", "trainer", "market", "report", "task", "judge/template"]
)
def test_help_on_every_choice(group: str, project: Project) -> None:
    for path in sorted((shipped("conf") / group).glob("*.yaml")):
        assert project.run("--help", f"{group}={path.stem}").startswith(f"{group}={path.stem}    {path}\n")


def test_the_version_is_ours(project: Project) -> None:
    assert project.run("--version") == f"mmo-rl {mmo_rl.__version__}\n"


# --- Python -----------------------------------------------------------------------------------------------------------


def test_import_costs_nothing() -> None:
    script = "import sys, mmo_rl; print(sorted({'hydra', 'rich', 'pydantic', 'polars'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


async def test_run_works_below_a_running_event_loop_and_leaves_no_state_of_hydra(own: Project) -> None:
    assert asyncio.get_running_loop().is_running()
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"did you mean sampler\.max_dropout"):
            mmo_rl.run(["sampler.max_dropot=1"])
        assert not GlobalHydra.instance().is_initialized()
    with pytest.raises(ConfigError, match="expected a list of overrides"):
        mmo_rl.run("seed=1")


def test_a_run_of_python_sees_that_own_code_has_changed(own: Project) -> None:
    module = own.root / "mine.py"
    module.write_text("def rule(groups, fractions):\n    return fractions\n")
    first = extensions.find("mine.rule")
    module.write_text("def rule(groups, fractions):\n    return dict(fractions)\n\nSECOND = True\n")
    extensions.use_search_path([])
    assert extensions.find("mine.SECOND") is True and extensions.find("mine.rule") is not first


# --- from a wheel -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_example_runs_from_a_wheel_in_a_sweep_and_is_replayed(tmp_path: Path, scratch: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    installed, folder = tmp_path / "installed", tmp_path / "elsewhere"
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(root)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("mmo_rl-*.whl")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(installed)]
    subprocess.run([*pip, str(wheel)], check=True)
    folder.mkdir()
    home = scratch / "own-project"
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("MMO_RL_", "HYDRA_"))}
    variables |= {"PYTHONPATH": str(installed), "MMO_RL_HOME": str(home), "COLUMNS": "160"}

    def mmo_rl_command(*arguments: str, code: int = 0) -> str:
        command = [sys.executable, "-P", "-m", "mmo_rl", *arguments]
        ran = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True)
        assert ran.returncode == code, ran.stdout + ran.stderr
        return ran.stdout

    small = ("+experiments=strict_judge", "iterations=1", "evaluate.markets=2", "report=local")
    mmo_rl_command("init")
    side_by_side = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2") if importlib.util.find_spec("joblib") else ()
    told = mmo_rl_command("-m", *small, *side_by_side, "judge=strict,oracle")
    assert "2 done" in told
    run = folder / "runs" / "strict_judge" / job_key([*small, "judge=strict"])
    outside = json.loads((run / "provenance.json").read_text())["outside"]
    assert outside["folder"] == str(folder) and "my_project/judges.py" in outside["sources"]
    module = folder / "my_project" / "judges.py"
    module.write_text(module.read_text() + "\n# changed\n")
    told = mmo_rl_command("task=replay", f"run={run}", "replay.check_only=true", code=1)
    assert "my_project/judges.py" in told and "my_project/rules.py" not in told
