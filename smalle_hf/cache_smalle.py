"""The state of one generation: everything recurrent, as plain tensors of constant size."""

import json
import os
from collections.abc import Callable
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers.cache_utils import Cache

from .configuration_smalle import SmallEConfig
from .file_replacement import replace_file

FORMAT = "small-e-cache-1"


class SmallECache(Cache):
    r"""
    Recurrent state of a batch of utterances. Its size does not depend on how many frames they hold.

    The model brings `states` and `frame_index` up to date and keeps the projected text in `text`. It may write into
    the memory of `states`, so two caches never share any. `generate` keeps in `last_ids`, `last_alignments` and
    `is_finished` what it needs to go on later. Rows are independent: each has its own frame index.

    Args:
        config ([`SmallEConfig`]): Configuration of the model that will use the cache.
        batch_size (`int`, defaults to 1): Number of utterances B.
        device (`torch.device` or `str`, *optional*): Where the tensors live.

    Attributes:
        states (`list[torch.Tensor]` of shape `(B, H, K, V)`, float32): One per LCLM block, in the order of
            computation: audio encoder, PACA's position net (absent with standard cross-attention), audio decoder.
        frame_index (`torch.LongTensor` of shape `(B,)`): Columns of the delayed sequence that were consumed.
        text (`tuple[torch.Tensor, ...]`, *optional*): What the cross-attention computed from `text_source`, the
            encoded text. It grows with the text, is recomputed for another one, and is neither copied nor saved.
        last_ids (`torch.LongTensor` of shape `(B, max_delay + 1, Q)`, *optional*): Newest delayed ids; the last column
            is the one to be consumed next.
        last_alignments (`torch.Tensor` of shape `(B, max_delay, S)`, *optional*): Alignments of the frames of which
            `generate` has emitted some codebooks only.
        is_finished (`torch.BoolTensor` of shape `(B,)`): Utterances that have emitted their stop ids.
    """

    is_compileable = True

    def __init__(self, config: SmallEConfig, batch_size: int = 1, device: torch.device | str | None = None) -> None:
        super().__init__(layers=[])
        self.states = [
            torch.zeros(batch_size, *shape, dtype=torch.float32, device=device) for shape in state_shapes(config)
        ]
        self.frame_index = torch.zeros(batch_size, dtype=torch.long, device=device)
        self.is_finished = torch.zeros(batch_size, dtype=torch.bool, device=device)
        self.last_ids: torch.Tensor | None = None
        self.last_alignments: torch.Tensor | None = None
        self.text: tuple[torch.Tensor, ...] | None = None
        self.text_source: torch.Tensor | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}(batch_size={self.batch_size}, states={len(self)}, nbytes={self.nbytes})"

    def __len__(self) -> int:
        return len(self.states)

    @property
    def batch_size(self) -> int:
        """Number of utterances."""
        return self.frame_index.shape[0]

    @property
    def device(self) -> torch.device:
        """Device of the state."""
        return self.frame_index.device

    @property
    def nbytes(self) -> int:
        """Bytes of the state, the text's projection not counted. The same at every frame."""
        return sum(tensor.nbytes for tensor in self._tensors().values())

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns consumed by the longest row."""
        return int(self.frame_index.max())

    def get_max_length(self) -> int:
        """-1: there is no limit."""
        return -1

    get_max_cache_shape = get_max_length

    @property
    def is_initialized(self) -> bool:
        """Always: the state is allocated when the cache is built."""
        return True

    def clone(self) -> "SmallECache":
        """A copy that shares no memory with this cache."""
        return self._map(torch.Tensor.clone)

    def to(self, device: torch.device | str) -> "SmallECache":
        """A copy of the cache on a device. It shares no memory with this cache either."""
        return self._map(lambda tensor: tensor.to(device, copy=True))

    def __getitem__(self, rows: Any) -> "SmallECache":
        """A copy of the rows chosen by an index tensor, a mask, a slice, a list or one index."""
        index = torch.arange(self.batch_size, device=self.device)[rows].reshape(-1)
        return self._map(lambda tensor: tensor[index])

    def reset(self) -> None:
        """Empties the state in place."""
        for tensor in (*self.states, self.frame_index, self.is_finished):
            tensor.zero_()
        self.last_ids = self.last_alignments = self.text = self.text_source = None

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Replaces the rows by those that `beam_idx`, of shape `(B,)`, names."""
        self._replace(lambda tensor: tensor.index_select(0, beam_idx.to(tensor.device)))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeats every row `repeats` times, in place."""
        self._replace(lambda tensor: tensor.repeat_interleave(repeats, dim=0))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps the rows that `indices` names, in place."""
        self._replace(lambda tensor: tensor[indices])

    def save(self, path: str | os.PathLike) -> None:
        """Writes the state to a safetensors file, under a temporary name first.

        Args:
            path (`str` or `os.PathLike`): File to write. The text's projection is left out: it belongs to the text.
        """
        tensors = {name: tensor.contiguous().cpu() for name, tensor in self._tensors().items()}
        metadata = {"format": FORMAT, "num_states": json.dumps(len(self.states))}
        with replace_file(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)

    @classmethod
    def load(cls, path: str | os.PathLike, config: SmallEConfig, device: torch.device | str = "cpu") -> "SmallECache":
        """Reads a state that [`SmallECache.save`] wrote.

        Args:
            path (`str` or `os.PathLike`): The file.
            config ([`SmallEConfig`]): Configuration of the model that will use it.
            device (`torch.device` or `str`, defaults to `"cpu"`): Where the tensors go.

        Raises:
            ValueError: The file is no Small-E state, is damaged, or belongs to a model of other sizes.
        """
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                is_state = (file.metadata() or {}).get("format") == FORMAT
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} is damaged or no safetensors file ({error}): save the state again.") from error
        if not is_state or not {"frame_index", "is_finished"} <= tensors.keys():
            raise ValueError(f"{path} holds no Small-E state: pass a file that `SmallECache.save` wrote.")
        cache = cls(config, batch_size=tensors["frame_index"].shape[0], device=device)
        cache.states = [tensors[f"states.{i}"] for i in range(len(tensors)) if f"states.{i}" in tensors]
        cache.frame_index, cache.is_finished = tensors["frame_index"], tensors["is_finished"]
        cache.last_ids, cache.last_alignments = tensors.get("last_ids"), tensors.get("last_alignments")
        cache.check(config)
        return cache

    def check(self, config: SmallEConfig) -> None:
        """Refuses a state that does not fit a model.

        Raises:
            ValueError: Number or shape of the states differ from those that `config` implies.
        """
        expected, found = state_shapes(config), [tuple(state.shape[1:]) for state in self.states]
        if expected != found:
            raise ValueError(
                f"The cache holds states of shapes {found}, the model needs {expected}: it belongs to another model."
            )
        ids_shape = (config.max_delay + 1, config.num_codebooks)
        if self.last_ids is not None and tuple(self.last_ids.shape[1:]) != ids_shape:
            raise ValueError(
                f"The cache holds ids of shape {tuple(self.last_ids.shape[1:])}, the model needs {ids_shape}: it "
                "belongs to another model."
            )

    def _tensors(self) -> dict[str, torch.Tensor]:
        tensors = {f"states.{i}": state for i, state in enumerate(self.states)}
        tensors |= {"frame_index": self.frame_index, "is_finished": self.is_finished}
        optional = {"last_ids": self.last_ids, "last_alignments": self.last_alignments}
        return tensors | {name: tensor for name, tensor in optional.items() if tensor is not None}

    def _map(self, function: Callable[[torch.Tensor], torch.Tensor]) -> "SmallECache":
        new = type(self).__new__(type(self))
        Cache.__init__(new, layers=[])
        new.__dict__.update(self.__dict__)
        new._replace(function)
        return new

    def _replace(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self.states = [function(state) for state in self.states]
        self.frame_index, self.is_finished = function(self.frame_index), function(self.is_finished)
        self.last_ids = None if self.last_ids is None else function(self.last_ids)
        self.last_alignments = None if self.last_alignments is None else function(self.last_alignments)
        self.text = self.text_source = None


def state_shapes(config: SmallEConfig) -> list[tuple[int, int, int]]:
    """Heads, key width and value width of every recurrent state of the model, in the order of computation."""

    def shape(width: int) -> tuple[int, int, int]:
        heads = config.num_attention_heads
        return heads, int(width * config.key_expand) // heads, int(width * config.value_expand) // heads

    position_net = [shape(config.position_size)] if config.cross_attention == "paca" else []
    encoder = [shape(config.hidden_size)] * config.num_audio_encoder_layers
    return encoder + position_net + [shape(config.hidden_size)] * config.num_audio_decoder_layers


__all__ = ["SmallECache", "state_shapes"]
