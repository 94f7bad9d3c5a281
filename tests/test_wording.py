"""Counts, lists and durations in messages."""

from __future__ import annotations

import pytest

from mmo_rl.plan.table import hours
from mmo_rl.wording import counted, duration, listed, part


@pytest.mark.parametrize(
    ("count", "nouns", "text"),
    [
        (1, ("gradient step",), "1 gradient step"),
        (0, ("gradient step",), "0 gradient steps"),
        (1200, ("job",), "1,200 jobs"),
        (1, ("trajectory", "trajectories"), "1 trajectory"),
        (2, ("trajectory", "trajectories"), "2 trajectories"),
    ],
)
def test_a_noun_follows_its_count(count: int, nouns: tuple[str, ...], text: str) -> None:
    assert counted(count, *nouns) == text


def test_a_part_of_several() -> None:
    assert part(1, 1, "job") == "the job"
    assert part(1, 3, "job") == "1 of the 3 jobs"
    assert part(3, 3, "job") == "all 3 jobs"


def test_a_list_is_cut() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcde")) == "a, b, c, and 2 more"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (0.03, "under 1 s"), (8.4, "8 s"), (720, "12 min"), (11520, "3.2 h"), (504_000, "140 h")],
)
def test_a_duration_is_said_in_a_unit_that_fits(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"), [(8.6e-06, "<0.01"), (0.0, "~0"), (0.5, "~0.5"), (3.14159, "~3.1"), (1234.0, "~1,234")]
)
def test_hours_of_a_plan(value: float, text: str) -> None:
    assert hours(value) == text
