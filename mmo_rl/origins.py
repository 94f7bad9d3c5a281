"""Origins of recorded play: the choice of some of it (``source.where``), and the sentence that names what was chosen.

A run that plays records into a scenario of its own, ``NAME-<folder>-<six digits>``, and ``task=collect`` into
``NAME-collect-<key>``: the name of a run is read from there.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass

from mmo_rl.types import SelectedWindow
from mmo_rl.window_ids import split_id

Names = str | tuple[str, ...] | None
_RUN = re.compile(r"(?P<name>.+?)(-collect)?-[0-9a-f]{10}(-[0-9a-f]{6,8})?")
_SCRIPT = "script/"
SHOWN = 4
"""Number of origins that a sentence names one by one."""


@dataclass(frozen=True, slots=True)
class Where:
    """Choice of recorded play, field by field; each is a name or a list of names, in which ``*`` stands for any text.

    ``scenario`` as recorded; ``run`` the name of an experiment that played or collected, or ``NAME/KEY`` for one of its
    runs; ``model`` that of any recorded LLM call of a trajectory (``script/*`` for scripts); ``agent`` its id; ``role``
    its archetype or ``npcRole``, or both (``trader/insider``). None does not choose; what has no value is chosen
    by ``*`` alone.
    """

    scenario: Names = None
    run: Names = None
    model: Names = None
    agent: Names = None
    role: Names = None

    def __bool__(self) -> bool:
        """Tells if anything is chosen."""
        return bool(self.asked)

    @property
    def asked(self) -> dict[str, tuple[str, ...]]:
        """The fields that choose, with their names."""
        listed = {key: _listed(value) for key, value in asdict(self).items()}
        return {key: names for key, names in listed.items() if names}

    @property
    def patterns(self) -> dict[str, list[str]]:
        """The fields that leave something out, as regular expressions that PostgreSQL shares, anchored at both ends."""
        kept = {key: names for key, names in self.asked.items() if "*" not in names}
        return {key: [_run_pattern(n) if key == "run" else _pattern(n) for n in names] for key, names in kept.items()}

    @property
    def exact(self) -> dict[str, list[str]]:
        """The fields that hold whole names only, which an index can look up."""
        return {
            key: list(names)
            for key, names in self.asked.items()
            if key != "run" and not any("*" in name for name in names)
        }

    def matches(self, *, scenario: str | None, agent: str, role: str | None, models: Collection[str]) -> bool:
        """Tells if a trajectory is chosen."""
        roles = [role, *(role or "").split("/")]  # trader/insider is chosen by either part too
        values = {"scenario": [scenario], "run": [scenario], "model": models, "agent": [agent], "role": roles}
        return all(
            any(value is not None and re.fullmatch(pattern, value) for value in values[key] for pattern in patterns)
            for key, patterns in self.patterns.items()
        )

    def __str__(self) -> str:
        """Returns the overrides that choose the same."""
        return " ".join(
            f"source.where.{key}={names[0] if len(names) == 1 else '[' + ','.join(names) + ']'}"
            for key, names in self.asked.items()
        )


EVERYTHING = Where()


@dataclass(frozen=True, slots=True)
class Origin:
    """Scenario of a recorded trajectory, and the models of its LLM calls."""

    scenario_id: str | None
    models: tuple[str, ...]
    simulated: bool


def is_simulated(trajectory_id: str, scenario_id: str | None) -> bool:
    """Tells if a trajectory was played in the simulated market, by the id that it is recorded under there."""
    return scenario_id is not None and trajectory_id.startswith(f"{scenario_id}-w")


def run_name(scenario_id: str) -> str:
    """Reads the name of the experiment that recorded a scenario; other scenarios have their own name."""
    found = _RUN.fullmatch(scenario_id)
    return found["name"] if found else scenario_id


def told(origins: Mapping[str, Origin], windows: Iterable[SelectedWindow]) -> list[str]:
    """Describes the origin of chosen windows in a line, and in a second one that they are of several markets or
    policies. ``origins`` is by trajectory id; those without one are left out."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    markets, policies = set(), set()
    for chosen in windows:
        for identity in chosen.recorded_ids:
            origin = origins.get(identity) or origins.get(split_id(identity)[0])
            if origin is None:
                continue
            name = "play without a scenario" if origin.scenario_id is None else run_name(origin.scenario_id)
            ids, players = found.setdefault(name, (set(), set()))
            ids.add(chosen.window.id)
            players |= _players(origin)
            policies |= _players(origin)
            markets.add("the simulated market" if origin.simulated else "play recorded elsewhere")
    if not found:
        return []
    ordered = sorted(found.items(), key=lambda item: (-len(item[1][0]), item[0]))
    parts = [_part(name, len(ids), sorted(players)) for name, (ids, players) in ordered[:SHOWN]]
    if len(ordered) > SHOWN:
        parts.append(f"{len(ordered) - SHOWN} more")
    lines = [f"from: {'; '.join(parts)}"]
    mixes = []
    if len(markets) > 1:
        mixes.append("of markets (" + ", ".join(sorted(markets)) + ")")
    if len(policies) > 1:
        mixes.append("of policies (" + _some(sorted(policies)) + ")")
    if mixes:
        key = "run" if any(name != "play without a scenario" for name in found) else "model"
        lines.append(f"a mix {' and '.join(mixes)}; source.where.{key}=NAME chooses some of it")
    return lines


def _players(origin: Origin) -> set[str]:
    return {"scripts" if model.startswith(_SCRIPT) else model for model in origin.models if model}


def _part(name: str, windows: int, players: Sequence[str]) -> str:
    who = f", {_some(players)}" if players else ""
    return f"{name} ({windows:,} window{'s' * (windows != 1)}{who})"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _listed(value: Names | list[str]) -> tuple[str, ...]:
    return () if value is None else (value,) if isinstance(value, str) else tuple(value)


def _pattern(name: str) -> str:
    return f"^{'.*'.join(map(_escaped, name.split('*')))}$"


def _run_pattern(name: str) -> str:
    experiment, _, key = name.partition("/")
    inner = _pattern(experiment)[1:-1]
    return f"^({inner}|{inner}(-collect)?-{_pattern(key)[1:-1] if key else '[^-]+'}(-[0-9a-f]+)?)$"


def _escaped(text: str) -> str:
    """Escapes what means something in both languages of patterns; a letter never gets a backslash."""
    return re.sub(r"([^0-9A-Za-z_\s-])", r"\\\1", text)
