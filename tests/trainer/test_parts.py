"""Histories that begin alike are computed once, and every trained token is predicted from its own history alone."""

from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from mmo_rl.lm.model import SHIPPED
from mmo_rl.policy.local import load_model
from mmo_rl.trainer.art_adapter import Encoder, pack
from mmo_rl.trainer.parts import parts_of
from mmo_rl.types import PolicyCall, TrainingGroup, TrainingSample

LENGTH = 24

histories = st.lists(
    st.tuples(st.lists(st.integers(1, 3), max_size=8), st.lists(st.integers(1, 3), min_size=2, max_size=6)),
    min_size=1,
    max_size=12,
)


def packed(made: list[tuple[list[int], list[int]]]) -> dict[str, Any]:
    """Rows as ART makes them: a prompt that several histories share stands before them once, a row at a time."""
    rows: list[dict[str, list[int]]] = []
    known: list[list[int]] = []
    for number, (prompt, own) in enumerate(made):
        if prompt not in known:
            known.append(prompt)
        parent = 1000 + known.index(prompt)
        row = rows[-1] if rows else None
        missing = [] if row and parent in row["group_ids"] else prompt
        if row is None or len(row["tokens"]) + len(missing) + len(own) > LENGTH:
            row = {"tokens": [], "group_ids": [], "parent_ids": [], "assistant_mask": []}
            rows.append(row)
            missing = prompt
        row["tokens"] += missing + own
        row["group_ids"] += [parent] * len(missing) + [number] * len(own)
        row["parent_ids"] += [parent] * (len(missing) + len(own))
        row["assistant_mask"] += [0] * (len(missing) + 1) + [1] * (len(own) - 1)
    for row in rows:
        for name, filler in (("tokens", 0), ("group_ids", -1), ("parent_ids", -1), ("assistant_mask", 0)):
            row[name] += [filler] * (LENGTH - len(row[name]))
    return {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}


@given(histories, st.integers(1, 60))
def test_every_trained_token_is_predicted_once_by_what_came_before_it(
    made: list[tuple[list[int], list[int]]], tokens: int
) -> None:
    rows = packed(made)
    found = []
    targets: list[int] = []
    for part in parts_of(rows, tokens=tokens):
        count, length = part.tokens.shape
        assert count == 1 or count * length <= tokens
        assert length <= LENGTH and part.mask.shape == (count, length, length)
        for source, expected, target in zip(
            *(x.tolist() for x in (part.source, part.expected, part.target)), strict=True
        ):
            seen = part.mask[source // length, source % length].nonzero()[:, 0]
            positions = part.positions[source // length, seen].tolist()
            assert positions == list(range(len(positions))) and seen.max() == source % length
            found.append(([*part.tokens[source // length, seen].tolist()], expected))
            assert rows["tokens"].view(-1)[target] == expected and rows["assistant_mask"].view(-1)[target]
        targets += part.target.tolist()
    wanted = [(prompt + own[:n], own[n]) for prompt, own in made for n in range(1, len(own))]
    assert sorted(found) == sorted(wanted)
    assert len(set(targets)) == len(targets) == int(rows["assistant_mask"].sum())


def test_agents_that_were_asked_at_one_moment_are_computed_together() -> None:
    """Groups are whole trajectories, each of them a prompt a tick; those of one tick differ at their ends only."""
    _, tokenizer = load_model(str(SHIPPED / "tiny"))

    def asked(agent: int, tick: int) -> PolicyCall:
        news = " ".join(f"NOVA +{tick}" for _ in range(12))
        return PolicyCall(({"role": "user", "content": f"t{tick}\n{news}\ncash {agent}"},), f'{{"size":{agent}}}')

    samples = [TrainingSample(f"{a}", None, tuple(asked(a, t) for t in range(4)), float(a)) for a in range(6)]
    encoder = Encoder(tokenizer)
    rows = pack(tokenizer, [TrainingGroup("g", tuple(samples))], packed_tokens=256, seed=0, encoder=encoder)
    assert rows is not None
    whole = sum(encoder(call).length for sample in samples for call in sample.calls)
    assert int((rows["group_ids"] != -1).sum()) < 0.5 * whole  # ART's rows share a prompt a tick
    computed = sum(part.tokens.numel() for part in parts_of(rows, tokens=10**6))
    assert computed < 0.6 * whole
