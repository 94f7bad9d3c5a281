"""Seeds derived by name, so that a new consumer of randomness never shifts an old one."""

from __future__ import annotations

import hashlib
import random


def derive_seed(*parts: str | int) -> int:
    """Hashes the parts, in their order, to a 63-bit seed that is the same on every machine and Python version."""
    text = "\x1f".join(f"{type(p).__name__}:{p}" for p in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def rng(*parts: str | int) -> random.Random:
    """Makes a random generator for one purpose: ``rng(seed, "sampler", window_id)``."""
    return random.Random(derive_seed(*parts))
