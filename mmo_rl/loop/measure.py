"""Measurement at the end of a run: base and trained policy on the same held-out markets, or on recorded play."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mmo_rl.config.composition import Components, Session
from mmo_rl.evaluate.base import Decoding, Evaluator, RecordedComparer, RecordedVerdict, Validating
from mmo_rl.loop.recorded import (
    asked_to_measure,
    compared,
    from_elsewhere,
    held_out_selection,
    refuse_unable,
    sentences,
)
from mmo_rl.loop.score import score
from mmo_rl.report.progress import Stages
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.report.summary import Evaluations
from mmo_rl.types import Measured, PolicyVersion, Selection

CONTESTS: tuple[tuple[str, str, Decoding], ...] = (
    ("base", "base", "sampled"),
    ("trained", "trained", "sampled"),
    ("base_greedy", "base", "greedy"),
    ("trained_greedy", "trained", "greedy"),
)
"""Measurements in the simulated market: field of `Evaluations`, player, decoding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """Evaluation that a run's config asks for. ``evaluator`` is None where nothing is played, ``comparer`` where no
    recorded play is compared."""

    components: Components
    session: Session
    folder: RunFolder
    stages: Stages
    overrides: Sequence[str]
    evaluator: Evaluator | None
    comparer: RecordedComparer | None

    @classmethod
    def of(
        cls,
        session: Session,
        *,
        folder: RunFolder,
        stages: Stages,
        overrides: Sequence[str],
    ) -> Measurement:
        """Makes the measurement of a run; none where its trainer makes no policy. Raises `ConfigError` where recorded
        play cannot be compared."""
        components = session.components
        chosen = components.evaluator if components.trainer.capabilities.trains else None
        if isinstance(chosen, RecordedComparer):
            refuse_unable(components)
        return cls(
            components=components,
            session=session,
            folder=folder,
            stages=stages,
            overrides=overrides,
            evaluator=chosen if isinstance(chosen, Evaluator) else None,
            comparer=chosen if isinstance(chosen, RecordedComparer) else None,
        )

    async def run(
        self, policy: PolicyVersion, selections: Sequence[Selection], *, scenario_id: str | None
    ) -> Evaluations:
        """Measures base and trained policy. ``selections`` is what was trained on; ``scenario_id`` the world that the
        run recorded, None where it played nothing."""
        if self.comparer is not None:
            return Evaluations(recorded=await self._compare(self.comparer, policy, selections, scenario_id))
        if self.evaluator is None or (scenario_id is None and await self._is_foreign(selections)):
            return Evaluations()
        return await self._play(self.evaluator, policy)

    async def _play(self, evaluator: Evaluator, policy: PolicyVersion) -> Evaluations:
        """Plays the held-out markets with both policies, sampled and greedy, and with the oracle."""
        players = self.components.players
        contestants = {
            "base": await self.session.opened(players.base()),
            "trained": await self.session.opened(players.published(policy)),
        }
        measured: dict[str, Measured] = {}
        validation = evaluator.validation() if isinstance(evaluator, Validating) else None
        validated = {} if validation is None else contestants
        with self.stages.part("evaluation", stages=len(CONTESTS) + 1 + len(validated)):
            for key, player, decoding in CONTESTS:
                with self.stages.stage("evaluate", f"evaluate {key.replace('_', ' ')}") as advance:
                    measured[key] = await evaluator.evaluate(contestants[player], decoding, on_tick=advance)
            with self.stages.stage("evaluate", "evaluate oracle"):
                measured["oracle"] = await evaluator.oracle()
            for player, contestant in validated.items():
                assert validation is not None
                with self.stages.stage("evaluate", f"validate {player}") as advance:
                    key = f"validation_{player}"
                    measured[key] = await validation.evaluate(contestant, "sampled", on_tick=advance)
        self.folder.write_evaluations(measured)
        return Evaluations(
            base=measured["base"],
            trained=measured["trained"],
            base_greedy=measured["base_greedy"],
            trained_greedy=measured["trained_greedy"],
            oracle=measured["oracle"],
            validation_base=measured.get("validation_base"),
            validation_trained=measured.get("validation_trained"),
        )

    async def _is_foreign(self, selections: Sequence[Selection]) -> bool:
        """Tells if the policy was trained on play of another market and nobody asked to measure it on the simulated
        one; says so."""
        if asked_to_measure(self.overrides) or not await from_elsewhere(self.components, selections):
            return False
        self.stages.say(
            "not measured: it was trained on play that is not of the simulated market; evaluate=recorded"
            " sampler.holdout=0.2 measures on held-out windows of it, evaluate=market in the simulated market after all"
        )
        return True

    async def _compare(
        self,
        comparer: RecordedComparer,
        policy: PolicyVersion,
        selections: Sequence[Selection],
        scenario_id: str | None,
    ) -> RecordedVerdict:
        """Compares base and trained policy on held-out windows of recorded play."""
        with self.stages.stage("evaluate", "select held-out windows"):
            selection = await held_out_selection(self.components, comparer, selections, scenario_id=scenario_id)
        scored = []
        if selection.used:
            scored = await score(self.components, self.stages, selection, label="judge held-out windows")
        with self.stages.stage("evaluate", "score recorded decisions"):
            verdict = await compared(self.components, comparer, scored, policy)
        for line in sentences(verdict):
            self.stages.say(line)
        return verdict
