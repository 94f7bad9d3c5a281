"""Milestones: named moments after which a piece of work survives the death of the process.

The code that makes work durable calls `reached`, which does nothing without a listener. Tests register one that ends
the process at, for example, the third ``rows appended``: a kill point has a name and is not the n-th call of a private
method.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

Milestone = Literal[
    "rows appended",  # of a run folder; the detail is the file: metrics, judgments, checkpoints
    "checkpoint started",  # the folder of a version is there, without weights
    "weights written",  # and with weights, which no manifest vouches for
    "checkpoint sealed",  # and with a manifest, under a temporary name
    "checkpoint named",  # and under its own name, which a loss of power may still take back
    "checkpoint written",  # and for good
    "checkpoint withdrawn",  # a version that is about to be removed has lost its name
    "registry committed",  # the detail is the table: trained_models, or archive
    "trajectories recorded",  # in one transaction; the detail is their number
    "judgment claimed",
    "judgment stored",
    "policy evaluated",  # the detail is its decoding
]
Listener = Callable[[Milestone, str], None]

_listeners: list[Listener] = []


def reached(milestone: Milestone, detail: str = "") -> None:
    """Calls every listener with ``milestone``; the work that it names is done."""
    for listener in tuple(_listeners):
        listener(milestone, detail)


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Calls ``listener`` at every milestone inside the block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)
