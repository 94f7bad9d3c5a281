"""Manifest of a checkpoint's folder, ``checkpoint.json``: its model and its files, with sizes and checksums.

    {"format": 1, "model": "tiny", "base": "tiny", "version": 3, "shape": {"vocab_size": 512, ...},
     "files": {"model.safetensors": {"bytes": 1842344, "sha256": "..."}, ...}}

It refuses a damaged checkpoint, and one of another model. A folder without a manifest is taken as it is: weights that
were made elsewhere have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from mmo_rl.files import sync_file, sync_folder, write_json

FILE = "checkpoint.json"
FORMAT = 1
SHAPE = ("architectures", "model_type", "vocab_size", "hidden_size", "num_hidden_layers")
"""The keys of a model's config.json that distinguish it from other models."""

Shape = dict[str, str | int | list[str] | None]


class SealedFile(msgspec.Struct, frozen=True):
    """Size and checksum of a file."""

    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True):
    """Content of ``checkpoint.json``; ``base`` is the name of the base model's folder, or its hub id."""

    model: str
    base: str
    version: int
    shape: Shape
    files: dict[str, SealedFile]
    format: int = FORMAT


class _Format(msgspec.Struct, frozen=True):
    """The field that every format has."""

    format: int


@dataclass(frozen=True, slots=True)
class Fault:
    """Reason against loading a checkpoint; ``other_model`` is the model that it is of, where that is the reason."""

    reason: str
    other_model: str | None = None


def seal(folder: Path, *, model: str, base: str, version: int) -> None:
    """Writes the manifest of all files in ``folder`` and returns when everything in it would survive a loss of power.

    ``base`` is the folder or hub id of the base model. Raises `OSError` where the disk refuses.
    """
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and p.name != FILE):
        sync_file(path)
        files[path.relative_to(folder).as_posix()] = SealedFile(path.stat().st_size, _sha256(path))
    base_folder = Path(base).expanduser()
    manifest = Manifest(
        model=model,
        base=base_folder.name if base_folder.exists() else base,
        version=version,
        shape=shape(folder) or shape(base_folder),
        files=files,
    )
    write_json(folder / FILE, msgspec.to_builtins(manifest), durable=True)
    for inner in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
        sync_folder(inner)


def fault(folder: Path, *, model: str, base: str, needed: Callable[[str], bool] = lambda name: True) -> Fault | None:
    """Finds the reason against loading ``folder`` as a version of ``model`` made from ``base``; None where there is
    none. Files that are not ``needed`` are not read."""
    try:
        content = (folder / FILE).read_bytes()
        found = msgspec.json.decode(content, type=_Format)
        if found.format != FORMAT:
            return Fault(f"its format is {found.format}, and this version of mmo-rl reads {FORMAT}")
        manifest = msgspec.json.decode(content, type=Manifest)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, msgspec.MsgspecError):
        return Fault(f"its {FILE} is damaged")
    if manifest.model != model:
        return Fault(f"it is a checkpoint of the model {manifest.model}, not of {model}", manifest.model)
    expected = shape(Path(base).expanduser())
    if expected and manifest.shape and manifest.shape != expected:
        differs = ", ".join(
            f"{key} {manifest.shape.get(key)} instead of {value}"
            for key, value in expected.items()
            if manifest.shape.get(key) != value
        )
        return Fault(f"it is a checkpoint of another {model} ({differs})", model)
    return _damage(folder, manifest.files, needed)


def model_named_in(folder: Path) -> str | None:
    """Returns the name of the model that ``folder`` is a checkpoint of; None where it has no manifest."""
    try:
        return msgspec.json.decode((folder / FILE).read_bytes(), type=Manifest).model
    except (OSError, msgspec.MsgspecError):
        return None


def shape(folder: Path) -> Shape:
    """Returns the `SHAPE` keys of a folder's config.json; empty where there is none."""
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return {key: config.get(key) for key in SHAPE}


def _damage(folder: Path, files: Mapping[str, SealedFile], needed: Callable[[str], bool]) -> Fault | None:
    """Compares the files with the manifest; returns the first difference."""
    for name, sealed in files.items():
        path = folder / name
        if not needed(name):
            continue
        if not path.is_file():
            return Fault(f"its {name} is missing")
        if (size := path.stat().st_size) != sealed.bytes:
            return Fault(f"its {name} has {size:,} bytes instead of {sealed.bytes:,}")
        if _sha256(path) != sealed.sha256:
            return Fault(f"its {name} is damaged (its checksum is wrong)")
    return None


def _sha256(path: Path) -> str:
    """Returns the checksum of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
