"""Keys of swept choices: a sweep over ``judge=ruler,panel`` may set keys that the default judge does not have.

Hydra applies what is not swept to a config with the default choices first, and refuses it where those lack the key. As
a sweep of one value, ``judge.repeats=choice(2)``, it is applied to each job alone, with the job's own choices.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from mmo_rl.config.project import groups

MULTIRUN = ("-m", "--multirun")
EXPERIMENTS = "experiments"


def for_each_job(arguments: Sequence[str]) -> list[str]:
    """Returns the arguments of a sweep with keys of its swept groups as sweeps of one value; keys of every group where
    experiments are swept, which may choose any. Others, and those of a single run, are returned as they are."""
    if not set(MULTIRUN) & set(arguments):
        return list(arguments)
    parsed = dict(_parsed(arguments))
    swept = {o.key_or_group.partition("/")[0] for o in parsed.values() if o.is_sweep_override()}
    anywhere = EXPERIMENTS in swept
    of = {group for group in groups() if anywhere or group in swept}
    return [
        f"{override.get_key_element()}=choice({override.get_value_element_as_str()})"
        if (override := parsed.get(argument)) is not None and _is_key_of(override, of)
        else argument
        for argument in arguments
    ]


def _is_key_of(override: Override, of: set[str]) -> bool:
    """True for a plain value of a key below one of these groups."""
    group, dot, _ = override.key_or_group.partition(".")
    plain = not (override.is_sweep_override() or override.is_add() or override.is_delete() or override.is_force_add())
    return plain and bool(dot) and group in of


def _parsed(arguments: Sequence[str]) -> Iterator[tuple[str, Override]]:
    parser = OverridesParser.create()
    for argument in arguments:
        if not argument.startswith("-") and "=" in argument:
            try:
                yield argument, parser.parse_override(argument)
            except HydraException:  # told with the other mistakes of the command
                continue
