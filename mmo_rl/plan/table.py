"""Table of plans: a row a job and the total, the backends, the formulas, and the changes that would save."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from mmo_rl.plan.bill import FORMULAS, Bill, Plan, Saving, bill, savings, sharing
from mmo_rl.wording import counted, duration

if TYPE_CHECKING:
    from mmo_rl.terminal import Terminal

MAX_SAVINGS = 4
MAX_WIDTH = 180
HEADINGS = (
    "job",
    "windows",
    "traj.",
    "dropout",
    "judge calls",
    "judge tokens",
    "trained",
    "judge $",
    "train $",
    "play $",
    "total $",
    "hours",
)


def billed(plans: Sequence[Plan]) -> list[Bill]:
    """The jobs' bills in their order: a judgment that two jobs share is paid by the first."""
    kept: set[str] = set()
    return [bill(plan, kept=kept) for plan in plans]


def show(jobs: Sequence[tuple[str, Plan]], console: Terminal) -> None:
    from rich.table import Table

    plans = [plan for _, plan in jobs]
    bills = billed(plans)
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == "job" else "right", no_wrap=True)
    for (name, plan), due in zip(jobs, bills, strict=True):
        table.add_row(*row(_short_name(name), plan, due))
    if len(jobs) > 1:
        table.add_section()
        table.add_row(*total_row(plans, bills), style="bold")
    # A terminal that is too narrow breaks the lines; numbers cut short would be worse.
    console.widened(MAX_WIDTH).print(table)
    for line in lines(jobs, bills):
        console.say(line)


def row(name: str, plan: Plan, due: Bill) -> list[str]:
    """One job's numbers, in the order of `HEADINGS`; ``~`` marks an estimate, ``?`` what is not known."""
    counts = plan.counts
    return [
        name,
        f"{counts.windows:,}",
        f"{counts.trajectories:,}",
        f"{counts.dropout_rate:.0%}",
        _calls(due),
        _tokens(plan, due),
        _about([plan]) + short(counts.trained_tokens),
        usd(due.judge_usd),
        usd(due.training_usd),
        usd(due.playing_usd),
        total(due.known_usd, due.unknown),
        "?" if due.hours is None else hours(due.hours),
    ]


def _about(plans: Sequence[Plan]) -> str:
    """Marks trained tokens as an estimate where they are not counted, every one of them."""
    exact = all(plan.policy_counted and plan.counts.windows_read == plan.counts.windows for plan in plans)
    return "" if exact else "~"


def total_row(plans: Sequence[Plan], bills: Sequence[Bill]) -> list[str]:
    unknown = [part for due in bills for part in due.unknown]
    judged = [due.judge_usd for due in bills]
    trained, played = [due.training_usd for due in bills], [due.playing_usd for due in bills]
    times = [due.hours for due in bills]
    paid, calls = sum(due.paid for due in bills), sum(due.calls for due in bills)
    tokens = sum(due.judge_prompt_tokens + due.judge_answer_tokens for due in bills)
    return [
        "total",
        f"{sum(plan.counts.windows for plan in plans):,}",
        f"{sum(plan.counts.trajectories for plan in plans):,}",
        "",
        f"{paid:,}" + (f" + {calls - paid:,} free" if calls > paid else ""),
        f"~{short(tokens)}" if tokens else "0",
        _about(plans) + short(sum(plan.counts.trained_tokens for plan in plans)),
        _sum(judged).removeprefix("$"),
        _sum(trained).removeprefix("$"),
        _sum(played).removeprefix("$"),
        total(sum(due.known_usd for due in bills), unknown),
        "?" if None in times else hours(sum(t for t in times if t is not None)),
    ]


def lines(jobs: Sequence[tuple[str, Plan]], bills: Sequence[Bill]) -> list[str]:
    """Everything under the table."""
    plans = [plan for _, plan in jobs]
    said = ["", "By backend (* asked for):", *_backends(plans, bills), "", "How it is reckoned:"]
    said += [f"  {name:<15}{formula}" for name, formula in FORMULAS.items()]
    said += [f"  {note}" for note in _unique(note for plan in plans for note in plan.notes)]
    shared, found = sharing(plans) if len(plans) > 1 else None, savings(plans)
    if shared is not None or found:
        said += ["", "What saves:"]
        said += [f"  {_said(shared)} (reckoned with above)"] if shared is not None else []
        said += [f"  {_said(saving)}" for saving in found[:MAX_SAVINGS]]
    else:
        said += ["", "None of the changes that were planned too would save anything."]
    return said


