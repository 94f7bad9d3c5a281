"""Example lines of play that task=import reads: a trajectory, and the outcomes of its window."""

from __future__ import annotations


def example_lines() -> list[dict[str, object]]:
    """Builds a trajectory of one step with one LLM call, and the outcomes of a ticker and of a question."""
    call: dict[str, object] = {
        "model": "my-model",
        "modelVersion": "3",
        "messages": [
            {"role": "system", "content": "You trade."},
            {"role": "user", "content": "NOVA stands at 100. What do you do?"},
        ],
        "response": "BUY NOVA 10",
        "temperature": 0.7,
        "purpose": "action",
    }
    step: dict[str, object] = {
        "stepNumber": 0,
        "timestamp": "2026-01-05T14:05:00.000Z",
        "environmentState": {"agentBalance": 10000.0, "agentPnL": 0.0},
        "providerAccesses": [{"providerName": "market", "purpose": "observe", "data": {"prices": {"NOVA": 100.0}}}],
        "llmCalls": [call],
        "action": {
            "actionType": "BUY_SHARES",
            "parameters": {"ticker": "NOVA", "shares": 10, "price": 100.0},
            "success": True,
        },
        "reward": 0.0,
    }
    window = "2026-01-05T14:00"
    return [
        {
            "trajectoryId": "agent-1-2026-01-05T14:00",
            "agentId": "agent-1",
            "windowId": window,
            "startTime": "2026-01-05T14:00:00.000Z",
            "endTime": "2026-01-05T14:55:00.000Z",
            "scenarioId": "my-game",
            "archetype": "trader",
            "steps": [step],
            "finalPnL": 12.5,
            "finalBalance": 10012.5,
            "finalStatus": "completed",
            "totalReward": 0.4,
            "isTrainingData": True,
            "isEvaluation": False,
        },
        {
            "id": f"my-game/{window}/stock:NOVA",
            "windowId": window,
            "stockTicker": "NOVA",
            "startPrice": 100.0,
            "endPrice": 110.0,
        },
        {
            "id": f"my-game/{window}/question:q-1",
            "windowId": window,
            "predictionMarketId": "q-1",
            "question": "Does NOVA report a profit?",
            "outcome": "YES",
            "finalProbability": 0.9,
        },
    ]
