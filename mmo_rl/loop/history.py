"""Rows of checkpoints.jsonl, one an iteration: a killed run continues from them and still reports all iterations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime

from mmo_rl.report.run_folder import RunFolder
from mmo_rl.types import JsonDict, JudgeUsage, PolicyVersion, SelectedWindow, Selection, Tallies, Trained, Window
from mmo_rl.wording import counted

WARM_START = -1
"""The number of the warm start among the iterations."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Iteration:
    """One finished iteration, or the warm start before the first. ``usage`` is what the judge cost in it and
    ``tallies`` what it noticed of itself; ``seconds`` the wall time by stage."""

    iteration: int
    selection: Selection
    trained: Trained
    usage: JudgeUsage
    unscored: int
    rejected: Mapping[str, int]
    seconds: Mapping[str, float]
    tallies: Tallies = field(default_factory=dict)

    def row(self) -> JsonDict:
        """Plain JSON values. A policy is found again by its version, so the run folder may be moved."""
        row = asdict(self)
        for window in row["selection"]["windows"]:
            window["window"] = _plain(window["window"])
        row["selection"] = _plain(row["selection"])
        return row | {"version": self.trained.policy.version}

    @classmethod
    def from_row(cls, row: JsonDict) -> Iteration:
        """The iteration that `row` was made from."""
        selection, trained = dict(row["selection"]), dict(row["trained"])
        windows = tuple(
            SelectedWindow(
                Window(
                    w["window"]["id"],
                    datetime.fromisoformat(w["window"]["start"]),
                    datetime.fromisoformat(w["window"]["end"]),
                ),
                tuple(w["trajectory_ids"]),
                w.get("role"),
                {identity: tuple(parts) for identity, parts in w.get("parts", {}).items()},
            )
            for w in selection.pop("windows")
        )
        agents = {agent: (before, after) for agent, (before, after) in selection.pop("agents", {}).items()}
        until = selection.pop("until", None)
        policy = PolicyVersion(**trained.pop("policy"))
        return cls(
            iteration=row["iteration"],
            selection=Selection(
                windows=windows, agents=agents, until=until and datetime.fromisoformat(until), **selection
            ),
            trained=Trained(policy=policy, **trained),
            usage=JudgeUsage(**row["usage"]),
            unscored=row["unscored"],
            rejected=row["rejected"],
            seconds=row["seconds"],
            tallies={name: tuple(sums) for name, sums in row.get("tallies", {}).items()},
        )


def _plain(fields: JsonDict) -> JsonDict:
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in fields.items()}


@dataclass(slots=True)
class Past:
    """Finished part of a run, read from its folder: the warm start, if any, and the iterations, which a run adds to."""

    warm: Iteration | None
    iterations: list[Iteration]

    @classmethod
    def of(cls, folder: RunFolder) -> Past:
        """The rows of checkpoints.jsonl; other rows that a killed run wrote after the last of them are taken back."""
        rows = [Iteration.from_row(row) for row in folder.read("checkpoints")]
        warm = [row for row in rows if row.iteration == WARM_START]
        past = cls(warm[-1] if warm else None, [row for row in rows if row.iteration != WARM_START])
        past._take_back(folder)
        return past

    def version(self, *, nothing: int) -> int:
        """The version of the policy that the next iteration starts from; ``nothing`` where nothing was published."""
        if self.iterations:
            return self.iterations[-1].trained.policy.version
        return nothing if self.warm is None else self.warm.trained.policy.version

    def forget_last(self, folder: RunFolder) -> None:
        """The last iteration was in vain: its version is gone."""
        self.iterations.pop()
        folder.truncate_after("checkpoints", self._last)
        self._take_back(folder)

    def forget_warm(self, folder: RunFolder) -> None:
        """The warm start was in vain: its version is gone, and nothing came after it."""
        self.warm = None
        folder.truncate_after("checkpoints", self._last)
        self._take_back(folder)

    @property
    def _last(self) -> int:
        if self.iterations:
            return self.iterations[-1].iteration
        return WARM_START - 1 if self.warm is None else WARM_START

    def _take_back(self, folder: RunFolder) -> None:
        folder.truncate_after("metrics", self._last)
        folder.truncate_after("judgments", self._last)


def warm_numbers(warm: Iteration | None) -> dict[str, float]:
    """Metrics of a warm start, for the row of the first iteration."""
    if warm is None:
        return {}
    numbers: dict[str, float] = {"steps": warm.trained.gradient_steps, "tokens": warm.trained.tokens}
    numbers |= {name: warm.trained.metrics[name] for name in ("answers", "loss") if name in warm.trained.metrics}
    return {f"train/warm_start_{name}": value for name, value in numbers.items()}


def earnings(history: Sequence[Iteration], metrics: Sequence[JsonDict]) -> dict[int, float]:
    """Mean P&L of each version in the windows of the iteration that it played, in game dollars, from the rows
    of metrics.jsonl."""
    earned: dict[int, float] = {}
    by_iteration = {row.get("iteration"): row.get("play/pnl") for row in metrics}
    player = 0
    for done in history:
        pnl = by_iteration.get(done.iteration)
        if pnl is not None and player not in earned:
            earned[player] = pnl
        player = done.trained.policy.version
    return earned


def total_usage(history: Sequence[Iteration]) -> JudgeUsage:
    """Adds up the cost of judging over all iterations; the price is unknown as soon as one of them is."""
    return summed([i.usage for i in history])


def summed(parts: Sequence[JudgeUsage]) -> JudgeUsage:
    """Adds up the cost of several parts of a run; the price is unknown as soon as one's is."""
    costs = [part.cost_usd for part in parts]
    return JudgeUsage(
        calls=sum(part.calls for part in parts),
        cache_hits=sum(part.cache_hits for part in parts),
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        completion_tokens=sum(part.completion_tokens for part in parts),
        cost_usd=None if None in costs else sum(c for c in costs if c is not None),
    )


def spent(before: JudgeUsage, after: JudgeUsage) -> JudgeUsage:
    """Subtracts two readings of a judge's running total."""
    unknown = before.cost_usd is None or after.cost_usd is None
    return JudgeUsage(
        calls=after.calls - before.calls,
        cache_hits=after.cache_hits - before.cache_hits,
        prompt_tokens=after.prompt_tokens - before.prompt_tokens,
        completion_tokens=after.completion_tokens - before.completion_tokens,
        cost_usd=None if unknown else (after.cost_usd or 0.0) - (before.cost_usd or 0.0),
    )


def spending(usage: JudgeUsage) -> str:
    """Words for the cost of judging so far; empty where it asked nobody and found nothing kept."""
    if not usage.calls and not usage.cache_hits:
        return ""
    cost = "cost unknown" if usage.cost_usd is None else f"${usage.cost_usd:,.4f}"
    return f"{counted(usage.calls, 'call')}, {usage.cache_hits} cached, {cost}"
