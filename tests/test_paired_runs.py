"""Differences of arms over seeds: cases worked out by hand, and the table made of them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mmo_rl.paired_runs import difference_over_seeds, holm, mean_over_seeds, t_two_sided

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "compare_arms.py"


@pytest.mark.parametrize(
    ("t", "degrees"), [(12.706, 1), (4.3027, 2), (3.1824, 3), (2.7764, 4), (2.5706, 5), (2.4469, 6), (2.2622, 9)]
)
def test_the_t_test_has_the_printed_critical_values(t: float, degrees: int) -> None:
    assert t_two_sided(t, degrees) == pytest.approx(0.05, abs=1e-5)
    assert t_two_sided(-t, degrees) == t_two_sided(t, degrees)
    assert t_two_sided(0.0, degrees) == 1.0


def test_a_mean_over_five_seeds() -> None:
    found = mean_over_seeds({0: 1.0, 1: 2.0, 2: 3.0, 3: 4.0, 4: 5.0})  # s = sqrt(2.5), s / sqrt(5) = 0.7071
    assert found.estimate == 3.0
    assert found.high - 3.0 == pytest.approx(2.7764 * 0.70711, rel=1e-3)
    assert found.low + found.high == pytest.approx(6.0)


def test_one_seed_says_nothing_of_the_spread() -> None:
    found = difference_over_seeds({7: 1.0}, {7: 3.0})
    assert (found.interval.estimate, found.interval.low, found.interval.high) == (2.0, -math.inf, math.inf)
    assert found.p_value is None
    with pytest.raises(ValueError, match="no run"):
        mean_over_seeds({})


def test_differences_are_taken_seed_by_seed() -> None:
    base = {0: 100.0, 1: 200.0, 2: 300.0}
    found = difference_over_seeds(base, {2: 312.0, 0: 110.0, 1: 211.0})  # 10, 11, 12: s = 1, t = 11 sqrt(3) = 19.05
    assert found.interval.estimate == pytest.approx(11.0)
    assert found.interval.low == pytest.approx(11.0 - 4.3027 / math.sqrt(3), abs=1e-3)
    assert found.p_value == pytest.approx(1.0 - 19.0526 / math.sqrt(2 + 19.0526**2), rel=1e-4)  # exact for 2 degrees
    assert difference_over_seeds(base, base).p_value == 1.0


def test_seeds_of_one_side_only_are_refused() -> None:
    with pytest.raises(ValueError, match=r"seeds \[1, 2\]"):
        difference_over_seeds({0: 1.0, 1: 1.0}, {0: 1.0, 2: 1.0})


def test_holm_multiplies_by_what_is_left_and_never_falls() -> None:
    assert holm({"a": 0.04, "b": 0.01, "c": 0.03}) == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}


# --- the table ------------------------------------------------------------------------------------------------------


def write_run(folder: Path, overrides: list[str], base: float, trained: float) -> None:
    folder.mkdir(parents=True)
    (folder / "overrides.yaml").write_text(yaml.safe_dump(overrides))
    summary: dict[str, Any] = {"train/gradient_steps": 10}
    for prefix in ("eval/", "eval/greedy/"):
        summary[f"{prefix}pnl_improvement"] = trained - base
        for name, value in (("pnl", trained), ("win_rate", 0.5), ("error_rate", 0.01), ("oracle_share", 0.25)):
            summary |= {f"{prefix}{name}_base": base if name == "pnl" else value, f"{prefix}{name}_trained": value}
    (folder / "summary.json").write_text(json.dumps(summary))


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, arguments)], capture_output=True, text=True)


def test_arms_are_told_apart_by_what_differs_and_paired_by_seed(tmp_path: Path) -> None:
    for seed, (one, other) in enumerate([(110.0, 100.0), (121.0, 110.0), (132.0, 120.0)]):
        write_run(tmp_path / f"a{seed}", ["+experiments=x", f"seed={seed}", "judge=oracle"], 50.0, one)
        write_run(tmp_path / f"b{seed}", [f"seed={seed}", "judge=outcome", "+experiments=x"], 50.0, other)
    told = compare(tmp_path)
    assert told.returncode == 0, told.stderr
    assert "| judge=oracle | 50 → 121 | +71 [44, 98] | 25.0 → 25.0 % | 50 → 50 % | 1.0 → 1.0 % | 10 |" in told.stdout
    assert "| judge=oracle − judge=outcome | P&L, $ | +11 [9, 13] | 0.0027 | 0.0027 |" in told.stdout
    found = json.loads(compare(tmp_path, "--json", "--against", "judge=oracle").stdout)
    assert found["greedy/pnl/judge=outcome - judge=oracle"]["mean"] == pytest.approx(-11.0)


def test_an_arm_that_lacks_a_seed_is_named(tmp_path: Path) -> None:
    write_run(tmp_path / "a", ["seed=0", "judge=oracle"], 50.0, 60.0)
    write_run(tmp_path / "b", ["seed=1", "judge=oracle"], 50.0, 60.0)
    write_run(tmp_path / "c", ["seed=1", "judge=outcome"], 50.0, 60.0)
    told = compare(tmp_path)
    assert told.returncode == 1
    assert "'judge=outcome': [0]" in told.stderr
    assert compare(tmp_path / "nothing").returncode == 1
