"""Identity of a run: the fingerprint of its config, and the content of what that names by path. It tells whether a run
folder holds the run of this very command."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pydantic_core import to_jsonable_python

from mmo_rl.config.inputs import Input, changes, inputs_of, read_inputs
from mmo_rl.config.schema import TARGET, load, schema_of
from mmo_rl.config.settings import Settings, config_sha256, masked
from mmo_rl.config.upgrade import upgraded
from mmo_rl.report.differences import NOT_SET, config_differences
from mmo_rl.report.run_folder import RunFolder

SAME_MEANING = frozenset({("policy.device", "cpu", "None")})
"""Keys whose default has another spelling than it had: key, former value, present value."""


@dataclass(frozen=True)
class Identity:
    """Identity of the run that a command asks for: the ``accepted`` fingerprints of its config, and its ``inputs`` by
    config key."""

    accepted: frozenset[str]
    inputs: Mapping[str, Input]

    @classmethod
    def of(cls, folder: RunFolder | None, settings: Settings) -> Identity:
        """Computes it from the config and the files that it names; of a folder that may use former names of keys."""
        return cls(accepted_sha256(folder, settings), {} if folder is None else inputs_of(settings))

    def same_config(self, status: Mapping[str, object] | None) -> bool:
        """True where a folder's status.json is of this config."""
        return same_config(status, self.accepted)

    def changed_inputs(self, folder: RunFolder) -> list[str]:
        """Describes the inputs that are not as the run in ``folder`` has noted them."""
        return changes(read_inputs(folder), self.inputs)

    def held_by(self, folder: RunFolder, status: Mapping[str, object] | None) -> bool:
        """True where ``folder``, whose state is ``status``, holds the run of this config and of these inputs."""
        return self.same_config(status) and not self.changed_inputs(folder)


def same_config(status: Mapping[str, object] | None, accepted: Collection[str]) -> bool:
    """True where a folder's status.json names one of the ``accepted`` fingerprints, or none at all."""
    recorded = None if status is None else status.get("config_sha256")
    return recorded is None or recorded in accepted


def accepted_sha256(folder: RunFolder | None, settings: Settings) -> frozenset[str]:
    """Fingerprints by which a run folder's status.json names this very config: that of the present names, and the one
    that the folder recorded, where its config is the same under former names."""
    present = config_sha256(settings)
    recorded = None if folder is None else (folder.status() or {}).get("config_sha256")
    if folder is None or recorded is None or recorded == present:
        return frozenset({present})
    config = folder.config()
    if config is None or _differs(upgraded(config), masked(settings), _defaults(settings.nodes)):
        return frozenset({present})
    return frozenset({present, str(recorded)})


def _differs(recorded: Mapping[str, object], here: Mapping[str, object], defaults: Mapping[str, object]) -> bool:
    """True where two configs differ in what a result depends on. A key that the recorded one did not know yet is no
    difference where it has its default: that is what the run did."""
    return any(
        not _is_idle(d.subject)
        and (d.subject, d.recorded, d.here) not in SAME_MEANING
        and not (d.recorded == NOT_SET and d.here == str(defaults.get(d.subject, NOT_SET)))
        for d in config_differences(recorded, here)
    )


def _defaults(nodes: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Lists the defaults of the classes that nodes name, by dotted key."""
    found: dict[str, object] = {}
    for name, node in nodes.items():
        if not isinstance(node, Mapping) or TARGET not in node:
            continue
        for key, parameter in schema_of(load(str(node[TARGET]))).parameters.items():
            if parameter.required:
                continue
            if parameter.is_key:
                found[f"{prefix}{name}.{key}"] = to_jsonable_python(parameter.default, fallback=str)
            elif parameter.kind == "node":
                fields = to_jsonable_python(parameter.default, fallback=str)
                found |= {f"{prefix}{name}.{key}.{field}": value for field, value in fields.items()}
        found |= _defaults(node, f"{prefix}{name}.")
    return found


def _is_idle(key: str) -> bool:
    """True for keys that no result depends on: what things cost, and the recipe of a model, which other keys take."""
    return key.startswith("model.recipe.") or any(part.startswith("price") for part in key.split("."))
