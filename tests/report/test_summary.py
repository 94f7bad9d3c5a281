from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from mmo_rl.clock import milliseconds
from mmo_rl.report.iteration import iteration_metrics
from mmo_rl.report.summary import Evaluations, Summary, build_summary
from mmo_rl.report.table import print_summary
from mmo_rl.report.words import MINUS, amount, lines, run_verdict
from mmo_rl.terminal import Terminal
from mmo_rl.types import (
    Action,
    Group,
    JudgeUsage,
    Measured,
    PolicyVersion,
    Rollout,
    Score,
    ScoredGroup,
    SelectedWindow,
    Selection,
    Step,
    Trained,
    Trajectory,
    Unscored,
    Window,
)

START = datetime(2025, 1, 1, tzinfo=UTC)
START_MS = milliseconds(START)

DESIGN_KEYS = """
data/windows_available data/windows_used data/trajectories_available data/trajectories_used data/dropout_rate
judge/calls judge/cache_hits judge/unscored judge/cost_usd train/gradient_steps train/tokens
train/groups_skipped_zero_variance eval/pnl_base eval/pnl_trained eval/pnl_improvement_pct
eval/pnl_improvement_pct_low eval/pnl_improvement_pct_high eval/oracle_share_base eval/oracle_share_trained
eval/win_rate_base eval/win_rate_trained eval/error_rate_base eval/error_rate_trained
eval/greedy/pnl_base eval/greedy/pnl_trained eval/greedy/pnl_improvement_pct eval/greedy/pnl_improvement_pct_low
eval/greedy/pnl_improvement_pct_high eval/greedy/oracle_share_base eval/greedy/oracle_share_trained
eval/greedy/win_rate_base eval/greedy/win_rate_trained eval/greedy/error_rate_base eval/greedy/error_rate_trained
time/select_s time/judge_s time/train_s time/evaluate_s time/total_s
"""


def window(hour: int) -> Window:
    start = START + timedelta(hours=hour)
    return Window(f"{start:%Y-%m-%dT%H:%M}", start, start + timedelta(hours=1))


def selection(iteration: int, *, hours: range, already_used: int = 0, dropped: int = 0) -> Selection:
    """Four agents a window, of which ``dropped`` were dropped in all."""
    ids = [(h, f"t{h}-{a}") for h in hours for a in range(4)]
    kept = ids[: len(ids) - dropped]
    return Selection(
        iteration,
        tuple(SelectedWindow(window(h), tuple(i for hour, i in kept if hour == h)) for h in hours),
        windows_available=hours.stop + 1,
        available=len(ids),
        dropout_rate=dropped / len(ids),
        dropped=dropped,
        excluded={"already_used": already_used, "too_few_agents": 2},
    )


def measured(name: str, mean: float, *, markets: int = 12) -> Measured:
    return Measured(
        name, "sampled", tuple(Rollout(m, a, mean + (m % 3) * 10 - 10, 10, 1) for m in range(markets) for a in range(2))
    )


def summarise(evaluations: Evaluations, **changes: object) -> Summary:
    arguments: dict[str, object] = {
        "selections": [
            selection(0, hours=range(4), dropped=4),
            selection(1, hours=range(4, 8), already_used=16),
        ],
        "rejected": {"bad_json": 3},
        "usage": JudgeUsage(calls=8, cache_hits=2, prompt_tokens=100, completion_tokens=10, cost_usd=None),
        "unscored": 1,
        "trained": [Trained(PolicyVersion("p", i + 1, "w"), 4, 1000, 1, {}) for i in range(2)],
        "evaluations": evaluations,
        "stage_seconds": {"judge": 1.5, "train": 2.25, "total": 5.0, "render": 0.125},
        "seed": 0,
    }
    return build_summary(**(arguments | changes))  # type: ignore[arg-type]


def test_every_promised_key_is_there_even_when_nothing_was_measured() -> None:
    nothing = summarise(Evaluations(), selections=[], trained=[], stage_seconds={})
    assert set(DESIGN_KEYS.split()) <= nothing.keys()
    assert nothing["eval/pnl_base"] is None
    assert nothing["time/total_s"] is None
    assert nothing["data/dropout_rate"] is None
    assert nothing["judge/cost_usd"] is None
    assert nothing["train/gradient_steps"] == 0
    assert nothing.keys() <= summarise(Evaluations(base=measured("b", 10))).keys()
    json.dumps(nothing, allow_nan=False)


