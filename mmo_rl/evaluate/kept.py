"""Cache of the rollouts of base models on this machine: the jobs of a sweep measure the same base once."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import astuple
from functools import cache
from pathlib import Path

from mmo_rl.files import write_json
from mmo_rl.types import Rollout

_log = logging.getLogger(__name__)


class KeptRollouts:
    """Files ``<hash of all conditions of the measurement>.json`` in ``folder``; any may be deleted at any time.

    The code of this package is one of the conditions: results of other code are never read."""

    def __init__(self, *, folder: Path) -> None:
        self._folder = folder

    def read(self, conditions: Mapping[str, object]) -> tuple[Rollout, ...] | None:
        """Rollouts measured under the same ``conditions``; None where there are none or the file cannot be read."""
        path = self._path(conditions)
        try:
            kept = tuple(Rollout(*row) for row in json.loads(path.read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError) as error:
            _log.warning("%s cannot be read, so the base is measured again: %s", path, error)
            return None
        _log.info("the base was measured before: %s", path)
        return kept

    def write(self, conditions: Mapping[str, object], rollouts: tuple[Rollout, ...]) -> None:
        """Stores the rollouts; where the disk refuses, the next run measures them again."""
        path = self._path(conditions)
        try:
            write_json(path, [astuple(rollout) for rollout in rollouts], indent=None)
        except OSError as error:
            _log.warning("the rollouts of the base cannot be kept in %s: %s", self._folder, error)

    def _path(self, conditions: Mapping[str, object]) -> Path:
        text = json.dumps({**conditions, "code": _code()}, sort_keys=True)
        return self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.json"


@cache
def _code() -> str:
    """The hash of this package's source."""
    root = Path(__file__).resolve().parents[1]
    digest = hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        digest.update(f"{file.relative_to(root).as_posix()} {file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()
