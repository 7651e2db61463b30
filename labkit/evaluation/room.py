"""A cache of keys and values with room for tokens to come, for answers that are written in large batches.

transformers' own copies all that it holds at each new token, which took half the time of a step with 96 rows.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import DynamicCache, PreTrainedModel

SPARE = 64  # tokens of room that are added whenever it is full


def roomy_cache(model: PreTrainedModel) -> DynamicCache | None:
    """An empty cache for one call of `model.generate`; None where the model's layers keep more than keys and values.

    It holds what transformers' own would, to the bit.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if any(adapter.is_prompt_learning for adapter in getattr(model, "peft_config", {}).values()):
        return None  # peft puts virtual tokens into a cache of its own
    made = DynamicCache(config=model.config.get_text_config(decoder=True))
    if not made.layers or any(type(layer) is not DynamicLayer for layer in made.layers):
        return None
    made.layers = [_layer()() for _ in made.layers]
    return made


@cache
def _layer():
    """The class of a layer; made at first use, since `import labkit` loads no transformers."""
    from transformers.cache_utils import DynamicLayer

    class Roomy(DynamicLayer):
        """Keys and values are the first tokens of wider tensors, `room`, into which new ones are written."""

        room = None

        def update(self, key_states, value_states, *args, **kwargs):
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            held = self.get_seq_length()
            wanted = held + key_states.shape[-2]
            if not (held and self._is_mine() and wanted <= self.room[0].shape[-2]):
                self.room = tuple(_widened(old, new, held, wanted + SPARE)
                                  for old, new in ((self.keys, key_states), (self.values, value_states)))
            for room, new in zip(self.room, (key_states, value_states), strict=True):
                room[..., held:wanted, :] = new
            self.keys, self.values = (room[..., :wanted, :] for room in self.room)
            return self.keys, self.values

        def _is_mine(self) -> bool:
            """False where somebody put others in their place, as choosing rows does."""
            return (self.room is not None and self.keys.data_ptr() == self.room[0].data_ptr()
                    and self.keys.shape[:-2] == self.room[0].shape[:-2])

    return Roomy


def _widened(old, new, held: int, length: int):
    room = new.new_empty(*new.shape[:-2], length, new.shape[-1])
    if held:
        room[..., :held, :] = old
    return room