def test_data_is_counted_once_however_many_iterations_saw_it() -> None:
    result = summarise(Evaluations())
    assert result["data/windows_available"] == 9
    assert result["data/windows_used"] == 8
    assert result["data/trajectories_available"] == 32
    assert result["data/trajectories_used"] == 28
    assert result["data/trajectories_dropped"] == 4
    assert result["data/dropout_rate"] == pytest.approx(0.125)  # a quarter of 16, nothing of 16
    assert result["data/excluded/too_few_agents"] == 2
    assert "data/excluded/already_used" not in result
    assert result["data/rejected/bad_json"] == 3
    again = summarise(Evaluations(), selections=[selection(i, hours=range(4), dropped=4) for i in range(3)])
    assert (again["data/windows_used"], again["data/trajectories_available"]) == (4, 16)
    assert (again["data/trajectories_used"], again["data/trajectories_dropped"]) == (12, 4)


def test_training_and_time_are_sums() -> None:
    result = summarise(Evaluations())
    assert (result["train/gradient_steps"], result["train/tokens"], result["train/iterations"]) == (8, 2000, 2)
    assert result["train/groups_skipped_zero_variance"] == 2
    assert (result["time/judge_s"], result["time/render_s"], result["time/select_s"]) == (1.5, 0.125, None)


def test_how_tokens_were_trained_is_weighted_by_tokens_and_left_out_where_nobody_says() -> None:
    def trained(tokens: int, unclipped: float, too_long: int) -> Trained:
        metrics = {"unknown_logprobs_share": 1.0, "unclipped_tokens_share": unclipped, "histories_too_long": too_long}
        return Trained(PolicyVersion("p", 1, "w"), 4, tokens, 0, metrics)

    result = summarise(Evaluations(), trained=[trained(1000, 1.0, 2), trained(3000, 0.0, 1)])
    assert result["train/unclipped_tokens_share"] == 0.25 and result["train/unknown_logprobs_share"] == 1.0
    assert result["train/histories_too_long"] == 3
    assert "train/unclipped_tokens_share" not in summarise(Evaluations())


def test_evaluation_by_hand() -> None:
    result = summarise(
        Evaluations(base=measured("b", 20), trained=measured("t", 50), oracle=measured("o", 100), base_greedy=None)
    )
    assert result["eval/pnl_improvement"] == pytest.approx(30)
    assert result["eval/pnl_improvement_low"] == pytest.approx(30)
    assert result["eval/pnl_improvement_pct"] == pytest.approx(150)
    assert result["eval/oracle_share_base"] == pytest.approx(0.2)
    assert result["eval/oracle_share_trained"] == pytest.approx(0.5)
    assert result["eval/pnl_oracle"] == pytest.approx(100)
    assert (result["eval/markets"], result["eval/agents"]) == (12, 2)
    assert result["eval/error_rate_change"] == 0.0
    assert result["eval/greedy/pnl_base"] is None


def test_one_market_has_numbers_and_no_intervals() -> None:
    result = summarise(Evaluations(base=measured("b", 20, markets=1), trained=measured("t", 50, markets=1)))
    assert result["eval/pnl_improvement"] == pytest.approx(30)
    assert result["eval/pnl_improvement_low"] is None
    assert result["eval/pnl_improvement_pct"] is None
    assert run_verdict(result).kind == "unclear"


@pytest.mark.parametrize(
    ("base", "trained", "kind", "words"),
    [
        (20, 50, "better", "earns more: +$30.0"),
        (50, 20, "worse", f"earns less: {MINUS}$30.0"),
        (20, 20, "unclear", "No difference shown"),
    ],
)
def test_the_verdict_follows_the_interval(base: float, trained: float, kind: str, words: str) -> None:
    result = run_verdict(summarise(Evaluations(base=measured("b", base), trained=measured("t", trained))))
    assert result.kind == kind
    assert words in result.title


def test_the_verdict_says_what_a_percentage_and_greedy_decoding_are_worth() -> None:
    sharpened = summarise(
        Evaluations(
            base=measured("b", 0),
            trained=measured("t", 30),
            base_greedy=measured("b", 40),
            trained_greedy=measured("t", 40),
        )
    )
    assert sharpened["eval/pnl_improvement_pct"] is None
    detail = run_verdict(sharpened).detail
    assert "not certainly above 0" in detail
    assert "sharpening" in detail
    learnt = run_verdict(
        summarise(
            Evaluations(
                base=measured("b", 0),
                trained=measured("t", 0),
                base_greedy=measured("b", 1),
                trained_greedy=measured("t", 9),
            )
        )
    )
    assert learnt.kind == "unclear"
    assert "Decoded greedily it earns more, +$8.00" in learnt.detail
    assert run_verdict({}).kind == "missing"


