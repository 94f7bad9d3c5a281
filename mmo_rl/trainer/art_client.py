"""Client side of ART: its modules, and recorded answers as its trajectories. No model on this machine is needed.

ART's import is slow and has side effects (it reads ``.env`` files and changes environment variables), so it happens
here, late, once.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING

from mmo_rl.errors import TrainerError
from mmo_rl.lm.encode import Encoder, History, prompt_messages
from mmo_rl.messages import answer_message
from mmo_rl.numbers import is_logprob
from mmo_rl.types import JsonDict, PolicyCall, TrainingGroup, TrainingSample

if TYPE_CHECKING:
    import art
    from openai.types.chat.chat_completion import Choice

UNKNOWN = float("nan")
Answer = Callable[[PolicyCall], "Choice | JsonDict"]
"""Form of an answer in a trajectory: with its tokens, or as plain text."""


def import_art(name: str = "art", *, hint: str = "pip install --upgrade mmo-rl") -> ModuleType:
    """Imports ART, or its module ``name``, without a network look-up or lasting changes to the environment.

    Raises `TrainerError` with ``hint`` where it, or something that it needs, is not installed.
    """
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
    """Tells that an answer can be trained as it was sampled: its token ids and their logprobs were recorded."""
    return (
        call.token_ids is not None
        and call.logprobs is not None
        and len(call.token_ids) == len(call.logprobs)
        and all(is_logprob(logprob) for logprob in call.logprobs)
    )


def recorded_group(group: TrainingGroup) -> art.TrajectoryGroup:
    """Makes an `art_group` for a backend that tokenises itself: answers with recorded tokens (`has_tokens`) go as
    these, others as plain text."""
    return art_group(group, _recorded)


def encoded_group(group: TrainingGroup, encoder: Encoder) -> art.TrajectoryGroup:
    """Makes an `art_group` of the tokens that ``encoder`` makes of each call."""
    return art_group(group, lambda call: _encoded(call, encoder(call)))


def art_group(group: TrainingGroup, answer: Answer) -> art.TrajectoryGroup:
    """Makes an ``art.TrajectoryGroup`` with the ``answer`` of every call; a call is a history of its own with exactly
    the prompt it saw."""
    module = import_art()
    return module.TrajectoryGroup(_trajectory(module, sample, answer) for sample in group.samples)


def token_choice(
    call: PolicyCall, *, tokens: Sequence[int], logprobs: Sequence[float], prompt: Sequence[int] | None
) -> Choice:
    """Makes an OpenAI ``Choice`` that every version of ART takes for these ``tokens`` with these ``logprobs`` (NaN:
    unknown), answered to the tokens ``prompt`` where those are known."""
    from openai.types.chat import ChatCompletionMessage, ChatCompletionTokenLogprob
    from openai.types.chat.chat_completion import Choice, ChoiceLogprobs

    choice = Choice(
        finish_reason="stop",
        index=0,
        message=ChatCompletionMessage.model_validate(answer_message(call.response, call.tool_calls)),
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


def _trajectory(module: ModuleType, sample: TrainingSample, answer: Answer) -> art.Trajectory:
    """Makes an ``art.Trajectory`` of a sample's calls."""
    # Newer versions call the history of messages and choices LegacyHistory; their History is something else.
    history = getattr(module.trajectories, "LegacyHistory", None) or module.trajectories.History
    first, *others = ([*prompt_messages(call), answer(call)] for call in sample.calls)
    return module.Trajectory(
        messages_and_choices=first,
        additional_histories=[history(messages_and_choices=messages) for messages in others],
        reward=sample.reward,
        metadata={"trajectory_id": sample.trajectory_id},
    )


def _recorded(call: PolicyCall) -> Choice | JsonDict:
    """Makes an answer with the recorded tokens, or plain text where there are none."""
    if not has_tokens(call):
        return answer_message(call.response, call.tool_calls)
    return token_choice(call, tokens=call.token_ids or (), logprobs=call.logprobs or (), prompt=call.prompt_token_ids)


def _encoded(call: PolicyCall, history: History) -> Choice:
    """Makes an answer with the tokens of ``history``."""
    logprobs: Sequence[float] = (UNKNOWN,) * len(history.answer)
    if call.logprobs is not None and history.recorded:
        # A server's -inf or -9999 is unknown too: the versions disagree about it.
        logprobs = [p if is_logprob(p) else UNKNOWN for p in call.logprobs]
    return token_choice(call, tokens=history.answer, logprobs=logprobs, prompt=history.prompt)
