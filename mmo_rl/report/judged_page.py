"""Tables of the judge's quality, from summary.json and judgments.jsonl."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mmo_rl.numbers import finite_number
from mmo_rl.report.judging import agreement, by_group
from mmo_rl.report.numbers import MINUS, MISSING

if TYPE_CHECKING:
    from mmo_rl.report.run_folder import RunFolder
    from mmo_rl.terminal import Terminal

MAX_ROWS = 40


@dataclass(frozen=True, slots=True)
class JudgedLine:
    """One number of the judge, what it means, and its 95 % interval where there is one."""

    label: str
    note: str
    value: str
    interval: str = ""


TOLD = (
    ("oracle_tau", "agreement with the oracle", "who decided well by what came true", "number"),
    ("pnl_tau", "agreement with P&L", "who ended with more, luck included", "number"),
    ("repeat_spread", "test-retest spread", "range of a trajectory's scores when judged again", "number"),
    ("panel_disagreement", "disagreement of the panel", "range of a trajectory's scores over its judges", "number"),
    ("position_effect", "position effect", "rise of a score from first to last place in a prompt", "signed"),
    ("unscored_share", "unscored", "of all trajectories", "share"),
    ("zero_variance_share", "windows without signal", "all scores equal", "share"),
    ("canary_score", "canaries' score", "known-bad answers slipped in; 0 is right", "number"),
    ("canary_beat", "real trajectories that a canary beat", "0 is right", "share"),
    ("canary_shift", "canaries' effect on other scores", "mean distance with one in the group", "number"),
    ("condensed", "condensed", "trajectories shortened to fit the prompt", "count"),
)


def judged_lines(summary: Mapping[str, object]) -> list[JudgedLine]:
    """Lines of the numbers that the summary has; those of a panel's judges too, under their names."""
    found = []
    for key, label, note, form in TOLD:
        names = [n for n in summary if n == f"judge/{key}" or (n.startswith("judge/") and n.endswith(f"/{key}"))]
        for name in sorted(names, key=lambda n: (n.count("/"), n)):
            if summary[name] is not None:
                owner = name.removeprefix("judge/").removesuffix(key).rstrip("/")
                found.append(JudgedLine(f"{owner}: {label}" if owner else label, note, *_shown(summary, name, form)))
    return found


def _shown(summary: Mapping[str, object], name: str, form: str) -> tuple[str, str]:
    low, high, error = (finite_number(summary.get(name + end)) for end in ("_low", "_high", "_se"))
    interval = ""
    if low is not None and high is not None:
        interval = f"{_figure(low, 'number')} to {_figure(high, 'number')}"
    elif error is not None:
        interval = f"standard error {_figure(error, 'number')}"
    return _figure(finite_number(summary[name]) or 0.0, form), interval


def _figure(value: float, form: str) -> str:
    if form == "count":
        return f"{value:,.0f}"
    if form == "share":
        return f"{value:.1%}"
    return f"{value:{'+' if form == 'signed' else ''}.3f}".replace("-", MINUS)


def judged_sentence(summary: Mapping[str, object]) -> str | None:
    """The judge's agreement in a line for the terminal; None where neither was measured."""
    said = [
        f"{words} {value}{f' [{interval}]' if interval else ''}"
        for key, words in (("judge/oracle_tau", "with the oracle"), ("judge/pnl_tau", "with P&L"))
        if summary.get(key) is not None
        for value, interval in [_shown(summary, key, "number")]
    ]
    return f"The judge's order agrees (Kendall's tau-b inside windows) {', '.join(said)}." if said else None


def about_judge(config: Mapping[str, object] | None) -> str:
    """Note on the numbers of the oracle as a judge; empty for other judges."""
    judge = (config or {}).get("judge")
    target = str(judge.get("_target_", "")) if isinstance(judge, Mapping) else ""
    if target.endswith(".OracleJudge"):
        return "The judge is the oracle itself, so its agreement with the oracle is 1 and left out."
    return ""


def print_judged(console: Terminal, folder: RunFolder) -> None:
    """A row a window, the newest where there are many, then how good the judge was; from the folder's files alone."""
    from rich.table import Table

    groups = list(by_group(folder.read("judgments")).values())
    if not groups:
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    columns = ("window (UTC)", "members", "scores", "unscored", "tau oracle", "tau P&L")
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right", no_wrap=True)
    for group in groups[-MAX_ROWS:]:
        scores = [row["score"] for row in group if row["score"] is not None]
        taus = [agreement(group, other, seed=0) for other in ("oracle", "pnl")]
        table.add_row(
            str(group[0]["group_id"]),
            str(len(group)),
            f"{min(scores):.2f} to {max(scores):.2f}" if scores else MISSING,
            str(len(group) - len(scores)),
            *(MISSING if tau is None else _figure(tau.estimate, "signed") for tau in taus),
        )
    console.print(table)
    if len(groups) > MAX_ROWS:
        console.print(f"and {len(groups) - MAX_ROWS} before them")
    summary = folder.summary() or {}
    for line in judged_lines(summary):
        interval = f" [{line.interval}]" if line.interval else ""
        console.say(f"{line.label}: {line.value}{interval}")
    if about := about_judge(folder.config()):
        console.say(about)
    if summary:
        cost = summary.get("judge/cost_usd")
        console.print(
            f"{summary.get('judge/calls'):,} calls, {summary.get('judge/cache_hits'):,} cached, "
            + ("cost unknown" if cost is None else f"${cost:,.4f}"),
        )
    console.print()
    for label, name in (("judgments", "judgments.jsonl"), ("report", "report.html")):
        if (folder.path / name).exists():
            console.say(f"{label:<11}{folder.path / name}")
