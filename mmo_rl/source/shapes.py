"""Shapes of exported JSON, recognised by their keys: rows of trajectories, ART lines, groups, dumps of a whole
database, and rows of other tables that lie between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mmo_rl.clock import window_at
from mmo_rl.source.formats import format_of
from mmo_rl.source.jsontext import excerpt
from mmo_rl.source.parse import CALLS, STEPS
from mmo_rl.source.values import Fields, as_fields, as_list, as_number, as_text, as_time, pick
from mmo_rl.types import JsonDict, Rejection
from mmo_rl.window_ids import named_start

STARTS, WINDOWS = ("startTime", "start_time", "timestamp"), ("windowId", "window_id")
FULL, TRAINING_EXPORT, TRADES = 0, 1, 2
"""Rank of a shape by completeness; of a trajectory that is found twice, the one with the lower number counts."""
JUDGMENT_KEYS = ("overallScore", "overall_score", "judgeModel", "judge_model")

SPANS = "OpenTelemetry spans, which are read from a file of their own: those of a trace lie in several lines"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One trajectory: a row in the words of the table, and the calls that were logged beside it."""

    row: Fields
    calls: tuple[Fields, ...] = ()
    detail: int = FULL


@dataclass(frozen=True, slots=True)
class LoggedCall:
    """A row of ``llm_call_logs``."""

    trajectory_id: str
    row: Fields


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """A row of ``market_outcomes``."""

    row: Fields


Part = Candidate | LoggedCall | OutcomeRow | Rejection


def parts(value: object, place: str) -> Iterator[Part]:
    """Yields the parts of a line or a document, without judgments; ``place`` names it in rejections."""
    items = value if isinstance(value, list) else [value]
    for item in items:
        if isinstance(item, Mapping):
            yield from _object(item, place)
        else:
            yield Rejection(None, place, excerpt(item), "not an object")


def _object(value: Fields, place: str) -> Iterator[Part]:
    tables, members, trajectory = (value.get(key) for key in ("tables", "trajectories", "trajectory"))
    if (known := format_of(value)) is not None:
        for row in known.rows(value, place):
            yield row if isinstance(row, Rejection) else Candidate(row)
    elif "resourceSpans" in value:
        yield Rejection(None, place, excerpt(list(value)), SPANS)
    elif isinstance(tables, Mapping):
        yield from _dump(tables, place)
    elif isinstance(members, Mapping):
        yield from _group(value, list(members.values()), place)
    elif isinstance(members, list):
        yield from _group(value, members, place)
    elif isinstance(trajectory, Mapping):
        yield Candidate(trajectory, _calls(value))
    elif pick(value, *STEPS) is not None:
        yield Candidate(value, _calls(value))
    elif pick(value, "callId", "call_id", "stepId", "step_id") is not None:
        yield _logged_call(value, place)
    elif isinstance(pick(value, "messages", "messages_and_choices"), list):
        yield _art(value)
    elif pick(value, "stockTicker", "stock_ticker", "predictionMarketId", "prediction_market_id") is not None:
        yield OutcomeRow(value)
    elif pick(value, *JUDGMENT_KEYS) is not None:
        return
    elif pick(value, "trajectoryId", "trajectory_id") and pick(value, "agentId", "agent_id"):
        yield Candidate(value)  # its steps are missing, and the parser says so
    else:
        yield _unknown(value, place)


def _calls(value: Fields) -> tuple[Fields, ...]:
    return tuple(call for call in as_list(pick(value, *CALLS)) if isinstance(call, Mapping))


def _logged_call(value: Fields, place: str) -> Part:
    identity = as_text(pick(value, "trajectoryId", "trajectory_id"))
    if not identity:
        return Rejection(None, f"{place}: trajectoryId", excerpt(list(value)), "an LLM call of no trajectory")
    return LoggedCall(identity, value)


def _unknown(value: Fields, place: str) -> Rejection:
    identity = as_text(pick(value, "trajectoryId", "trajectory_id", "agentId", "agent_id", "id"))
    keys = ", ".join(sorted(map(str, value))[:8])
    return Rejection(identity, place, excerpt(keys), "unknown shape: not a row of trajectories")


# --- ART ------------------------------------------------------------------------------------------------------------


