"""A GGUF file becomes a folder in Hugging Face format once; what cannot become one says why."""

from __future__ import annotations

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import create_config_search_path
from hydra.types import RunMode
from omegaconf import OmegaConf
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mmo_rl.config.composition import compose as composed_components
from mmo_rl.config.project import shipped
from mmo_rl.config.settings import validate
from mmo_rl.errors import PolicyError
from mmo_rl.lm.base import ModelParts
from mmo_rl.lm.gguf import read_gguf
from mmo_rl.lm.load import load_model, require_model
from mmo_rl.lm.model import ModelSpec
from mmo_rl.lm.tokenizer import train_tokenizer
from mmo_rl.lm.unpack import unpack
from mmo_rl.plan.tokens import tokens_of_model
from mmo_rl.policy.local import LocalPolicy, open_policy
from mmo_rl.types import PolicyVersion

CHAT = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}{% endfor %}<|assistant|>"
TEXTS = ["news NOVA soars @wire", '{"ticker":"NOVA","action":"BUY","size":12}', "Grüße, 世界\n\t 42"]
HEADS, SIZE = 2, 32


def llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=SIZE,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def write(file: Path, *, leave_out: str = "", **changes: str) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A GGUF file of a small random Llama, as llama.cpp's converter writes one; ``leave_out`` a key of its metadata."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=300)
    model = llama(tokenizer)
    writer = gguf.GGUFWriter(file, changes.get("architecture", "llama"))
    writer.add_name("small")
    for name, value in (("context_length", 128), ("embedding_length", SIZE), ("block_count", 2)):
        writer.add_uint32(f"llama.{name}", value)
    for name, value in (("feed_forward_length", 48), ("attention.head_count", HEADS), ("vocab_size", len(tokenizer))):
        writer.add_uint32(f"llama.{name}", value)
    writer.add_uint32("llama.attention.head_count_kv", HEADS)
    writer.add_uint32("llama.rope.dimension_count", SIZE // HEADS)
    writer.add_float32("llama.rope.freq_base", 10000.0)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-6)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    merges = [" ".join(pair) for pair in _merges(tokenizer)]
    writer.add_tokenizer_model(changes.get("tokenizer", "gpt2"))
    writer.add_tokenizer_pre(changes.get("pre", "smollm"))
    writer.add_token_list([token for token, _ in vocabulary])
    special = set(tokenizer.all_special_tokens)
    writer.add_token_types([3 if token in special else 1 for token, _ in vocabulary])
    writer.add_token_merges(merges)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if leave_out != "chat_template":
        writer.add_chat_template(CHAT)
    for name, tensor in model.named_parameters():
        writer.add_tensor(_name(name), _permuted(name, tensor.detach().numpy()))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, tokenizer


def _merges(tokenizer: Any) -> list[tuple[str, str]]:
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    return [tuple(pair) for pair in merges]


def _name(name: str) -> str:
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    found = names.get_name(name, try_suffixes=(".weight",))
    assert found is not None, name
    return str(found)


