"""Task outcomes: derives and stores the outcomes of recent complete windows from the prices in recorded play."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from rich.table import Table

from mmo_rl.command_line import command_line
from mmo_rl.commands.base import Command, Context
from mmo_rl.config.tasks import OutcomesOptions
from mmo_rl.database.base import Tracked
from mmo_rl.errors import ConfigError, SourceError
from mmo_rl.report.progress import Stages
from mmo_rl.sampler.lookback import older_windows
from mmo_rl.sampler.origins import origin_lines
from mmo_rl.terminal import Terminal
from mmo_rl.types import Selection
from mmo_rl.wording import counted

MAX_ROWS = 40


async def run(context: Context, options: OutcomesOptions) -> None:
    """Stores outcomes of every complete window that `sampler.lookback_hours` reaches.

    Those of final windows are kept, unless ``recompute``. The same command again stores the same rows. Raises
    `ConfigError` where the source would not read the stored rows.
    """
    _refuse_if_unread(context)
    components = context.components
    source, sampler, tracker = components.source, components.sampler, components.outcomes
    # Windows of several hours join the outcomes of their hours.
    whole = sampler.rules.window_hours % 1 == 0
    query = replace(sampler.query(None), window_hours=1.0 if whole else sampler.rules.window_hours)
    recorded = await source.windows(query)
    if not recorded:
        raise SourceError(
            "no window has been recorded", hint="mmo-rl task=collect records some, mmo-rl task=import copies some"
        )
    for line in await origin_lines(source, [stats.everything for stats in recorded]):
        context.console.say(line)
    older = await older_windows(source, query, recorded, sampler.rules)
    complete = [stats for stats in recorded if stats.complete]
    final = set() if options.recompute else await tracker.final(stats.window for stats in complete)
    asked = [stats for stats in complete if stats.window.id not in final]
    found: list[Tracked] = []
    with Stages(console=context.console, iterations=1) as stages, stages.stage("outcomes") as advance:
        advance(0, len(asked))
        everything = tuple(stats.everything for stats in asked)
        async for group in source.groups(Selection(0, everything, len(asked), 0, 0.0, 0, {})):
            found.append(await tracker.track(group.window, group.members, recompute=options.recompute))
            advance(len(found), len(asked))
        resolved = await tracker.resolve_late()
    show(context.console, found)
    lines = [
        f"{_count(len(final), 'final window')} kept (outcomes.recompute=true derives again)" if final else "",
        f"{_count(unfinished, 'window')} not over yet" if (unfinished := len(recorded) - len(complete)) else "",
        str(older) if older is not None else "",
        f"{_count(resolved, 'open question')} answered since" if resolved else "",
        *(f"{count} x {reason}" for reason, count in sorted(source.rejected.items())),
    ]
    for line in filter(None, lines):
        context.console.say(line)
    context.console.say(f"Stored in {components.database.name}. Look at it: {check_command(context.overrides)}")


def show(console: Terminal, found: Sequence[Tracked]) -> None:
    """Prints a row a window, the newest where there are many, and the counts of prices that make no outcome."""
    if not found:
        return
    table = Table(box=None, padding=(0, 2, 0, 0))
    for column in ("window (UTC)", "tickers", "questions", "outcomes"):
        table.add_column(column, justify="right" if column in ("tickers", "questions") else "left", no_wrap=True)
    table.columns[0].min_width = 16  # the id of a window is shown whole, the outcomes may be cut
    words = {
        "kept": "final, kept",
        "game": "all recorded already, by who played it",
        "none": "none: no prices recorded",
    }
    for tracked in found[-MAX_ROWS:]:
        moves = "  ".join(f"{t.ticker} {t.change_pct:+.1f}%" for t in tracked.tickers[:4])
        moves += f"  and {len(tracked.tickers) - 4} more" if len(tracked.tickers) > 4 else ""
        answered = Counter(q.outcome for q in tracked.questions)
        questions = "  ".join(f"{count} {outcome}" for outcome, count in sorted(answered.items()))
        told = "  ".join(filter(None, (moves, questions))) or words.get(tracked.state, "")
        table.add_row(tracked.window.id, str(len(tracked.tickers)), str(len(tracked.questions)), told)
    console.print(table)
    skipped: Counter[str] = Counter()
    for tracked in found:
        skipped.update(tracked.skipped)
    hidden = len(found) - MAX_ROWS
    if hidden > 0:
        console.print(f"and {counted(hidden, 'older window')}")
    rows = sum(len(t.tickers) + len(t.questions) for t in found)
    stored = sum(tracked.state == "stored" for tracked in found)
    console.print(f"{_count(rows, 'outcome')} of {_count(stored, 'window')} stored")
    for reason, count in sorted(skipped.items()):
        console.say(f"left out: {count} {reason}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def check_command(overrides: Sequence[str]) -> str:
    """Returns the command that checks the windows of these overrides."""
    kept = [o for o in overrides if o.lstrip("+").partition("=")[0].partition(".")[0] not in ("task", "outcomes")]
    return command_line("task=check", *kept)


def _refuse_if_unread(context: Context) -> None:
    """Raises `ConfigError` where the source would not read the outcomes: it reads those beside its play alone."""
    if not context.settings.reads_database:
        raise ConfigError(
            "outcomes are stored in a database, and this source reads them from its files",
            hint="bring the play into the database first: mmo-rl task=import source=jsonl source.path=PATH, then"
            " mmo-rl task=outcomes",
        )
    if not context.settings.reads_written_database:
        raise ConfigError(
            "the outcomes would be stored in another database than the one the source reads, and never be found",
            hint="leave database=... out, so that they are stored beside the play; where that may not be written, copy"
            " the play first: mmo-rl task=import source=postgres database=embedded, then mmo-rl task=outcomes",
        )


COMMAND = Command(run=run)
