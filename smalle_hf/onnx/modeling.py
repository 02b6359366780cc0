"""Small-E in ONNX Runtime: `generate()` with numpy arrays, without torch."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .configuration import SmallEOnnxConfig
from .rows import OnnxRows
from .sampling import Sampling, choose_ids, make_generators
from .sessions import OnnxGraphs, OnnxState


@dataclass
class SmallEOnnxOutput:
    """Output of [`SmallEOnnxModel.generate`]. A voice prompt is not part of it.

    Args:
        sequences (`np.ndarray` of shape `(B, T, Q)`): Codec codes by frame; 0 behind the end of a row.
        sequence_lengths (`np.ndarray` of shape `(B,)`): Frames of each row.
        is_finished (`np.ndarray` of shape `(B,)`): Rows that ended by themselves; the others met their limit.
        alignments (`np.ndarray` of shape `(B, T, S)`, *optional*): Weight of every text token at every frame.
        audio (`np.ndarray` of shape `(B, samples)`, *optional*): Waveforms at `config.sampling_rate`.
        audio_lengths (`np.ndarray` of shape `(B,)`, *optional*): Samples of each row.
    """

    sequences: np.ndarray
    sequence_lengths: np.ndarray
    is_finished: np.ndarray
    alignments: np.ndarray | None = None
    audio: np.ndarray | None = None
    audio_lengths: np.ndarray | None = None


class SmallEOnnxModel:
    """A model that `smalle export` wrote, in ONNX Runtime. Several threads may generate with one at a time.

    Args:
        graphs ([`OnnxGraphs`]): The graphs; [`SmallEOnnxModel.from_pretrained`] opens them.

    Example:

    <!-- not run: needs an exported model -->
    ```python
    >>> from smalle_hf.onnx import SmallEOnnxModel, SmallEOnnxProcessor

    >>> model = SmallEOnnxModel.from_pretrained("voice-onnx")
    >>> processor = SmallEOnnxProcessor.from_pretrained("voice-onnx")
    >>> output = model.generate(**processor("Hello world."), seed=1)
    >>> processor.save_audio(output, "hello.wav")
    ```
    """

    def __init__(self, graphs: OnnxGraphs) -> None:
        self.graphs, self.config = graphs, graphs.config

    @classmethod
    def from_pretrained(cls, folder: str | os.PathLike[str], num_threads: int | None = None) -> "SmallEOnnxModel":
        """Opens an exported folder.

        Args:
            folder (`str` or `os.PathLike`): What `smalle export` wrote.
            num_threads (`int`, *optional*): Threads that compute; by default as many as are fastest, which is 1 for
                models of this size.

        Raises:
            FileNotFoundError: The folder is no exported model, or not a whole one.
            ImportError: ONNX Runtime is not installed.
            ValueError: The folder is damaged, or of another version.
        """
        return cls(OnnxGraphs(folder, SmallEOnnxConfig.load(folder), num_threads))

    def generate(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        audio_prompt_codes: np.ndarray | None = None,
        audio_prompt_mask: np.ndarray | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_sampled_codebooks: int | None = None,
        seed: int | Sequence[int] | None = None,
        max_new_tokens: int | None = None,
        return_alignments: bool = False,
        output_audio: bool | None = None,
    ) -> SmallEOnnxOutput:
        """Speaks texts. A row of a batch is what it is alone, and what the torch model says to it if nothing is
        sampled and the weights are in float32.

        Args:
            input_ids (`np.ndarray` of shape `(B, S)`): Text ids from [`SmallEOnnxProcessor`]; with a voice prompt, the
                ids of its transcript followed by the new text.
            attention_mask (`np.ndarray` of shape `(B, S)`, *optional*): 1 for text, 0 for padding.
            audio_prompt_codes (`np.ndarray` of shape `(B, T, Q)`, *optional*): Codec codes of a voice to go on with.
            audio_prompt_mask (`np.ndarray` of shape `(B, T)`, *optional*): 1 for frames, 0 for padding on the right.
            do_sample (`bool`), temperature (`float`), top_k (`int`), top_p (`float`), num_sampled_codebooks (`int`):
                As for the torch model; by default what it had stored.
            seed (`int` or `Sequence[int]`, *optional*): Row i draws with `seed + i`, or `seed[i]`, the same numbers in
                any batch. They are others than torch's.
            max_new_tokens (`int`, *optional*): Frames to return at most; by default `max_frames_per_text_token` per
                text token of each row.
            return_alignments (`bool`, defaults to `False`): Whether to return `alignments`.
            output_audio (`bool`, *optional*): Whether to decode the codes; by default if there is a codec.

        Raises:
            TypeError: Ids or codes are no integers.
            ValueError: An input or option makes no sense; the message says which.
        """
        output_audio = self.config.has_codec if output_audio is None else output_audio
        if output_audio and not self.config.has_codec:
            raise ValueError("This model was exported without a codec: pass `output_audio=False` for the codes.")
        sampling = self._sampling(do_sample, temperature, top_k, top_p, num_sampled_codebooks)
        rows, state, ids = self._start(
            input_ids, attention_mask, audio_prompt_codes, audio_prompt_mask, max_new_tokens
        )
        generators = make_generators(seed, len(ids))
        alignments = [
            alignment.copy() if return_alignments else alignment
            for alignment in self._columns(rows, state, ids, sampling, generators)
        ]
        lengths = rows.lengths()
        output = SmallEOnnxOutput(rows.codes(), lengths, rows.is_finished)
        if return_alignments:
            count = output.sequences.shape[1]
            stacked = np.stack(alignments, axis=1)[:, :count]
            output.alignments = stacked * (np.arange(count) < lengths[:, None])[..., None]
        if output_audio:
            output.audio = self.decode_audio(output.sequences, lengths)
            output.audio_lengths = lengths * self.config.frame_length
        return output

    def stream(
        self, input_ids: np.ndarray, chunk_ms: float = 100.0, seed: int | None = None, **options: Any
    ) -> Iterator[np.ndarray]:
        """Speaks one text and gives the audio while it is being generated.

        Every chunk is decoded with as many frames around it as its samples depend on, so that all chunks together are
        the audio that [`SmallEOnnxModel.generate`] gives.

        Args:
            input_ids (`np.ndarray` of shape `(1, S)`): Text ids.
            chunk_ms (`float`, defaults to 100): Audio of a chunk in milliseconds.
            seed (`int`, *optional*): As for `generate`.
            options: Voice prompt and sampling options of `generate`.

        Returns:
            Iterator of `np.ndarray` of shape `(samples,)`, float32.

        Raises:
            TypeError, ValueError: As `generate`, with the call; or there are several texts, or the samples of a codec
                depend on all frames before them.
        """
        lookback, lookahead = self.config.codec_lookback, self.config.codec_lookahead
        if lookback is None or lookahead is None:
            raise ValueError("The codec of this model decodes whole utterances only: use `generate`.")
        if len(input_ids) != 1:
            raise ValueError(f"One text can be streamed at a time, got {len(input_ids)}.")
        if not chunk_ms > 0:
            raise ValueError(f"`chunk_ms` must be above 0, got {chunk_ms}.")
        names = ("attention_mask", "audio_prompt_codes", "audio_prompt_mask", "max_new_tokens")
        rows, state, ids = self._start(input_ids, *(options.pop(name, None) for name in names))
        columns = self._columns(rows, state, ids, self._sampling(**options), make_generators(seed, 1))
        return self._waveforms(rows, columns, max(round(chunk_ms * self.config.frame_rate / 1000), 1))

    def _waveforms(self, rows: OnnxRows, columns: Iterator[np.ndarray], chunk: int) -> Iterator[np.ndarray]:
        """Audio of every `chunk` frames of the only row, as soon as the frames that it depends on are there."""
        size, num_given = self.config.frame_length, 0
        lookback, lookahead = self.config.codec_lookback or 0, self.config.codec_lookahead or 0
        for _ in columns:
            end = int(rows.lengths()[0])
            if not rows.is_done[0]:
                end -= lookahead
                if end < num_given + chunk:
                    continue
            if end > num_given:
                first = max(num_given - lookback, 0)
                audio = self.graphs.decode_codes(rows.codes(first))[0]
                yield audio[(num_given - first) * size : (end - first) * size]
                num_given = end

    def decode_audio(self, codes: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
        """Waveforms of codes, each decoded as if it were alone.

        Args:
            codes (`np.ndarray` of shape `(B, T, Q)`): Codec codes, right padded.
            lengths (`np.ndarray` of shape `(B,)`, *optional*): Frames of each row; all if `None`.

        Returns:
            `np.ndarray` of shape `(B, T * frame_length)`; zeros behind a row's end.
        """
        lengths = np.full(len(codes), codes.shape[1]) if lengths is None else lengths
        audio = np.zeros((len(codes), codes.shape[1] * self.config.frame_length), dtype=np.float32)
        for length in set(lengths.tolist()) - {0}:
            chosen = lengths == length
            waveforms = self.graphs.decode_codes(codes[chosen, :length])
            audio[chosen, : waveforms.shape[1]] = waveforms
        return audio

    def _columns(
        self,
        rows: OnnxRows,
        state: OnnxState,
        ids: np.ndarray,
        sampling: Sampling,
        generators: Sequence[np.random.Generator],
    ) -> Iterator[np.ndarray]:
        """Emits column after column until every row is done, and yields the alignment `(B, S)` of each."""
        while not rows.is_done.all():
            logits, alignment = state.step(ids)
            rows.restrict(logits)
            ids = rows.dictate(choose_ids(logits, sampling, generators))
            rows.advance(ids)
            yield alignment

    def _sampling(
        self,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_sampled_codebooks: int | None = None,
    ) -> Sampling:
        stored = self.config.generation
        given = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "num_sampled_codebooks": num_sampled_codebooks,
        }
        merged = {name: stored.get(name) if value is None else value for name, value in given.items()}
        chosen: dict[str, Any] = {name: value for name, value in merged.items() if value is not None}
        if not (stored.get("do_sample", True) if do_sample is None else do_sample):
            return Sampling(num_sampled_codebooks=0)
        count = chosen.get("num_sampled_codebooks", 1)
        if not 0 <= count <= self.config.num_codebooks:
            raise ValueError(f"`num_sampled_codebooks` must lie in 0..{self.config.num_codebooks}.")
        return Sampling(**chosen)

    def _start(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None,
        codes: np.ndarray | None,
        codes_mask: np.ndarray | None,
        max_new_tokens: int | None,
    ) -> tuple[OnnxRows, OnnxState, np.ndarray]:
        """Where every row stands before its first new column, and the column before it."""
        config = self.config
        input_ids, attention_mask = check_text(config, input_ids, attention_mask)
        prompts = check_prompts(config, codes, codes_mask, len(input_ids))
        limit = config.generation.get("max_new_tokens") if max_new_tokens is None else max_new_tokens
        if limit is not None and limit < 1:
            raise ValueError(f"`max_new_tokens` must be at least 1, got {limit}.")
        limits = np.full(len(input_ids), limit)
        if limit is None:
            limits = np.ceil(attention_mask.sum(axis=1) * config.max_frames_per_text_token).astype(np.int64)
            limits = np.minimum(limits, config.generation.get("max_length", limits))
        state = self.graphs.start(self.graphs.encode_text(input_ids, attention_mask))
        columns, prompt_ids = delayed_prompts(config, prompts)
        lengths = np.array([len(prompt) for prompt in prompts])
        if lengths.any():
            mask = (np.arange(columns.shape[1] - 1) < lengths[:, None]).astype(np.int64)
            state.prefill(columns[:, :-1], mask)
        ids = columns[np.arange(len(columns)), lengths]
        return OnnxRows(config, lengths, limits, prompt_ids), state, ids


def check_text(
    config: SmallEOnnxConfig, input_ids: np.ndarray, attention_mask: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Text ids and their mask as the graphs take them.

    Raises:
        TypeError: The ids are no integers.
        ValueError: Their shape is wrong, or a text is empty, too long or of another vocabulary.
    """
    input_ids = np.asarray(input_ids)
    if not np.issubdtype(input_ids.dtype, np.integer):
        raise TypeError(f"`input_ids` must hold integers, got {input_ids.dtype}.")
    if input_ids.ndim != 2 or not len(input_ids):
        raise ValueError(f"`input_ids` must have shape (batch, tokens), got {input_ids.shape}.")
    mask = input_ids != config.pad_token_id if attention_mask is None else np.asarray(attention_mask).astype(bool)
    if mask.shape != input_ids.shape:
        raise ValueError(f"`attention_mask` {mask.shape} must have the shape of `input_ids` {input_ids.shape}.")
    if input_ids.shape[1] > config.max_text_length:
        raise ValueError(
            f"The text has {input_ids.shape[1]} tokens, more than `max_text_length` ({config.max_text_length}): split "
            "it into sentences."
        )
    if input_ids.size and not 0 <= input_ids.min() <= input_ids.max() < config.vocab_size:
        raise ValueError(f"Text ids exceed the vocabulary of {config.vocab_size}: use this model's processor.")
    is_text = ~np.isin(input_ids, (config.pad_token_id, config.bos_token_id, config.eos_token_id)) & mask
    if not is_text.any(axis=1).all():
        empty = np.flatnonzero(~is_text.any(axis=1)).tolist()
        raise ValueError(f"The text of rows {empty} is empty: pass at least one word.")
    return np.ascontiguousarray(input_ids, dtype=np.int64), mask.astype(np.int64)


