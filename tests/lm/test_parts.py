"""Histories that begin alike are computed once, and every answer token is predicted from its own history alone."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmo_rl.lm.encode import History
from mmo_rl.lm.parts import parts_of

LENGTH = 24

histories = st.lists(
    st.builds(
        History,
        prompt=st.lists(st.integers(1, 3), min_size=1, max_size=8).map(tuple),
        answer=st.lists(st.integers(1, 3), max_size=6).map(tuple),
    ),
    max_size=12,
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories, st.integers(1, 60))
def test_every_answer_token_is_predicted_once_by_the_tokens_before_it(histories: list[History], tokens: int) -> None:
    wanted = [(h.tokens[: len(h.prompt) + n], token) for h in histories for n, token in enumerate(h.answer)]
    found = {}
    for part in parts_of(histories, tokens=tokens, longest_row=LENGTH, device="cpu"):
        count, length = part.tokens_RT.shape
        assert count == 1 or count * length <= tokens
        assert length <= LENGTH and part.mask_RTT.shape == (count, length, length)
        predictions = (x.tolist() for x in (part.source_N, part.expected_N, part.target_N))
        for source, expected, target in zip(*predictions, strict=True):
            seen = part.mask_RTT[source // length, source % length].nonzero()[:, 0]
            positions = part.positions_RT[source // length, seen].tolist()
            assert positions == list(range(len(positions))) and seen.max() == source % length
            assert target not in found
            found[target] = (tuple(part.tokens_RT[source // length, seen].tolist()), expected)
    assert [found[target] for target in sorted(found)] == wanted


def test_prompts_that_differ_at_their_ends_only_are_computed_together() -> None:
    """Agents of one market: at each tick their prompts are alike but for their own cash."""
    news = {tick: tuple(range(100 * tick, 100 * tick + 60)) for tick in range(1, 5)}
    histories = [History((*news[tick], agent), (agent, 7)) for agent in range(10, 16) for tick in news]
    whole = sum(history.length for history in histories)
    computed = sum(part.tokens_RT.numel() for part in parts_of(histories, tokens=10**6, longest_row=256, device="cpu"))
    assert computed < 0.4 * whole
