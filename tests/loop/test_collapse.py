"""A collapsed policy is found, said, and ends the run with the last good version named."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmo_rl.loop.collapse import KEY, Collapse, CollapseWatch
from mmo_rl.loop.history import Iteration
from mmo_rl.types import JsonDict, JudgeUsage, Measured, PolicyVersion, Rollout, Selection, Trained
from tests.harness.project import Project

BASE = PolicyVersion("tiny", 0, "tiny")
SMALL = ("report=local", "collect.windows=2", "collect.agents=4", "market.ticks=3", "sampler.min_agents=2",
         "sampler.min_actions=1", "evaluate.markets=2", "evaluate.agents=2", "trainer.schedule=constant")  # fmt: skip
USAGE = JudgeUsage(calls=0, cache_hits=0, prompt_tokens=0, completion_tokens=0, cost_usd=0.0)


def history(*paths: str) -> list[Iteration]:
    """Iterations that publish versions 1, 2 ... at these places."""
    return [
        Iteration(
            iteration=number,
            selection=Selection(number, (), 0, 0, 0.0, 0, {}, {}, None),
            trained=Trained(PolicyVersion("tiny", number + 1, path), 1, 1, 0, {}),
            usage=USAGE,
            unscored=0,
            rejected={},
            seconds={},
        )
        for number, path in enumerate(paths)
    ]


def rows(*shares: float | None) -> list[JsonDict]:
    return [{"iteration": n, **({} if share is None else {KEY: share})} for n, share in enumerate(shares)]


def found(*shares: float | None) -> Collapse | None:
    return CollapseWatch(history(*(f"v{n + 1}" for n in range(len(shares)))), rows(*shares), BASE).in_play()


def failing(share: float | None) -> Measured | None:
    """Results of a policy with this share of failed actions; None where that is."""
    if share is None:
        return None
    return Measured("tiny", "sampled", (Rollout(0, 0, 0.0, actions=100, errors=round(share * 100)),))


@pytest.mark.parametrize(
    "shares",
    [(), (1.0, 1.0), (1.0, 1.0, 0.9), (0.2, 1.0, 1.0), (0.94,) * 9, (None,) * 5, (1.0, 1.0, 1.0, 0.5)],
    ids=["nothing", "two", "recovering", "not yet", "poor", "no play", "recovered"],
)
def test_no_collapse(shares: tuple[float | None, ...]) -> None:
    assert found(*shares) is None


def test_three_iterations_of_failed_actions_are_one_and_the_last_good_version_is_named() -> None:
    collapse = found(0.1, 0.2, 0.96, 1.0, 1.0)
    assert collapse is not None
    assert collapse.found.endswith("96% or more of its actions failed in each of iterations 3 to 5")
    assert collapse.last_good == PolicyVersion("tiny", 1, "v1")  # it played the second iteration
    assert "the last good version is 1: v1" in collapse.error().message
    assert "trainer.stop_on_collapse=false" in str(collapse.error().hint)


def test_a_model_that_never_could_is_told_what_it_needs() -> None:
    collapse = found(1.0, 1.0, 1.0)
    assert collapse is not None and collapse.last_good is None
    assert "the base model included" in collapse.error().message
    assert "market.lenient_answers=true" in str(collapse.error().hint)


def test_a_version_that_was_removed_is_not_named(tmp_path: Path) -> None:
    (tmp_path / "0001").mkdir()
    past = history(*(str(tmp_path / f"{n:04d}") for n in (1, 2, 3, 4, 5, 6)))
    collapse = CollapseWatch(past, rows(0.1, 0.1, 0.1, 1.0, 1.0, 1.0), BASE).in_play()
    assert collapse is not None and collapse.last_good is not None and collapse.last_good.version == 1


@pytest.mark.parametrize(
    ("base", "trained", "collapsed"),
    [(0.3, 1.0, True), (0.3, 0.94, False), (0.9, 1.0, False), (None, 1.0, False), (0.3, None, False)],
)
def test_a_run_that_is_over_is_measured(base: float | None, trained: float | None, *, collapsed: bool) -> None:
    collapse = CollapseWatch(history("v1"), rows(0.1), BASE).at_the_end(base=failing(base), trained=failing(trained))
    assert (collapse is not None) == collapsed
    assert collapse is None or collapse.last_good == BASE


def test_a_run_at_a_destructive_rate_ends_with_the_last_good_version(project: Project) -> None:
    told = project.run(*SMALL, "trainer.learning_rate=0.03", "iterations=8", code=1)
    assert "iteration  4/8" in told and "iteration  5/8" not in told
    assert "100% of its actions failed in each of iterations 2 to 4; the last good version is 0" in told
    assert project.status()["status"] == "failed"
    again = project.run(*SMALL, "trainer.learning_rate=0.03", "iterations=8", code=1)  # nothing more is played
    assert "iteration  5/8" not in again and "the last good version is 0" in again


def test_a_run_that_is_over_is_told_by_its_measurements(project: Project) -> None:
    told = project.run(*SMALL, "trainer.learning_rate=0.03", "iterations=2", code=1)
    assert "failed on the held-out markets" in told and "Checkpoint:" in told
