"""The part of ART that needs no model on this machine: its modules, and recorded answers in its form."""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Sequence
from typing import Any

from mmo_rl.errors import TrainerError
from mmo_rl.types import PolicyCall, TrainingGroup, TrainingSample


def import_art_modules(name: str) -> Any:
    """The module of ART called ``name``, imported without a network look-up and without lasting changes to the
    environment. Raises `TrainerError` where it, or something that it needs, is not installed."""
    before = dict(os.environ)
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrainerError(
            f"{name} needs {error.name or error}, which isn't installed", hint="pip install --upgrade mmo-rl"
        ) from error
    finally:
        os.environ.clear()
        os.environ.update(before)


def has_tokens(call: PolicyCall) -> bool:
    """Whether the answer can be trained as it was sampled: its token ids and their logprobs were recorded."""
    return (
        call.token_ids is not None
        and call.logprobs is not None
        and len(call.token_ids) == len(call.logprobs)
        and all(math.isfinite(logprob) for logprob in call.logprobs)
    )


def recorded_group(group: TrainingGroup) -> Any:
    """An ``art.TrajectoryGroup`` for a backend that tokenises itself; every call is a history of its own with exactly
    the prompt it saw. Answers with recorded tokens (`has_tokens`) go as these, others as plain text."""
    art = import_art_modules("art")
    return art.TrajectoryGroup(_trajectory(art, sample) for sample in group.samples)


def _trajectory(art: Any, sample: TrainingSample) -> Any:
    # Newer versions call the history of messages and choices LegacyHistory; their History is something else.
    history = getattr(art.trajectories, "LegacyHistory", None) or art.trajectories.History
    first, *others = ([*(_message(m) for m in call.messages), _answer(call)] for call in sample.calls)
    return art.Trajectory(
        messages_and_choices=first,
        additional_histories=[history(messages_and_choices=messages) for messages in others],
        reward=sample.reward,
        metadata={"trajectory_id": sample.trajectory_id},
    )


def _message(message: Any) -> dict[str, str]:
    # Only what a chat template reads: a recorded message may carry further keys.
    return {"role": message["role"], "content": message["content"]}


def _answer(call: PolicyCall) -> Any:
    from openai.types.chat import ChatCompletionMessage, ChatCompletionTokenLogprob
    from openai.types.chat.chat_completion import Choice, ChoiceLogprobs

    if not has_tokens(call):
        return {"role": "assistant", "content": call.response}
    tokens: Sequence[int] = call.token_ids or ()
    choice = Choice(
        finish_reason="stop",
        index=0,
        message=ChatCompletionMessage(role="assistant", content=call.response),
        logprobs=ChoiceLogprobs(
            content=[
                ChatCompletionTokenLogprob(token=f"token_id:{token}", logprob=logprob, top_logprobs=[])
                for token, logprob in zip(tokens, call.logprobs or (), strict=True)
            ]
        ),
    )
    if call.prompt_token_ids is not None:
        choice.prompt_token_ids = list(call.prompt_token_ids)
        choice.token_ids = list(tokens)
    return choice
