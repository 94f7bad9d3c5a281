"""Training set of an iteration: histories that fit the context, warnings, and the staleness of its answers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from mmo_rl.errors import TrainerError
from mmo_rl.lm.encode import Encoder
from mmo_rl.numbers import is_logprob
from mmo_rl.types import PolicyVersion, TrainingGroup
from mmo_rl.wording import counted, listed

_log = logging.getLogger(__name__)

NAMED = 5
"""Most trajectories that a message names."""


def within_context(
    groups: Sequence[TrainingGroup], encoder: Encoder, *, context_length: int
) -> tuple[list[TrainingGroup], int]:
    """Leaves out histories that are longer than ``context_length`` tokens (prompt and answer); returns the groups and
    the number of those histories. A sample without a history is left out, and so is a group without a sample.

    Raises `TrainerError` where nothing is left.
    """
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
        of = counted(len(too_long), "trajectory is" if count == 1 else "trajectory are", "trajectories are")
        names = listed(list(too_long), most=NAMED)
        found = f"{counted(count, 'history', 'histories')} of {of} longer than {context_length} tokens ({names})"
        if not kept:
            raise TrainerError(
                f"nothing is left to train on: all {found}",
                hint="choose a model with a longer context, or raise model.context_length where it allows more",
            )
        _log.warning("%s: they are not trained on", found)
    return kept, count


def warn_no_logprobs(groups: Sequence[TrainingGroup]) -> int:
    """Counts the recorded numbers that are no log-probabilities of sampled tokens (`is_logprob`), such as a server's
    -9999, and names the recordings that hold them: they count as unknown."""
    found: dict[str, int] = {}
    example: float | None = None
    for sample in (sample for group in groups for sample in group.samples):
        wrong = [p for call in sample.calls for p in call.logprobs or () if not is_logprob(p)]
        if wrong:
            found[sample.trajectory_id] = found.get(sample.trajectory_id, 0) + len(wrong)
            example = wrong[0] if example is None else example
    count = sum(found.values())
    if count:
        _log.warning(
            "%s of %s recorded as %g or the like, which no sampled token has (%s): counted as unknown",
            counted(count, "logprob"),
            counted(len(found), "trajectory is" if count == 1 else "trajectory are", "trajectories are"),
            example,
            listed(list(found), most=NAMED),
        )
    return count


def warn_unclipped(share: float, *, iteration: int, instead: str) -> None:
    """Warns that ``share`` of the trained tokens is trained as plain REINFORCE; ``instead`` is the remedy to type."""
    _log.warning(
        "iteration %d: %.0f %% of what is trained was recorded without logprobs and is trained as plain "
        "REINFORCE, without a ratio or a clip. A policy can collapse this way: %s",
        iteration + 1,
        100 * share,
        instead,
    )


def staleness(groups: Sequence[TrainingGroup], encoder: Encoder, *, policy: PolicyVersion) -> dict[str, float]:
    """Measures the distance of the answers from ``policy``, by tokens: ``stale_tokens_share`` of another version or
    model, among those of a known model; ``version_lag``, the mean distance in versions; ``unknown_policy_share``.

    A number without data is left out.
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