def _art(value: Fields, prefix: Sequence[object] = (), scenario: object = None) -> Candidate:
    """Reads a line of ART: a step for every answer.

    The game's own exporter strings the calls of a trajectory together, though none saw another: of its lines, an
    answer's prompt is the system prompt and what was said since the last answer. Elsewhere it is all that came before.
    """
    metadata = as_fields(value.get("metadata"))
    context = as_fields(metadata.get("environmentContext"))
    metrics = next((m for m in (metadata.get("metrics"), value.get("metrics")) if isinstance(m, Mapping)), {})
    said = as_list(pick(value, "messages", "messages_and_choices"))
    messages = [_message(m) for m in said]
    tokens = [_choice_tokens(m) for m in said]
    shared = [_message(m) for m in prefix]
    if messages[: len(shared)] != shared:
        messages = shared + messages
        tokens = [{} for _ in shared] + tokens
    separate = bool(context) or "gameKnowledge" in metadata
    steps = list(_answers(messages, tokens, separate=separate, value=value))
    actions = context.get("actionsTaken")
    if isinstance(actions, list) and len(actions) == len(steps):
        for step, action in zip(steps, actions, strict=True):
            step["action"] = {"actionType": action}
    scenario = pick(metadata, "scenarioId", "scenario_id") or pick(value, "scenarioId", "scenario_id") or scenario
    window = next(
        (i for i in (pick(metadata, *WINDOWS), pick(value, *WINDOWS), scenario) if named_start(as_text(i))), None
    )
    kept = {k: v for k, v in metadata.items() if k not in ("trajectoryId", "agentId", "scenarioId", "metrics")}
    row = {
        "trajectoryId": pick(metadata, "trajectoryId", "trajectory_id") or pick(value, "trajectoryId", "trajectory_id"),
        "agentId": pick(metadata, "agentId", "agent_id") or pick(value, "agentId", "agent_id"),
        "scenarioId": scenario,
        "windowId": window,
        "startTime": pick(metadata, "startTime", "start_time", "timestamp") or pick(value, *STARTS),
        "endTime": pick(metadata, "endTime", "end_time") or pick(value, "endTime", "end_time"),
        "finalPnL": pick(context, "finalPnL"),
        "finalBalance": pick(context, "finalBalance"),
        "archetype": pick(metadata, "archetype", "role"),
        "steps": steps,
        "metrics": {**metrics, "totalReward": value.get("reward")},
        "metadata": kept,
    }
    return Candidate(row, detail=TRAINING_EXPORT)


def _message(found: object) -> object:
    """Returns a message; of a recorded choice, the message inside it."""
    return found["message"] if isinstance(found, Mapping) and isinstance(found.get("message"), Mapping) else found


def _choice_tokens(found: object) -> Fields:
    """Reads the token ids and logprobs of a recorded choice; none of a plain message."""
    if not isinstance(found, Mapping) or not isinstance(found.get("message"), Mapping):
        return {}
    listed = [as_fields(token) for token in as_list(as_fields(found.get("logprobs")).get("content"))]
    names = [(as_text(token.get("token")) or "").removeprefix("token_id:") for token in listed]
    ids = as_list(found.get("token_ids")) or [
        int(name)
        for name, token in zip(names, listed, strict=True)
        if (name.isascii() and name.isdigit() and str(token.get("token")).startswith("token_id:"))
    ]
    if not ids or len(ids) != len(listed):
        return {"tokenIds": found.get("token_ids"), "promptTokenIds": found.get("prompt_token_ids")}
    return {
        "tokenIds": ids,
        "logprobs": [token.get("logprob") for token in listed],
        "promptTokenIds": found.get("prompt_token_ids"),
    }


def _answers(
    messages: Sequence[object], tokens: Sequence[Fields], *, separate: bool, value: Fields
) -> Iterator[JsonDict]:
    system = [m for m in messages if _role(m) == "system"]
    prompt: list[object] = []
    for message, recorded in zip(messages, tokens, strict=True):
        if _role(message) != "assistant":
            prompt.append(message)
            continue
        said = as_fields(message)
        call = {
            "messages": list(prompt),
            "response": said.get("content"),
            "model": value.get("model"),
            "toolCalls": said.get("tool_calls"),
            "tools": value.get("tools"),
            **recorded,
        }
        yield {"llmCalls": [call]}
        prompt = list(system) if separate else [*prompt, message]


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, Mapping) else None


