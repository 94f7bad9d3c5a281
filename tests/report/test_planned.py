"""The plan against what was spent, as the report tells it."""

from __future__ import annotations

from pathlib import Path

from mmo_rl.report.html import render
from mmo_rl.report.planned import PlannedLine, planned_lines
from mmo_rl.report.run_folder import RunFolder


def test_each_number_has_its_difference_in_percent_of_the_plan() -> None:
    plan = {
        "judge/calls": 160,
        "judge/cost_usd": 0.5,
        "train/tokens": 1000,
        "time/total_s": None,
        "judge/cache_hits": 0,
    }
    spent = {
        "judge/calls": 160,
        "judge/cost_usd": 0.6,
        "train/tokens": 950,
        "time/total_s": 12.4,
        "judge/cache_hits": 2,
    }
    assert planned_lines(plan, spent) == [
        PlannedLine("judge calls", "160", "160", "as planned"),
        PlannedLine("judgments from the cache", "0", "2", "\N{EN DASH}"),
        PlannedLine("judge cost", "$0.5000", "$0.6000", "+20.0%"),
        PlannedLine("of these trained, because their groups differed in reward", "1,000", "950", "-5.0%"),
        PlannedLine("time", "unknown", "12 s", "\N{EN DASH}"),
    ]


def test_a_cost_that_became_unknown_is_not_nothing() -> None:
    (line,) = planned_lines({"judge/cost_usd": 0.0}, {"judge/cost_usd": None})
    assert (line.planned, line.spent) == ("$0.00", "unknown")


def test_the_page_has_the_comparison_where_there_is_a_plan(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_summary({"judge/calls": 12})
    assert "The plan and what was spent" not in render(folder)
    folder.write_plan({"judge/calls": 10})
    assert "The plan and what was spent" in render(folder)
    assert "+20.0%" in render(folder)
