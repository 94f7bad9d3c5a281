"""The objective against its definition: OpenPipe ART's advantages, weights and loss, of the installed version."""

import inspect
import math
import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmo_rl.lm.encode import Encoder
from mmo_rl.lm.load import load_model
from mmo_rl.lm.model import SHIPPED
from mmo_rl.trainer.art_client import encoded_group, import_art
from mmo_rl.trainer.losses import Loss, k3
from mmo_rl.trainer.packing import TokenData, pack
from mmo_rl.types import PolicyCall, TrainingGroup, TrainingSample


def art_loss(data: TokenData, new_logprobs_N: torch.Tensor, config: dict[str, Any]) -> torch.Tensor:
    """ART's loss of the trained tokens, packed into one row behind a token that is not trained; summed."""
    module = import_art("art.loss")

    def row(values: torch.Tensor, first: float) -> torch.Tensor:
        return torch.cat([torch.tensor([first], dtype=values.dtype), values])[None]

    count = len(new_logprobs_N)
    inputs = {
        "logprobs": row(data.logprobs_N, math.nan),
        "advantages": row(data.advantages_N, 0.0),
        "weights": row(data.weights_N, 0.0),
        "assistant_mask": row(torch.ones(count, dtype=torch.bool), False),
        "group_ids": torch.zeros(1, count + 1, dtype=torch.long),
        "parent_ids": torch.zeros(1, count + 1, dtype=torch.long),
    }
    wrapped = module.LossInputs(inputs=inputs) if hasattr(module, "LossInputs") else inputs
    new = torch.cat([new_logprobs_N, torch.zeros(1, dtype=new_logprobs_N.dtype)])[None]
    loss: torch.Tensor = module.loss_fn(wrapped, new, None, None, config, "sum").policy_loss
    return loss


