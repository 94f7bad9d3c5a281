"""What base models were measured to earn, kept on this machine: the jobs of a sweep measure the same one."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import astuple
from functools import cache
from pathlib import Path
from typing import Any

import mmo_rl
from mmo_rl.types import Rollout

_log = logging.getLogger(__name__)


class KeptRollouts:
    """Files ``<hash of everything that the numbers follow from>.json`` in ``folder``; any may be deleted at any time.

    The code of this package is part of the hash, so that nothing measured by other code is ever taken for its own."""

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder

    def read(self, what: Mapping[str, Any]) -> tuple[Rollout, ...] | None:
        """What was measured; None where it was not, or cannot be read."""
        path = self._path(what)
        try:
            kept = tuple(Rollout(*row) for row in json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            _log.warning("%s cannot be read, it is measured again: %s", path, error)
            return None
        _log.info("measured before, see %s", path)
        return kept

    def write(self, what: Mapping[str, Any], rollouts: tuple[Rollout, ...]) -> None:
        """Keeps them, whole or not at all; a disk that refuses costs only the next one the same work."""
        path = self._path(what)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            partial.write_text(json.dumps([astuple(rollout) for rollout in rollouts]), "utf-8")
            partial.replace(path)
        except OSError as error:
            _log.warning("what was measured could not be kept in %s: %s", self._folder, error)
            partial.unlink(missing_ok=True)

    def _path(self, what: Mapping[str, Any]) -> Path:
        text = json.dumps({**what, "code": _code()}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


@cache
def _code() -> str:
    """The hash of this package's source."""
    root = Path(mmo_rl.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()} {file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()
