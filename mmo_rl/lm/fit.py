"""Fit of weights to their model: files that are whole, tensors that are all there, of the model's own shapes.

Libraries go on with what they find: a layer without weights is drawn at random, a tensor of another shape is left out,
with a table on the terminal. Here each is an error that names the file and the tensor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmo_rl.errors import PolicyError
from mmo_rl.wording import counted, listed

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LFS_POINTER = b"version https://git-lfs"
"""Beginning of the text that Git keeps in the place of a large file."""
ADAPTER = "adapter_config.json"
"""A folder with this file holds a LoRA adapter, not a whole model."""
ADAPTER_WEIGHTS = "adapter_model.safetensors"
AGAIN = "get the files again (hf download REPO --local-dir FOLDER), or choose others: model.path=FOLDER"

Shape = tuple[int, ...]


def require_whole_files(folder: Path) -> None:
    """Raises `PolicyError` for a file of a model's folder that is a Git LFS pointer, or weights that are cut or
    missing; weights in other forms than safetensors are only looked at for the former."""
    if not folder.is_dir():
        return
    files = sorted(path for path in folder.iterdir() if path.is_file())
    for path in files:
        require_no_pointer(path)
    for path in files:
        if path.suffix == ".safetensors":
            shapes(path)
        elif path.name.endswith(".safetensors.index.json"):
            for shard in _shards(path):
                if not (folder / shard).is_file():
                    raise PolicyError(f"{path.name} of {folder} names {shard}, which is not there", hint=AGAIN)
    if (folder / ADAPTER).is_file():
        _require_rank(folder)


def require_no_pointer(path: Path) -> None:
    """Raises `PolicyError` where a file is a Git LFS pointer."""
    with path.open("rb") as opened:
        pointer = opened.read(len(LFS_POINTER)) == LFS_POINTER
    if pointer:
        raise PolicyError(
            f"{path} is a Git LFS pointer of {path.stat().st_size} bytes, not the file that it stands for",
            hint=f"git lfs pull, in the repository that it came with; or {AGAIN}",
        )


def shapes(file: Path) -> dict[str, Shape]:
    """Returns the shape of every tensor in a safetensors file. Raises `PolicyError` where it is cut or damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        size = file.stat().st_size
        raise PolicyError(
            f"{file} is cut or damaged: {size:,} bytes that are no whole safetensors file ({error})", hint=AGAIN
        ) from error


def require_model_fit(location: str, info: Mapping[str, Any], model: PreTrainedModel) -> None:
    """Raises `PolicyError` for weights that ``model`` has and its files lack, that have another shape there, or that
    are those of a layer too many; ``info`` is transformers' ``loading_info``. Tied weights are not missing."""
    wrong = [f"{name} is {_words(found)} instead of {_words(own)}" for name, found, own in info["mismatched_keys"]]
    if wrong:
        raise PolicyError(
            f"the weights of {location} do not fit its config.json: {listed(wrong)}",
            hint=f"give the config.json that belongs to these weights; or {AGAIN}",
        )
    if missing := sorted(info["missing_keys"]):
        count = counted(len(missing), "tensor")
        raise PolicyError(
            f"the weights of {location} lack {count} that its config.json asks for: {listed(missing)}",
            hint=AGAIN,
        )
    kinds = {_kind(name) for name in model.state_dict()}
    if extra := sorted(name for name in info["unexpected_keys"] if _kind(name) in kinds):
        count = counted(len(extra), "tensor")
        raise PolicyError(
            f"{location} has {count} for more layers than its config.json asks for: {listed(extra)}",
            hint=f"give the config.json that belongs to these weights; or {AGAIN}",
        )


def require_adapter_fit(folder: Path, model: PreTrainedModel, *, name: str = "default") -> None:
    """Raises `PolicyError` where the adapter ``name`` of ``model``, loaded from ``folder``, has weights that the folder
    lacks, or the folder has ones that the model lacks or has in another shape."""
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file() or getattr(model.config, "num_experts", None):  # those of experts are renamed on loading
        return
    saved = {_plain(tensor): shape for tensor, shape in shapes(file).items()}
    own: dict[str, Shape] = {}
    trained = set()
    for tensor, value in model.state_dict().items():
        if ".original_module." in tensor:
            continue
        plain = _plain(tensor.replace(".modules_to_save", "").replace(f".{name}", ""))
        own[plain] = tuple(value.shape)
        own.setdefault(plain.replace(".base_layer", ""), tuple(value.shape))
        if f".{name}" in tensor:
            trained.add(plain)
    hint = "an adapter fits the base model that it was trained from: model=NAME or model.path=FOLDER of that one"
    wrong = [
        f"{tensor} is {_words(shape)} instead of {_words(own[tensor])}"
        for tensor, shape in sorted(saved.items())
        if own.get(tensor, shape) != shape
    ]
    if wrong:
        raise PolicyError(f"{file} does not fit the model: {listed(wrong)}", hint=hint)
    if unknown := sorted(saved.keys() - own.keys()):
        raise PolicyError(
            f"{file} has {counted(len(unknown), 'tensor')} that the model lacks: {listed(unknown)}", hint=hint
        )
    if missing := sorted(trained - saved.keys()):
        raise PolicyError(
            f"{file} lacks {counted(len(missing), 'tensor')} that its {ADAPTER} asks for: {listed(missing)}",
            hint="take another checkpoint of that run, or train the adapter again",
        )


def _require_rank(folder: Path) -> None:
    """Raises `PolicyError` where an adapter's weights have another rank than its config says."""
    file = folder / ADAPTER_WEIGHTS
    try:
        config = json.loads((folder / ADAPTER).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise PolicyError(f"{folder / ADAPTER} cannot be read: {error}", hint=AGAIN) from error
    rank = config.get("r")
    if not file.is_file() or not isinstance(rank, int) or config.get("rank_pattern"):
        return
    found = {shape[0] for tensor, shape in shapes(file).items() if tensor.endswith("lora_A.weight")} - {rank}
    if found:
        raise PolicyError(
            f"{file} holds an adapter of rank {max(found)}, and {ADAPTER} beside it says r={rank}",
            hint="the two files are of different adapters: copy both from one folder",
        )


def _shards(index: Path) -> list[str]:
    """Lists the files that an index of weights names. Raises `PolicyError` where it cannot be read."""
    try:
        return sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise PolicyError(f"{index} is no index of weights ({error})", hint=AGAIN) from error


def _plain(tensor: str) -> str:
    """Returns the name of a tensor without the prefix that peft writes, where there is one."""
    return tensor.removeprefix("base_model.model.")


def _kind(tensor: str) -> str:
    """Returns the name of a tensor with the number of its layer left out."""
    return re.sub(r"\.\d+\.", ".N.", tensor)


def _words(shape: Collection[int]) -> str:
    """Writes a shape: 437 x 128."""
    return " x ".join(map(str, shape)) or "a number"