@st.composite
def batches(draw: st.DrawFn) -> tuple[TokenData, torch.Tensor]:
    """Random trained tokens: ratios within the bound that newer versions put on them, some of them far outside the
    clip, some logprobs unknown."""
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    count = draw(st.integers(1, 40))
    new_N = -3 * torch.rand(count, generator=generator, dtype=torch.double)
    spread = draw(st.sampled_from([0.0, 0.01, 0.2, 1.0, 3.0]))
    old_N = new_N + spread * torch.randn(count, generator=generator, dtype=torch.double)
    unknown_N = torch.rand(count, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    advantages_N = torch.randn(count, generator=generator, dtype=torch.double)
    weights_N = torch.rand(count, generator=generator, dtype=torch.double) * 2
    return TokenData(old_N.masked_fill(unknown_N, math.nan), advantages_N, weights_N), new_N


def value_and_gradient(loss: Any, new_N: torch.Tensor) -> tuple[float, list[float]]:
    new_N = new_N.clone().requires_grad_()
    value = loss(new_N)
    value.backward()
    assert new_N.grad is not None
    return value.item(), new_N.grad.tolist()


@settings(max_examples=60, deadline=None)
@given(batches(), st.sampled_from(["ppo", "cispo"]), st.sampled_from([0.05, 0.2, 0.5]))
# ART's correlation of probabilities divides by no degrees of freedom where one token is known.
@pytest.mark.filterwarnings("ignore:cov\\(\\). degrees of freedom is <= 0:UserWarning")
def test_losses_with_a_ratio_are_those_of_art(batch: tuple[TokenData, torch.Tensor], name: Any, epsilon: float) -> None:
    data, new_N = batch
    config = {"ppo": True, "epsilon": epsilon} if name == "ppo" else {}
    ours = value_and_gradient(lambda new: Loss(name, clip_epsilon=epsilon).of(data, new), new_N)
    arts = value_and_gradient(lambda new: art_loss(data, new, config), new_N)
    assert ours[0] == pytest.approx(arts[0], abs=1e-6)
    assert ours[1] == pytest.approx(arts[1], abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(batches(), st.sampled_from(["reinforce", "awr", "sft"]))
@pytest.mark.filterwarnings("ignore:cov\\(\\). degrees of freedom is <= 0:UserWarning")
def test_losses_without_a_ratio_are_arts_with_every_logprob_unknown(
    batch: tuple[TokenData, torch.Tensor], name: Any
) -> None:
    data, new_N = batch
    unknown = TokenData(torch.full_like(data.logprobs_N, math.nan), data.advantages_N, data.weights_N)
    ours = value_and_gradient(lambda new: Loss(name).of(data, new), new_N)
    arts = value_and_gradient(lambda new: art_loss(unknown, new, {}), new_N)
    assert ours[0] == pytest.approx(arts[0], abs=1e-6)
    assert ours[1] == pytest.approx(arts[1], abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(batches())
def test_the_divergence_is_its_formula_and_has_its_least_value_at_the_base(
    batch: tuple[TokenData, torch.Tensor],
) -> None:
    data, new_N = batch
    reference_N = torch.where(data.logprobs_N.isnan(), new_N, data.logprobs_N)
    value, slopes = value_and_gradient(lambda new: k3(reference_N, new), new_N)
    apart = [base - new for base, new in zip(reference_N.tolist(), new_N.tolist(), strict=True)]
    assert value == pytest.approx(sum(math.exp(d) - 1 - d for d in apart), abs=1e-6)
    assert slopes == pytest.approx([1 - math.exp(d) for d in apart], abs=1e-6)
    assert value >= 0 and k3(new_N, new_N) == 0


# --- advantages, weights and rows -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return load_model(str(SHIPPED / "tiny"))[1]


def training_set(seed: int) -> list[TrainingGroup]:
    """Groups of several calls a trajectory, prompts that begin alike, answers of different lengths, some equal."""
    draw = random.Random(seed)
    groups = []
    for name in ("NOVA", "ORBIT", "PULSE"):
        samples = []
        for agent in range(draw.randint(2, 6)):
            calls = tuple(
                PolicyCall(
                    ({"role": "user", "content": f"t{tick}\n{name} +{tick} news {name} soars\ncash {agent % 2}"},),
                    f'{{"ticker":"{name}","size":{draw.randint(0, 3)}' + "0" * draw.randint(0, 9) + "}",
                )
                for tick in range(draw.randint(1, 4))
            )
            samples.append(TrainingSample(f"{name}{agent}", None, calls, draw.choice([0.0, 0.25, 0.5, 1.0, 1.0])))
        groups.append(TrainingGroup(name, tuple(samples)))
    return groups


def art_packed(tokenizer: Any, groups: list[TrainingGroup], encoder: Encoder) -> dict[str, Any]:
    """What ART's own tokenising and packing make of the groups."""
    tokenize = import_art("art.preprocessing.tokenize").tokenize_trajectory_groups
    packed = import_art("art.preprocessing.pack").packed_tensors_from_tokenized_results
    results = list(tokenize(tokenizer, [encoded_group(group, encoder) for group in groups], False, True))
    options = {"pad_token_id": 0, "truncate_long_results": False}
    if "min_prefix_tree_shared_segment_length" in inspect.signature(packed).parameters:
        options["min_prefix_tree_shared_segment_length"] = 10**6  # every history whole
    return dict(packed([result for result in results if any(result.assistant_mask)], 512, verbosity=0, **options))


def ordered(rows: torch.Tensor) -> list[list[float]]:
    """Rows in an order that the last digits of their numbers do not change."""
    listed: list[list[float]] = rows.tolist()
    return sorted(listed, key=lambda row: [round(number, 2) for number in row])


@pytest.mark.parametrize("seed", range(5))
def test_advantages_and_weights_are_those_of_art(tokenizer: Any, seed: int) -> None:
    groups, encoder = training_set(seed), Encoder(tokenizer)
    ours = pack(groups, encoder=encoder, packed_tokens=512, seed=seed)
    arts = art_packed(tokenizer, groups, encoder)
    assert ours is not None
    trained = arts["assistant_mask"]
    expected = torch.stack([arts[name][trained].double() for name in ("tokens", "advantages", "weights")], dim=1)
    tokens_N = torch.tensor([token for history in ours.histories for token in history.answer])
    found = torch.stack([x.double() for x in (tokens_N, ours.data.advantages_N, ours.data.weights_N)], dim=1)
    for one, other in zip(ordered(found), ordered(expected), strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    assert float(ours.data.weights_N.mean()) == pytest.approx(1.0, abs=1e-5)
    assert float((ours.data.advantages_N.abs() * ours.data.weights_N).mean()) == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize("packed_tokens", [16, 100, 512])
def test_rows_hold_every_history_once_and_no_more_than_fits(tokenizer: Any, packed_tokens: int) -> None:
    groups, encoder = training_set(3), Encoder(tokenizer)
    packed = pack(groups, encoder=encoder, packed_tokens=packed_tokens, seed=1)
    assert packed is not None
    calls = [
        call
        for group in groups
        for sample in group.samples
        if sample.reward != sum(s.reward for s in group.samples) / len(group.samples)
        for call in sample.calls
    ]
    assert sorted(h.tokens for h in packed.histories) == sorted(encoder(call).tokens for call in calls)
    assert packed.row_length == max(packed_tokens, max(h.length for h in packed.histories))
    for row in packed.rows:
        assert max(h.length for h in row.histories) <= row.tokens <= packed.row_length
        assert row.tokens <= sum(h.length for h in row.histories)
    steps = list(packed.steps(2))
    assert [history for step in steps for history in step.histories] == packed.histories
    assert sum(step.trained_tokens for step in steps) == packed.trained_tokens
    again = pack(groups, encoder=encoder, packed_tokens=packed_tokens, seed=1)
    other = pack(groups, encoder=encoder, packed_tokens=packed_tokens, seed=2)
    assert again is not None and again.rows == packed.rows
    assert (other is not None and len(packed.rows) < 3) or other.rows != packed.rows  # type: ignore[union-attr]
