"""What a judge notices of itself adds up over the parts of a run."""

from __future__ import annotations

import pytest

from mmo_rl.judge.findings import Findings, added, numbers, since


def rounds(*places: tuple[int, float]) -> dict[str, tuple[int, float]]:
    return {f"m{n}": place for n, place in enumerate(places)}


def test_sums_of_two_starts_tell_what_one_unbroken_start_would_have() -> None:
    whole, first, second = Findings(), Findings(), Findings()
    parts = [
        [rounds((0, 0.2), (1, 0.5), (2, 0.9)), rounds((2, 0.4), (0, 0.3), (1, 0.9))],
        [rounds((1, 0.6), (0, 0.1), (2, 0.8)), rounds((0, 0.5), (2, 0.4), (1, 0.8))],
    ]
    for judge, seen in ((first, parts[0]), (second, parts[1])):
        for target in (whole, judge):
            target.add_answers(seen, repeats=3)
            target.add_canary("empty", 0.1, [(0.5, 0.4)])
    together = numbers(added([first.tallies, second.tallies]))
    assert together == pytest.approx(dict(whole.numbers))
    assert together["repeats_failed"] == 2 and together["position_effect_se"] > 0
    assert together["canary_shift"] == pytest.approx(0.1)


def test_what_came_since_a_reading_is_a_part_of_its_own() -> None:
    judge = Findings()
    judge.add_answers([rounds((0, 0.0), (1, 1.0)), rounds((1, 0.5), (0, 1.0))], repeats=2)
    before = judge.tallies
    assert numbers(before)["repeat_spread"] == pytest.approx(0.25)
    judge.add_answers([rounds((0, 0.3), (1, 0.3)), rounds((1, 0.3), (0, 0.3))], repeats=2)
    assert numbers(since(before, judge.tallies))["repeat_spread"] == pytest.approx(0.0)
    assert numbers(since(judge.tallies, judge.tallies)).get("repeat_spread") is None
