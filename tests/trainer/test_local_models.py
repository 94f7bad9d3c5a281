"""Any causal language model of transformers, all its weights or a LoRA adapter."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mmo_rl.errors import PolicyError, TrainerError
from mmo_rl.lm.encode import Encoder
from mmo_rl.lm.forward import require_trees, score, token_logprobs
from mmo_rl.lm.load import load_model, load_version
from mmo_rl.lm.model import SHIPPED, find_checkpoint
from mmo_rl.lm.parts import parts_of
from mmo_rl.policy.local import LocalPolicy
from mmo_rl.trainer.local import LocalTrainer
from mmo_rl.types import PolicyCall, TrainingGroup, TrainingSample
from tests.trainer.made import trainer_parts

TINY = str(SHIPPED / "tiny")
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": False,
}
GROUPED = SIZES | {"num_key_value_heads": 2, "head_dim": 8}
ARCHITECTURES = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": GROUPED,
    "gpt_neox": SIZES,
    "gemma2": GROUPED | {"final_logit_softcapping": 0.5, "layer_types": ["full_attention"] * 2},
    # Windows that are shorter than the prompts: in every layer, and in one of two.
    "mistral": GROUPED | {"sliding_window": 3},
    "gemma3_text": GROUPED | {"sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]},
}


def small(architecture: str, folder: Path, **options: Any) -> str:
    """A folder with random weights of an architecture and the shipped tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    _, tokenizer = load_model(TINY)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        architecture, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **ARCHITECTURES[architecture]
    )
    AutoModelForCausalLM.from_config(config, **options).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def two_prompts() -> list[TrainingGroup]:
    groups = []
    for name in ("NOVA", "ORBIT"):
        prompt = ({"role": "user", "content": f"t0\n{name} +1"},)
        calls = [PolicyCall(prompt, f'{{"ticker":"{name}","size":{size}}}') for size in range(4)]
        samples = tuple(TrainingSample(f"{name}{n}", 0, (call,), float(n)) for n, call in enumerate(calls))
        groups.append(TrainingGroup(name, samples))
    return groups


def trainer(
    folder: Path, location: str = TINY, *, limits: Mapping[str, Any] | None = None, **options: Any
) -> LocalTrainer:
    return LocalTrainer(
        **{"learning_rate": 1e-3, "seed": 0, **options}, parts=trainer_parts(folder, location, **(limits or {}))
    )


@pytest.mark.parametrize(
    ("architecture", "attention"),
    [
        *((name, "eager" if name == "gemma2" else "sdpa") for name in ARCHITECTURES),
        ("qwen2", "eager"),
        ("gemma3_text", "eager"),
    ],
)
@pytest.mark.parametrize("micro_batch_tokens", [10**6, 1])
def test_a_prefix_tree_gives_the_logprobs_of_the_histories_one_by_one(
    architecture: str, attention: str, micro_batch_tokens: int, tmp_path: Path
) -> None:
    model, tokenizer = load_model(small(architecture, tmp_path))
    model.set_attn_implementation(attention)
    require_trees(model)
    groups, encoder = two_prompts(), Encoder(tokenizer)
    histories = [encoder(call) for group in groups for sample in group.samples for call in sample.calls]
    with torch.no_grad():
        entropy = []
        for part in parts_of(histories, tokens=micro_batch_tokens, longest_row=128, device="cpu"):
            entropy += token_logprobs(model, part)[1].tolist()
        expected = []
        for tokens in histories:
            logits = model(torch.tensor([tokens.tokens])).logits[0, len(tokens.prompt) - 1 : -1]
            expected += logits.log_softmax(-1).gather(1, torch.tensor(tokens.answer)[:, None])[:, 0].tolist()
    found = score(model, histories, micro_batch_tokens=micro_batch_tokens, longest_row=128)
    assert found.tolist() == pytest.approx(expected, abs=2e-5)
    assert len(entropy) == len(expected) and min(entropy) > 0