def as_json(jobs: Sequence[tuple[str, Plan]]) -> dict[str, object]:
    """The whole plan as plain values; unknown is null."""
    plans = [plan for _, plan in jobs]
    bills = billed(plans)
    shared = sharing(plans) if len(plans) > 1 else None
    return {
        "jobs": [_job(name, plan, due) for (name, plan), due in zip(jobs, bills, strict=True)],
        "total": {
            "judge_calls": sum(due.paid for due in bills),
            "judge_calls_free": sum(due.calls - due.paid for due in bills),
            "usd_known": sum(due.known_usd for due in bills),
            "usd_unknown": _unique(part for due in bills for part in due.unknown),
            "hours": _known_sum([due.hours for due in bills]),
        },
        "sharing": None if shared is None else asdict(shared),
        "savings": [asdict(saving) for saving in savings(plans)],
        "formulas": FORMULAS,
    }


def _job(name: str, plan: Plan, due: Bill) -> dict[str, object]:
    counts = asdict(plan.counts)
    del counts["calls"]
    told = asdict(due)
    return {
        "job": name,
        "model": plan.model,
        "judge": plan.judge,
        "backend": plan.backend,
        **counts,
        "judge_calls": told.pop("paid"),
        "judge_calls_free": due.calls - due.paid,
        **{key: value for key, value in told.items() if key != "calls"},
        "usd_known": due.known_usd,
        "usd_unknown": list(due.unknown),
        "judge_tokens_counted": plan.judge_counted,
        "policy_tokens_counted": plan.policy_counted,
        "prices": asdict(plan.prices) | {"judge_date": plan.judge_price_date},
        "rates": asdict(plan.rates),
        "notes": list(plan.notes),
    }


# --- words ------------------------------------------------------------------------------------------------------------


def _short_name(overrides: str) -> str:
    """``sampler.max_dropout=0.3`` as ``max_dropout=0.3``."""
    return " ".join(
        f"{key.rpartition('.')[2]}{equals}{value}"
        for key, equals, value in (override.partition("=") for override in overrides.split(" "))
    )


def _calls(due: Bill) -> str:
    free = due.calls - due.paid
    return f"{due.paid:,}" + (f" + {free:,} free" if free else "")


def _tokens(plan: Plan, due: Bill) -> str:
    if not due.paid:
        return "0"
    about = "" if plan.judge_counted and plan.counts.windows_read == plan.counts.windows else "~"
    return f"{about}{short(due.judge_prompt_tokens)} + ~{short(due.judge_answer_tokens)}"


def _backends(plans: Sequence[Plan], bills: Sequence[Bill]) -> list[str]:
    said = []
    for place, name in enumerate(("local CPU", "own GPU", "serverless")):
        options = [due.backends[place] for due in bills]
        asked = "*" if any(plan.backend == name for plan in plans) else " "
        times = [option.hours for option in options]
        took = "? h (its queue is not known)" if name == "serverless" else "? h"
        if None not in times:
            took = f"~{duration(3600 * sum(t for t in times if t is not None))}".replace("~under", "under")
        cost = f"training {_sum([o.training_usd for o in options])}, playing {_sum([o.playing_usd for o in options])}"
        said.append(f"  {asked} {name:<11}{took:<12} {cost}")
    return said


def _said(saving: Saving) -> str:
    if saving.usd > 0.005:
        return f"{saving.change} saves ${saving.usd:,.2f} ({saving.share:.0%}), {counted(saving.calls, 'judge call')}"
    return f"{saving.change} saves {counted(saving.calls, 'judge call')} ({saving.share:.0%})"


def short(number: float) -> str:
    """Short form of a number: 1234567 is 1.23M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    return f"{number:.0f}"


def usd(value: float | None) -> str:
    """Dollars; ``unknown`` where the price is, for that is not 0."""
    return "unknown" if value is None else f"{value:,.2f}"


def total(known: float, unknown: Sequence[str]) -> str:
    return f"{known:,.2f}" + (f" + unknown ({', '.join(_unique(unknown))})" if unknown else "")


def hours(value: float) -> str:
    """Hours as an estimate: ``~3.2``, ``<0.01``."""
    if 0 < value < 0.01:
        return "<0.01"
    return f"~{value:,.0f}" if value >= 10 else f"~{value:.2g}"


def _sum(values: Sequence[float | None]) -> str:
    known = sum(v for v in values if v is not None)
    if None not in values:
        return f"${known:,.2f}"
    return "unknown" if not known else f"${known:,.2f} + unknown"


def _known_sum(values: Sequence[float | None]) -> float | None:
    return None if None in values else sum(v for v in values if v is not None)


def _unique(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
