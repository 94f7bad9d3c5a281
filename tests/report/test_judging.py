"""How good a judge is, from rows of judgments.jsonl: cases worked out by hand, and the page that shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mmo_rl.report.html import render
from mmo_rl.report.judged_page import judged_lines, judged_sentence
from mmo_rl.report.judging import agreement, most_disputed, quality
from mmo_rl.report.run_folder import RunFolder
from tests.report.test_html import HOSTILE, Page


def rows(
    window: str, *members: tuple[float | None, float | None, float | None], iteration: int = 0, why: str = "so"
) -> list[dict[str, Any]]:
    """(score, oracle, P&L) of each member."""
    return [
        {
            "iteration": iteration,
            "window_id": window,
            "group_id": window,
            "trajectory_id": f"{window}-world-a{n}",
            "score": score,
            "oracle": oracle,
            "pnl": pnl,
            "reason": None if score is not None else "timeout",
            "explanation": why,
            "spread": None,
        }
        for n, (score, oracle, pnl) in enumerate(members)
    ]


def test_windows_are_resampled_and_never_mixed() -> None:
    alike = [row for n in range(8) for row in rows(f"w{n}", (0.1 + n, 0.2, 1), (0.2 + n, 0.4, 2), (0.3 + n, 0.9, 3))]
    numbers = quality(alike, {"position_effect": 0.1}, seed=0)
    # Levels differ between windows: pairs across them would not agree.
    assert numbers["judge/oracle_tau"] == numbers["judge/pnl_tau"] == numbers["judge/oracle_tau_low"] == 1.0
    assert numbers["judge/windows_compared"] == 8 and numbers["judge/position_effect"] == 0.1
    mixed = [*alike, *rows("bad", (0.9, 0.1, 1), (0.1, 0.9, 2)), *rows("bad2", (0.9, 0.1, 1), (0.1, 0.9, 2))]
    found = agreement(mixed, "oracle", seed=0)
    assert found is not None and found.estimate == pytest.approx((24 - 2) / 26) and found.low < found.estimate < 1.0


def test_what_cannot_be_measured_is_left_out() -> None:
    unknown = rows("w", (0.5, None, None), (0.5, None, None), (None, None, 3.0))
    numbers = quality(unknown, {}, seed=0)
    assert numbers == {"judge/unscored_share": pytest.approx(1 / 3), "judge/zero_variance_share": 1.0}
    assert quality([], {}, seed=0) == {} and agreement([], "oracle", seed=0) is None
    assert most_disputed(unknown) is None and judged_sentence(numbers) is None


def test_a_judge_that_ranks_nothing_in_half_of_the_windows_agrees_less() -> None:
    flat = [*rows("a", (0.1, 0.1, 1), (0.9, 0.9, 2)), *rows("b", (0.5, 0.1, 1), (0.5, 0.9, 2))]
    found = agreement(flat, "oracle", seed=0)
    assert found is not None and found.estimate == pytest.approx(1 / 2**0.5)


def test_the_most_disputed_window_stands_side_by_side() -> None:
    dispute = most_disputed(
        [*rows("w1", (0.1, 0.1, 1), (0.9, 0.9, 2)), *rows("w2", (0.9, 0.1, 1), (0.5, 0.5, -5), (0.1, 0.9, 2))]
    )
    assert dispute is not None and (dispute.group, dispute.against, dispute.tau) == ("w2", "oracle", -1.0)
    assert [p.member for p in dispute.judge] == ["a0", "a1", "a2"] and dispute.judge[1].pnl == "-5.00"
    assert [(p.member, p.rank, p.score, p.moved) for p in dispute.other] == [
        ("a2", 1, 0.9, -2),
        ("a1", 2, 0.5, 0),
        ("a0", 3, 0.1, 2),
    ]


def test_of_the_oracle_itself_the_order_is_held_against_pnl() -> None:
    dispute = most_disputed(rows("w", (0.9, None, -10.0), (0.1, None, 20.0), (0.5, None, None)))
    assert dispute is not None and dispute.against == "pnl" and dispute.tau == -1.0
    assert len(dispute.judge) == 2, "whoever has no P&L is in neither order"


def test_the_page_shows_the_numbers_and_the_dispute_and_what_the_judge_said_stays_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdefghijklmnopqrstuvwxyz123456")
    folder = RunFolder(tmp_path / "judged" / "k")
    said = f"{HOSTILE} key sk-abcdefghijklmnopqrstuvwxyz123456"
    judged = [*rows("w1", (0.9, 0.1, 1), (0.1, 0.9, 2), why=said), *rows("w2", (0.1, 0.1, 1), (0.9, 0.9, 2))]
    folder.append("judgments", *judged)
    findings = {"position_effect": -0.02, "position_effect_se": 0.01, "first/canary_beat": 0.25}
    summary = quality(judged, findings, seed=0)
    folder.write_summary(summary)
    html = render(folder)
    page = Page(html)
    assert "How good the judge is" in page.text and "The most disputed window: w1" in page.text
    assert "As the judge has it" in page.text and "As the oracle has it" in page.text
    assert HOSTILE in page.text and page.tags.count("img") == 0 and page.tags.count("script") == 2
    assert "sk-abcdef" not in html and page.fetches == ["data:,"]
    shown = {line.label: (line.value, line.interval) for line in judged_lines(summary)}
    assert shown["position effect"] == ("−0.020", "standard error 0.010")
    assert shown["first: real trajectories that a canary beat"] == ("25.0%", "")
    assert shown["agreement with the oracle"][0] == "0.000"
