"""SQL conditions that choose recorded play by scenario, run, model, agent or role.

Names stand in one parameter, a JSON object; a condition is written only for a field that chooses, so that an index can
answer it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from mmo_rl.origins import EVERYTHING, Where
from mmo_rl.source.columns import Table
from mmo_rl.types import WindowQuery

COLUMNS = {"scenario": "scenarioId", "run": "scenarioId", "agent": "agentId"}

NO_LOGS = Table("llm_call_logs", {})


@dataclass(frozen=True, slots=True)
class Chosen:
    """Choice of rows: those of the scenario ``world`` alone, or where that is None, those that ``where`` chooses;
    ``simulated`` leaves out what was not played in the simulated market. ``logs`` is the table of LLM calls."""

    world: str | None = None
    where: Where = EVERYTHING
    simulated: bool = False
    logs: Table = NO_LOGS

    @classmethod
    def by(cls, query: WindowQuery, where: Where, logs: Table) -> Chosen:
        """Makes the choice of a query: a run that plays reads its own world, whatever ``where`` says."""
        if query.scenario_id is not None:
            return cls(world=query.scenario_id, logs=logs)
        return cls(where=where, simulated=query.simulated and not where, logs=logs)

    @property
    def argument(self) -> str:
        """The value of the parameter."""
        exact = {"scenario": [self.world]} if self.world is not None else self.where.exact
        return json.dumps({"exact": exact, "patterns": {} if self.world is not None else self.where.patterns})

    def sql(self, table: Table, parameter: str = "$2") -> str:
        """Builds the condition on rows of ``trajectories``."""
        conditions = [f"{parameter}::jsonb is not null"]
        if self.world is not None:
            return f"({conditions[0]} and {_one_of(table.text('scenarioId'), 'scenario', parameter, exact=True)})"
        for key in self.where.patterns:
            exact = key in self.where.exact
            if key == "model":
                conditions.append(_model(table, self.logs, parameter, exact=exact))
            elif key == "role":  # trader/insider is chosen by either part too
                part = _one_of("part", key, parameter, exact=exact)
                parts = f"{table.role()} || string_to_array({table.role()}, '/')"
                conditions.append(f"exists (select from unnest({parts}) part where {part})")
            else:
                conditions.append(_one_of(table.text(COLUMNS[key]), key, parameter, exact=exact))
        if self.simulated:
            scenario = table.text("scenarioId")
            conditions.append(f"starts_with({table.text('trajectoryId')}, {scenario} || '-w')")
        return f"({' and '.join(conditions)})"


def _one_of(column: str, key: str, parameter: str, *, exact: bool) -> str:
    kind, operator = ("exact", "=") if exact else ("patterns", "~")
    names = f"select jsonb_array_elements_text({parameter}::jsonb -> '{kind}' -> '{key}')"
    return f"{column} {operator} any(array({names}))"


def _model(table: Table, logs: Table, parameter: str, *, exact: bool) -> str:
    """Builds the condition on the models of LLM calls: in their table, or where that has none of a trajectory, in its
    steps."""
    identity = table.text("trajectoryId")
    inside = (
        f"exists (select from regexp_matches({table.text('stepsJson')}, '{MODEL_PATTERN}', 'g') m(found)"
        f" where {_one_of('m.found[1]', 'model', parameter, exact=exact)})"
    )
    if logs.missing(("trajectoryId", "model")):
        return inside
    of = logs.text("trajectoryId")
    logged = f"select {of} from llm_call_logs where {_one_of(logs.text('model'), 'model', parameter, exact=exact)}"
    if exact:  # what the index holds
        names = f"select left(jsonb_array_elements_text({parameter}::jsonb -> 'exact' -> 'model'), 100)"
        logged += f" and left({logs.text('model')}, 100) = any(array({names}))"
    unlogged = f"not exists (select from llm_call_logs where {of} = {identity_of(table)})"
    return f"({identity} = any(array({logged})) or ({unlogged} and {inside}))"


def identity_of(table: Table) -> str:
    """Returns the id of a row of ``trajectories`` with its table's name, for use inside another table's query."""
    return f"trajectories.{table.raw('trajectoryId')}::text"


MODEL_PATTERN = r'"model"\s*:\s*"((?:[^"\\]|\\.)*)"'
"""The model of an LLM call in the JSON of steps."""


def origins_sql(table: Table, logs: Table) -> str:
    """Selects id, scenario and models of trajectories; $1 their ids."""
    inside = (
        f"(select array_agg(distinct m.found[1]) from regexp_matches({table.text('stepsJson')}, '{MODEL_PATTERN}', 'g')"
        " m(found))"
    )
    models = inside
    if not logs.missing(("trajectoryId", "model")):
        own = f"{logs.text('trajectoryId')} = {identity_of(table)}"
        models = f"coalesce((select array_agg(distinct {logs.text('model')}) from llm_call_logs where {own}), {inside})"
    return (
        f"select {table.text('trajectoryId')} as id, {table.text('scenarioId')} as scenario, {models} as models"
        f" from trajectories where {table.listed_in('trajectoryId', '$1')}"
    )