def check_prompts(
    config: SmallEOnnxConfig, codes: np.ndarray | None, mask: np.ndarray | None, num_rows: int
) -> list[np.ndarray]:
    """Codes of the voice prompt of each row, `(T_i, Q)`, none where there is none.

    Raises:
        TypeError: The codes are no integers.
        ValueError: Shape or range is wrong.
    """
    if codes is None:
        return [np.zeros((0, config.num_codebooks), dtype=np.int64)] * num_rows
    codes = np.asarray(codes)
    if not np.issubdtype(codes.dtype, np.integer):
        raise TypeError(f"`audio_prompt_codes` must hold integer codes, got {codes.dtype}.")
    if codes.ndim != 3 or codes.shape[0] != num_rows or codes.shape[2] != config.num_codebooks or not codes.shape[1]:
        expected = f"({num_rows}, frames, {config.num_codebooks})"
        raise ValueError(f"`audio_prompt_codes` must have shape {expected}, got {codes.shape}.")
    if codes.min() < 0 or codes.max() >= config.codebook_size:
        raise ValueError(f"`audio_prompt_codes` must lie in 0..{config.codebook_size - 1}.")
    keep = np.ones(codes.shape[:2], dtype=bool) if mask is None else np.asarray(mask).astype(bool)
    if keep.shape != codes.shape[:2]:
        raise ValueError(f"`audio_prompt_mask` {keep.shape} must have shape {codes.shape[:2]}.")
    return [row[row_keep].astype(np.int64) for row, row_keep in zip(codes, keep, strict=True)]


def delayed_prompts(config: SmallEOnnxConfig, prompts: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """The columns that voice prompts fill wholly, `(B, T + 1, Q)` with the start column, and the ids that they put
    into the next ones, `(B, max_delay, Q)`, -1 where the model decides."""
    longest = max(len(prompt) for prompt in prompts)
    delayed = np.full((len(prompts), longest + 1 + config.max_delay, config.num_codebooks), -1, dtype=np.int64)
    for row, prompt in zip(delayed, prompts, strict=True):
        for codebook, delay in enumerate(config.delays):
            row[: delay + 1, codebook] = config.audio_bos_token_id
            row[delay + 1 : delay + 1 + len(prompt), codebook] = prompt[:, codebook] + config.codebook_offset
    following = np.stack(
        [
            row[len(prompt) + 1 : len(prompt) + 1 + config.max_delay]
            for row, prompt in zip(delayed, prompts, strict=True)
        ]
    )
    columns = np.where(delayed[:, : longest + 1] < 0, config.audio_pad_token_id, delayed[:, : longest + 1])
    return columns, np.where(following < config.codebook_offset, -1, following)


__all__ = ["SmallEOnnxModel", "SmallEOnnxOutput"]
