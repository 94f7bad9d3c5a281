"""Task train: runs the loop, or continues it where the run folder ends, and reports the result."""

from __future__ import annotations

from mmo_rl.commands.base import Command, Context
from mmo_rl.config.recipe_differences import recipe_differences
from mmo_rl.config.settings import capabilities_of, masked
from mmo_rl.config.tasks import Options
from mmo_rl.lm.load import require_model
from mmo_rl.loop.history import Past
from mmo_rl.loop.loop import Finished, Loop
from mmo_rl.loop.results import add_seconds, note_provenance, summarize, tell_checkpoint
from mmo_rl.plan.planned import note_plan
from mmo_rl.report.html import write_report
from mmo_rl.report.progress import Stages
from mmo_rl.report.selection import print_selection
from mmo_rl.report.summary import VALIDATED, Summary
from mmo_rl.report.table import print_summary
from mmo_rl.trainer.base import MachineChecker


async def run(context: Context, options: Options) -> float | None:
    """Trains as the config says; returns the improvement in P&L (game dollars): on validation markets where there are
    some, else on the held-out ones, None where nothing was measured."""
    settings, folder, report = context.settings, context.run_folder, context.components.report
    past = Past.of(folder)
    failed = True
    _check_machine(context)
    if unlike := recipe_differences(settings):
        context.console.say(unlike)
    try:
        _note_provenance(context, past)
        with Stages(console=context.console, iterations=settings.iterations, done=len(past.iterations)) as stages:
            loop = await Loop.open(
                settings=settings,
                overrides=context.overrides,
                session=context.session,
                folder=folder,
                past=past,
                stages=stages,
                console=context.console,
            )
            report.start(masked(settings))  # after all that a wrong configuration is found by: W&B leaves no run of it
            await note_plan(settings, context.components, context.overrides, folder)
            finished = await loop.run()
            measuring = {"evaluate": stages.seconds.get("evaluate", 0.0)}
        seconds = add_seconds([*(done.seconds for done in past.iterations), measuring])
        summary = summarize(settings, folder, past.iterations, finished.evaluations, seconds)
        if loop.publisher is not None:
            await loop.publisher.note_measured(past.iterations, summary)
        _note_provenance(context, past)
        report.finish(summary)
        write_report(folder)
        stops = context.components.trainer.rules.stop_on_collapse
        collapsed = finished.collapse if stops else None
        failed = collapsed is not None
    finally:
        report.close(failed=failed)
    _tell(context, finished, summary)
    if collapsed is not None:
        raise collapsed.error()
    if finished.collapse is not None:
        context.console.say(finished.collapse.found)
    improvement = summary.get(VALIDATED, summary["eval/pnl_improvement"])
    return improvement if isinstance(improvement, float) else None


def _check_machine(context: Context) -> None:
    """Raises `ConfigError` where the trainer or the policy lacks something, `PolicyError` where the weights cannot be
    had: before anything is played or paid."""
    components = context.components
    if isinstance(components.trainer, MachineChecker):
        components.trainer.check_machine()
    if components.trainer.capabilities.trains and (components.collector or components.evaluator):
        components.players.check_machine()
    able = capabilities_of(context.settings.node("trainer"))
    if able.trains and not able.serves:
        require_model(context.components.model.location())


def _note_provenance(context: Context, past: Past) -> None:
    selections = [done.selection for done in past.iterations]
    note_provenance(context.settings, context.overrides, context.run_folder, selections)


def _tell(context: Context, finished: Finished, summary: Summary) -> None:
    if finished.exported is not None:
        print_selection(context.console, summary)
        context.console.say(f"Exported: {finished.exported}")
        return
    print_summary(context.console, summary, context.run_folder.path)
    tell_checkpoint(context.console, context.overrides, finished.policy)


COMMAND = Command(run=run)
