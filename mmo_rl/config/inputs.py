"""Identity by content of what a config names by its path: weights, checkpoints of other runs, files of recorded play.

A path is no content: a run's folder gains versions, weights are replaced, an export grows. The content is noted in the
run folder (inputs.json) when a run starts, and compared when the same command finds that folder again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import msgspec

from mmo_rl.clock import utc_now
from mmo_rl.config.settings import Settings
from mmo_rl.errors import ConfigError, PolicyError
from mmo_rl.files import write_json
from mmo_rl.lm.manifest import FILE as MANIFEST
from mmo_rl.lm.model import SHIPPED, find_checkpoint
from mmo_rl.lm.weights import STATE
from mmo_rl.report.run_folder import RunFolder
from mmo_rl.source.exports import STANDARD_INPUT, export_files

KEPT_FROM_BYTES = 1 << 20
"""Least size of a file whose checksum is kept, by its size and time of change: smaller ones are read each time."""
SETTLED_S = 2.0
"""Age from which a file's time of change tells it from a file that is written at this moment."""

Kind = Literal["policy", "model", "export"]


class Input(msgspec.Struct, frozen=True):
    """Content of one path of a config. ``version`` is that of a checkpoint, None for other content."""

    path: str
    sha256: str
    version: int | None = None

    def __str__(self) -> str:
        content = f"content {self.sha256[:8]}"
        return content if self.version is None else f"version {self.version}, {content}"


class Checksum(msgspec.Struct, frozen=True):
    """Checksum of a file as it was at a time and size."""

    bytes: int
    mtime_ns: int
    sha256: str


def inputs_of(settings: Settings) -> dict[str, Input]:
    """Reads the identity of everything that a config names by path, by config key; what is not there is left out, as
    are hub ids, endpoints and databases."""
    found: dict[str, Input] = {}
    for key, path, kind in _paths(settings):
        place = Path(path).expanduser()
        version = None
        if kind == "policy":
            try:
                checkpoint = find_checkpoint(path, name="")
            except PolicyError:  # the task says what is wrong with it
                continue
            place, version = Path(checkpoint.path), checkpoint.version or None
        if place.exists():
            found[key] = Input(path, _sha256(_files(place, kind), cache=settings.home / "checksums"), version)
    return found


def read_inputs(folder: RunFolder) -> dict[str, Input]:
    """Reads the inputs that a run has noted; none where it was made before they were."""
    noted = folder.inputs() or {}
    try:
        return msgspec.convert(noted, dict[str, Input])
    except msgspec.ValidationError:
        return {}


def write_inputs(folder: RunFolder, inputs: Mapping[str, Input]) -> None:
    """Notes the inputs of a run that starts now."""
    if inputs or folder.inputs() is not None:
        folder.write_inputs(msgspec.to_builtins(inputs))


def changes(noted: Mapping[str, Input], now: Mapping[str, Input]) -> list[str]:
    """Describes, a line each, inputs whose content is another than a run has noted. What is no longer there is none:
    the numbers are those of what was there."""
    return [
        f"{key}={was.path} is not what it was when this run began: now {now[key]}, then {was}"
        for key, was in noted.items()
        if key in now and (now[key].sha256, now[key].version) != (was.sha256, was.version)
    ]


def refuse_mixture(folder: RunFolder, changed: Iterable[str]) -> None:
    """Raises `ConfigError` where an unfinished run would go on with other inputs than it began with."""
    told = "\n  ".join(changed)
    if told and folder.read("checkpoints"):
        raise ConfigError(
            f"the run in {folder.path} is not finished, and would go on with something else\n  {told}",
            hint="put back what was there, and the same command continues; or begin a new run: name=ANOTHER_NAME",
        )


def _paths(settings: Settings) -> Iterator[tuple[str, str, Kind]]:
    nodes = {name: node or {} for name, node in settings.nodes.items()}
    kinds: Mapping[str, Kind] = {"policy": "policy", "model": "model", "source": "export"}
    for group, kind in kinds.items():
        path = nodes[group].get("path")
        if isinstance(path, str) and path != STANDARD_INPUT:
            yield f"{group}.path", path, kind
    base = nodes["model"].get("base_model")
    if (
        isinstance(base, str)
        and nodes["model"].get("path") is None
        and (Path(base).is_absolute() or not (SHIPPED / base).is_dir())
    ):
        yield "model.base_model", base, "model"
    for side in ("a", "b"):
        path = nodes["evaluate"].get(side)
        if isinstance(path, str):
            yield f"evaluate.{side}", path, "policy"


def _files(place: Path, kind: Kind) -> list[tuple[str, Path]]:
    """Lists the files that the content is made of, by their names in it. The state of an optimizer and the manifest of
    a checkpoint are none: no answer depends on them."""
    if kind == "export":
        return [(path.relative_to(place.parent).as_posix(), path) for path in export_files(place)]
    if place.is_file():
        return [(place.name, place)]
    inside = (p for p in sorted(place.rglob("*")) if p.is_file())
    named = [(path.relative_to(place).as_posix(), path) for path in inside]
    return [(name, p) for name, p in named if name not in (STATE, MANIFEST) and not name.startswith(".")]


def _sha256(files: Iterable[tuple[str, Path]], *, cache: Path) -> str:
    digest = hashlib.sha256()
    for name, path in files:
        digest.update(f"{name} {_checksum(path, cache)}\n".encode())
    return digest.hexdigest()


def _checksum(path: Path, cache: Path) -> str:
    """Computes the checksum of a file, or reads that of an earlier time where size and time of change are the same."""
    size, mtime = path.stat().st_size, path.stat().st_mtime_ns
    kept = cache / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    if size >= KEPT_FROM_BYTES:
        try:
            known = msgspec.json.decode(kept.read_bytes(), type=Checksum)
        except (OSError, msgspec.MsgspecError):
            known = None
        if known is not None and (known.bytes, known.mtime_ns) == (size, mtime):
            return known.sha256
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if size >= KEPT_FROM_BYTES and utc_now().timestamp() - mtime / 1e9 > SETTLED_S:
        with suppress(OSError):  # then it is computed again next time
            write_json(kept, msgspec.to_builtins(Checksum(size, mtime, found)))
    return found


def combined_sha256(inputs: Mapping[str, Input]) -> str:
    """Hash over all inputs; empty where there are none."""
    content = {key: [one.sha256, one.version] for key, one in sorted(inputs.items())}
    return hashlib.sha256(json.dumps(content).encode()).hexdigest() if content else ""
