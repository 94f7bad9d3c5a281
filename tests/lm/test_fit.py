"""Weights that do not fit their model, or are not there: refused by name before anything is played."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mmo_rl.errors import PolicyError
from mmo_rl.lm.load import load_model, require_model
from mmo_rl.lm.model import SHIPPED

TINY = SHIPPED / "tiny"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 1842344\n"
Weights = dict[str, torch.Tensor]


def copied(folder: Path, *, weights: Callable[[Weights], Mapping[str, torch.Tensor]], config: Any = None) -> str:
    """A copy of the shipped model with other weights, and other keys in its config.json."""
    shutil.copytree(TINY, folder)
    file = folder / "model.safetensors"
    save_file(dict(weights(load_file(file))), file, metadata={"format": "pt"})
    told = json.loads((folder / "config.json").read_text()) | (config or {})
    (folder / "config.json").write_text(json.dumps(told))
    return str(folder)


@pytest.fixture(scope="module")
def adapter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of rank 4 of the shipped model, with its embeddings beside it."""
    import peft

    folder = tmp_path_factory.mktemp("adapter")
    model, tokenizer = load_model(str(TINY))
    settings = peft.LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    peft.get_peft_model(model, settings).save_pretrained(str(folder), save_embedding_layers=True)
    tokenizer.save_pretrained(str(folder))
    return folder


def edited(adapter: Path, folder: Path, weights: Callable[[Weights], Mapping[str, torch.Tensor]]) -> str:
    shutil.copytree(adapter, folder)
    file = folder / "adapter_model.safetensors"
    save_file(dict(weights(load_file(file))), file, metadata={"format": "pt"})
    return str(folder)


def refusal(location: str, base: str | None = None) -> PolicyError:
    with pytest.raises(PolicyError) as caught:
        load_model(location, base=base)
    return caught.value


def test_a_layer_without_weights_is_named_and_not_drawn_at_random(tmp_path: Path) -> None:
    location = copied(tmp_path / "m", weights=lambda w: {k: v for k, v in w.items() if ".layers.1." not in k})
    error = refusal(location)
    assert f"the weights of {location} lack 9 tensors" in error.message
    assert "model.layers.1.input_layernorm.weight, " in error.message and "and 6 more" in error.message
    assert "get the files again" in str(error.hint)


def test_one_missing_weight_is_named(tmp_path: Path) -> None:
    error = refusal(copied(tmp_path / "m", weights=lambda w: {k: v for k, v in w.items() if k != "model.norm.weight"}))
    assert error.message.endswith("lack 1 tensor that its config.json asks for: model.norm.weight")


def test_a_tied_head_is_not_missing_and_one_that_is_not_tied_is(tmp_path: Path) -> None:
    load_model(copied(tmp_path / "tied", weights=lambda w: w))
    untied = copied(tmp_path / "untied", weights=lambda w: w, config={"tie_word_embeddings": False})
    assert "lm_head.weight" in refusal(untied).message


def test_embeddings_of_another_size_are_refused(tmp_path: Path) -> None:
    location = copied(tmp_path / "m", weights=lambda w: w | {"model.embed_tokens.weight": torch.zeros(500, 128)})
    assert "model.embed_tokens.weight is 500 x 128 instead of 437 x 128" in refusal(location).message


def test_a_layer_too_many_is_refused_and_weights_of_other_parts_are_not(tmp_path: Path) -> None:
    cut = copied(tmp_path / "cut", weights=lambda w: w, config={"num_hidden_layers": 1})
    assert "has 9 tensors for more layers than its config.json asks for: model.layers.1." in refusal(cut).message
    load_model(copied(tmp_path / "seen", weights=lambda w: w | {"vision.patch.weight": torch.zeros(3)}))