def _permuted(name: str, weights: Any) -> Any:
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return weights
    halves = weights.reshape(HEADS, 2, weights.shape[0] // HEADS // 2, *weights.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weights.shape))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM, PreTrainedTokenizerFast]:
    file = tmp_path_factory.mktemp("gguf") / "small.gguf"
    return file, *write(file)


Made = tuple[Path, LlamaForCausalLM, PreTrainedTokenizerFast]


async def test_a_gguf_file_is_the_model_that_it_was_made_of(made: Made, tmp_path: Path) -> None:
    file, original, tokenizer = made
    spec = ModelSpec(
        name="small",
        base_model="x",
        path=str(file),
        context_length=128,
        max_completion_tokens=4,
        parts=ModelParts(cache=tmp_path / "models"),
    )
    require_model(spec.location())
    model, loaded = load_model(spec.location(), cache=spec.cache)
    assert model.dtype == torch.float32 and model.config.tie_word_embeddings
    for name, weight in original.named_parameters():
        assert torch.equal(model.get_parameter(name), weight), name
    assert (loaded.eos_token_id, loaded.pad_token_id) == (tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert loaded.chat_template == CHAT
    for text in TEXTS:
        ids = loaded(text, add_special_tokens=False)["input_ids"]
        assert loaded.decode(ids) == text
    assert loaded.decode([loaded.eos_token_id], skip_special_tokens=True) == ""
    policy = LocalPolicy(model=model, tokenizer=loaded, name="small", version=0, max_completion_tokens=4)
    prompt = [{"role": "user", "content": TEXTS[0]}]
    (answer,) = await policy.complete([prompt], temperature=0, seed=0)
    ids = torch.tensor([answer.prompt_token_ids])
    assert answer.token_ids is not None
    assert answer.token_ids[0] == int(original(ids).logits[0, -1].argmax())
    counter = tokens_of_model("x", spec.location())
    assert counter.counted and counter.prompts([prompt]) == [len(answer.prompt_token_ids or ())]


def test_it_is_unpacked_once_whoever_asks(made: Made, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    file = made[0]
    copy = shutil.copy(file, tmp_path / "another name.gguf")
    with ThreadPoolExecutor(2) as two:
        folders = list(two.map(lambda _: unpack(str(file), cache=tmp_path / "models"), range(2)))
    (folder,) = {*folders, unpack(str(copy), cache=tmp_path / "models")}
    written = (folder / "model.safetensors").stat().st_mtime_ns
    load_model(str(file), cache=tmp_path / "models")
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    # A process that was killed leaves a part, which is no model.
    shutil.rmtree(folder)
    partial = folder.with_name(f"{folder.name}.partial")
    partial.mkdir()
    (partial / "config.json").write_text("{")
    assert unpack(str(file), cache=tmp_path / "models") == folder and not partial.exists()


def test_without_a_cache_nothing_stays(made: Made) -> None:
    model, tokenizer = load_model(str(made[0]))
    assert torch.equal(model.get_input_embeddings().weight, made[1].get_input_embeddings().weight)
    assert tokenizer.chat_template == CHAT


def test_what_is_no_usable_gguf_file_says_what_it_is(made: Made, tmp_path: Path) -> None:
    def refused(name: str, content: bytes | None = None) -> str:
        file = tmp_path / name
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(PolicyError) as caught:
            require_model(str(file))
        assert caught.value.hint
        return str(caught.value)

    whole = made[0].read_bytes()
    assert "there is no file" in refused("missing.gguf")
    assert "no whole GGUF file" in refused("empty.gguf", b"") and "begins with b'PK" in refused(
        "zip.gguf", b"PK\3\4" * 9
    )
    assert "its version is 1" in refused("old.gguf", whole[:4] + b"\1\0\0\0" + whole[8:])
    for cut in (30, len(whole) // 4, len(whole) - 40_000):
        assert "no whole GGUF file" in refused(f"cut{cut}.gguf", whole[:cut])
    for name, changes, expected in (
        ("gemma", {"architecture": "gemma3"}, "architecture gemma3, expected llama or qwen2"),
        ("pieces", {"tokenizer": "llama"}, "tokenizer of the kind llama, expected gpt2"),
        ("odd", {"pre": "odd"}, "cuts text like odd, expected smollm or"),
        ("base", {"leave_out": "chat_template"}, "has no chat template"),
    ):
        write(tmp_path / f"{name}.gguf", **changes)
        assert expected in refused(f"{name}.gguf")


def test_a_full_disk_is_told_before_anything_is_unpacked(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmo_rl.lm.unpack.BYTES_A_PARAMETER", 10**12)
    with pytest.raises(PolicyError, match="GB unpacked") as caught:
        unpack(str(made[0]), cache=tmp_path / "models")
    assert "MMO_RL_HOME" in str(caught.value.hint)
    assert [file.suffix for file in (tmp_path / "models").iterdir()] == [".lock"]
    (tmp_path / "file").write_text("")
    with pytest.raises(PolicyError, match="could not be unpacked"):
        unpack(str(made[0]), cache=tmp_path / "file")


def test_a_path_that_is_no_model_is_told_what_it_is(tmp_path: Path) -> None:
    def told(path: Path) -> str:
        spec = ModelSpec(name="x", base_model="x", path=str(path), context_length=64, max_completion_tokens=8)
        with pytest.raises(PolicyError) as caught:
            spec.location()
        return str(caught.value)

    assert "is not there" in told(tmp_path / "x") and "is not there" in told(tmp_path / "x.gguf")
    (tmp_path / "weights.bin").write_text("")
    assert "does not end in .gguf" in told(tmp_path / "weights.bin")
    (tmp_path / "q4.gguf").write_text("")
    assert "it has q4.gguf" in told(tmp_path)
    with pytest.raises(PolicyError, match="no whole GGUF"):
        read_gguf(str(tmp_path / "q4.gguf"))


async def test_a_run_keeps_unpacked_models_in_its_home(made: Made, tmp_path: Path) -> None:
    """The config's ``home`` reaches the model without being a key of its file."""
    loader = ConfigLoaderImpl(create_config_search_path(f"file://{shipped('conf')}"))
    overrides = ["model=smollm2_135m", f"model.path={made[0]}", f"home={tmp_path}"]
    config = loader.load_configuration("config", overrides, run_mode=RunMode.RUN)
    settings = validate(OmegaConf.masked_copy(config, [str(k) for k in config if k != "hydra"]))
    spec = composed_components(settings).model
    assert (spec.location(), spec.cache) == (str(made[0]), settings.home / "models")
    policy = open_policy(PolicyVersion(spec.name, 0, spec.location()), spec)
    assert policy.tokenizer.chat_template == CHAT
    assert {file.suffix for file in (settings.home / "models").iterdir()} == {"", ".lock"}


def test_an_adapter_over_a_gguf_file_is_played_after_the_unpacked_folder_is_gone(tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    file = tmp_path / "small.gguf"
    write(file)
    model, tokenizer = load_model(str(file), cache=tmp_path / "first" / "models")
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules="all-linear"))
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.5)
    trained = tmp_path / "checkpoints" / "0001"
    adapted.save_pretrained(trained)
    tokenizer.save_pretrained(trained)
    ids = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    with torch.no_grad():
        expected = adapted(ids).logits
    shutil.rmtree(tmp_path / "first")
    spec = ModelSpec(
        name="small",
        base_model="unused",
        path=str(file),
        context_length=128,
        max_completion_tokens=4,
        lora_rank=2,
        parts=ModelParts(cache=tmp_path / "second" / "models"),
    )
    policy = open_policy(PolicyVersion("small", 1, str(trained)), spec)
    with torch.no_grad():
        assert torch.equal(policy.model(ids).logits, expected)
    assert (tmp_path / "second" / "models").is_dir()
