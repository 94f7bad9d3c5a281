"""The part of ART that needs no model on this machine: its modules, and recorded answers in its form.

Its import is slow and has side effects (it reads ``.env`` files and changes environment variables), so it happens here,
late, once.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from mmo_rl.errors import TrainerError
from mmo_rl.lm.encode import Encoder, History, prompt_messages
from mmo_rl.types import PolicyCall, TrainingGroup, TrainingSample


def import_art(name: str = "art", *, hint: str = "pip install --upgrade mmo-rl") -> Any:
    """ART, or its module ``name``, imported without a network look-up and without lasting changes to the environment.
    Raises `TrainerError` with ``hint`` where it, or something that it needs, is not installed."""
    before = dict(os.environ)
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise TrainerError(f"{name} needs {error.name or error}, which isn't installed", hint=hint) from error
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
    """`art_group` for a backend that tokenises itself: answers with recorded tokens (`has_tokens`) go as these, others
    as plain text."""
    return art_group(group, _recorded)


def encoded_group(group: TrainingGroup, encoder: Encoder) -> Any:
    """`art_group` of the tokens that ``encoder`` makes of each call."""
    return art_group(group, lambda call: _encoded(call, encoder(call)))


def art_group(group: TrainingGroup, answer: Callable[[PolicyCall], Any]) -> Any:
    """An ``art.TrajectoryGroup`` with what ``answer`` makes of every call; a call is a history of its own with exactly
    the prompt it saw."""
    art = import_art()
    return art.TrajectoryGroup(_trajectory(art, sample, answer) for sample in group.samples)


def token_choice(
    call: PolicyCall, *, tokens: Sequence[int], logprobs: Sequence[float], prompt: Sequence[int] | None
) -> Any:
    """An OpenAI ``Choice`` that every version of ART takes for these ``tokens`` with these ``logprobs`` (NaN: unknown),
    answered to the tokens ``prompt`` where those are known."""
    from openai.types.chat import ChatCompletionMessage, ChatCompletionTokenLogprob
    from openai.types.chat.chat_completion import Choice, ChoiceLogprobs

    choice = Choice(
        finish_reason="stop",
        index=0,
        message=ChatCompletionMessage(role="assistant", content=call.response),
        logprobs=ChoiceLogprobs(
            content=[
                ChatCompletionTokenLogprob(token=f"token_id:{token}", logprob=logprob, top_logprobs=[])
                for token, logprob in zip(tokens, logprobs, strict=True)
            ]
        ),
    )
    if prompt is not None:  # older versions render the prompt, newer ones take its ids as given
        choice.prompt_token_ids = list(prompt)
        choice.token_ids = list(tokens)
    return choice


def _trajectory(art: Any, sample: TrainingSample, answer: Callable[[PolicyCall], Any]) -> Any:
    # Newer versions call the history of messages and choices LegacyHistory; their History is something else.
    history = getattr(art.trajectories, "LegacyHistory", None) or art.trajectories.History
    first, *others = ([*prompt_messages(call), answer(call)] for call in sample.calls)
    return art.Trajectory(
        messages_and_choices=first,
        additional_histories=[history(messages_and_choices=messages) for messages in others],
        reward=sample.reward,
        metadata={"trajectory_id": sample.trajectory_id},
    )


def _recorded(call: PolicyCall) -> Any:
    if not has_tokens(call):
        return {"role": "assistant", "content": call.response}
    return token_choice(call, tokens=call.token_ids or (), logprobs=call.logprobs or (), prompt=call.prompt_token_ids)


def _encoded(call: PolicyCall, history: History) -> Any:
    logprobs: Sequence[float] = (float("nan"),) * len(history.answer)
    if call.logprobs is not None and history.recorded:
        # -inf is unknown too: the versions disagree about it.
        logprobs = [p if math.isfinite(p) else float("nan") for p in call.logprobs]
    return token_choice(call, tokens=history.answer, logprobs=logprobs, prompt=history.prompt)
