"""Printed table of a readiness check: a row a window, the totals, and the result with the next command."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from mmo_rl.sampler.base import Readiness, ReadinessReport, RecordedWindow, StepQuality
from mmo_rl.wording import counted

if TYPE_CHECKING:
    from rich.table import Table

    from mmo_rl.terminal import Terminal

MAX_ROWS = 40
MAX_WORDS = 5
"""Unknown names of actions that are listed."""
CLOCK_FAULTS = {
    "ends_before_it_starts": "trajectories end before they start",
    "outside_its_span": "trajectories have steps before their start or after their end",
    "out_of_order": "trajectories have steps that go back in time",
    "in_the_future": "trajectories lie in the future",
}
"""Descriptions of the fields of `mmo_rl.sampler.base.ClockFaults`."""


def show(report: ReadinessReport, next_command: str, console: Terminal) -> None:
    """Prints the table, the totals and the result; of many windows the newest have a row."""
    if report.per_window:
        console.print(_table(report.per_window))
    for line in lines(report):
        console.say(line)
    if report.ready:
        console.say(f"READY. Next: {next_command}")
    else:
        console.print("NOT READY")


def _table(checked: Sequence[Readiness]) -> Table:
    """Builds the table of windows."""
    from rich.table import Table

    hidden = max(0, len(checked) - MAX_ROWS)
    caption = (
        f"{counted(hidden, 'older window is', 'older windows are')} not shown (check.format=json lists all)"
        if hidden
        else None
    )
    table = Table(box=None, padding=(0, 1, 0, 0), caption=caption, caption_justify="left")
    table.add_column("window (UTC)", no_wrap=True)
    failures = any(window.failed_share for window in checked)  # the column costs room on a narrow terminal
    for heading in ("agents", "traj.", "steps", "P&L", *(["fail"] if failures else []), "calls", "logp"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("outc.", no_wrap=True)
    table.add_column("ready")
    for window in checked[-MAX_ROWS:]:
        table.add_row(
            window.window_id,
            str(window.agents),
            str(window.trajectories),
            f"{window.steps:,}",
            _range(window),
            *(["-" if window.failed_share is None else f"{window.failed_share:.0%}"] if failures else []),
            "-" if window.trainable_calls is None else f"{window.trainable_calls:,}",
            "-" if not window.trainable_calls else f"{(window.with_logprobs or 0) / window.trainable_calls:.0%}",
            "yes" if window.has_outcomes else "no",
            window.reason or "yes",
        )
    return table


def lines(report: ReadinessReport) -> list[str]:
    """Lists the findings about all windows together; unremarkable ones are left out."""
    windows, ready = len(report.per_window), len(report.usable)
    said = [
        f"{ready} of {counted(windows, 'window')} ready ({report.windows_ready_with_outcomes} with outcomes),"
        f" {report.trajectories_ready:,} of {counted(report.trajectories, 'trajectory', 'trajectories')},"
        f" {counted(report.steps, 'step')}"
    ]
    said += _recorded(report.recorded_windows)
    if windows:
        of = " of one role" if any(window.roles is not None for window in report.per_window) else ""
        least, counts = report.at_least_agents.keys(), report.at_least_agents.values()
        said.append(
            f"complete windows with at least {' / '.join(map(str, least))} agents{of}: {' / '.join(map(str, counts))}"
        )
    ids = report.window_ids
    if ids.mapped or ids.derived:
        examples = ", ".join(f"{name} x {count}" for name, count in ids.examples.items())
        said.append(
            f"window ids: {ids.mapped} in another format were mapped, {ids.derived} were re-derived from the"
            f" start time ({examples})"
        )
    if report.quality is not None:
        said += _quality(report.quality)
    if mixed := sum(window.mixes_insiders for window in report.per_window):
        said.append(
            f"{counted(mixed, 'window compares', 'windows compare')} insiders with others: insiders know more, which"
            " the judge rewards as skill; sampler.group_by=window_role compares agents within their role"
        )
    if report.outside_lookback is not None:
        said.append(str(report.outside_lookback))
    said += [f"left out: {count} x {reason}" for reason, count in sorted(report.rejected.items())]
    if report.rejected and report.rejected_in:
        said.append(f"each of them is in {report.rejected_in}")
    if ready and not report.windows_ready_with_outcomes:
        said.append("no outcomes: judge=oracle needs them (task=outcomes derives them from the recorded prices)")
    return said


def _quality(quality: StepQuality) -> list[str]:
    """Lists the findings about the recorded steps."""
    if not quality.steps:
        return []
    said = [
        f"steps with LLM calls {_percent(quality.share_of_steps_with_calls)}, calls with a prompt"
        f" {_percent(quality.share_of_calls_with_prompt)}, actions with a result"
        f" {_percent(quality.share_of_actions_with_result)}"
    ]
    if unknown := sum(quality.unknown_actions.values()):
        most = sorted(quality.unknown_actions.items(), key=lambda pair: -pair[1])
        listed = ", ".join(f"{name} ({count:,})" for name, count in most[:MAX_WORDS])
        more = f" and {len(most) - MAX_WORDS} more" if len(most) > MAX_WORDS else ""
        said.append(
            f"{unknown / quality.trades:.0%} of the trades are in words that the oracle does not know: {listed}{more};"
            f" say what each means: '+vocabulary.actions.{most[0][0]}=open' (open, long, short, close, wait or post)"
        )
    if quality.duplicates:
        said.append(
            f"duplicates: {counted(quality.duplicates, 'trajectory repeats', 'trajectories repeat')} another one under"
            " an id of its own"
        )
    said += [f"clock: {number:,} {CLOCK_FAULTS[name]}" for name, number in asdict(quality.clock).items() if number]
    if quality.logprobs_without_ids:
        calls = counted(quality.logprobs_without_ids, "LLM call has", "LLM calls have")
        said.append(f"{calls} logprobs without token ids, which training cannot use: have the server return both")
    if quality.trainable_calls and not quality.with_logprobs:
        said.append(
            "no LLM call has token ids with logprobs: the starting policy scores them, or training is plain REINFORCE"
        )
    return said


def _recorded(recorded: Sequence[RecordedWindow]) -> list[str]:
    """Lists the windows as they were recorded, where trajectories were sliced; elsewhere the table shows them."""
    crossing = [window for window in recorded if window.crossing]
    if not crossing:
        return []
    agents = [str(window.agents) for window in recorded[-MAX_ROWS:]]
    listed = " and ".join(filter(None, (", ".join(agents[:-1]), agents[-1])))
    said = [f"before slicing: {counted(len(recorded), 'window')} recorded, of {listed} agents"]
    for window in crossing[-MAX_ROWS:]:
        count = f"{window.crossing:,}"
        count = f"all {count}" if window.crossing == window.trajectories else count
        said.append(f"{count} trajectories of {window.window_id} cross {window.end[-5:]} and are sliced")
    return said


def _range(window: Readiness) -> str:
    """Formats the range of P&L in game dollars."""
    if window.pnl_low is None or window.pnl_high is None:
        return "-"
    if window.pnl_low == window.pnl_high:
        return f"{window.pnl_low:+,.0f}"
    return f"{window.pnl_low:+,.0f}..{window.pnl_high:+,.0f}"


def _percent(share: float | None) -> str:
    """Formats a share in [0, 1] as a percentage."""
    return "-" if share is None else f"{share:.1%}"
