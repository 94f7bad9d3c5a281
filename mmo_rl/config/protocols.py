"""Protocols that classes named by a config are checked against, by config group and by constructor parameter."""

from __future__ import annotations

import dis
import inspect
import re
import typing
from collections import abc
from collections.abc import Callable, Mapping

from typing_extensions import get_protocol_members, is_protocol

from mmo_rl.database.base import Database
from mmo_rl.evaluate.base import Evaluator, PolicyComparer, RecordedComparer
from mmo_rl.judge.base import Judge
from mmo_rl.lm.base import BaseModel
from mmo_rl.market.base import Collector
from mmo_rl.market.spec import MarketSpec
from mmo_rl.policy.base import Policy
from mmo_rl.report.base import Report
from mmo_rl.sampler.base import Sampler
from mmo_rl.source.base import Source
from mmo_rl.trainer.base import Trainer
from mmo_rl.vocabulary import Vocabulary

PROTOCOLS: Mapping[str, tuple[type, ...]] = {
    "model": (BaseModel,),
    "policy": (Policy,),
    "source": (Source,),
    "database": (Database,),
    "vocabulary": (Vocabulary,),
    "sampler": (Sampler,),
    "judge": (Judge,),
    "trainer": (Trainer,),
    "market": (MarketSpec,),
    "collect": (Collector,),
    "evaluate": (Evaluator, PolicyComparer, RecordedComparer),
    "report": (Report,),
}
"""The types of which a component of a group has to be one."""


def types_of(annotation: object) -> tuple[type, ...]:
    """Returns the types of which a nested component has to be one, by its parameter's annotation; none where the
    annotation does not say."""
    origin = typing.get_origin(annotation)
    if origin in (dict, abc.Mapping):
        return types_of(typing.get_args(annotation)[1])
    if origin is not None:
        return tuple(t for argument in typing.get_args(annotation) for t in types_of(argument))
    return (annotation,) if isinstance(annotation, type) and annotation is not type(None) else ()


def made_by(found: object) -> type | None:
    """Returns the class of what a function of this package makes, by its annotation; None for anything else."""
    if not inspect.isfunction(found) or not found.__module__.startswith("mmo_rl."):
        return None
    made = typing.get_type_hints(found).get("return")
    return made if isinstance(made, type) and made is not type(None) else None


def misfit(target: Callable[..., object], types: tuple[type, ...], name: str) -> str | None:
    """Returns why a class, or what a function makes, is none of ``types``, for people; None where it is one. ``name``
    is its dotted path."""
    if not isinstance(target, type):
        made = made_by(target)
        if made is None or not types:
            return f"{name} is no class"
        target = made
    if not types:
        return None
    reasons = [(kind, _missing(target, kind)) for kind in types]
    if any(not missing for _, missing in reasons):
        return None
    kind, missing = min(reasons, key=lambda reason: len(reason[1]))
    noun = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__).lower()
    if not is_protocol(kind):
        return f"{name} is no {noun}: it does not inherit from {kind.__module__}.{kind.__qualname__}"
    return f"{name} is no {noun}: it has no {', '.join(missing)}; {kind.__module__}.{kind.__name__} says what each is"


def _missing(target: type, kind: type) -> list[str]:
    if not is_protocol(kind):
        return [] if issubclass(target, kind) else [kind.__name__]
    has = _members(target)
    methods = {name for base in kind.__mro__ for name, value in vars(base).items() if callable(value)}
    needed = sorted(get_protocol_members(kind))
    return [f"{name}()" if name in methods else name for name in needed if name not in has]


def _members(target: type) -> set[str]:
    """Names of the attributes that objects of a class have: those of the class, its annotations and slots, and what its
    constructor sets. The stubs of a protocol that it inherits from are none."""
    names: set[str] = set()
    for base in target.__mro__:
        if is_protocol(base) or base is object:
            continue
        names |= {*vars(base), *inspect.get_annotations(base)}
        for constructor in ("__new__", "__init__", "__post_init__"):
            code = getattr(base.__dict__.get(constructor), "__code__", None)
            if code is not None:
                names |= {str(step.argval) for step in dis.get_instructions(code) if step.opname == "STORE_ATTR"}
    return names
