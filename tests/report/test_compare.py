"""Arms found in real run folders, their numbers with intervals over seeds, and what may be said of differences."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.errors import ConfigError
from mmo_rl.report.arms import differing
from mmo_rl.report.compare_charts import front
from mmo_rl.report.compare_table import as_csv, as_json, as_markdown, number, print_compared, probability
from mmo_rl.report.compared import compare_runs, estimate, unit_of
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.report.runs import Run, find_runs, read_run
from mmo_rl.terminal import Terminal

ORACLE = {"_target_": "mmo_rl.judge.oracle.OracleJudge", "credit": "decision"}


def write(
    path: Path,
    *,
    seed: int = 0,
    pnl: float | None = 100.0,
    typed: tuple[str, ...] = (),
    status: str = "done",
    summary: Mapping[str, Any] | None = None,
    **config: Any,
) -> Path:
    """A run folder as a run leaves it."""
    folder = RunFolder(path)
    nodes = {
        "sampler": {"_target_": "mmo_rl.sampler.windows.WindowSampler", "max_dropout": 0.0, "seed": seed},
        "judge": ORACLE,
        "report": {"_target_": "mmo_rl.report.local_report.LocalReport"},
    }
    for key, value in config.items():
        node, _, leaf = key.partition("__")
        nodes[node] = {**nodes.get(node, {}), leaf: value} if leaf else value
    folder.write_config({"name": path.parent.name, "seed": seed, "home": str(path), "task": "train", **nodes})
    folder.write_overrides([*typed, f"seed={seed}"])
    if status == "done":
        folder.write_summary({"eval/pnl_trained": pnl, "time/total_s": 10.0 + seed, **(summary or {})})
    folder.set_status(status, error="the judge left\nTraceback" if status == "failed" else None)  # type: ignore[arg-type]
    folder.append("metrics", *({"iteration": i, "play/pnl": 10.0 * i + seed} for i in range(3)))
    return path


def grid(root: Path) -> list[Run]:
    """Two dropout rates, three seeds: differences 10, 11, 12."""
    for seed, (one, other) in enumerate([(110.0, 100.0), (121.0, 110.0), (132.0, 120.0)]):
        write(root / "runs" / "g" / f"a{seed}", seed=seed, pnl=one, sampler__max_dropout=0.3)
        write(root / "runs" / "g" / f"b{seed}", seed=seed, pnl=other)
    return find_runs(["runs/g/*"], roots=[root])


# --- finding ----------------------------------------------------------------------------------------------------------


def test_runs_are_found_by_glob_sweep_and_folder_each_once(tmp_path: Path) -> None:
    grid(tmp_path)
    (tmp_path / "runs" / "compare" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "compare" / "x" / "summary.json").write_text("{}")
    (tmp_path / "runs" / "g" / "notes.txt").write_text("no run")
    for patterns in (["runs/g/*"], ["runs/g"], ["runs"], ["runs/g", "runs/g/a*"], [str(tmp_path / "runs/?")]):
        assert len(find_runs(patterns, roots=[tmp_path / "elsewhere", tmp_path])) == 6
    with pytest.raises(ConfigError, match=r"no run at 'runs/h/\*'") as error:
        find_runs(["runs/h/*"], roots=[tmp_path])
    assert "runs/g (6)" in str(error.value.hint)


def test_replays_and_what_was_before_are_no_further_seeds_unless_they_are_meant(tmp_path: Path) -> None:
    grid(tmp_path)
    sweep = tmp_path / "runs" / "g"
    write(sweep / "a0.replay", pnl=110.0, sampler__max_dropout=0.3)
    write(sweep / "a1.1", seed=1, pnl=999.0, sampler__max_dropout=0.4)
    write(sweep / ".hidden")
    write(sweep / "rate0.3", seed=3, pnl=130.0, sampler__max_dropout=0.3)
    write(sweep / "rate0", seed=3, pnl=130.0).rename(sweep / "none")
    for pattern in ("runs/g", "runs/g/*", "runs", "runs/g/a*"):
        compared = compare_runs(find_runs([pattern], roots=[tmp_path]))
        assert {len(arm.runs) for arm in compared.arms} == ({4} if "a*" not in pattern else {3}), pattern
        assert [(run.id, why.partition(";")[0]) for run, why in compared.left_out] == [
            ("g/a0.replay", "a replay of a0"),
            ("g/a1.1", "a1 before its configuration changed"),
        ]
    for meant in (["runs/g/a0", "runs/g/a0.replay"], ["runs/g/a0", "runs/g/*.replay"], ["runs/g", "runs/g/a?.*"]):
        assert "done" in {run.state for run in find_runs(meant, roots=[tmp_path]) if run.id == "g/a0.replay"}
    with pytest.raises(ConfigError, match="no run at 'nowhere'") as error:
        find_runs(["nowhere"], roots=[tmp_path])
    assert "runs/g (8)" in str(error.value.hint)


def test_a_folder_tells_the_same_wherever_it_lies(tmp_path: Path) -> None:
    before = grid(tmp_path)
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    after = find_runs(["moved"], roots=[tmp_path])
    assert differing(before) == differing(after) == ["sampler.max_dropout"]
    assert [(r.seed, r.summary) for r in before] == [(r.seed, r.summary) for r in after]


def test_what_is_not_finished_or_broken_is_listed_and_left_out(tmp_path: Path) -> None:
    grid(tmp_path)
    write(tmp_path / "runs/g/f", seed=3, status="failed")
    write(tmp_path / "runs/g/k", seed=4, status="running")  # nobody holds its lock: killed
    (write(tmp_path / "runs/g/x", seed=5) / "summary.json").write_text("{")
    (write(tmp_path / "runs/g/y", seed=6) / "config.yaml").write_text("a: [")
    (write(tmp_path / "runs/g/z", seed=7) / "config.yaml").unlink()
    compared = compare_runs(find_runs(["runs/g"], roots=[tmp_path]))
    assert len(compared.runs) == 6
    told = {run.id: (run.state, why) for run, why in compared.left_out}
    assert told["g/f"] == ("failed", "the judge left")
    assert told["g/k"] == ("interrupted", "the process was killed")
    assert "summary.json is not JSON" in told["g/x"][1]
    assert "config.yaml is not YAML" in told["g/y"][1]
    assert "no config.yaml" in told["g/z"][1]


def test_runs_without_a_result_are_no_comparison(tmp_path: Path) -> None:
    runs = [read_run(write(tmp_path / "runs/g/f", status="failed"))]
    with pytest.raises(ConfigError, match=r"the run is not finished \(1 failed; g/f: the judge left\)"):
        compare_runs(runs)


# --- arms -------------------------------------------------------------------------------------------------------------


def test_a_component_of_another_class_is_one_column_by_its_choice(tmp_path: Path) -> None:
    write(tmp_path / "g/a", typed=("judge=oracle",), judge=ORACLE)
    write(tmp_path / "g/b", typed=("judge=oracle_trajectory",), judge={**ORACLE, "credit": "trajectory"})
    write(tmp_path / "g/c", judge={"_target_": "mmo_rl.judge.heuristic.HeuristicJudge", "pnl": 0.5, "activity": 0.2})
    compared = compare_runs(find_runs(["g"], roots=[tmp_path]))
    assert compared.columns == ("judge",)
    assert [arm.name for arm in compared.arms] == ["judge=oracle", "judge=oracle_trajectory", "judge=heuristic"]


def test_what_another_column_tells_already_is_no_column(tmp_path: Path) -> None:
    model = {"_target_": "mmo_rl.lm.model.ModelSpec"}
    for name, size in (("tiny", 1), ("small", 2), ("large", 2)):
        write(
            tmp_path / "g" / name, model={**model, "name": name, "lora_rank": size, "price_prompt_usd_per_mtok": size}
        )
    assert differing(find_runs(["g"], roots=[tmp_path])) == ["model.name"]


def test_places_and_keys_of_an_older_version_are_no_difference(tmp_path: Path) -> None:
    source = {"_target_": "mmo_rl.source.jsonl.JsonlSource"}
    write(tmp_path / "g/a", seed=0, source={**source, "path": "/here/play.jsonl"}, sampler__order="oldest")
    write(tmp_path / "g/b", seed=1, source={**source, "path": "/there/play.jsonl"})
    compared = compare_runs(find_runs(["g"], roots=[tmp_path]))
    assert compared.columns == ()
    assert "there is one arm" in compared.notes[0]
    assert compared.pairs["eval/pnl_trained"] == ()


def test_the_newest_of_two_runs_of_one_seed_counts_unless_their_names_differ(tmp_path: Path) -> None:
    write(tmp_path / "g/a", pnl=1.0)
    write(tmp_path / "g/b", pnl=2.0)
    compared = compare_runs(find_runs(["g"], roots=[tmp_path]))
    assert [run.id for run in compared.runs] == ["g/b"]
    assert compared.left_out[0][1] == "an older run of the same config and seed"
    write(tmp_path / "h/a", pnl=3.0)
    assert [arm.name for arm in compare_runs(find_runs(["g", "h"], roots=[tmp_path])).arms] == ["name=h", "name=g"]


def test_arms_may_be_chosen_and_runs_of_a_seed_are_then_averaged(tmp_path: Path) -> None:
    for seed in (0, 1):
        for rate in (0.0, 0.3):
            for hours, pnl in ((1.0, 10.0), (2.0, 20.0)):
                write(
                    tmp_path / f"g/{seed}-{rate}-{hours}",
                    seed=seed,
                    pnl=pnl + 100 * rate + seed,
                    sampler__max_dropout=rate,
                    sampler__window_hours=hours,
                )
    compared = compare_runs(find_runs(["g"], roots=[tmp_path]), by=["sampler.max_dropout"])
    assert [(arm.name, estimate(arm, "eval/pnl_trained").n) for arm in compared.arms] == [
        ("sampler.max_dropout=0.3", 2),
        ("sampler.max_dropout=0", 2),
    ]
    assert estimate(compared.arms[1], "eval/pnl_trained").value == 15.5
    assert "differ in sampler.window_hours are averaged" in " ".join(compared.notes)
    assert compared.pairs["eval/pnl_trained"][0].n == 2


def test_where_sort_and_against_choose(tmp_path: Path) -> None:
    runs = grid(tmp_path)
    write(tmp_path / "runs/g/c0", pnl=5.0, sampler__max_dropout=0.7)
    runs = find_runs(["runs/g"], roots=[tmp_path])
    smallest = compare_runs(runs, sort="-eval/pnl_trained")
    assert [arm.values["sampler.max_dropout"] for arm in smallest.arms] == [0.7, 0.0, 0.3]
    assert [a.values["sampler.max_dropout"] for a in compare_runs(runs, sort="sampler.max_dropout").arms] == [
        0.7,
        0.3,
        0,
    ]
    two = compare_runs(runs, where={"sampler.max_dropout": [0, 0.3]}, against="max_dropout=0")
    (pair,) = two.pairs["eval/pnl_trained"]
    assert (pair.a.short, pair.b.short, pair.finding) == ("max_dropout=0.3", "max_dropout=0", "higher")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"metrics": ["eval/pnl_traned"]}, "did you mean eval/pnl_trained"),
        ({"by": ["sampler.dropout"]}, "did you mean sampler.max_dropout"),
        ({"sort": "time/total"}, "did you mean time/total_s"),
        ({"where": {"sampler.max_dropout": 0.4}}, "there is: 0.3, 0"),
        ({"against": "4"}, "'max_dropout=0.3', 'max_dropout=0'"),
        ({"cost": "judge/cost"}, "no summary has a number called 'judge/cost'"),
    ],
)
def test_a_key_that_is_not_there_is_answered_with_those_that_are(
    tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    runs = grid(tmp_path)
    with pytest.raises(ConfigError) as error:
        compare_runs(runs, **asked)
    assert said in str(error.value)


def test_of_runs_of_different_tasks_the_trainings_are_compared(tmp_path: Path) -> None:
    write(tmp_path / "g/a")
    write(tmp_path / "g/b", task="judge")
    runs = find_runs(["g"], roots=[tmp_path])
    compared = compare_runs(runs)
    assert compared.task == "train" and len(compared.runs) == 1
    ((run, why),) = compared.left_out
    assert run.task == "judge" and "compare.where={task:judge}" in why
    assert len(compare_runs(runs, where={"task": "train"}).runs) == 1


def test_other_markets_and_other_code_are_told(tmp_path: Path) -> None:
    market = {"_target_": "mmo_rl.market.spec.MarketSpec"}
    for name, drift in (("a", 0.0), ("b", 0.05)):
        path = write(tmp_path / "g" / name, market={**market, "drift_bias": drift})
        RunFolder(path).write_provenance({"git": {"commit": name * 40}})
    notes = " ".join(compare_runs(find_runs(["g"], roots=[tmp_path])).notes)
    assert "measured on different markets (market.drift_bias)" in notes
    assert "2 versions of the code: aaaaaaaaaa (1), bbbbbbbbbb (1)" in notes


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_intervals_are_over_seeds_and_differences_paired(tmp_path: Path) -> None:
    compared = compare_runs(grid(tmp_path))
    best = estimate(compared.arms[0], "eval/pnl_trained")
    assert (best.value, best.over, best.n) == (121.0, "seeds", 3)
    assert best.low == pytest.approx(121.0 - 4.3027 * 11 / 3**0.5, abs=0.01)
    (pair,) = compared.pairs["eval/pnl_trained"]
    assert pair.difference is not None and pair.difference.estimate == pytest.approx(11.0)
    assert pair.p == pytest.approx(0.00274, abs=1e-5) and pair.p == pair.p_holm
    assert pair.p_sign_flip == 0.25
    assert pair.finding == "higher"


def test_one_seed_has_its_own_interval_and_nothing_is_said(tmp_path: Path) -> None:
    bounds = {"eval/pnl_trained_low": 80.0, "eval/pnl_trained_high": 130.0}
    write(tmp_path / "g/a", summary=bounds)
    write(tmp_path / "g/b", pnl=500.0, summary=bounds, sampler__max_dropout=0.3)
    compared = compare_runs(find_runs(["g"], roots=[tmp_path]))
    assert estimate(compared.arms[1], "eval/pnl_trained").over == "run"
    assert (estimate(compared.arms[1], "eval/pnl_trained").low, estimate(compared.arms[1], "time/total_s").low) == (
        80,
        None,
    )
    (pair,) = compared.pairs["eval/pnl_trained"]
    assert (pair.n, pair.p, pair.finding) == (1, None, "nothing can be said")
    text = printed(compared)
    assert "[80, 130]*" in text
    assert "no two arms have two seeds in common: nothing can be said" in text


def test_missing_numbers_stay_missing(tmp_path: Path) -> None:
    grid(tmp_path)
    write(tmp_path / "runs/g/a3", seed=3, pnl=None, sampler__max_dropout=0.3)
    write(tmp_path / "runs/g/c0", seed=0, pnl=None, sampler__max_dropout=0.7)
    compared = compare_runs(find_runs(["runs/g"], roots=[tmp_path]))
    assert compared.arms[-1].values["sampler.max_dropout"] == 0.7
    first, last = (estimate(compared.arms[i], "eval/pnl_trained") for i in (0, -1))
    assert (first.n, first.of, last.value, last.n) == (3, 4, None, 0)
    assert "3 of 4" in printed(compared)
    rows = {row["run"]: row for row in csv.DictReader(io.StringIO(as_csv(compared)))}
    assert rows["g/a3"]["eval/pnl_trained"] == "" and float(rows["g/a0"]["eval/pnl_trained"]) == 110.0
    tree = json.loads(json.dumps(as_json(compared), allow_nan=False))
    assert tree["arms"][-1]["metrics"]["eval/pnl_trained"]["value"] is None
    assert [p["verdict"] for p in tree["pairs"]["eval/pnl_trained"]] == [
        "higher",
        "nothing can be said",
        "nothing can be said",
    ]


def test_many_arms_are_compared_with_one(tmp_path: Path) -> None:
    for number_ in range(13):
        write(tmp_path / f"g/{number_}", pnl=float(number_), sampler__max_dropout=number_ / 100)
    compared = compare_runs(find_runs(["g"], roots=[tmp_path]))
    assert len(compared.pairs["eval/pnl_trained"]) == 12
    assert "which flatters it" in " ".join(compared.notes)


def test_markdown_can_be_pasted(tmp_path: Path) -> None:
    lines = as_markdown(compare_runs(grid(tmp_path), metrics=["eval/pnl_trained"])).splitlines()
    assert lines[0] == "|  | sampler.max_dropout | seeds | eval/pnl_trained, $ |"
    assert lines[2] == "| 1 | 0.3 | 3 | 121 [94, 148] |"
    assert "| max_dropout=0.3 − max_dropout=0 | +11.0 [+8.5, +13.5] | 3 | 0.0027 | 0.0027 | 0.25 |" in lines


def printed(compared: Any) -> str:
    console = Terminal(width=160)
    with console.capture() as captured:
        print_compared(compared, console)
    return captured.get()


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        ("eval/pnl_trained", "usd"),
        ("eval/pnl_improvement_pct", ""),
        ("judge/cost_usd", "usd"),
        ("judge/pnl_tau", ""),
        ("eval/win_rate_change", "share"),
        ("data/dropout_rate", "share"),
        ("train/learning_rates", ""),
        ("time/total_s", "s"),
        ("train/tokens_per_s", ""),
    ],
)
def test_units_are_told_by_names(key: str, unit: str) -> None:
    assert unit_of(key) == unit


def test_numbers_are_short() -> None:
    assert number(-1234.56, "eval/pnl_trained", signed=True) == "−1,235"
    assert number(0.0123, "eval/win_rate", bare=False) == "1.2%"
    assert number(143.7, "time/total_s", bare=False) == "144 s"
    assert number(None, "x") == "–"


# --- drawings ---------------------------------------------------------------------------------------------------------


def test_a_p_value_is_never_rounded_onto_the_other_side_of_five_percent() -> None:
    shown = [probability(p) for p in (None, 0.00001, 0.0312, 0.0497, 0.04999, 0.05, 0.0501, 1.0)]
    assert shown == ["–", "< 0.0001", "0.031", "0.0497", "0.04999", "0.05", "0.05", "1"]


def test_the_front_is_what_nothing_cheaper_equals() -> None:
    points = {1: (3.0, 9.0), 2: (1.0, 5.0), 3: (2.0, 4.0), 4: (3.0, 8.0), 5: (1.0, 5.0)}
    assert front(points) == [2, 1]
    assert front(points, smaller_is_better=True) == [2, 3]


def test_no_text_of_the_csv_is_a_formula() -> None:
    values = ("=1+1", "@x", "-x", "+x", "-5", "plain")
    runs = [
        Run(
            id=f"=g/{n}", location="/r", state="done", seed=0, config={"note": v}, summary={"eval/pnl_trained": 0.0 - n}
        )
        for n, v in enumerate(values)
    ]
    rows = list(csv.DictReader(io.StringIO(as_csv(compare_runs(runs)))))
    assert {row["note"] for row in rows} == {"'=1+1", "'@x", "'-x", "'+x", "-5", "plain"}
    assert all(row["run"].startswith("'=g/") for row in rows)
    assert {float(row["eval/pnl_trained"]) for row in rows} == {-n for n in range(len(values))}
