"""The canary: secrets are planted in every field that holds the future; nothing that a trainer gets may hold one."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, get_args

import msgspec
import pytest

from mmo_rl.lm.encode import Encoder
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED
from mmo_rl.policy_view import training_groups
from mmo_rl.trainer.art_client import encoded_group
from mmo_rl.trainer.base import AssistantTurns
from mmo_rl.trainer.local import LocalTrainer
from mmo_rl.trainer.packing import pack
from mmo_rl.types import LLMCall, PolicyCall, ScoredGroup, TrainingGroup, TrainingSample, Unscored
from tests.trainer.made import trainer_parts

CANARY = "zqxjkv"
Make = Callable[..., ScoredGroup]


def reaches_the_trainer(groups: list[TrainingGroup]) -> str:
    """All text that a trainer can get hold of: our types, ART's types, and what the packed tokens say."""
    _, tokenizer = load_model(str(SHIPPED / "tiny"))
    encoder = Encoder(tokenizer)
    packed = pack(groups, encoder=encoder, packed_tokens=256, seed=0)
    art = "".join(encoded_group(group, encoder).model_dump_json() for group in groups)
    decoded = "".join(tokenizer.decode(history.tokens) for history in (packed.histories if packed else []))
    return repr(groups) + art + decoded


@pytest.mark.parametrize("decisions", [False, True])
def test_no_ground_truth_reaches_a_trainer(scored: Make, decisions: bool) -> None:
    item = scored(
        canary=CANARY,
        decisions=decisions,
        metadata={"gameKnowledge": {"trueProbabilities": CANARY, "actualOutcomes": CANARY, "futureOutcomes": CANARY}},
        metrics={"finalPnL": CANARY},
        final_pnl=271828.0,
        final_balance=314159.0,
    )
    assert CANARY in repr(item)
    text = reaches_the_trainer(training_groups([item]))
    assert "NOVA soars @wire" in text
    for secret in (CANARY, "271828", "314159", "correctness", "gameKnowledge"):
        assert secret not in text


def test_the_canary_sings_when_the_future_is_in_a_prompt(scored: Make) -> None:
    item = scored(canary=CANARY)

    def leak(call: LLMCall) -> LLMCall:
        return msgspec.structs.replace(call, system_prompt=f"It will be {CANARY}.")

    members = tuple(
        dataclasses.replace(
            t, steps=tuple(msgspec.structs.replace(s, llm_calls=tuple(map(leak, s.llm_calls))) for s in t.steps)
        )
        for t in item.group.members
    )
    leaking = dataclasses.replace(item, group=dataclasses.replace(item.group, members=members))
    assert CANARY in reaches_the_trainer(training_groups([leaking]))


def test_every_action_call_is_a_history_of_its_own(scored: Make) -> None:
    (group,) = training_groups([scored(steps=3)])
    assert [s.trajectory_id for s in group.samples] == ["good", "bad"]
    assert [[c.response[-2] for c in s.calls] for s in group.samples] == [["1", "2", "3"]] * 2
    _, tokenizer = load_model(str(SHIPPED / "tiny"))
    first = encoded_group(group, Encoder(tokenizer)).trajectories[0]
    assert first.reward == 1.0
    assert len(first.additional_histories) == 2
    assert [m["content"] for m in first.messages_and_choices[:2]] == [
        m["content"] for m in group.samples[0].calls[0].messages
    ]


