"""Data card of an export: counts of its files, and the README by which Hugging Face's ``datasets`` loads them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import yaml  # type: ignore[import-untyped]

from mmo_rl.trainer.export_formats import FormatName
from mmo_rl.types import JsonDict

FILES: Mapping[FormatName, str] = {"art": "iteration", "chat": "chat", "dpo": "dpo", "verifiers": "verifiers"}
"""Beginnings of the names of each format's files; the number of the iteration follows."""
SAID: Mapping[FormatName, str] = {
    "art": "ART JSONL: every answer with its prompt, reward and group",
    "chat": "chats for supervised fine-tuning: the best share by reward",
    "dpo": "preference pairs in TRL's conversational form: two answers to one prompt",
    "verifiers": "verifiers episodes: every answer as a sampled message of a graph, with reward and group",
}

ROWS: Mapping[FormatName, str] = {"art": "histories", "chat": "chats", "dpo": "pairs", "verifiers": "episodes"}


def _feature(name: str, **kind: Any) -> JsonDict:
    return {"name": name, **(kind or {"dtype": "string"})}


_FUNCTION = [_feature("name"), _feature("arguments")]
_TOOL_CALL = [_feature("id"), _feature("type"), _feature("function", struct=_FUNCTION)]
_TOOLS = [_feature("tool_calls", list=_TOOL_CALL), _feature("tool_call_id"), _feature("name")]


def features(name: FormatName, *, tools: bool) -> list[JsonDict]:
    """Lists the columns of a format, as ``dataset_info`` of a Hugging Face dataset card; ``tools``: some messages carry
    tool calls or results.

    Told in full, because what was not recorded is not in a row: two files of one format may differ in their columns.
    """
    messages = [_feature("role"), _feature("content"), *(_TOOLS if tools else [])]
    if name == "chat":
        return [_feature("messages", list=[*messages, _feature("weight", dtype="int64")])]
    if name == "dpo":
        return [
            *(_feature(column, list=messages) for column in ("prompt", "chosen", "rejected")),
            *(_feature(column, dtype="float64") for column in ("score_chosen", "score_rejected")),
        ]
    return [
        _feature("messages", list=messages),
        _feature("reward", dtype="float64"),
        _feature(
            "metadata",
            struct=[
                _feature("trajectoryId"),
                _feature("groupId"),
                _feature("step", dtype="int64"),
                _feature("call", dtype="int64"),
            ],
        ),
        _feature("promptTokenIds", list="int64"),
        _feature("tokenIds", list="int64"),
        _feature("logprobs", list="float64"),
    ]


def total(name: FormatName, files: Sequence[JsonDict]) -> JsonDict:
    """Adds up the entries of one format's files; counts are sums over the iterations."""
    left_out: Counter[str] = Counter()
    for file in files:
        left_out.update(file["left_out"])
    counts: Counter[str] = Counter()
    for file in files:
        counts.update({key: value for key, value in file.items() if isinstance(value, int) and key != "iteration"})
    return {
        "what": SAID[name],
        "files": [file["name"] for file in files if file["name"] is not None],
        "rows": 0,
        **counts,
        "left_out": dict(left_out),
        "sha256": hashlib.sha256(" ".join(str(file["sha256"]) for file in files).encode()).hexdigest(),
    }


def said(name: FormatName, whole: JsonDict) -> str:
    """Summarises one format in a few words, from its `total`."""
    if name != "art" or not whole["rows"]:
        return f"{whole['rows']:,} {ROWS[name]}"
    return (
        f"{whole['rows']:,} histories of {whole['trajectories']:,} trajectories in {whole['groups']:,} groups,"
        f" {whole['with_logprobs']:,} with logprobs"
    )


def readme(run: str, formats: Mapping[FormatName, JsonDict]) -> str:
    """Renders a dataset card as the Hugging Face hub reads it; ``formats`` are the `total` of each."""
    # An episode has columns of many kinds, and verifiers reads its file itself.
    present = [name for name, whole in formats.items() if whole["files"] and name != "verifiers"]
    header = {
        "configs": [{"config_name": name, "data_files": f"{FILES[name]}-*.jsonl"} for name in present],
        # `datasets` names its cache by this text and by the folder's name alone: without the content's digest, one
        # run's export would be answered with another's rows.
        "dataset_info": [
            {
                "config_name": name,
                "description": f"sha256 {formats[name]['sha256']}",
                "features": features(name, tools=bool(formats[name].get("messages_with_tools"))),
            }
            for name in present
        ],
    }
    lines = [
        f"| `{name}` | {whole['rows']:,} | {whole['what']} | {_reasons(whole['left_out'])} |"
        for name, whole in formats.items()
    ]
    return (
        f"---\n{_Plain.text(header)}---\n# Training set of {run}\n\n"
        "Made by mmo-rl; `card.json` says of which data, who scored them, and what each file holds.\n\n"
        "| format | rows | what a row is | answers left out |\n|---|---|---|---|\n" + "\n".join(lines) + "\n"
    )


def _reasons(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "nothing"


class _Plain(yaml.SafeDumper):  # type: ignore[misc, unused-ignore]
    """YAML dumper without anchors, which the hub does not read: a list that appears twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    @classmethod
    def text(cls, value: JsonDict) -> str:
        return str(yaml.dump(value, Dumper=cls, sort_keys=False))
