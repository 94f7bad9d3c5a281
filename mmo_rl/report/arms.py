"""Arms of a comparison: runs that are the same experiment but for the seed, and the config keys that tell arms apart.

Where the class of a component differs (``judge=oracle`` against ``judge=ruler``), one column with the component's name
stands for it. A key that another column already tells (what a model preset sets beside its name) is no column, and
neither are seeds, places, names, prices and reports: they do not decide what a run results in.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from mmo_rl.report.numbers import MISSING, is_number
from mmo_rl.report.runs import ConfigValue, Run

TARGET = "_target_"
IGNORED = frozenset({"name", "home", "job", "overrides"})
IGNORED_NODES = frozenset({"report", "database", "task", "compare", "hydra"})
Signature = tuple[ConfigValue, ...]


@dataclass(frozen=True, slots=True)
class Arm:
    """Runs that differ in the seed alone. ``values`` by column; ``number`` from 1 in the order of the table."""

    number: int
    values: Mapping[str, ConfigValue]
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        return " ".join(f"{key}={said(value)}" for key, value in self.values.items()) or "(all runs)"

    @property
    def short(self) -> str:
        """The name without the components that its keys are in: ``max_dropout=0.3``."""
        if len(self.values) == 1:
            (key, value), *_ = self.values.items()
            return said(value) if not is_number(value) else f"{key.rpartition('.')[2]}={said(value)}"
        return " ".join(f"{key.rpartition('.')[2]}={said(value)}" for key, value in self.values.items()) or "all runs"


def said(value: object) -> str:
    """A config value for people."""
    if value is None:
        return MISSING
    if isinstance(value, float):
        return f"{value:.6g}"
    return {True: "true", False: "false"}.get(value, str(value)) if isinstance(value, bool) else str(value)


def config_value(run: Run, key: str) -> ConfigValue:
    """Value of a run in a column: the config's, or the choice of a component (``judge``)."""
    if key in run.config:
        return _same_anywhere(run.config[key])
    return _choice(run, key)


def known_keys(runs: Sequence[Run]) -> list[str]:
    """Everything that runs may be told apart by."""
    keys = dict.fromkeys(key for run in runs for key in run.config)
    nodes = dict.fromkeys(key.removesuffix(f".{TARGET}") for key in keys if key.endswith(TARGET))
    return [*nodes, *(key for key in keys if not key.endswith(TARGET))]


def differing(runs: Sequence[Run]) -> list[str]:
    """The columns, the ones that people typed first. A key that some runs lack (an older version made them) differs
    only where the others differ among themselves."""
    typed = _typed(runs)
    keys = {key: _signature(runs, key) for key in dict.fromkeys(k for run in runs for k in run.config) if _counts(key)}
    varied = {key: signature for key, signature in keys.items() if len(set(signature) - {None}) > 1}
    candidates: dict[str, Signature] = {}
    for node in dict.fromkeys(key.partition(".")[0] for key in varied if "." in key):
        inner = [key for key in varied if key.startswith(f"{node}.")]
        chosen = len(inner) > 1 and all(node in {_key(o) for o in run.overrides} for run in runs)
        if chosen or f"{node}.{TARGET}" in inner:
            choices = _signature(runs, node)
            if len(set(choices)) > 1:
                candidates[node] = choices
    candidates |= {key: signature for key, signature in varied.items() if not key.endswith(TARGET)}
    order = sorted(candidates, key=lambda key: (key not in typed, "." in key, not key.endswith(".name")))
    kept: list[str] = []
    for key in order:
        others = [candidates[k] for k in kept]
        beside = [candidates[k] for k in kept if k.partition(".")[0] == key.partition(".")[0]]
        if _tells(beside, candidates[key]) or any(
            _tells([other], candidates[key]) and (key not in typed) and _tells([candidates[key]], other)
            for other in others
        ):
            continue
        kept.append(key)
    if _repeats(runs, kept) and len({run.config.get("name") for run in runs}) > 1:
        kept.append("name")
    return kept


def arms_of(runs: Sequence[Run], columns: Sequence[str]) -> list[Arm]:
    """Runs by their values in ``columns``, in the order in which they come."""
    grouped: dict[tuple[str, ...], list[Run]] = {}
    for run in runs:
        grouped.setdefault(tuple(said(config_value(run, c)) for c in columns), []).append(run)
    return [
        Arm(number, {c: config_value(members[0], c) for c in columns}, tuple(members))
        for number, members in enumerate(grouped.values(), start=1)
    ]


def newest_only(runs: Sequence[Run], columns: Sequence[str]) -> tuple[list[Run], list[Run]]:
    """Of runs of one config and one seed the one that ended last, and the others."""
    newest: dict[tuple[str, ...], Run] = {}
    for run in runs:
        key = (str(run.seed) if run.seed is not None else run.location, *(said(config_value(run, c)) for c in columns))
        if key not in newest or run.ended > newest[key].ended:
            newest[key] = run
    kept = {run.location for run in newest.values()}
    return [run for run in runs if run.location in kept], [run for run in runs if run.location not in kept]


def _counts(key: str) -> bool:
    node, leaf = key.partition(".")[0], key.rpartition(".")[2]
    if key in IGNORED or node in IGNORED_NODES:
        return False
    return leaf not in ("seed", "home", "dsn_env") and not leaf.startswith("price_") and ".prices." not in key


def _signature(runs: Sequence[Run], key: str) -> Signature:
    return tuple(_plain(config_value(run, key)) for run in runs)


def _plain(value: ConfigValue) -> str | None:
    return None if value is None else said(value)


def _same_anywhere(value: ConfigValue) -> ConfigValue:
    """A path without its folders, which are each machine's own."""
    if isinstance(value, str) and PurePath(value).is_absolute():
        return PurePath(value).name
    return value


def _choice(run: Run, node: str) -> ConfigValue:
    """Name of a group's choice: as it was typed, else the component's own name, else its class."""
    for override in reversed(run.overrides):
        if _key(override) == node:
            return override.partition("=")[2]
    target = run.config.get(f"{node}.{TARGET}")
    if f"{node}.name" in run.config:
        return str(run.config[f"{node}.name"])
    if not isinstance(target, str):
        return "none" if node in run.config else None
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", target.rpartition(".")[2])
    if len(words) > 1 and words[-1].lower() in (node, "evaluator", "collector", "sampler", "spec"):
        words.pop()
    return "_".join(word.lower() for word in words)


def _typed(runs: Iterable[Run]) -> set[str]:
    return {_key(override) for run in runs for override in run.overrides}


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _tells(known: Sequence[Signature], asked: Signature) -> bool:
    """True where the values of ``known`` columns decide those of another in all runs."""
    if not known:
        return False
    seen: dict[tuple[object, ...], object] = {}
    return all(seen.setdefault(key, value) == value for key, value in zip(zip(*known, strict=True), asked, strict=True))


def _repeats(runs: Sequence[Run], columns: Sequence[str]) -> bool:
    return len(newest_only(runs, columns)[0]) < len(runs)
