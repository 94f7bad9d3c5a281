"""Task judge: scores windows and keeps the judgments, without training; writes them into the game's tables if asked."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import asdict, replace

from mmo_rl.commands.base import Command, Context
from mmo_rl.config.settings import Settings, masked
from mmo_rl.config.tasks import JudgeOptions
from mmo_rl.database.base import Database, WriteBack, Written
from mmo_rl.database.write_back import ScoreWriter
from mmo_rl.errors import ConfigError, JudgeError
from mmo_rl.judge.base import Judge
from mmo_rl.judge.findings import added, numbers, since
from mmo_rl.loop.history import spending, spent, summed
from mmo_rl.loop.judgments import keep_judgments
from mmo_rl.loop.refusals import refuse_if_all_unscored
from mmo_rl.loop.results import note_provenance
from mmo_rl.report.base import Report
from mmo_rl.report.html import write_report
from mmo_rl.report.judged_page import print_judged
from mmo_rl.report.judging import quality
from mmo_rl.report.progress import Stages
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.report.summary import Summary, judging_summary
from mmo_rl.sampler.base import Sampler
from mmo_rl.sampler.origins import origin_lines
from mmo_rl.sampler.refusals import nothing_selected
from mmo_rl.sampler.select import selections as selections_of
from mmo_rl.source.base import Source
from mmo_rl.types import Group, JsonDict, JudgeUsage, ScoredGroup, Selection, Unscored
from mmo_rl.version import __version__
from mmo_rl.vocabulary import Vocabulary
from mmo_rl.wording import counted

_MANNER = frozenset({"endpoint", "budget", "prices", "min_agreement"})
"""Keys of a judge that its answers do not depend on, but for the provider: how it is asked, and what it may cost."""


async def run(context: Context, options: JudgeOptions) -> float | None:
    """Judges the windows that the run folder does not hold yet; returns the agreement with the oracle, if measured.

    Raises what the judge raises; `ConfigError` and `DatabaseError` where judgments are to be written back and cannot,
    before anything is judged.
    """
    folder, components = context.run_folder, context.components
    source, judge, report, database = components.source, components.judge, components.report, components.database
    done = _done(folder)
    if options.write_back:
        _refuse_if_elsewhere(context.settings)
    for one in components.databases:
        await one.open()
    replaces = options.write_back == "replace"
    writer = await _writer(context.settings, database, replaces=replaces) if options.write_back else None
    await database.require_tables()
    await context.opened(judge)
    failed = True
    try:
        report.start(masked(context.settings))
        with Stages(console=context.console, iterations=1, label="windows") as stages:
            with stages.stage("select"):
                selections = await selected(context.settings, source, components.sampler, windows=options.windows)
                if not selections[0].used:
                    raise nothing_selected(selections[0], context.overrides)
            for line in await origin_lines(source, [window for s in selections for window in s.windows]):
                stages.say(line)
            if writer is not None:
                await writer.require_free([i for selection in selections for i in selection.recorded_ids])
            note_provenance(context.settings, context.overrides, folder, selections)
            with stages.stage("judge") as advance:
                total = sum(len(s.windows) for s in selections)
                left = _without(selections, {row["group_id"] for row in done})
                parts = {i: p for s in left for w in s.windows for i, p in w.parts.items()}
                advance(len(done), total)
                usage, tallies, before = judge.usage, judge.tallies, _usage(folder)
                try:
                    async for scored in judge.score(_stream(source, left)):
                        row = await _keep(
                            len(done), scored, parts, report, judge, writer, vocabulary=components.vocabulary
                        )
                        row |= {"usage": asdict(spent(usage, judge.usage)), "tallies": since(tallies, judge.tallies)}
                        usage, tallies = judge.usage, judge.tallies
                        folder.append("checkpoints", row)
                        done.append(row)
                        advance(len(done), total, spending(summed([before, judge.usage])))
                finally:
                    if usage != judge.usage:  # answered, kept, and paid: of windows that are not whole yet
                        rest = asdict(spent(usage, judge.usage))
                        folder.append("checkpoints", {"iteration": len(done) - 1, "group_id": None, "usage": rest})
            reasons: Counter[str] = Counter()
            for row in done:
                reasons.update(row["reasons"])
            refuse_if_all_unscored(reasons, sum(row["members"] for row in done), context.overrides)
        summary = _summary(context, folder, selections, done, source.rejected, stages.seconds)
        report.iteration(0, {k: v for k, v in summary.items() if isinstance(v, int | float)})
        report.finish(summary)
        write_report(folder)
        failed = False
    except JudgeError:
        print_judged(context.console, folder)
        raise
    finally:
        report.close(failed=failed)
    print_judged(context.console, folder)
    if writer is not None:
        written, replaced, left_alone = (
            sum(row.get(key, 0) for row in done) for key in ("written", "replaced", "judged_by_others")
        )
        said = f"Written back: scores of {counted(written, 'trajectory', 'trajectories')} into {database.name}"
        if replaced:
            said += f"; {counted(replaced, 'judgment')} of others replaced"
        if left_alone:
            said += f"; {counted(left_alone, 'trajectory', 'trajectories')} left as others judged them since the start"
        context.console.say(said)
    tau = summary["judge/oracle_tau"]
    return tau if isinstance(tau, float) else None


# --- what is judged -------------------------------------------------------------------------------------------------


async def selected(settings: Settings, source: Source, sampler: Sampler, *, windows: str) -> list[Selection]:
    """Selects as the iterations of a training run would, each group once; ``ready``: all windows that are ready, every
    member of them. Where there is nothing, the one selection has the reasons."""
    iterations = settings.iterations
    if windows == "ready":
        sampler = sampler.with_rules(max_windows=2**31, max_dropout=0.0, holdout=0.0, reuse=False)
        iterations = 1
    taken = await selections_of(source, sampler, iterations=iterations)
    return _without(taken, ()) if taken[0].used else taken


def _without(selections: Sequence[Selection], judged: Collection[str]) -> list[Selection]:
    """Removes repeated groups (`sampler.reuse` takes some again) and those that are judged already."""
    seen = set(judged)
    left = []
    for selection in selections:
        windows = tuple(w for w in selection.windows if w.group_id not in seen)
        seen.update(w.group_id for w in windows)
        if windows:
            left.append(replace(selection, windows=windows))
    return left


async def _stream(source: Source, selections: Sequence[Selection]) -> AsyncIterator[Group]:
    for selection in selections:
        async for group in source.groups(selection):
            yield group


# --- what is kept ---------------------------------------------------------------------------------------------------


def _done(folder: RunFolder) -> list[JsonDict]:
    """The windows that an interrupted run has judged; later rows are removed. Where no member at all was scored,
    everything is tried again."""
    done = [row for row in folder.read("checkpoints") if row["group_id"] is not None]
    if not any(row["members"] > sum(row["reasons"].values()) for row in done):
        folder.truncate_after("checkpoints", -1)
        done = []  # what was paid for before stays counted: it has -1
    folder.truncate_after("judgments", len(done) - 1)
    folder.truncate_after("metrics", -1)
    return done


async def _keep(
    number: int,
    scored: ScoredGroup,
    parts: Mapping[str, Sequence[str]],
    report: Report,
    judge: Judge,
    writer: WriteBack | None,
    *,
    vocabulary: Vocabulary,
) -> JsonDict:
    keep_judgments(report, judge, number, [scored], vocabulary=vocabulary)
    reasons = Counter(j.reason for j in scored.judgments.values() if isinstance(j, Unscored))
    written = Written(0) if writer is None else await writer.write(scored, parts)
    return {
        "iteration": number,
        "group_id": scored.group.group_id,
        "window_id": scored.group.window.id,
        "members": len(scored.judgments),
        "reasons": dict(reasons),
        "written": written.scored,
        "replaced": written.replaced,
        "judged_by_others": written.left,
    }


def _usage(folder: RunFolder) -> JudgeUsage:
    """The cost of judging since the run first started."""
    return summed([JudgeUsage(**row["usage"]) for row in folder.read("checkpoints")])


def _summary(
    context: Context,
    folder: RunFolder,
    selections: Sequence[Selection],
    done: Sequence[JsonDict],
    rejected: Mapping[str, int],
    seconds: Mapping[str, float],
) -> Summary:
    findings = numbers(added({k: tuple(v) for k, v in row["tallies"].items()} for row in done))
    rows = folder.read("judgments")
    scores = [row["score"] for row in rows if row["score"] is not None]
    return judging_summary(
        selections=selections,
        rejected=rejected,
        usage=_usage(folder),
        unscored=len(rows) - len(scores),
        judged=quality(rows, findings, seed=context.settings.seed)
        | {"judge/windows": len({row["window_id"] for row in rows}), "judge/score_mean": sum(scores) / len(scores)},
        stage_seconds={**seconds, "total": sum(seconds.values())},
    )


# --- the game's tables ----------------------------------------------------------------------------------------------


def _refuse_if_elsewhere(settings: Settings) -> None:
    """Raises `ConfigError` where the play is not read from the database that is written to."""
    if not settings.reads_database:
        raise ConfigError(
            "judge.write_back=true writes into the database that the play is read from, and this source reads files",
            hint="bring the play into a database first: mmo-rl task=import source=jsonl source.path=PATH, then the same"
            " command without source=jsonl; or leave judge.write_back out: judgments.jsonl has the judgments",
        )
    if not settings.reads_written_database:
        raise ConfigError(
            "judge.write_back=true writes into the database that the play is read from, and database=... is another",
            hint="leave database=... out; where the play's own may not be written, leave judge.write_back out: the"
            " run's judgments.jsonl has the judgments",
        )


async def _writer(settings: Settings, database: Database, *, replaces: bool) -> WriteBack:
    tree = masked(settings)
    judge = _deciding_keys(tree["judge"])
    sampler = {k: tree["sampler"][k] for k in ("window_hours", "group_by")}
    text = json.dumps([judge, sampler], sort_keys=True, default=str)
    kind = str(judge["_target_"]).rpartition(".")[2].removesuffix("Judge").lower()
    named = judge.get("model") or ", ".join(str(j.get("model", "")) for j in judge.get("judges", {}).values())
    model = kind if not named.strip(", ") else named if kind == "ruler" else f"{kind} of {named}"
    writer = ScoreWriter(
        database=database,
        judge_model=model,
        judge_version=f"mmo-rl {__version__} {hashlib.sha256(text.encode()).hexdigest()[:12]}",
        replace=replaces,
        criteria={"judge": {k: v for k, v in judge.items() if v is not None}, **sampler},
    )
    await writer.require()
    return writer


def _deciding_keys(judge: JsonDict) -> JsonDict:
    """Returns the keys of a judge's node that its answers depend on."""
    keys = {key: value for key, value in judge.items() if key not in _MANNER}
    if "endpoint" in judge:
        keys["provider"] = judge["endpoint"]["provider"]
    if "judges" in judge:
        keys["judges"] = {name: _deciding_keys(inner) for name, inner in judge["judges"].items()}
    return keys


COMMAND = Command(run=run)
