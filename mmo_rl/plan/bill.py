"""Bills of plans: dollars and hours by backend, each with its formula."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from mmo_rl.plan.count import Call, Counts

BackendName = Literal["local CPU", "own GPU", "serverless", "export"]

FORMULAS = {
    "trajectories": "available x (1 - dropout), never below min_agents; dropout = clip(1 - target / available, 0, max)",
    "judge calls": "ceil(members / max_per_window) a group; free: cached already, or shared with an earlier job",
    "judge tokens": "the rendered prompts + 60 an explained score (the answers are an estimate)",
    "trained tokens": "answers whose score differs from the mean of their group x epochs; fewer as a policy settles",
    "judge $": "(prompt tokens x prompt price + answer tokens x answer price) / 10^6, of the calls that are paid",
    "hours": "(6 x parameters x training tokens + 2 x parameters x playing tokens) / TFLOP/s of each device +"
    " paid calls x s a call / concurrency",
    "training $": "CPU: 0; GPU: hours x plan.gpu_usd_per_hour; serverless: (prompt + trained tokens) x price / 10^6",
    "playing $": "CPU and GPU: in the hours; serverless: prompt tokens x price + answer tokens x price, / 10^6",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """Of a base model at the serverless backend, US dollars a million tokens (None: unknown), as of ``date``."""

    prompt: float | None
    answer: float | None
    training: float | None
    date: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rates:
    """Speed and cost of a machine; None: unknown."""

    cpu_tflops: float
    gpu_tflops: float
    gpu_usd_per_hour: float | None
    judge_call_s: float
    judge_concurrency: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One job's plan: plain values that can be sent between processes. ``changes`` are what the same job would use with
    one more override; ``notes`` say how tokens were counted and what is not known. ``plays_on`` is the device of the
    policy where that is another than its trainer's (None: the same)."""

    model: str
    judge: str | None
    parameters_b: float | None
    backend: BackendName
    counts: Counts
    prices: Prices
    rates: Rates
    judge_price_date: str | None
    judge_counted: bool
    policy_counted: bool
    format: Literal["table", "json"]
    changes: tuple[tuple[str, Counts], ...]
    notes: tuple[str, ...]
    plays_on: Literal["cpu", "cuda"] | None = None


@dataclass(frozen=True, slots=True)
class Backend:
    """Cost and time of training and playing on one backend; None: unknown."""

    name: BackendName
    training_usd: float | None
    playing_usd: float | None
    hours: float | None


@dataclass(frozen=True, slots=True)
class Bill:
    """Bill of one job on the backend that it asks for; None: unknown. ``calls`` are all that the judge answers,
    ``paid`` those that are asked for (the others are cached, or shared with an earlier job)."""

    calls: int
    paid: int
    judge_prompt_tokens: int
    judge_answer_tokens: int
    judge_usd: float | None
    training_usd: float | None
    playing_usd: float | None
    hours: float | None
    backends: tuple[Backend, ...]

    @property
    def known_usd(self) -> float:
        """The sum of what is known."""
        return sum(part or 0.0 for part in (self.judge_usd, self.training_usd, self.playing_usd))

    @property
    def unknown(self) -> tuple[str, ...]:
        """The parts whose price is not known."""
        parts = {"judge": self.judge_usd, "training": self.training_usd, "playing": self.playing_usd}
        return tuple(name for name, value in parts.items() if value is None)


def bill(plan: Plan, counts: Counts | None = None, *, kept: set[str] | None = None) -> Bill:
    """The bill of a job; ``kept`` holds the keys of judgments that earlier jobs of the sweep have paid for, and gets
    those of this one."""
    used = plan.counts if counts is None else counts
    known = kept if kept is not None else set()
    paid: list[Call] = []
    for call in used.calls:
        if not call.kept and call.key not in known:
            paid.append(call)
            known.add(call.key)
    options = backends(plan, used, paid=len(paid))
    chosen = next((b for b in options if b.name == plan.backend), Backend("export", 0.0, 0.0, None))
    costs = [call.usd for call in paid]
    return Bill(
        calls=len(used.calls),
        paid=len(paid),
        judge_prompt_tokens=round(sum(call.prompt_tokens for call in paid)),
        judge_answer_tokens=round(sum(call.completion_tokens for call in paid)),
        judge_usd=None if None in costs else sum(c for c in costs if c is not None),
        training_usd=chosen.training_usd,
        playing_usd=chosen.playing_usd,
        hours=_judging(plan.rates, len(paid)) if plan.backend == "export" else chosen.hours,
        backends=tuple(options),
    )