@pytest.mark.parametrize("decisions", [False, True])
def test_all_assistant_turns_are_trained_when_asked(scored: Make, decisions: bool) -> None:
    """Each step has a call that chose its action and one that reasoned; the latter answers "why"."""
    _, tokenizer = load_model(str(SHIPPED / "tiny"))

    def trained(turns: AssistantTurns) -> tuple[int, str]:
        groups = training_groups([scored(steps=3, decisions=decisions)], turns)
        trained = packed_answers(groups, tokenizer)
        return sum(map(len, trained.tokens)), "".join(map(tokenizer.decode, trained.tokens))

    def length(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"]) + 1

    actions = 2 * sum(length(f'{{"ticker":"NOVA","action":"BUY","size":{1 + number}}}') for number in range(3))
    tokens, text = trained("action")
    assert (tokens, "why" in text) == (actions, False)
    tokens, text = trained("all")
    assert (tokens, text.count("why")) == (actions + 2 * 3 * length("why"), 6)


async def test_the_trainer_says_whose_answers_it_wants(scored: Make, tmp_path: Path) -> None:
    counted = {}
    for turns in get_args(AssistantTurns):
        trainer = LocalTrainer(
            learning_rate=1e-4,
            assistant_turns=turns,
            seed=0,
            parts=trainer_parts(tmp_path / turns),
        )
        await trainer.resume(0)
        groups = training_groups([scored(steps=2)], trainer.assistant_turns)
        trained = await trainer.train(groups, iteration=0)
        assert trained.tokens == trained.tokens_selected
        counted[turns] = trained.tokens
    assert 0 < counted["action"] < counted["all"]


def test_decisions_of_one_tick_are_a_group(scored: Make) -> None:
    groups = training_groups([scored(decisions=True, steps=3)])
    assert [g.group_id for g in groups] == ["g#0", "g#1", "g#2"]
    assert all(
        [(s.trajectory_id, s.step) for s in g.samples] == [("good", n), ("bad", n)] for n, g in enumerate(groups)
    )


def test_credit_is_obeyed_whatever_the_scores_hold(scored: Make) -> None:
    by_decision = scored(decisions=True, steps=2)
    silent = dataclasses.replace(by_decision.judgments["bad"], decisions=None)
    lost = dataclasses.replace(by_decision, judgments={**by_decision.judgments, "bad": silent})
    assert lost.unscored_decisions == 2
    groups = training_groups([lost])
    assert [(g.group_id, [(s.trajectory_id, s.step) for s in g.samples]) for g in groups] == [
        ("g#window", [("good", 0), ("good", 1)])
    ]
    (group,) = training_groups([dataclasses.replace(by_decision, credit="trajectory")])
    assert [(s.trajectory_id, s.step, s.reward) for s in group.samples] == [("good", None, 1.0), ("bad", None, 0.0)]


def test_unscored_members_are_left_out_never_zero(scored: Make) -> None:
    item = scored()
    judged = dataclasses.replace(item, judgments={**item.judgments, "bad": Unscored("bad", "truncated")})
    (group,) = training_groups([judged])
    assert [s.trajectory_id for s in group.samples] == ["good"]


def test_calls_are_bound_to_recorded_tokens(scored: Make) -> None:
    (group,) = training_groups([scored(steps=1, logprobs=True)])
    _, tokenizer = load_model(str(SHIPPED / "tiny"))
    group = with_calls(group, lambda call: {"prompt_token_ids": Encoder(tokenizer)(call).prompt})
    trained = packed_answers([group], tokenizer)
    assert trained.tokens == [(5, 6, 2)] * 2
    assert trained.logprobs == pytest.approx([-0.1, -0.2, -0.3] * 2)


def test_answers_without_logprobs_are_trained_whole(scored: Make) -> None:
    """Every token of every answer, end token included, also where the answers of a group begin alike."""
    groups = training_groups([scored(steps=3)])
    _, tokenizer = load_model(str(SHIPPED / "tiny"))
    trained = packed_answers(groups, tokenizer)
    answers = [call.response for g in groups for s in g.samples for call in s.calls]
    expected = sum(len(tokenizer(a, add_special_tokens=False)["input_ids"]) + 1 for a in answers)
    assert sum(map(len, trained.tokens)) == expected


def test_only_the_answer_is_trained_when_the_prompt_holds_older_answers(scored: Make) -> None:
    (group,) = training_groups([scored(steps=1)])
    older = ({"role": "assistant", "content": "an older answer"}, {"role": "user", "content": "and now?"})

    def longer(sample: TrainingSample) -> TrainingSample:
        (call,) = sample.calls
        return dataclasses.replace(sample, calls=(dataclasses.replace(call, messages=(*call.messages, *older)),))

    group = dataclasses.replace(group, samples=tuple(map(longer, group.samples)))
    _, tokenizer = load_model(str(SHIPPED / "tiny"))
    trained = packed_answers([group], tokenizer)
    text = "".join(map(tokenizer.decode, trained.tokens))
    assert "older" not in text and '"action"' in text


@pytest.mark.parametrize(
    "recorded",
    [
        {"prompt_token_ids": (9, 9, 9)},
        {"prompt_token_ids": None},
        {"prompt_token_ids": None, "token_ids": (151000, 151643), "logprobs": (-0.1, -0.2)},
    ],
)
def test_ids_of_another_tokenizer_are_not_trusted(scored: Make, recorded: dict[str, Any]) -> None:
    (group,) = training_groups([scored(steps=1, logprobs=True)])
    group = with_calls(group, lambda _: recorded)
    _, tokenizer = load_model(str(SHIPPED / "tiny"))
    trained = packed_answers([group], tokenizer)
    assert all(map(math.isnan, trained.logprobs))
    assert '"action"' in tokenizer.decode(trained.tokens[0])


def test_without_the_ids_of_the_prompt_those_that_spell_the_answer_are_its_own(scored: Make) -> None:
    """Also where they are not those that its text would give, and go on after it."""
    (group,) = training_groups([scored(steps=1)])
    _, tokenizer = load_model(str(SHIPPED / "tiny"))

    def letters(call: PolicyCall) -> dict[str, Any]:
        ids = [tokenizer(letter, add_special_tokens=False)["input_ids"] for letter in (*call.response, "x")]
        flat = tuple(token for one in ids for token in one)
        return {"token_ids": flat, "logprobs": (-0.5,) * len(flat)}

    group = with_calls(group, letters)
    trained = packed_answers([group], tokenizer)
    calls = [call for sample in group.samples for call in sample.calls]
    assert sorted(trained.tokens) == sorted(tuple(call.token_ids or ()) for call in calls)
    assert trained.logprobs == [-0.5] * sum(map(len, trained.tokens))


class Answers(NamedTuple):
    """Trained answers in the order of their rows: the tokens of each, and the logprobs of all."""

    tokens: list[tuple[int, ...]]
    logprobs: list[float]


def packed_answers(groups: list[TrainingGroup], tokenizer: Any) -> Answers:
    packed = pack(groups, encoder=Encoder(tokenizer), packed_tokens=512, seed=0)
    assert packed is not None
    return Answers([history.answer for history in packed.histories], packed.data.logprobs_N.tolist())


def with_calls(group: TrainingGroup, changes: Callable[[PolicyCall], dict[str, Any]]) -> TrainingGroup:
    """``group`` with other fields in its calls."""
    return dataclasses.replace(
        group,
        samples=tuple(
            dataclasses.replace(s, calls=tuple(dataclasses.replace(c, **changes(c)) for c in s.calls))
            for s in group.samples
        ),
    )
