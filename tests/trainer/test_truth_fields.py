"""The canary of recorded play: secrets in all fields for judges only, from a stored row to a trainer's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest

from mmo_rl.policy_view import training_groups
from mmo_rl.source.parse import parse_trajectory
from mmo_rl.types import AssistantTurns, Group, Score, ScoredGroup, Trajectory
from tests.trainer.conftest import WINDOW
from tests.trainer.test_export import exporter
from tests.trainer.test_policy_view import reaches_the_trainer

CANARY = "zqxjkv"
FIELDS = (
    *("counterpartyContext", "attributedReward", "trustState", "privateAnalysis", "rawReasoningTrace", "correctness"),
    *("scenarioIntent", "redTeamNpcIds", "interactionLabels", "memorySnapshotJson", "relationshipSnapshotJson"),
    *("memorySnapshot", "relationshipSnapshot", "gameKnowledge", "worldStateSnapshotId", "npcRole", "archetype"),
    *("questionIds", "eventIds", "arcPhase", "packId"),
)
TRUTH: dict[str, Any] = {field: {"deep": [f"{CANARY} {field}"]} for field in FIELDS}


def row(identity: str) -> dict[str, Any]:
    """A row of the newest recorder, with a secret under each name at each level."""
    call = {"model": "m", "systemPrompt": "You trade.", "userPrompt": f"NOVA {identity}", "response": "BUY"}
    step = {
        "stepNumber": 0,
        "timestamp": "2026-03-01T10:00:00Z",
        "environmentState": {"agentBalance": 1.0, **TRUTH},
        "observation": TRUTH,
        "metadata": TRUTH,
        "llmCalls": [{**call, "metadata": {"modelVersion": "1", **TRUTH}, **TRUTH}],
        "action": {"actionType": "HOLD", "parameters": TRUTH, "success": True, "result": TRUTH, **TRUTH},
        "providerAccesses": [{"providerName": "p", "data": TRUTH, **TRUTH}],
        **TRUTH,
    }
    texts = {field: f"{CANARY} {field}" for field in FIELDS}
    return {
        "trajectoryId": identity,
        "agentId": identity,
        "windowId": WINDOW.id,
        "stepsJson": json.dumps([step]),
        "startTime": "2026-03-01T10:00:00Z",
        "endTime": "2026-03-01T10:05:00Z",
        "finalPnL": 1.0,
        "metricsJson": json.dumps(TRUTH),
        "metadataJson": json.dumps(TRUTH),
        **texts,
    }


@pytest.mark.parametrize("credit", ["trajectory", "decision"])
async def test_no_truth_of_recorded_play_reaches_a_trainer(tmp_path: Path, credit: Any) -> None:
    members = tuple(t for name in ("a", "b") if isinstance(t := parse_trajectory(row(name)), Trajectory))
    assert CANARY in repr(members)
    judgments = {
        m.trajectory_id: Score(m.trajectory_id, value, explanation=CANARY, decisions={0: value})
        for m, value in zip(members, (0.0, 1.0), strict=True)
    }
    item = ScoredGroup(Group("g", WINDOW, members, None), judgments, credit)
    for turns in get_args(AssistantTurns):
        groups = training_groups([item], turns)
        assert sum(len(group.samples) for group in groups) == 2
        text = reaches_the_trainer(groups)
        assert "NOVA a" in text and CANARY not in text
    await exporter(tmp_path).train(training_groups([item]), iteration=0)
    files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert any(b"NOVA a" in content for content in files) and not any(CANARY.encode() in content for content in files)
