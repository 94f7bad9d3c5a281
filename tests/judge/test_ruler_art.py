"""The wording and the schema that are carried here are those of the installed ART's RULER."""

from __future__ import annotations

import pytest

from mmo_rl.judge.prompt import RESPONSE_FORMAT, RULER_TASK, Shown, build_messages
from mmo_rl.types import Score
from tests.harness.endpoint import Endpoint, Reply
from tests.judge.conftest import honest, make_group, make_judge, scores, stream


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
async def test_the_same_request_as_art(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    from art.rewards.ruler import ruler

    endpoint.script = lambda request, number: scores([("1", 0.25), ("2", 0.75)])
    messages = [[{"role": "user", "content": "play"}, {"role": "assistant", "content": text}] for text in ("a", "b")]
    found = await ruler(
        messages,
        "openai/fake-judge",
        extra_litellm_params={"api_base": endpoint.url, "api_key": "none"},
        rubric="THE RUBRIC",
    )
    assert [score.score for score in found] == [0.25, 0.75]
    theirs = endpoint.requests[0].body
    assert theirs["response_format"] == RESPONSE_FORMAT

    ours = build_messages("THE RUBRIC", "shared", [Shown("a"), Shown("b")], seed=0)
    assert [message["role"] for message in ours] == [message["role"] for message in theirs["messages"]]
    # Newer versions of ART also ask for each id once, in a paragraph of their own.
    their_system = theirs["messages"][0]["content"].strip()
    beginning = f"{RULER_TASK}\n\nGrading standards:\nTHE RUBRIC"
    assert " ".join(their_system.split()).startswith(" ".join(beginning.split()))
    assert ours[0]["content"].startswith(beginning)
    their_user, our_user = theirs["messages"][1]["content"], ours[1]["content"]
    assert their_user.startswith("<context>\n")
    assert our_user.startswith("<context>\nshared\n</context>\n\nTrajectories:\n\n<trajectory-")
    assert '</context>\n\nTrajectories:\n\n<trajectory id="1">\n' in their_user


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
async def test_any_model_that_litellm_reaches(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same judge over litellm: ids bound, tokens counted, a failure waited out."""
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    error = Reply(429, {"error": {"message": "overloaded"}})
    endpoint.script = lambda request, number: error if number == 0 else honest(request, number)
    judge = make_judge(endpoint, model="openai/fake-judge", provider="litellm", template="blind")
    [scored] = [s async for s in judge.score(stream(make_group([0.1, 0.9])))]
    await judge.aclose()
    assert {i: j.value for i, j in scored.judgments.items() if isinstance(j, Score)} == {"t0": 0.1, "t1": 0.9}
    assert len(endpoint.requests) == 2
    assert (judge.usage.calls, judge.usage.prompt_tokens) == (1, 100)
