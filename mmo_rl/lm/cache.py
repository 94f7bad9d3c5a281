"""Key-value cache with spare room: a new token is written in place (transformers' own copies all for every token)."""

from __future__ import annotations

import torch
from transformers import Cache
from transformers.cache_utils import DynamicLayer

ROOM = 32
"""Tokens that are written before keys and values are copied to a larger tensor."""


def roomy_cache() -> Cache:
    """Returns an empty cache."""
    return Cache(layer_class_to_replicate=_RoomyLayer)


class _RoomyLayer(DynamicLayer):  # type: ignore[misc, unused-ignore]
    """Layer whose ``keys`` and ``values`` are the beginnings of larger tensors; other tensors may take their place."""

    def __init__(self) -> None:
        super().__init__()
        self._whole: dict[str, torch.Tensor] = {}

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: object, **__: object
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Appends the states of new tokens; returns those of all."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.keys = self._appended("keys", self.keys, key_states)
        self.values = self._appended("values", self.values, value_states)
        return self.keys, self.values

    def _appended(self, name: str, states_RHTD: torch.Tensor, new_RHTD: torch.Tensor) -> torch.Tensor:
        """Writes new states behind the others, in a larger tensor where there is no room."""
        length, end = states_RHTD.shape[2], states_RHTD.shape[2] + new_RHTD.shape[2]
        whole = self._whole.get(name)
        if (
            whole is None
            or whole.data_ptr() != states_RHTD.data_ptr()
            or whole.shape[2] < end
            or len(whole) != len(states_RHTD)
        ):
            whole = new_RHTD.new_empty((*new_RHTD.shape[:2], end + ROOM, new_RHTD.shape[3]))
            whole[:, :, :length] = states_RHTD
            self._whole[name] = whole
        whole[:, :, length:end] = new_RHTD
        return whole[:, :, :end]
