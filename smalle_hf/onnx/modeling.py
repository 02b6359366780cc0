"""Small-E in ONNX Runtime: `generate()` with numpy arrays, without torch."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from .candidates import check_candidates, expand_inputs, expand_seeds, keep_best
from .codec_streams import CodecStream, decode_codes, encode_audio
from .configuration import SmallEOnnxConfig
from .inputs import check_prompts, check_text, delayed_prompts
from .outputs import SmallEOnnxChunk, SmallEOnnxOutput
from .rows import OnnxRows
from .sampling import Sampling, choose_ids, make_generators
from .sessions import OnnxGraphs, OnnxState

CHUNK_MS = 100.0


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
            num_threads (`int`, *optional*): Threads that compute; by default as many as are fastest, at most two.

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
        input_values: np.ndarray | None = None,
        input_values_mask: np.ndarray | None = None,
        do_sample: bool | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        num_sampled_codebooks: int | None = None,
        seed: int | Sequence[int] | None = None,
        num_candidates: int = 1,
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
            input_values (`np.ndarray` of shape `(B, samples)`, *optional*): Recordings of the voice in the place of
                its codes, at `config.sampling_rate`.
            input_values_mask (`np.ndarray` of shape `(B, samples)`, *optional*): 1 for audio, 0 for padding on the
                right.
            do_sample (`bool`), temperature (`float`), top_k (`int`), top_p (`float`), num_sampled_codebooks (`int`):
                As for the torch model; by default what it had stored.
            seed (`int` or `Sequence[int]`, *optional*): Row i draws with `seed + i`, or `seed[i]`, the same numbers in
                any batch. They are others than torch's.
            num_candidates (`int`, defaults to 1): Utterances of each text, of which the one that reads it best by its
                alignment is returned; see [`score_alignments`].
            max_new_tokens (`int`, *optional*): Frames to return at most; by default `max_frames_per_text_token` per
                text token of each row.
            return_alignments (`bool`, defaults to `False`): Whether to return `alignments`.
            output_audio (`bool`, *optional*): Whether to decode the codes; by default if there is a codec.

        Raises:
            TypeError: Ids or codes are no integers, or samples are.
            ValueError: An input or option makes no sense, or recordings cannot be encoded; the message says which.
        """
        output_audio = self.config.has_codec if output_audio is None else output_audio
        if output_audio and not self.config.has_codec:
            raise ValueError("This model was exported without a codec: pass `output_audio=False` for the codes.")
        sampling = self._sampling(do_sample, temperature, top_k, top_p, num_sampled_codebooks)
        check_candidates(num_candidates, sampling)
        inputs = self._inputs(
            input_ids, attention_mask, audio_prompt_codes, audio_prompt_mask, input_values, input_values_mask
        )
        seeds = expand_seeds(seed, len(inputs[0]), num_candidates)
        rows, state, ids = self._start(*expand_inputs(inputs, num_candidates), max_new_tokens)
        generators = make_generators(seeds, len(ids))
        needs_alignments = return_alignments or num_candidates > 1
        alignments = [
            alignment.copy() if needs_alignments else alignment
            for alignment in self._columns(rows, state, ids, sampling, generators)
        ]
        lengths = rows.lengths()
        output = SmallEOnnxOutput(rows.codes(), lengths, rows.is_finished)
        if needs_alignments:
            count = output.sequences.shape[1]
            stacked = np.stack(alignments, axis=1)[:, :count]
            output.alignments = stacked * (np.arange(count) < lengths[:, None])[..., None]
        if num_candidates > 1:
            output = keep_best(output, inputs, num_candidates, return_alignments)
        if output_audio:
            output.audio = self.decode_audio(output.sequences, output.sequence_lengths)
            output.audio_lengths = output.sequence_lengths * self.config.frame_length
        return output

    def stream(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None = None,
        audio_prompt_codes: np.ndarray | None = None,
        audio_prompt_mask: np.ndarray | None = None,
        input_values: np.ndarray | None = None,
        input_values_mask: np.ndarray | None = None,
        chunk_ms: float = CHUNK_MS,
        seed: int | None = None,
        max_new_tokens: int | None = None,
        **options: Any,
    ) -> Iterator[SmallEOnnxChunk]:
        """Speaks one text and gives the audio while it is being generated.

        All chunks together are the audio that [`SmallEOnnxModel.generate`] gives. The codec carries its state from
        chunk to chunk: none is decoded twice.

        Args:
            input_ids (`np.ndarray` of shape `(1, S)`): Text ids.
            attention_mask, audio_prompt_codes, audio_prompt_mask, input_values, input_values_mask, max_new_tokens: As
                for `generate`.
            chunk_ms (`float`, defaults to 100): Audio of a chunk in milliseconds, rounded to whole frames. The first
                one comes as soon as its frames are there and those that the codec has to know behind it.
            seed (`int`, *optional*): As for `generate`.
            options: Sampling options of `generate`.

        Returns:
            Iterator of [`SmallEOnnxChunk`], at least one; the last one has `is_last`.

        Raises:
            TypeError, ValueError: As `generate`, with the call; or there are several texts, the codec decodes whole
                utterances only, or an option is about whole utterances.
        """
        check_stream(self.config, chunk_ms, options)
        if len(input_ids) != 1:
            raise ValueError(f"One text can be streamed at a time, got {len(input_ids)}.")
        sampling = self._sampling(**options)
        inputs = self._inputs(
            input_ids, attention_mask, audio_prompt_codes, audio_prompt_mask, input_values, input_values_mask
        )
        generators = make_generators(seed, 1)
        rows, state, ids = self._start(*inputs, max_new_tokens)
        columns = self._columns(rows, state, ids, sampling, generators)
        size = max(round(chunk_ms * self.config.frame_rate / 1000), 1)
        return self._chunks(rows, columns, CodecStream(self.graphs), size)

    def _chunks(
        self, rows: OnnxRows, columns: Iterator[np.ndarray], codec: CodecStream, size: int
    ) -> Iterator[SmallEOnnxChunk]:
        """Chunks of `size` frames, of which the first one has those that the codec has to know as well."""
        due = codec.frames_needed(size)
        for _ in columns:
            if not rows.is_done[0] and int(rows.lengths()[0]) >= due:
                yield self._chunk(rows, codec)
                due = codec.num_frames + size
        yield self._chunk(rows, codec, is_last=True)

    def _chunk(self, rows: OnnxRows, codec: CodecStream, is_last: bool = False) -> SmallEOnnxChunk:
        """The chunk that all frames make which have come since the last one."""
        codes = rows.codes(codec.num_frames)
        start = max(codec.num_samples, 0) / self.config.sampling_rate
        audio = codec.decode(codes, is_last)
        sizes = np.array([audio.shape[1]]), np.array([codes.shape[1]])
        return SmallEOnnxChunk(audio, sizes[0], start, codes, sizes[1], rows.is_finished.copy(), is_last)

    def encode_audio(
        self, input_values: np.ndarray, input_values_mask: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Codes of recordings, each as if it were alone.

        Args:
            input_values (`np.ndarray` of shape `(B, samples)`): Mono audio at `config.sampling_rate`, right padded;
                from [`SmallEOnnxProcessor`].
            input_values_mask (`np.ndarray` of shape `(B, samples)`, *optional*): 1 for audio, 0 for padding.

        Returns:
            Codes of shape `(B, T, Q)` and their mask of shape `(B, T)`.

        Raises:
            TypeError: The samples are integers.
            ValueError: A shape is wrong, a row is empty or not finite, or the model was exported without the encoder.
        """
        return encode_audio(self.graphs, input_values, input_values_mask)

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
            waveforms = decode_codes(self.graphs, codes[chosen, :length])
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

    def _inputs(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray | None,
        codes: np.ndarray | None,
        codes_mask: np.ndarray | None,
        audio: np.ndarray | None,
        audio_mask: np.ndarray | None,
    ) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
        """Text ids, their mask and the voice prompt of each row, all checked."""
        input_ids, attention_mask = check_text(self.config, input_ids, attention_mask)
        if audio is not None:
            if codes is not None:
                raise ValueError("The voice is given twice: pass `input_values` or `audio_prompt_codes`, not both.")
            if len(audio) != len(input_ids):
                raise ValueError(f"There are {len(audio)} recordings for {len(input_ids)} texts: pass one for each.")
            codes, codes_mask = self.encode_audio(audio, audio_mask)
        return input_ids, attention_mask, check_prompts(self.config, codes, codes_mask, len(input_ids))

    def _start(
        self,
        input_ids: np.ndarray,
        attention_mask: np.ndarray,
        prompts: Sequence[np.ndarray],
        max_new_tokens: int | None,
    ) -> tuple[OnnxRows, OnnxState, np.ndarray]:
        """Where every row stands before its first new column, and the column before it."""
        config = self.config
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


def check_stream(config: SmallEOnnxConfig, chunk_ms: float, options: Mapping[str, Any]) -> None:
    """Refuses what cannot be streamed.

    Raises:
        ValueError: There is no codec, or one that decodes whole utterances only; the size of a chunk makes no sense;
            an option is about the whole utterance.
    """
    if config.codec_state_shapes is None:
        reason = "its codec decodes whole utterances only" if config.has_codec else "it was exported without a codec"
        raise ValueError(f"This model cannot be streamed, for {reason}: use `generate`.")
    if not 0 < chunk_ms < math.inf:
        raise ValueError(f"`chunk_ms` must be a number of milliseconds above 0, got {chunk_ms}.")
    for name in ("num_candidates", "return_alignments", "output_audio"):
        if name in options:
            raise ValueError(f"A stream has no `{name}`, which is about the whole utterance: use `generate`.")


__all__ = ["CHUNK_MS", "SmallEOnnxModel", "check_stream"]
