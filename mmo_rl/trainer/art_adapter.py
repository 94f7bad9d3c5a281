"""All that this project uses of OpenPipe ART, behind functions that mean the same with every supported version.

ART does the GRPO: advantages within a group, tokenising, packing with shared prefixes, and the loss. Its import is
slow and has side effects (it reads ``.env`` files and changes environment variables), so it happens here, late, once.
"""

from __future__ import annotations

import inspect
import math
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmo_rl.errors import TrainerError
from mmo_rl.types import PolicyCall, TrainingGroup, TrainingSample


def import_art() -> Any:
    """The ``art`` package, imported without a network look-up and without lasting changes to the environment."""
    before = dict(os.environ)
    os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
    try:
        import art
        import art.loss
        import art.preprocessing.pack
        import art.preprocessing.tokenize
    except ImportError as error:
        raise TrainerError(
            f"trainer=local needs {error.name}, which isn't installed", hint="pip install 'mmo-rl[local]'"
        ) from error
    finally:
        os.environ.clear()
        os.environ.update(before)
    return art


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of one recorded call; ``recorded`` says whether the answer's are the recorded ones."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    recorded: bool

    @property
    def length(self) -> int:
        """Of prompt and answer, in tokens."""
        return len(self.prompt) + len(self.answer)


class Encoder:
    """What a tokenizer makes of recorded calls. Rendering a prompt is slow: every call is rendered once."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._known: dict[int, tuple[PolicyCall, Encoded]] = {}

    def __call__(self, call: PolicyCall) -> Encoded:
        if id(call) not in self._known:
            self._known[id(call)] = call, self._encode(call)
        return self._known[id(call)][1]

    def _encode(self, call: PolicyCall) -> Encoded:
        messages = [dict(m) for m in call.messages]
        rendered = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        prompt = tuple(rendered)
        # Ids of another tokenizer or chat template mean nothing here: then the text is what was recorded.
        foreign = call.prompt_token_ids is not None and tuple(call.prompt_token_ids) != prompt
        if call.token_ids is not None and not foreign:
            return Encoded(prompt, tuple(call.token_ids), True)
        answer = self.tokenizer(call.response, add_special_tokens=False)["input_ids"]
        return Encoded(prompt, (*answer, self.tokenizer.eos_token_id), False)


def to_art_group(group: TrainingGroup, *, tokenizer: Any, encoder: Encoder | None = None) -> Any:
    """An ``art.TrajectoryGroup``; every recorded call is a history of its own with exactly the prompt it saw."""
    art = import_art()
    encoder = encoder or Encoder(tokenizer)
    return art.TrajectoryGroup(_to_art_trajectory(art, sample, encoder) for sample in group.samples)


def _to_art_trajectory(art: Any, sample: TrainingSample, encoder: Encoder) -> Any:

    # Newer versions call the history of messages and choices LegacyHistory; their History is something else.
    history = getattr(art.trajectories, "LegacyHistory", None) or art.trajectories.History
    first, *others = ([*(dict(m) for m in call.messages), _choice(call, encoder(call))] for call in sample.calls)
    return art.Trajectory(
        messages_and_choices=first,
        additional_histories=[history(messages_and_choices=messages) for messages in others],
        reward=sample.reward,
        metadata={"trajectory_id": sample.trajectory_id},
    )


def _choice(call: PolicyCall, encoded: Encoded) -> Any:
    """An OpenAI ``Choice`` whose tokens are the recorded ids; ids and logprobs that weren't recorded are the text's
    own tokens with logprob NaN (unknown)."""
    from openai.types.chat import ChatCompletionMessage, ChatCompletionTokenLogprob
    from openai.types.chat.chat_completion import Choice, ChoiceLogprobs

    logprobs: Sequence[float] = (float("nan"),) * len(encoded.answer)
    if call.logprobs is not None and encoded.recorded:
        # -inf is unknown too: the versions disagree about it.
        logprobs = [p if math.isfinite(p) else float("nan") for p in call.logprobs]
    choice = Choice(
        finish_reason="stop",
        index=0,
        message=ChatCompletionMessage(role="assistant", content=call.response),
        logprobs=ChoiceLogprobs(
            content=[
                ChatCompletionTokenLogprob(token=f"token_id:{token}", logprob=logprob, top_logprobs=[])
                for token, logprob in zip(encoded.answer, logprobs, strict=True)
            ]
        ),
    )
    # Older versions render the prompt, newer ones take the ids as given: they are the same.
    choice.prompt_token_ids = list(encoded.prompt)
    choice.token_ids = list(encoded.answer)
    return choice


def pack(
    tokenizer: Any,
    groups: Sequence[TrainingGroup],
    *,
    packed_tokens: int,
    seed: int,
    weight: Callable[[float], float] = lambda advantage: advantage,
    encoder: Encoder | None = None,
) -> dict[str, Any] | None:
    """ART's packed tensors of the groups, each of shape [rows, packed_tokens]; None when no group carries signal.

    ``weight`` turns an answer's group-normalised advantage into what stands in its place; answers of weight 0 are
    left out. ART scales the whole set so that the mean size of a weight is 1. ``packed_tokens`` grows to the longest
    single history. ART draws from Python's global generator; it is seeded here and put back, so that the same groups
    and seed give the same rows in the same order.
    """
    import_art()
    from art.preprocessing.pack import packed_tensors_from_tokenized_results
    from art.preprocessing.tokenize import tokenize_trajectory_groups

    state = random.getstate()
    random.seed(seed)
    try:
        encoder = encoder or Encoder(tokenizer)
        art_groups = [to_art_group(group, tokenizer=tokenizer, encoder=encoder) for group in groups]
        results = list(
            tokenize_trajectory_groups(
                tokenizer, art_groups, False, True, drop_zero_advantage_trajectories=weight(0) == 0
            )
        )
        results = [result for result in results if any(result.assistant_mask)]
        for result in results:
            result.advantage = weight(result.advantage)
        if not results:
            return None
        _share_prompts_only(results)
        length = max(packed_tokens, max(len(r.token_ids) for r in results))
        options: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id or 0, "truncate_long_results": False}
        if (
            "min_prefix_tree_shared_segment_length"
            in inspect.signature(packed_tensors_from_tokenized_results).parameters
        ):
            # Newer versions share prefixes in a tree of any depth, which needs an attention mask of its own.
            options["min_prefix_tree_shared_segment_length"] = length + 1
        return dict(packed_tensors_from_tokenized_results(results, length, verbosity=0, **options))
    finally:
        random.setstate(state)


def _share_prompts_only(results: Sequence[Any]) -> None:
    """Keeps shared prefixes within the prompts.

    Where logprobs are unknown, older versions count the common beginning of the answers as prompt, and train it
    for the first answer of a row only.
    """
    first: dict[int, int] = {}
    for result in results:
        start = result.assistant_mask.index(1)
        first[result.prompt_id] = min(start, first.get(result.prompt_id, start))
    for result in results:
        result.prompt_length = max(0, min(result.prompt_length, first[result.prompt_id] - 1))


def art_loss(rows: dict[str, Any], new_logprobs: Any, config: dict[str, Any]) -> Any:
    """ART's loss summed over the trained tokens of packed rows: PPO where ``config`` has ``ppo``, else CISPO.

    Tokens with unknown behaviour logprobs have ratio 1."""
    import art.loss

    wrap = getattr(art.loss, "LossInputs", None)
    inputs = rows if wrap is None else wrap(inputs=rows)
    return art.loss.loss_fn(inputs, new_logprobs, None, None, config, "sum").policy_loss