@pytest.mark.parametrize("architecture", ["qwen2", "qwen3", "gpt_neox"])
@pytest.mark.parametrize("rank", [0, 4])
async def test_other_architectures_train_and_play(architecture: str, rank: int, tmp_path: Path) -> None:
    location = small(architecture, tmp_path / "base")
    t = trainer(tmp_path / "run", location, limits={"lora_rank": rank})
    await t.resume()
    trained = await t.train(two_prompts(), iteration=0)
    assert trained.gradient_steps > 0 and trained.metrics["grad_norm"] > 0
    model, tokenizer = load_model(trained.policy.path)
    policy = LocalPolicy(model=model, tokenizer=tokenizer, name="m", version=1, max_completion_tokens=4)
    (answer,) = await policy.complete([({"role": "user", "content": "t0"},)], temperature=1.0, seed=0)
    assert answer.token_ids and answer.logprobs


def test_a_model_that_cannot_compute_a_prefix_tree_is_refused() -> None:
    from transformers import FalconConfig, FalconForCausalLM, Lfm2Config, Lfm2ForCausalLM, MambaConfig, MambaForCausalLM

    few = {"vocab_size": 16, "hidden_size": 8, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2}
    for model in (
        MambaForCausalLM(MambaConfig(**few, state_size=4)),
        Lfm2ForCausalLM(Lfm2Config(**few, **heads, num_key_value_heads=2, layer_types=["conv"])),
        FalconForCausalLM(FalconConfig(**few, **heads, alibi=True)),
    ):
        with pytest.raises(TrainerError, match=f"{type(model).__name__} can't be trained here"):
            require_trees(model)


async def test_an_adapter_alone_is_saved_and_plays_as_it_was_trained(tmp_path: Path) -> None:
    t = trainer(tmp_path, limits={"lora_rank": 4}, rows_per_step=1000)
    await t.resume()
    groups = two_prompts()
    first = await t.train(groups, iteration=0)
    folder = Path(first.policy.path)
    assert (folder / "adapter_model.safetensors").exists() and not (folder / "model.safetensors").exists()
    base = load_model(TINY)[0].state_dict()
    assert sum(p.stat().st_size for p in folder.glob("*.safetensors")) < sum(v.nbytes for v in base.values()) / 4
    assert find_checkpoint(str(folder), name="tiny").version == 1
    played, tokenizer = load_model(str(folder))
    recorded = with_logprobs(groups, played, tokenizer)
    second = await t.train(recorded, iteration=1)
    assert second.metrics["unknown_logprobs_share"] == 0
    assert second.metrics["kl"] == pytest.approx(0.0, abs=1e-6)  # what plays is what is trained
    frozen = (t._weights or pytest.fail("no weights")).model.state_dict()
    for name, value in base.items():
        name = name if name in frozen else name.replace(".weight", ".base_layer.weight")
        assert torch.equal(frozen[name], value)


def with_logprobs(groups: list[TrainingGroup], model: Any, tokenizer: Any) -> list[TrainingGroup]:
    """The same answers as if ``model`` had given them."""
    encoder = Encoder(tokenizer)

    def recorded(call: PolicyCall) -> PolicyCall:
        tokens = encoder(call)
        with torch.no_grad():
            logits = model(torch.tensor([[*tokens.prompt, *tokens.answer]])).logits[0, len(tokens.prompt) - 1 : -1]
        logprobs = logits.log_softmax(-1).gather(1, torch.tensor(tokens.answer)[:, None])[:, 0].tolist()
        return replace(call, prompt_token_ids=tokens.prompt, token_ids=tokens.answer, logprobs=tuple(logprobs))

    return [
        replace(g, samples=tuple(replace(s, calls=tuple(map(recorded, s.calls))) for s in g.samples)) for g in groups
    ]