def test_the_table_is_made_of_the_stored_summary_alone(tmp_path: Path) -> None:
    e = Evaluations(
        base=measured("b", 20),
        trained=measured("t", 50),
        base_greedy=measured("b", 30),
        trained_greedy=measured("t", 35),
        oracle=measured("o", 100),
    )
    stored = json.loads(json.dumps(summarise(e)))
    out = io.StringIO()
    print_summary(Terminal(file=out, width=80), stored, tmp_path)
    text = out.getvalue()
    assert max(len(line) for line in text.splitlines() if str(tmp_path) not in line) <= 80
    for expected in (
        "sampled",
        "greedy",
        "20.0 [",
        "50.0 [",
        "+30.0 [",
        "+5.00 [",
        "Oracle share, %",
        "12 held",
    ):
        assert expected in text
    assert str(tmp_path / "report.html") in text
    out = io.StringIO()
    print_summary(Terminal(file=out, width=80), {}, tmp_path)
    assert "Not evaluated" in out.getvalue()


@pytest.mark.parametrize(
    ("value", "unit", "signed", "text"),
    [
        (8.206, "usd", False, "$8.21"),
        (-82.71, "usd", True, f"{MINUS}$82.7"),
        (182.71, "usd", False, "$183"),
        (12345.6, "usd", True, "+$12,346"),
        (-0.001, "usd", True, "$0.00"),
        (0.5714, "share", False, "57.1%"),
        (None, "usd", False, "–"),
    ],
)
def test_amounts_read_well(value: float | None, unit: str, signed: bool, text: str) -> None:
    assert amount(value, unit, signed=signed) == text  # type: ignore[arg-type]


def test_lines_of_what_was_not_measured_are_none() -> None:
    assert lines(summarise(Evaluations()), "greedy") == []


def trajectory(name: str, pnl: float | None, *, errors: int, steps: int = 4) -> Trajectory:
    made = tuple(
        Step(
            i,
            milliseconds(START),
            {},
            Action("HOLD", {}, success=i >= errors, error=None if i >= errors else "bad JSON"),
        )
        for i in range(steps)
    )
    return Trajectory(name, f"agent-{name}", "w", START, START, made, pnl)


def test_an_iteration_by_hand() -> None:
    one = Group("g0", window(0), (trajectory("a", 10.0, errors=1), trajectory("b", -5.0, errors=0)), None)
    two = Group("g1", window(1), (trajectory("c", 25.0, errors=2), trajectory("d", None, errors=1)), None)
    row = iteration_metrics(
        selection=selection(0, hours=range(2)),
        scored=[
            ScoredGroup(one, {"a": Score("a", 1.0), "b": Score("b", 0.0)}, "trajectory"),
            ScoredGroup(two, {"c": Score("c", 0.5), "d": Unscored("d", "timeout")}, "trajectory"),
        ],
        trained=Trained(PolicyVersion("p", 1, "w"), 3, 99, 1, {"entropy": 2.0, "train/kl": 0.5, "nan": float("nan")}),
        stage_seconds={"judge": 0.5},
        seed=0,
    )
    assert row["play/pnl"] == pytest.approx(10.0)
    assert row["play/win_rate"] == pytest.approx(2 / 3)
    assert row["play/error_rate"] == pytest.approx(4 / 16)
    # Resamples of the two windows: 2.5 (a quarter), 10 (half), 25 (a quarter), standard deviation 8.17; with Student's
    # t of one degree of freedom 12.706 x sqrt(2) x 8.17 = 146.8 to either side.
    assert row["play/pnl_low"] == pytest.approx(10.0 - 146.8, abs=4.0)
    assert row["play/pnl_high"] == pytest.approx(10.0 + 146.8, abs=4.0)
    assert row["judge/score_mean"] == pytest.approx(0.5)
    assert row["judge/score_std"] == pytest.approx(0.5)
    assert row["judge/unscored"] == 1
    assert (row["train/entropy"], row["train/kl"], row["train/gradient_steps"]) == (2.0, 0.5, 3)
    assert "train/nan" not in row
    assert (row["data/trajectories_used"], row["time/judge_s"]) == (8, 0.5)


def test_an_iteration_without_pnl_or_scores_leaves_them_out() -> None:
    row = iteration_metrics(
        selection=selection(0, hours=range(1)),
        scored=[
            ScoredGroup(
                Group("g", window(0), (trajectory("a", None, errors=0),), None), {"a": Unscored("a", "x")}, "trajectory"
            )
        ],
        trained=Trained(PolicyVersion("p", 1, "w"), 0, 0, 0, {}),
        stage_seconds={},
        seed=0,
    )
    assert "play/pnl" not in row
    assert "judge/score_mean" not in row
    assert row["judge/unscored"] == 1
    assert row["play/error_rate"] == 0.0


def test_a_run_that_only_exported_does_not_claim_to_have_trained() -> None:
    assert run_verdict({"train/gradient_steps": 0}).title == "Exported"
    assert run_verdict({"train/gradient_steps": 3}).title == "Not evaluated"