def test_a_whole_adapter_loads(adapter: Path) -> None:
    model, _ = load_model(str(adapter), base=str(TINY))
    assert sum("lora_A" in name for name, _ in model.named_parameters()) == 14


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (
            lambda w: w | {"base_model.model.model.embed_tokens.weight": torch.zeros(500, 128)},
            "does not fit the model: model.embed_tokens.weight is 500 x 128 instead of 437 x 128",
        ),
        (lambda w: {k: v for k, v in w.items() if ".layers.1." not in k}, "lacks 14 tensors that its adapter_config"),
        (
            lambda w: w | {"base_model.model.model.layers.7.mlp.up_proj.lora_A.weight": torch.zeros(4, 128)},
            "has 1 tensor that the model lacks: model.layers.7.mlp.up_proj.lora_A.weight",
        ),
        (
            lambda w: {k: v[:2].contiguous() if "lora_A" in k else v for k, v in w.items()},
            "holds an adapter of rank 2, and adapter_config.json beside it says r=4",
        ),
        (
            lambda w: {k: torch.zeros(5, 4) if "q_proj.lora_B" in k else v for k, v in w.items()},
            "model.layers.0.self_attn.q_proj.lora_B.weight is 5 x 4 instead of 128 x 4",
        ),
    ],
    ids=["embeddings", "cut", "of another model", "rank", "shape"],
)
def test_an_adapter_that_does_not_fit_is_refused_by_name(
    adapter: Path, tmp_path: Path, weights: Callable[[Weights], Weights], says: str
) -> None:
    error = refusal(edited(adapter, tmp_path / "a", weights), str(TINY))
    assert f"{tmp_path / 'a' / 'adapter_model.safetensors'} " in error.message
    assert says in error.message


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_an_lfs_pointer_is_told_as_one(tmp_path: Path, name: str) -> None:
    shutil.copytree(TINY, tmp_path / "m")
    (tmp_path / "m" / name).write_text(POINTER)
    error = refusal(str(tmp_path / "m"))
    assert error.message.startswith(f"{tmp_path / 'm' / name} is a Git LFS pointer of {len(POINTER)} bytes")
    assert "git lfs pull" in str(error.hint)


@pytest.mark.parametrize("share", [0.5, 0.0001, 0.0])
def test_half_a_weights_file_is_told_as_cut(tmp_path: Path, share: float) -> None:
    shutil.copytree(TINY, tmp_path / "m")
    file = tmp_path / "m" / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    error = refusal(str(tmp_path / "m"))
    assert error.message.startswith(f"{file} is cut or damaged: {int(share * len(content)):,} bytes")


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "m")
    shards = {"weight_map": {"model.norm.weight": "model.safetensors", "lm_head.weight": "model-2.safetensors"}}
    (tmp_path / "m" / "model.safetensors.index.json").write_text(json.dumps(shards))
    assert "names model-2.safetensors, which is not there" in refusal(str(tmp_path / "m")).message


def test_an_adapter_that_is_a_pointer_is_told_as_one(adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "a")
    (tmp_path / "a" / "adapter_model.safetensors").write_text(POINTER)
    assert "is a Git LFS pointer" in refusal(str(tmp_path / "a"), str(TINY)).message


def test_a_run_finds_it_before_anything_starts(tmp_path: Path) -> None:
    shutil.copytree(TINY, tmp_path / "m")
    require_model(str(tmp_path / "m"))
    for file in (tmp_path / "m" / "model.safetensors", tmp_path / "model.gguf"):
        file.write_text(POINTER)
        with pytest.raises(PolicyError, match="is a Git LFS pointer"):
            require_model(str(file if file.suffix == ".gguf" else file.parent))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named_and_not_played(tmp_path: Path, value: float) -> None:
    def broken(weights: Weights) -> Weights:
        weights["model.norm.weight"][3] = value
        return weights

    error = refusal(copied(tmp_path / "m", weights=broken))
    assert error.message.endswith("are broken: NaN or infinity in model.norm.weight")


def test_an_adapter_that_is_no_numbers_is_named(adapter: Path, tmp_path: Path) -> None:
    location = edited(adapter, tmp_path / "a", lambda w: {k: v * float("nan") for k, v in w.items()})
    assert f"the weights at {location} are broken: NaN or infinity in " in refusal(location, str(TINY)).message