def _group(value: Fields, members: Sequence[object], place: str) -> Iterator[Part]:
    """Reads a group: its members are rows or ART lines, which may share a prefix of messages and the scenario."""
    if not members:
        yield Rejection(None, place, excerpt(list(value)), "a group without trajectories")
    scenario = pick(value, "scenarioId", "scenario_id")
    prefix = pick(value, "sharedPrefix", "shared_prefix")
    for member in members:
        if not isinstance(member, Mapping):
            yield Rejection(None, place, excerpt(member), "not an object")
        elif pick(member, "trajectory", *STEPS) is None and isinstance(member.get("messages"), list):
            yield _art(member, as_list(prefix), scenario)
        else:
            for part in _object(member, place):
                if isinstance(part, Candidate) and pick(part.row, "scenarioId", "scenario_id") is None:
                    part = Candidate({**part.row, "scenarioId": scenario}, part.calls, part.detail)
                yield part


# --- dumps of a database --------------------------------------------------------------------------------------------


def _dump(tables: Fields, place: str) -> Iterator[Part]:
    """Reads a database dump: tables by name, each ``{id: row}`` or a list of rows.

    Where no trajectories were recorded, an agent's trades of one hour are its trajectory.
    """
    rows = {_plain(name): _rows(table) for name, table in tables.items()}
    for call in rows.get("llmcalllogs", ()):
        yield _logged_call(call, place)
    for outcome in rows.get("marketoutcomes", ()):
        yield OutcomeRow(outcome)
    recorded = rows.get("trajectories", ())
    for row in recorded:
        yield Candidate(row)
    if not recorded:
        trades = rows.get("agenttrades", ())
        yield from _trajectories_of_trades(trades, place)
        if not trades:
            names = ", ".join(sorted(map(str, tables)))
            yield Rejection(None, place, excerpt(names), "a database dump without trajectories")


def _plain(name: object) -> str:
    return str(name).replace("_", "").replace("-", "").lower()


def _rows(table: object) -> list[Fields]:
    items = table.values() if isinstance(table, Mapping) else table if isinstance(table, list) else ()
    return [item for item in items if isinstance(item, Mapping)]


def _trajectories_of_trades(trades: Sequence[Fields], place: str) -> Iterator[Part]:
    stays: dict[tuple[str, str], list[Fields]] = {}
    for trade in trades:
        agent = as_text(pick(trade, "agentUserId", "agent_user_id", "agentId", "agent_id"))
        moment = as_time(pick(trade, "createdAt", "created_at", "timestamp"))
        if not agent or moment is None:
            yield Rejection(as_text(trade.get("id")), place, excerpt(trade), "a trade without agent or time")
            continue
        try:
            stays.setdefault((agent, window_at(moment, 1.0).id), []).append(trade)
        except OverflowError:
            yield Rejection(as_text(trade.get("id")), place, excerpt(moment), "out of range")
    for (agent, window), made in stays.items():
        made.sort(key=lambda trade: as_time(pick(trade, "createdAt", "created_at", "timestamp")) or 0)
        pnl = [as_number(trade.get("pnl")) for trade in made]
        row = {
            "trajectoryId": f"{agent}/{window}",
            "agentId": agent,
            "windowId": window,
            "startTime": pick(made[0], "createdAt", "created_at", "timestamp"),
            "endTime": pick(made[-1], "createdAt", "created_at", "timestamp"),
            "steps": [_trade_step(trade) for trade in made],
            "finalPnL": None if None in pnl else sum(p for p in pnl if p is not None),
            "metadata": {"derivedFrom": "agentTrades"},
        }
        yield Candidate(row, detail=TRADES)


def _trade_step(trade: Fields) -> JsonDict:
    """Makes a step of a trade; its P&L was not known then and goes into ``correctness``, which judges alone see."""
    known = {"agentUserId", "agent_user_id", "agentId", "action", "pnl", "createdAt", "created_at", "updatedAt"}
    action = {
        "actionType": trade.get("action"),
        "parameters": {k: v for k, v in trade.items() if k not in known},
        "correctness": {"pnl": trade["pnl"]} if trade.get("pnl") is not None else None,
    }
    return {"timestamp": pick(trade, "createdAt", "created_at", "timestamp"), "action": action}
