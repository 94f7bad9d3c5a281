"""ART's part of training on this machine, behind functions that mean the same with every supported version: advantages
within a group, tokenising, packing with shared prefixes, and the loss."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mmo_rl.lm.prefix_tree import shared_length
from mmo_rl.trainer.art_client import art_group, import_art, prompt_messages, token_choice
from mmo_rl.types import PolicyCall, TrainingGroup

NEEDS_LOCAL = "pip install 'mmo-rl[local]'"


@dataclass(frozen=True, slots=True)
class Encoded:
    """The tokens of one recorded call; ``recorded`` says whether the answer's are the recorded ones: where they are of
    this tokenizer, as the ids of the prompt show, or without those the text that they spell."""

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

    def answer_tokens(self, groups: Sequence[TrainingGroup]) -> int:
        """Tokens of all answers in the groups, those without an advantage included."""
        return sum(len(self(call).answer) for group in groups for sample in group.samples for call in sample.calls)

    def _encode(self, call: PolicyCall) -> Encoded:
        rendered = self.tokenizer.apply_chat_template(
            prompt_messages(call), add_generation_prompt=True, tokenize=True, return_dict=False
        )
        prompt = tuple(rendered)
        # Ids of another tokenizer or chat template mean nothing here: then the text is what was recorded.
        if call.token_ids is not None:
            known = self._spell(call) if call.prompt_token_ids is None else tuple(call.prompt_token_ids) == prompt
            if known:
                return Encoded(prompt, tuple(call.token_ids), True)
        answer = self.tokenizer(call.response, add_special_tokens=False)["input_ids"]
        return Encoded(prompt, (*answer, self.tokenizer.eos_token_id), False)

    def _spell(self, call: PolicyCall) -> bool:
        """Whether the ids of an answer make its text; they may go on after it, as with a text that ended it."""
        ids = call.token_ids or ()
        if not all(0 <= token < len(self.tokenizer) for token in ids):
            return False
        text = self.tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return not ids or call.response.strip() in text


def to_art_group(group: TrainingGroup, *, encoder: Encoder) -> Any:
    """An ``art.TrajectoryGroup`` of the tokens that ``encoder`` makes of each call."""
    return art_group(group, lambda call: _choice(call, encoder(call)))


def _choice(call: PolicyCall, encoded: Encoded) -> Any:
    logprobs: Sequence[float] = (float("nan"),) * len(encoded.answer)
    if call.logprobs is not None and encoded.recorded:
        # -inf is unknown too: the versions disagree about it.
        logprobs = [p if math.isfinite(p) else float("nan") for p in call.logprobs]
    return token_choice(call, tokens=encoded.answer, logprobs=logprobs, prompt=encoded.prompt)


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
    for name in ("art.preprocessing.pack", "art.preprocessing.tokenize", "art.loss"):
        import_art(name, hint=NEEDS_LOCAL)
    from art.preprocessing.pack import packed_tensors_from_tokenized_results
    from art.preprocessing.tokenize import tokenize_trajectory_groups

    state = random.getstate()
    random.seed(seed)
    try:
        encoder = encoder or Encoder(tokenizer)
        art_groups = [to_art_group(group, encoder=encoder) for group in groups]
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
        results = _share_prompts(results)
        length = max(packed_tokens, max(len(r.token_ids) for r in results))
        options: dict[str, Any] = {"pad_token_id": tokenizer.pad_token_id or 0, "truncate_long_results": False}
        if (
            "min_prefix_tree_shared_segment_length"
            in inspect.signature(packed_tensors_from_tokenized_results).parameters
        ):
            # Newer versions share in a tree of any depth, and only what is longer than this unless told.
            options["min_prefix_tree_shared_segment_length"] = 1
        return dict(packed_tensors_from_tokenized_results(results, length, verbosity=0, **options))
    finally:
        random.setstate(state)


def _share_prompts(results: Sequence[Any]) -> list[Any]:
    """Sorts each group's results by their tokens, and has those share a prompt that begin alike for at least half of
    their own: agents that were asked at the same moment. ART lets a group share only what all of it begins with.

    Where logprobs are unknown, older versions count the common beginning of the answers as prompt too, and train it
    for the first answer of a row only; here an answer, with the token before it, is always its own.
    """
    rank = {prompt: number for number, prompt in enumerate(dict.fromkeys(result.prompt_id for result in results))}
    ordered = sorted(results, key=lambda result: (rank[result.prompt_id], result.token_ids))
    lengths: dict[int, int] = {}
    first, of_group, prompt = None, None, 0
    for result in ordered:
        own = max(0, result.assistant_mask.index(1) - 1)
        common = 0
        if first is not None and result.prompt_id == of_group:
            common = min(lengths[prompt], own, shared_length(first.token_ids, result.token_ids))
        if first is None or result.prompt_id != of_group or 2 * common < own:
            first, of_group, prompt, common = result, result.prompt_id, random.getrandbits(63), own
        lengths[prompt] = common
        result.prompt_id = prompt
    for result in ordered:
        result.prompt_length = lengths[result.prompt_id]
    return ordered


def art_loss(rows: dict[str, Any], new_logprobs: Any, config: dict[str, Any]) -> Any:
    """ART's loss summed over the trained tokens of packed rows: PPO where ``config`` has ``ppo``, else CISPO.

    Tokens with unknown behaviour logprobs have ratio 1."""
    import art.loss

    wrap = getattr(art.loss, "LossInputs", None)
    inputs = rows if wrap is None else wrap(inputs=rows)
    return art.loss.loss_fn(inputs, new_logprobs, None, None, config, "sum").policy_loss
