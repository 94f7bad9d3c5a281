"""A key-value cache that a new token is written into: transformers' own copies all of it for every token."""

from __future__ import annotations

from typing import Any

from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM = 32
"""Tokens that are written before keys and values are copied to where there is room for more."""


def roomy_cache() -> Cache:
    """An empty one."""
    return Cache(layer_class_to_replicate=_RoomyLayer)


class _RoomyLayer(DynamicLayer):
    """``keys`` and ``values`` begin tensors with room at their ends; others may be put in their place."""

    def __init__(self) -> None:
        super().__init__()
        self._whole: dict[str, Any] = {}

    def update(self, key_states: Any, value_states: Any, *_: Any, **__: Any) -> tuple[Any, Any]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.keys = self._written("keys", self.keys, key_states)
        self.values = self._written("values", self.values, value_states)
        return self.keys, self.values

    def _written(self, name: str, states: Any, new: Any) -> Any:
        length, end = states.shape[2], states.shape[2] + new.shape[2]
        whole = self._whole.get(name)
        if whole is None or whole.data_ptr() != states.data_ptr() or whole.shape[2] < end or len(whole) != len(states):
            whole = new.new_empty((*new.shape[:2], end + ROOM, new.shape[3]))
            whole[:, :, :length] = states
            self._whole[name] = whole
        whole[:, :, length:end] = new
        return whole[:, :, :end]
