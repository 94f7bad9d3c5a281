"""Single values in every variant that was met."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from mmo_rl.source.values import as_bool, as_int, as_number, as_text, as_time, pick

MOMENT = datetime(2025, 11, 14, 8, 20, 0, 500_000, tzinfo=UTC)


@pytest.mark.parametrize(
    "value",
    [
        1763108400500,
        1763108400500.0,
        "1763108400500",
        1763108400.5,
        "2025-11-14T08:20:00.500Z",
        "2025-11-14T08:20:00.500",
        "2025-11-14 08:20:00.5",
        "2025-11-14T09:20:00.500+01:00",
        datetime(2025, 11, 14, 8, 20, 0, 500_000),
        MOMENT,
    ],
)
def test_times_are_utc_in_every_notation(value: Any) -> None:
    assert as_time(value) == MOMENT


@pytest.mark.parametrize("value", [0, 0.0, "0", None, "", "soon", True, [], {}, 1e300, float("nan"), -(10**400)])
def test_what_is_no_time_is_none(value: Any) -> None:
    assert as_time(value) is None


@pytest.mark.parametrize(
    ("value", "number"),
    [(0, 0.0), (0.0, 0.0), ("0.0", 0.0), ("-12.5", -12.5), ("70.0%", 0.7), (" 1e3 ", 1000.0), (Decimal("1.25"), 1.25)],
)
def test_numbers_and_a_real_zero_stays_zero(value: Any, number: float) -> None:
    assert as_number(value) == pytest.approx(number)
    assert as_number(None, value, 9) == pytest.approx(number)


@pytest.mark.parametrize("value", [None, "", "n/a", "NaN", float("nan"), float("inf"), True, [], "1_000", 10**400])
def test_what_is_no_number_is_none_and_not_zero(value: Any) -> None:
    assert as_number(value) is None


def test_whole_numbers() -> None:
    assert [as_int(v) for v in (3, 3.0, "3", 3.5, True, None)] == [3, 3, 3, None, None, None]


def test_flags() -> None:
    assert [as_bool(v, default=False) for v in (True, "true", 1, "f", 0, None, "maybe", 2)] == [
        True, True, True, False, False, False, False, False,
    ]  # fmt: skip
    assert as_bool(None, default=True)


def test_text() -> None:
    assert [as_text(v) for v in ("a", 12, 1.5, None, True, [], {})] == ["a", "12", "1.5", None, None, None, None]
    assert as_text(10**5000) is None


def test_the_first_that_is_there() -> None:
    assert pick({"a": None, "b": 0}, "a", "b", "c") == 0
    assert pick({}, "a") is None
