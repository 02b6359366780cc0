"""Rows of a token cache -> the tensors that the model is trained on, optionally several utterances to a row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from ..configuration_smalle import SmallEConfig
from ..delay_pattern import apply_delay

IGNORED_LABEL = -100
"""Label that the loss leaves out: the ignore index of `torch.nn.functional.cross_entropy`."""


@dataclass(frozen=True)
class SmallECollator:
    """Collates rows with `codes`, `num_codebooks` and `text` for [`SmallEForSpeechGeneration`].

    Codes are delayed here (paper section 3.1), so that a cache serves any delay pattern, and texts are tokenised here,
    so that it serves any tokenizer. T is the number of columns: frames + the longest delay + 1. Padding is on the
    right.

    With `pack_columns` set, utterances are put one behind the other, as many as fit into rows of that many columns,
    their texts likewise. `decoder_segment_ids` and `segment_ids` number the utterances of a row; the model resets its
    recurrent states, positions and attention where they change.

    With `transformers.Trainer` set `remove_unused_columns=False`, or it takes the codes away before they come here.

    Args:
        config ([`SmallEConfig`]): Gives codebooks, delays and ids. Codebooks beyond `num_codebooks` are left out.
        tokenizer: A [`SmallEProcessor`], a Transformers tokenizer, or a function that turns a text into a list of ids.
        pack_columns (`int`, *optional*): Columns of a packed row; an utterance that is longer has a row to itself.
        pad_to_multiple_of (`int`, defaults to 1): Rounds T and S up, for kernels that prefer certain sizes.
        return_ids (`bool`, defaults to `False`): Adds `"id"`, the list of the rows' ids in the order of the input.

    Example:

    ```python
    collator = SmallECollator(model.config, processor)
    loader = DataLoader(cache, batch_sampler=sampler, collate_fn=collator)
    loss = model(**next(iter(loader))).loss
    ```
    """

    config: SmallEConfig
    tokenizer: PreTrainedTokenizerBase | ProcessorMixin | Callable[[str], Sequence[int]]
    pack_columns: int | None = None
    pad_to_multiple_of: int = 1
    return_ids: bool = False

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Collates a batch.

        Args:
            rows: Each with `codes`, integers of shape `(frames * num_codebooks,)`, frame after frame, together with
                `num_codebooks`, or of shape `(frames, num_codebooks)`; with `text`; and with `id` for `return_ids`.

        Returns:
            `dict` with, B being the utterances or the packed rows,
            - `input_ids` and `attention_mask` of shape `(B, S)`: text ids, and 1 where they are not padding,
            - `decoder_input_ids` of shape `(B, T, Q)` and `decoder_attention_mask` of shape `(B, T)`: delayed audio
              ids from the start column on,
            - `labels` of shape `(B, T, Q)`: the column after each, -100 at padding,
            - with `pack_columns`, `segment_ids` `(B, S)` and `decoder_segment_ids` `(B, T)`: 1, 2, ... by utterance, 0
              at padding.

        Raises:
            ValueError: A row has no text, no frames, or fewer codebooks than the model, or a code is out of range.
            TypeError: The codes are not integers.
        """
        delayed, num_columns = self._delayed(rows)
        columns = torch.arange(delayed.shape[1] - 1) < num_columns[:, None]
        text_ids, text_lengths = self._text_ids(rows)
        if self.pack_columns is None:
            seats = one_per_row(len(rows))
        else:
            seats = first_fit(num_columns.tolist(), text_lengths.tolist(), self.pack_columns)
        audio = _Placement(seats.row, seats.first_column, num_columns, self.pad_to_multiple_of)
        text = _Placement(seats.row, seats.first_token, text_lengths, self.pad_to_multiple_of)
        decoder_segments = audio.place((seats.segment + 1).repeat_interleave(num_columns), 0)
        segments = text.place((seats.segment + 1).repeat_interleave(text_lengths), 0)
        batch: dict[str, Any] = {
            "input_ids": text.place(text_ids, self.config.pad_token_id or 0),
            "attention_mask": (segments > 0).long(),
            "decoder_input_ids": audio.place(delayed[:, :-1][columns], self.config.audio_pad_token_id),
            "decoder_attention_mask": (decoder_segments > 0).long(),
            "labels": audio.place(delayed[:, 1:][columns], IGNORED_LABEL),
        }
        if self.pack_columns is not None:
            batch |= {"segment_ids": segments, "decoder_segment_ids": decoder_segments}
        if self.return_ids:
            batch["id"] = [row["id"] for row in rows]
        return batch

    def _delayed(self, rows: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns delayed ids (N, columns + 1, Q), whatever stands beyond a row's end, and each row's columns (N,)."""
        codes = [frames_of(row, self.config.num_codebooks) for row in rows]
        num_frames = torch.tensor([len(row_codes) for row_codes in codes])
        flat = torch.from_numpy(np.concatenate(codes))
        padded = flat.new_zeros((len(codes), int(num_frames.max()), self.config.num_codebooks))
        padded[torch.arange(padded.shape[1]) < num_frames[:, None]] = flat
        # Codes and offset together may exceed the int16 of the cache. Floats stay floats, for `apply_delay` to refuse.
        delayed = apply_delay(padded.to(torch.promote_types(padded.dtype, torch.int32)), self.config)
        column = torch.arange(delayed.shape[1])[:, None]
        codebook_end = num_frames[:, None] + torch.tensor(self.config.delays) + 1
        delayed[column >= codebook_end[:, None]] = self.config.audio_eos_token_id
        return delayed.long(), num_frames + self.config.max_delay + 1

    def _text_ids(self, rows: Sequence[Mapping[str, Any]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the text ids of all rows in one piece and the number of each row's."""
        texts = [row["text"] for row in rows]
        if None in texts:
            row = rows[texts.index(None)]
            raise ValueError(f"Row {row.get('id', texts.index(None))} has no text: leave untranscribed rows out.")
        if isinstance(self.tokenizer, PreTrainedTokenizerBase | ProcessorMixin):
            ids = self.tokenizer(text=texts, padding=False, return_tensors=None)["input_ids"]
        else:
            ids = [self.tokenizer(text) for text in texts]
        flat = np.concatenate([np.asarray(row_ids, dtype=np.int64) for row_ids in ids])
        return torch.from_numpy(flat), torch.tensor([len(row_ids) for row_ids in ids])


@dataclass(frozen=True)
class Seats:
    """Where each of N utterances stands in a batch; every field is of shape `(N,)`.

    `row` is its row, `segment` its number in the row from 0, `first_column` and `first_token` are the places in the
    row where its audio and its text begin.
    """

    row: torch.Tensor
    segment: torch.Tensor
    first_column: torch.Tensor
    first_token: torch.Tensor


def one_per_row(num_utterances: int) -> Seats:
    """Gives every utterance a row to itself."""
    zeros = torch.zeros(num_utterances, dtype=torch.long)
    return Seats(torch.arange(num_utterances), zeros, zeros, zeros)


def first_fit(num_columns: Sequence[int], num_tokens: Sequence[int], capacity: int) -> Seats:
    """Packs utterances into rows, the longest first, each into the first row that has room for it.

    Args:
        num_columns (sequence of N `int`): Columns of each utterance.
        num_tokens (sequence of N `int`): Text tokens of each utterance.
        capacity (`int`): Columns of a row.
    """
    seats = torch.zeros((4, len(num_columns)), dtype=torch.long)
    taken: list[tuple[int, int, int]] = []  # utterances, columns and tokens of each row
    for utterance in sorted(range(len(num_columns)), key=lambda index: -num_columns[index]):
        fits = (row for row, (_, columns, _) in enumerate(taken) if columns + num_columns[utterance] <= capacity)
        row = next(fits, len(taken))
        if row == len(taken):
            taken.append((0, 0, 0))
        segment, columns, tokens = taken[row]
        seats[:, utterance] = torch.tensor([row, segment, columns, tokens])
        taken[row] = (segment + 1, columns + num_columns[utterance], tokens + num_tokens[utterance])
    return Seats(*seats)


class _Placement:
    """Puts pieces of ragged length, given one behind the other, to their places in a padded tensor."""

    def __init__(self, row: torch.Tensor, start: torch.Tensor, length: torch.Tensor, multiple: int) -> None:
        begin = length.cumsum(0) - length
        self.row = row.repeat_interleave(length)
        self.place_in_row = torch.arange(len(self.row)) + (start - begin).repeat_interleave(length)
        width = -int((start + length).max()) // multiple * -multiple
        self.shape = (int(row.max()) + 1, width)

    def place(self, values: torch.Tensor, fill: int) -> torch.Tensor:
        """Returns `(rows, width, ...)` from values of shape `(sum of lengths, ...)`, `fill` where there is none."""
        out = values.new_full((*self.shape, *values.shape[1:]), fill)
        out[self.row, self.place_in_row] = values
        return out


def frames_of(row: Mapping[str, Any], num_codebooks: int) -> NDArray[Any]:
    """Returns a row's codes by frame, `(frames, num_codebooks)`: the first codebooks of those that are stored.

    Raises:
        ValueError: There are no codes, they do not divide into frames, or there are too few codebooks.
    """
    codes = np.asarray(row["codes"])
    stored = int(row["num_codebooks"]) if codes.ndim == 1 else codes.shape[-1]
    if not codes.size or codes.ndim > 2 or codes.size % stored or stored < num_codebooks:
        raise ValueError(
            f"Row {row.get('id')} has codes of shape {codes.shape} in {stored} codebooks, expected frames of at least "
            f"{num_codebooks}: encode the data again or lower `num_codebooks`."
        )
    return codes.reshape(-1, stored)[:, :num_codebooks]


__all__ = ["IGNORED_LABEL", "SmallECollator"]
