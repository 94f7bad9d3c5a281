"""hydra/sweeper=optuna: trials in all, failed and killed ones, grids, and searches that cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmo_rl.errors import DatabaseError

Cli = Callable[..., Any]

SEARCH = ("-m", "hydra/sweeper=optuna", "name=search", "iterations=int(interval(1,9))", "sampler.max_dropout=0,0.3")


def folders(name: str = "default") -> list[Path]:
    return sorted(p for p in Path("runs", name).iterdir() if p.is_dir())


def test_a_search_counts_all_its_trials_and_continues(cli: Cli, train: Any) -> None:
    import warnings

    warnings.simplefilter("ignore", ResourceWarning)
    train(lambda context: -abs(context.settings.iterations - 4.0))
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=4")
    assert ran.code == 0, ran.err
    assert ran.out.count(" done ") == 4
    assert "best: trial" in ran.out
    seeds = train(lambda context: -abs(context.settings.iterations - 4.0))
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=4")
    assert ran.code == 0
    assert seeds == []
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=6")
    assert "4 of 6 trials are finished" in ran.out
    assert ran.out.count(" done ") == 6
    tried = [line.split()[1:3] for line in ran.out.splitlines() if " done " in line and "iterations=" in line]
    assert len({tuple(t) for t in tried}) > 3  # a search that goes on does not repeat its first trials
    assert Path("runs/search/optuna.db").exists()
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=1", "seed=5")
    assert "a new search begins" in ran.out


def test_failed_and_killed_trials_are_run_again(cli: Cli, train: Any) -> None:
    def fails(context: Any) -> float:
        raise DatabaseError("gone")

    train(fails)
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler=random")
    assert ran.code == 1
    assert ran.out.count(" failed ") == 2 and "gone" in ran.out and "log.txt" in ran.out

    def stops(context: Any) -> float:
        raise KeyboardInterrupt

    train(stops)
    assert cli(*SEARCH, "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler=random").code == 130
    train(lambda context: 1.0)
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler=random")
    assert ran.code == 0
    assert "0 of 2 trials are finished, 2 failed" in ran.out
    assert sum(" done " in line for line in ran.out.splitlines()) == 2


def test_a_grid_search_ends_with_its_grid(cli: Cli, train: Any) -> None:
    train(lambda context: float(context.settings.iterations))
    search = (
        "-m",
        "hydra/sweeper=optuna",
        "name=grid",
        "hydra.sweeper.sampler=grid",
        "hydra.sweeper.direction=minimize",
    )
    grid = ("iterations=range(1,4)", "sampler.max_dropout=0,0.3", "hydra.sweeper.n_jobs=4")
    ran = cli(*search, *grid, "hydra.sweeper.n_trials=4")
    assert "all of them: hydra.sweeper.n_trials=6" in ran.out
    assert len(folders("grid")) == 4
    ran = cli(*search, *grid)
    assert ran.code == 0
    assert len(folders("grid")) == 6
    assert "iterations=1" in ran.out.split("best:")[1]
    ran = cli(*search, "sampler.max_dropout=interval(0,0.3)")
    assert ran.code == 2 and "an interval has no grid" in ran.err


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["seed=1"], "there is nothing to search"),
        (["iterations=1,2", "evaluate=none"], "a search needs a number from every job"),
        (["iterations=1,2", "hydra.sweeper.n_trials=0"], "hydra.sweeper.n_trials: found 0, expected a whole number"),
        (["iterations=1,2", "hydra.sweeper.sampler=cma"], "found 'cma', expected one of tpe, random, grid"),
        (["sampler.max_dropout=interval(2,5)"], "sampler.max_dropout"),
        (["iterations=interval(1,9)"], "KEY='int(interval(1,9))'"),
        (["trainer.learning_rate=tag(log,interval(0,1))"], "low > 0"),
    ],
)
def test_searches_that_cannot_be(cli: Cli, train: Any, overrides: list[str], told: str, tmp_path: Path) -> None:
    seeds = train(lambda context: 0.0)
    ran = cli("-m", "hydra/sweeper=optuna", *overrides)
    assert ran.code == 2, ran.err
    assert told in ran.err
    assert seeds == []
    assert not (tmp_path / "runs").exists()


def test_a_trial_without_a_number_says_so(cli: Cli, train: Any) -> None:
    train(lambda context: None)
    ran = cli(*SEARCH, "hydra.sweeper.n_trials=1")
    assert "a search needs a number" in ran.out


# --- seeds, validation markets, impossible combinations ---------------------------------------------------------------


def test_seeds_are_averaged_within_a_trial_and_not_searched(cli: Cli, train: Any) -> None:
    ran = train(lambda context: 10.0 * context.settings.iterations + context.settings.seed)
    search = ("-m", "hydra/sweeper=optuna", "name=s", "hydra.sweeper.sampler=grid", "iterations=range(1,4)", "seed=0,1")
    told = cli(*search)
    assert told.code == 0, told.err
    assert len(ran) == 3 * 2 and told.out.count(" done ") == 3
    assert "mean of 2" in told.out and "best: trial" in told.out
    assert told.out.split("best: ")[1].startswith("trial 2, iterations=3: 30.5")
    cli(*search)
    assert len(ran) == 6
    refused = cli("-m", "hydra/sweeper=optuna", "iterations=1,2", "seed=int(interval(0,5))")
    assert refused.code == 2 and "seed=0,1,2" in refused.err
    alone = cli("-m", "hydra/sweeper=optuna", "seed=0,1")
    assert "nothing to search" in alone.err and "averaged" in alone.err


def test_trials_are_chosen_by_markets_that_are_not_reported(cli: Cli, train: Any) -> None:
    def measured(context: Any) -> float:
        validation = context.components.evaluator.validation()
        assert validation is not None and validation.rollouts() == context.components.evaluator.rollouts()
        gain = 100.0 * context.settings.iterations
        context.run_folder.write_summary(
            {
                "validation/pnl_improvement": gain,
                "eval/pnl_improvement": gain - 70,
                "eval/pnl_improvement_low": gain - 90,
                "eval/pnl_improvement_high": gain - 50,
            }
        )
        return gain

    train(measured)
    search = ("-m", "hydra/sweeper=optuna", "name=s", "hydra.sweeper.sampler=grid", "iterations=1,2")
    told = cli(*search)
    assert "iterations=2: 200" in told.out and "no trial was chosen: +$130 [+$110, +$150]" in told.out, (
        told.out + told.err
    )
    train(lambda context: float(context.components.evaluator.validation() is None))
    assert "iterations=1: 1" in cli(*search, "evaluate.validation_markets=0").out  # what is typed counts


@pytest.mark.parametrize("sampler", ["tpe", "grid"])
def test_an_impossible_combination_fails_alone_with_its_reason(cli: Cli, train: Any, sampler: str) -> None:
    ran = train(lambda context: float(context.settings.nodes["sampler"]["min_agents"]))
    search = ("-m", "hydra/sweeper=optuna", "name=s", "sampler.min_agents=50,4,5", "hydra.sweeper.n_trials=4",
              "hydra.sweeper.seed=3", f"hydra.sweeper.sampler={sampler}")  # fmt: skip
    told = cli(*search)
    assert told.code == 0, told.err
    (line, *_) = [line for line in told.out.splitlines() if " failed " in line]
    assert "sampler.min_agents=50" in line and "collect.agents: found 8" in line
    assert "best: trial" in told.out and "sampler.min_agents=5:" in told.out
    before = len(ran)
    again = cli(*search)
    assert again.code == 0 and len(ran) == before and "0 failed or were killed before" in again.out
    none = cli("-m", "hydra/sweeper=optuna", "sampler.min_agents=50,60")
    assert none.code == 2 and "collect.agents: found 8" in none.err
