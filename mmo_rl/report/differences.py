"""Differences between a recorded run and the present: code, packages, config and numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from mmo_rl.report.run_folder import RunFolder, flat
from mmo_rl.types import JsonDict

NOT_A_RESULT = ("time/",)
"""Beginnings of keys whose values differ between any two runs."""
PACKAGES_SHOWN = 8
NOT_SET = "not set"
"""A key's value where a config has no such key."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference; ``numbers_may_change`` is False for one that cannot change results."""

    subject: str
    recorded: str
    here: str
    numbers_may_change: bool = True


def environment_differences(recorded: JsonDict, here: JsonDict) -> Iterator[Difference]:
    """Compares the code, interpreter and packages of two provenance records."""
    yield from _code(recorded.get("git") or {}, here.get("git") or {})
    for key, subject in (("python", "Python"), ("platform", "platform"), ("cpus", "processors")):
        if recorded.get(key) != here.get(key):
            yield Difference(subject, str(recorded.get(key)), str(here.get(key)), key != "cpus")
    before, now = recorded.get("packages") or {}, here.get("packages") or {}
    changed = [name for name in sorted(before.keys() | now.keys()) if before.get(name) != now.get(name)]
    for name in changed[:PACKAGES_SHOWN]:
        yield Difference(f"package {name}", before.get(name, "not installed"), now.get(name, "not installed"))
    if len(changed) > PACKAGES_SHOWN:
        yield Difference("packages", f"{len(changed) - PACKAGES_SHOWN} more differ", "")


def _code(recorded: JsonDict, here: JsonDict) -> Iterator[Difference]:
    before, now = recorded.get("commit"), here.get("commit")
    if before != now:
        yield Difference("commit", (before or "unknown")[:12], (now or "unknown")[:12])
    if recorded.get("patch_sha256") != here.get("patch_sha256"):
        was, now_is = ("uncommitted changes" if git.get("patch_sha256") else "clean" for git in (recorded, here))
        yield Difference("work tree", was, now_is)


def config_differences(recorded: Mapping[str, object], here: Mapping[str, object]) -> list[Difference]:
    """Lists the keys of two config trees that differ, without the places of local data and of reports."""
    before, now = (
        {k: _without_home(v, tree.get("home")) for k, v in flat(tree) if _matters(k)} for tree in (recorded, here)
    )
    return [
        Difference(key, _shown(before, key), _shown(now, key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]


def _matters(key: str) -> bool:
    return key != "home" and key.partition(".")[0] != "report"


def _without_home(value: Any, home: Any) -> Any:
    """Replaces the folder of local data in a path, which is each machine's own."""
    return value.replace(home, "HOME") if isinstance(value, str) and isinstance(home, str) and home else value


def _shown(leaves: Mapping[str, object], key: str) -> str:
    return str(leaves[key]) if key in leaves else NOT_SET


def numbers(folder: RunFolder) -> dict[str, float | None]:
    """Collects every number of the run, summary and learning curve, but those of time; null is kept as None."""
    found: dict[str, object] = dict(folder.summary() or {})
    for row in folder.read("metrics"):
        number = int(row["iteration"] or 0) + 1
        found |= {f"iteration {number} {key}": value for key, value in row.items() if key != "iteration"}
    return {
        key: value
        for key, value in found.items()
        if (value is None or isinstance(value, (int, float))) and not _is_time(key.rpartition(" ")[2])
    }


def _is_time(key: str) -> bool:
    return key.startswith(NOT_A_RESULT) or "_per_s" in key or "latency" in key


def number_differences(recorded: Mapping[str, float | None], here: Mapping[str, float | None]) -> list[Difference]:
    """Lists the numbers that are not equal to the last digit."""
    return [
        Difference(key, _digits(recorded, key), _digits(here, key))
        for key in [*recorded, *(key for key in here if key not in recorded)]
        if key not in recorded or key not in here or recorded[key] != here[key]
    ]


def _digits(found: Mapping[str, float | None], key: str) -> str:
    if key not in found:
        return "missing"
    value = found[key]
    return "null" if value is None else f"{value:.10g}"