def backends(plan: Plan, counts: Counts, *, paid: int) -> list[Backend]:
    """The three places that a policy can be trained and played at."""
    trained = counts.trained_tokens + counts.context_tokens + counts.warm_tokens
    played = counts.play_prompt_tokens + counts.play_answer_tokens
    rates, prices = plan.rates, plan.prices

    def hours(name: BackendName) -> float | None:
        if plan.parameters_b is None:
            return None
        speed = {"cpu": rates.cpu_tflops, "cuda": rates.gpu_tflops}
        trains = "cpu" if name == "local CPU" else "cuda"
        plays = plan.plays_on if plan.plays_on is not None and name == plan.backend else trains
        passes = 6 * trained / speed[trains] + 2 * played / speed[plays]
        return passes * plan.parameters_b * 1e9 / 1e12 / 3600 + _judging(rates, paid)

    gpu = hours("own GPU")
    rent = None if gpu is None or rates.gpu_usd_per_hour is None else gpu * rates.gpu_usd_per_hour
    return [
        Backend("local CPU", 0.0, 0.0, hours("local CPU")),
        Backend("own GPU", rent, 0.0, gpu),
        Backend(
            "serverless",
            _priced((trained, prices.training)),
            _priced((counts.play_prompt_tokens, prices.prompt), (counts.play_answer_tokens, prices.answer)),
            None,
        ),
    ]


def _judging(rates: Rates, paid: int) -> float:
    return paid * rates.judge_call_s / rates.judge_concurrency / 3600


def _priced(*parts: tuple[int, float | None]) -> float | None:
    total = 0.0
    for tokens, price in parts:
        if tokens:
            if price is None:
                return None
            total += tokens * price / 1e6
    return total


@dataclass(frozen=True, slots=True)
class Saving:
    """Saving of a change over all jobs, from a second plan: dollars that are known, and judge calls."""

    change: str
    usd: float
    calls: int
    share: float
    """Of the dollars, or where nothing costs any, of the calls."""


def savings(plans: Sequence[Plan]) -> list[Saving]:
    """Lists the changes that make these jobs cheaper, the largest saving first."""
    kept: set[str] = set()
    now = [bill(plan, kept=kept) for plan in plans]
    usd, calls = sum(b.known_usd for b in now), sum(b.paid for b in now)
    found = []
    names = set.intersection(*(set(dict(plan.changes)) for plan in plans)) if plans else set()
    for name in sorted(names):
        kept = set()
        changed = [bill(plan, dict(plan.changes)[name], kept=kept) for plan in plans]
        found.append(_saving(name, usd, calls, sum(b.known_usd for b in changed), sum(b.paid for b in changed)))
    return sorted((s for s in found if s.usd > 0.005 or s.calls > 0), key=lambda s: (-s.usd, -s.calls, s.change))


def sharing(plans: Sequence[Plan]) -> Saving | None:
    """Saving by judgments that jobs of a sweep share; None where they share none."""
    alone = [bill(plan) for plan in plans]
    kept: set[str] = set()
    shared = [bill(plan, kept=kept) for plan in plans]
    if sum(b.paid for b in shared) == sum(b.paid for b in alone):
        return None
    return _saving(
        "sharing judgments across jobs",
        sum(b.judge_usd or 0.0 for b in alone),
        sum(b.paid for b in alone),
        sum(b.judge_usd or 0.0 for b in shared),
        sum(b.paid for b in shared),
    )


def _saving(name: str, usd: float, calls: int, usd_changed: float, calls_changed: int) -> Saving:
    share = 1 - usd_changed / usd if usd > 0 else 1 - calls_changed / calls if calls else 0.0
    return Saving(name, usd - usd_changed, calls - calls_changed, share)


def expected(plan: Plan) -> dict[str, float | int | None]:
    """Expected values of the run's summary.json, by its own keys; None: unknown."""
    due = bill(plan)
    values: Mapping[str, float | int | None] = {
        "data/windows_used": plan.counts.windows,
        "data/trajectories_used": plan.counts.trajectories,
        "data/dropout_rate": plan.counts.dropout_rate,
        "judge/calls": due.paid,
        "judge/cache_hits": due.calls - due.paid,
        "judge/prompt_tokens": due.judge_prompt_tokens,
        "judge/completion_tokens": due.judge_answer_tokens,
        "judge/cost_usd": due.judge_usd,
        "train/tokens_selected": None if plan.backend == "export" else plan.counts.selected_tokens,
        "train/tokens": 0 if plan.backend == "export" else plan.counts.trained_tokens,
        "time/total_s": None if due.hours is None else due.hours * 3600,
    }
    return dict(values)
