"""An iteration's training set: what can be trained, what is left out and why, and how old its answers are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from mmo_rl.errors import TrainerError
from mmo_rl.lm.encode import Encoder
from mmo_rl.types import PolicyVersion, TrainingGroup

_log = logging.getLogger(__name__)

NAMED = 5
"""How many of the trajectories that something is wrong with a message names."""


def within_context(
    groups: Sequence[TrainingGroup], encoder: Encoder, *, context_length: int | None
) -> tuple[list[TrainingGroup], int]:
    """The groups without the histories that are longer than ``context_length`` tokens (prompt and answer; None: no
    limit), and how many those are. A sample without a history is left out, and so is a group without a sample.

    Raises `TrainerError` where nothing is left.
    """
    if context_length is None:
        return list(groups), 0
    kept: list[TrainingGroup] = []
    too_long: dict[str, int] = {}
    for group in groups:
        samples = []
        for sample in group.samples:
            calls = tuple(call for call in sample.calls if encoder(call).length <= context_length)
            if len(calls) < len(sample.calls):
                too_long[sample.trajectory_id] = too_long.get(sample.trajectory_id, 0) + len(sample.calls) - len(calls)
            if calls:
                samples.append(replace(sample, calls=calls))
        if samples:
            kept.append(replace(group, samples=tuple(samples)))
    count = sum(too_long.values())
    if count:
        names = ", ".join(list(too_long)[:NAMED]) + (", ..." if len(too_long) > NAMED else "")
        found = f"{count} histories of {len(too_long)} trajectories are longer than {context_length} tokens ({names})"
        if not kept:
            raise TrainerError(
                f"nothing is left to train on: all {found}",
                hint="choose a model with a longer context, or raise model.context_length where it allows more",
            )
        _log.warning("%s: they are not trained on", found)
    return kept, count


def warn_unclipped(share: float, *, iteration: int, instead: str) -> None:
    """Says loudly that ``share`` of what is trained is trained as plain REINFORCE; ``instead`` is what to type."""
    _log.warning(
        "iteration %d: %.0f %% of what is trained was recorded without logprobs and is trained as plain "
        "REINFORCE, without a ratio or a clip. A policy can collapse this way: %s",
        iteration + 1,
        100 * share,
        instead,
    )


def staleness(groups: Sequence[TrainingGroup], encoder: Encoder, *, policy: PolicyVersion) -> dict[str, float]:
    """How far the answers lie behind ``policy``, by tokens: the share that another version or model gave, of those
    whose version is known, their mean distance in versions, and the share of those whose giver isn't known.

    What nothing is known about is left out.
    """
    known = stale = own = lag = unknown = 0
    for call in (call for group in groups for sample in group.samples for call in sample.calls):
        tokens = len(encoder(call).answer)
        if call.model is not None and call.model != policy.name:
            known, stale = known + tokens, stale + tokens
        elif call.model is not None and call.model_version is not None and call.model_version.isdecimal():
            behind = abs(policy.version - int(call.model_version))
            known, own, lag = known + tokens, own + tokens, lag + behind * tokens
            stale += tokens if behind else 0
        else:
            unknown += tokens
    numbers = {"unknown_policy_share": unknown / max(1, known + unknown)}
    if known:
        numbers["stale_tokens_share"] = stale / known
    if own:
        numbers["version_lag"] = lag / own
    return numbers