@pytest.mark.parametrize("rank", [0, 4])
async def test_a_resumed_run_goes_on_bit_by_bit(rank: int, tmp_path: Path) -> None:
    def make(name: str) -> LocalTrainer:
        schedule = {"schedule": "cosine", "warmup_share": 0.3, "iterations": 3, "kl_to_base": 0.1}
        return trainer(tmp_path / name, limits={"lora_rank": rank}, **schedule)

    whole, broken = make("whole"), make("broken")
    await whole.resume()
    await broken.resume()
    expected = [dict((await whole.train(two_prompts(), iteration=n)).metrics) for n in range(3)]
    found = [dict((await broken.train(two_prompts(), iteration=0)).metrics)]
    for iteration in (1, 2):
        broken = make("broken")
        await broken.resume()
        found.append(dict((await broken.train(two_prompts(), iteration=iteration)).metrics))
    for row in (*expected, *found):
        for name in [name for name in row if name.endswith("_per_s")]:
            del row[name]
    assert found == expected
    assert expected[0]["kl_base"] == pytest.approx(0.0, abs=1e-6) and expected[2]["kl_base"] > 1e-6


async def test_a_checkpoint_of_another_model_or_a_broken_one_is_refused(tmp_path: Path) -> None:
    other = small("qwen3", tmp_path / "qwen3")
    for rank in (0, 4):
        run = tmp_path / str(rank)
        t = trainer(run, limits={"lora_rank": rank})
        await t.resume()
        await t.train(two_prompts(), iteration=0)
        with pytest.raises(
            TrainerError, match=r"it is a checkpoint of another tiny \(.*model_type llama instead of qwen3"
        ):
            await trainer(run, other, limits={"lora_rank": rank}).resume()
        held = "an adapter of rank 4 and alpha 32" if rank else "all weights"
        with pytest.raises(TrainerError, match=f"0001 holds {held}, and model.lora_rank={4 - rank}"):
            await trainer(run, limits={"lora_rank": 4 - rank}).resume()
        (run / "0001" / "trainer_state.pt").write_bytes(b"PK cut off")
        with pytest.raises(TrainerError, match=r"0001 cannot be used: its trainer_state.pt has 10 bytes instead of"):
            await trainer(run, limits={"lora_rank": rank}).resume()


@pytest.mark.parametrize("rank", [0, 4])
async def test_in_bfloat16_the_smallest_update_is_kept(
    rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Matrices are multiplied in bfloat16; what is trained is float32, where an update of a millionth is not lost."""

    def half(*args: Any, **options: Any) -> tuple[Any, Any]:
        return load_version(*args, **{"dtype": "bfloat16", **options})  # what a GPU gets

    monkeypatch.setattr("mmo_rl.lm.weights.load_version", half)
    t = LocalTrainer(learning_rate=1e-6, seed=0, parts=trainer_parts(tmp_path, lora_rank=rank))
    await t.resume()
    assert t._weights is not None
    t._weights.bf16 = True
    before = [p.detach().clone() for p in t._weights.trained()]
    assert {p.dtype for p in before} == {torch.float32}
    assert {p.dtype for p in t._weights.model.parameters()} == {
        torch.bfloat16 if rank else torch.float32,
        torch.float32,
    }
    trained = await t.train(two_prompts(), iteration=0)
    moved = [float((a - b.detach()).abs().max()) for a, b in zip(before, t._weights.trained(), strict=True)]
    assert trained.metrics["grad_norm"] > 0 and sum(distance > 0 for distance in moved) >= len(moved) // 2
    assert 0 < max(moved) < 2e-6


async def test_adapter_targets_that_do_not_exist_are_named(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="no LoRA adapter fits"):
        await trainer(tmp_path, limits={"lora_rank": 4}, lora_targets=["w_q"]).resume()


async def test_a_tokenizer_without_a_chat_template_is_refused(tmp_path: Path) -> None:
    location = small("llama", tmp_path / "base")
    (tmp_path / "base" / "chat_template.jinja").unlink(missing_ok=True)
    config = tmp_path / "base" / "tokenizer_config.json"
    config.write_text(json.dumps({k: v for k, v in json.loads(config.read_text()).items() if k != "chat_template"}))
    with pytest.raises(PolicyError, match="no chat template"):
        await trainer(tmp_path / "run", location).resume()
