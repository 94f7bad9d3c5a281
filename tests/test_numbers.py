"""Finite numbers from JSON and from text."""

from __future__ import annotations

from decimal import Decimal

import pytest

from mmo_rl.numbers import finite_number, parse_number


@pytest.mark.parametrize(("value", "number"), [(0, 0.0), (-3, -3.0), (2.5, 2.5), (Decimal("1.25"), 1.25)])
def test_a_number_is_itself_and_a_real_zero_stays_zero(value: object, number: float) -> None:
    assert finite_number(value) == number
    assert parse_number(value) == number


@pytest.mark.parametrize("value", [None, True, "", "7x", "n/a", "NaN", float("nan"), float("inf"), 10**400, [], {}])
def test_what_is_no_finite_number_is_none(value: object) -> None:
    assert finite_number(value) is None
    assert parse_number(value) is None


@pytest.mark.parametrize(
    ("text", "number"),
    [("0.0", 0.0), ("-12.5", -12.5), (" 1e3 ", 1000.0), (".5", 0.5), ("5.", 5.0), ("70.0%", 0.7), ("+7 %", 0.07)],
)
def test_text_and_percentages(text: str, number: float) -> None:
    assert finite_number(text) is None
    assert parse_number(text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["1_000", "0x10", "1e999", "infinity", "1 2", "%", "--1", b"1"])
def test_text_that_only_looks_like_a_number(text: object) -> None:
    assert parse_number(text) is None
