"""Errors for a selection without any trajectory, with the command to type next."""

from __future__ import annotations

from collections.abc import Sequence

from mmo_rl.command_line import command_line
from mmo_rl.errors import SourceError
from mmo_rl.types import Selection
from mmo_rl.wording import counted


def nothing_selected(selection: Selection, overrides: Sequence[str]) -> SourceError:
    """Returns the error for a selection without a single trajectory."""
    if not selection.windows_available:
        if chosen := [o for o in overrides if o.startswith("source.where")]:
            without = [o for o in overrides if o.startswith("source") and o not in chosen]
            return SourceError(
                f"no recorded window is what {' '.join(chosen)} chooses",
                hint=f"see what is there, of any origin: {command_line('task=check', *without)}",
            )
        elsewhere = [o for o in overrides if o.startswith("source")]
        look = command_line("task=check", *elsewhere)
        hint = f"see what is there: {look}" if elsewhere else f"mmo-rl task=collect records some; {look} looks"
        return SourceError("no window has been recorded", hint=hint)
    reasons = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in sorted(selection.excluded.items()))
    return SourceError(
        f"none of {counted(selection.windows_available, 'window')} is ready; trajectories left out: {reasons}",
        hint="mmo-rl task=check says why; sampler.min_agents=N and sampler.min_actions=N set the bar",
    )


def nothing_to_imitate(selection: Selection, overrides: Sequence[str]) -> SourceError:
    """Returns the error for a warm start that finds no trajectory."""
    why = nothing_selected(selection, overrides)
    return SourceError(
        f"trainer.warm_start has nothing to imitate: {why.message}",
        hint="record somebody who plays well first: mmo-rl task=collect collect.strategies=[informed,balanced]; "
        "source.where.scenario=* imitates play of another market too; or start without: trainer.warm_start=0",
    )
