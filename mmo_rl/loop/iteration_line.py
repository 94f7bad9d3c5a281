"""Line about a finished iteration on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from mmo_rl.loop.history import Iteration
from mmo_rl.loop.publish import ALONE
from mmo_rl.types import Trained
from mmo_rl.wording import counted

PLAYED = (
    ("play/pnl", "P&L", "+8.1f"),
    ("play/win_rate", "wins", "4.0%"),
    ("play/error_rate", "errors", "5.1%"),
)
"""Metrics of the line: name, label, format."""


def iteration_line(done: Iteration, metrics: Mapping[str, float], *, iterations: int, exports: bool) -> str:
    """One line about an iteration of ``iterations``; ``exports`` where the trainer writes data and makes no policy."""
    played = "".join(f"  {label} {metrics[key]:{form}}" for key, label, form in PLAYED if key in metrics)
    return (
        f"iteration {done.iteration + 1:>2}/{iterations}  "
        f"{counted(len(done.selection.windows), 'window')}, "
        f"{counted(done.selection.used, 'trajectory', 'trajectories')}{played}  "
        f"{_effect(done.trained, exports=exports)}, {sum(done.seconds.values()):.1f} s{_alone(done.trained)}"
    )


def _effect(trained: Trained, *, exports: bool) -> str:
    if exports:
        return counted(round(trained.metrics["histories"]), "history", "histories")
    if trained.gradient_steps:
        return counted(trained.gradient_steps, "gradient step")
    return "no group carries signal, the policy stays"


def _alone(trained: Trained) -> str:
    """Words about the decisions that had no company."""
    alone = int(trained.metrics.get(ALONE, 0))
    return f", {alone:,} decisions alone at their moment (compared within their window)" if alone else ""
