"""Speech while it is being generated: columns of delayed ids in, chunks of audio out.

The chunks of an utterance put together are the audio that `generate` returns for it, whatever their size. Between two
of them nothing is kept that grows with the utterance.
"""

import functools
import math
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from .cache_smalle import SmallECache
from .codec_streams import ChunkDecoder, chunk_decoder, select_rows
from .configuration_smalle import SmallEConfig
from .delay_pattern import ids_to_codes, revert_delay
from .delayed_rows import DelayedRows
from .outputs_smalle import SmallEAudioChunk, SmallEColumn
from .running_token_times import RunningTokenTimes

CHUNK_MS = 100.0
NOT_STREAMED = ("output_scores", "output_logits", "return_alignments")
"""What `generate` returns of the whole utterance."""


@dataclass(frozen=True)
class Streaming:
    """How an utterance is streamed: sizes in frames, and where its chunks go if not to the caller."""

    decoder: ChunkDecoder
    chunk_frames: int
    lookahead_frames: int
    streamer: Any = None


class AudioStreamer(BaseStreamer):
    """Hands speech from the thread that generates it to another one, chunk by chunk.

    A consumer that is slow makes the generation wait; one that leaves the loop, or the `with` block, ends it.

    Args:
        chunk_ms (`float`, defaults to 100): Audio of a chunk in milliseconds, in whole frames.
        lookahead_ms (`float`, defaults to 0): See [`SmallEForSpeechGeneration.stream`].
        max_chunks (`int`, defaults to 16): Chunks that may wait for the consumer.

    Raises:
        ValueError: A number makes no sense.

    Example:

    ```python
    streamer = AudioStreamer()
    thread = threading.Thread(target=model.generate, kwargs={**inputs, "streamer": streamer})
    thread.start()
    for chunk in streamer:
        play(chunk.audio[0])
    thread.join()
    ```
    """

    def __init__(self, chunk_ms: float = CHUNK_MS, lookahead_ms: float = 0.0, max_chunks: int = 16) -> None:
        check_durations(chunk_ms, lookahead_ms)
        if max_chunks < 1:
            raise ValueError(f"`max_chunks` must be at least 1, got {max_chunks}.")
        self.chunk_ms, self.lookahead_ms, self.max_chunks = chunk_ms, lookahead_ms, max_chunks
        self.is_closed = False
        self._chunks: deque[SmallEAudioChunk] = deque()
        self._has_ended = False
        self._changed = threading.Condition()

    def put(self, value: SmallEAudioChunk) -> None:
        """Takes a chunk from `generate`; waits while `max_chunks` are there. Drops it if the streamer is closed."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._chunks) < self.max_chunks or self.is_closed)
            if not self.is_closed:
                self._chunks.append(value)
                self._changed.notify_all()

    def end(self) -> None:
        """Notes that `generate` has returned, or failed."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def close(self) -> None:
        """Ends the generation at its next chunk and drops what waits. May be called from any thread, and twice."""
        with self._changed:
            self.is_closed = True
            self._chunks.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[SmallEAudioChunk]:
        """Chunks until the last one.

        Raises:
            RuntimeError: The generation failed before the utterance was complete.
        """
        try:
            is_last = False
            while not is_last:
                with self._changed:
                    self._changed.wait_for(lambda: self._chunks or self._has_ended or self.is_closed)
                    if self.is_closed:
                        return
                    if not self._chunks:
                        raise RuntimeError(
                            "The generation ended before the utterance was complete: see the error in its thread."
                        )
                    chunk = self._chunks.popleft()
                    self._changed.notify_all()
                is_last = chunk.is_last
                yield chunk
        finally:
            self.close()

    def __enter__(self) -> "AudioStreamer":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class SmallEStreamingMixin:
    """`stream()` of [`SmallEForSpeechGeneration`]."""

    def stream(
        self: Any,
        inputs: torch.Tensor | None = None,
        *,
        chunk_ms: float = CHUNK_MS,
        lookahead_ms: float = 0.0,
        **kwargs: Any,
    ) -> Iterator[SmallEAudioChunk]:
        """Speaks texts and gives the audio while it is being generated.

        All chunks together are the `audio` that `generate` returns for the same arguments. Closing the iterator, or
        dropping it, frees everything.

        Args:
            inputs or input_ids (`torch.LongTensor` of shape `(B, S)`): Text ids; see `generate`.
            chunk_ms (`float`, defaults to 100): Audio of a chunk in milliseconds, rounded to whole frames. The first
                one comes as soon as its frames are there and those that the codec has to know behind it.
            lookahead_ms (`float`, defaults to 0): How far the model speaks ahead of the audio besides what the codec
                needs: the times of words are then known before they are heard.
            kwargs: Arguments of `generate`: voice prompt, seed, sampling options, limits.

        Returns:
            Iterator of [`SmallEAudioChunk`], at least one; the last one has `is_last`.

        Raises:
            ValueError: As `generate`; a duration makes no sense, the checkpoint holds no codec or one that cannot be
                decoded piece by piece, or an option is about the whole utterance. Raised before any heavy work.
        """
        streaming = open_streaming(self, chunk_ms, lookahead_ms)
        refuse_whole_outputs(self._options(kwargs.get("generation_config"), kwargs))
        return self.generate(inputs, streaming=streaming, **kwargs)

    @torch.no_grad()
    def _yield_chunks(
        self: Any,
        columns: Iterator[SmallEColumn],
        assembler: "AudioAssembler",
        cache: SmallECache | None,
        generation_config: Any,
    ) -> Iterator[SmallEAudioChunk]:
        for column in columns:
            yield from assembler.push(column)
        rows = assembler.rows
        rows.save_to(cache)
        self._report_limit(rows.is_finished, rows.lengths(), rows.limits, generation_config)
        yield from assembler.finish(cache)


def feeds_streamer(generate: Callable[..., Any]) -> Callable[..., Any]:
    """Lets `generate` take a `streamer`, which hears of the end whatever happens."""

    @functools.wraps(generate)
    def generate_into(model: Any, *args: Any, streamer: Any = None, **kwargs: Any) -> Any:
        if streamer is None:
            return generate(model, *args, **kwargs)
        if not (hasattr(streamer, "put") and hasattr(streamer, "end")):
            raise TypeError(
                f"`streamer` must have `put` and `end`, got {type(streamer).__name__}: use `AudioStreamer`."
            )
        try:
            sizes = getattr(streamer, "chunk_ms", CHUNK_MS), getattr(streamer, "lookahead_ms", 0.0)
            streaming = open_streaming(model, *sizes, streamer)
            return generate(model, *args, streaming=streaming, **{"output_audio": False, **kwargs})
        finally:
            streamer.end()

    return generate_into


def open_streaming(model: Any, chunk_ms: float, lookahead_ms: float, streamer: Any = None) -> Streaming:
    """How a model's speech is streamed.

    Args:
        model ([`SmallEForSpeechGeneration`]): Needs a codec.
        chunk_ms (`float`): Audio of a chunk in milliseconds.
        lookahead_ms (`float`): How far the model speaks ahead, besides what the codec needs.
        streamer (`BaseStreamer`, *optional*): Receives the chunks.

    Raises:
        ValueError: There is no codec, or it cannot be decoded piece by piece, or a duration makes no sense.
    """
    check_durations(chunk_ms, lookahead_ms)
    frames_per_ms = model.config.frame_rate / 1000
    return Streaming(
        decoder=chunk_decoder(model._require_codec(), model.config.frame_length),
        chunk_frames=max(round(chunk_ms * frames_per_ms), 1),
        lookahead_frames=math.ceil(lookahead_ms * frames_per_ms),
        streamer=streamer,
    )


def check_durations(chunk_ms: float, lookahead_ms: float) -> None:
    """Refuses durations that make no sense.

    Raises:
        ValueError: A chunk is not longer than 0, the look-ahead is negative, or one of them has no end.
    """
    if not 0 < chunk_ms < math.inf:
        raise ValueError(f"`chunk_ms` must be a number of milliseconds above 0, got {chunk_ms}.")
    if not 0 <= lookahead_ms < math.inf:
        raise ValueError(f"`lookahead_ms` must be a number of milliseconds of at least 0, got {lookahead_ms}.")


def refuse_whole_outputs(options: dict[str, Any]) -> None:
    """Refuses options of `generate` that are about the whole utterance.

    Raises:
        ValueError: One of them is set.
    """
    for name in NOT_STREAMED:
        if options.get(name):
            raise ValueError(f"A stream gives no `{name}`, which is about the whole utterance: use `generate`.")
    if (options.get("num_candidates") or 1) > 1:
        raise ValueError("Candidates are chosen when they are complete: use `generate` for `num_candidates`.")


class AudioAssembler:
    """Puts columns together to frames, and decodes these chunk by chunk.

    Args:
        config ([`SmallEConfig`]): Delays, ids and rates.
        rows ([`DelayedRows`]): Where the rows stand behind the column that was emitted last.
        columns_before (`torch.LongTensor` of shape `(B, C, Q)`): The columns before the first one that is pushed,
            from the one before the first frame on.
        alignments_before (`torch.Tensor` of shape `(B, T, S)`, *optional*): Alignments of frames that began in them.
        streaming ([`Streaming`]): Sizes and decoder.
    """

    def __init__(
        self,
        config: SmallEConfig,
        rows: DelayedRows,
        columns_before: torch.Tensor,
        alignments_before: torch.Tensor | None,
        streaming: Streaming,
    ) -> None:
        self.config, self.rows, self.streaming = config, rows, streaming
        self.columns = list(columns_before.unbind(1))
        self.times = RunningTokenTimes(config.frame_rate)
        for alignment in () if alignments_before is None else alignments_before.unbind(1):
            self.times.push(alignment)
        self.active = list(range(len(columns_before)))  # rows whose audio has not ended
        self.decoder_state: Any = None
        self.num_frames = 0  # taken so far
        self.num_samples = 0  # of an active row, given out so far

    def push(self, column: SmallEColumn) -> Iterator[SmallEAudioChunk]:
        """Takes the next column; yields a chunk if that is due."""
        self.columns.append(column.ids)
        self.times.push(column.alignment)
        num_complete = len(self.columns) - 1 - self.config.max_delay
        if num_complete >= self._next_size() + self.streaming.lookahead_frames:
            yield self._take(self._next_size())

    def finish(self, cache: SmallECache | None = None) -> Iterator[SmallEAudioChunk]:
        """Yields what is left when no column follows, at least one chunk."""
        num_frames = int(self.rows.lengths().max())
        while num_frames - self.num_frames > self._next_size():
            yield self._take(self._next_size())
        yield self._take(num_frames - self.num_frames, is_last=True, cache=cache)

    def play(self, columns: Iterator[SmallEColumn], cache: SmallECache | None) -> Iterator[SmallEColumn]:
        """Passes columns on and their sound to the streamer, until that is closed."""
        streamer = self.streaming.streamer
        for column in columns:
            for chunk in self.push(column):
                streamer.put(chunk)
            yield column
            if getattr(streamer, "is_closed", False):
                return
        self.rows.save_to(cache)
        for chunk in self.finish(cache):
            streamer.put(chunk)

    def _next_size(self) -> int:
        """Frames of the next chunk; the first one includes those that the codec has to know."""
        size = self.streaming.chunk_frames
        return size if self.num_frames else self.streaming.decoder.frames_needed(size)

    def _take(self, size: int, is_last: bool = False, cache: SmallECache | None = None) -> SmallEAudioChunk:
        """The chunk that the next `size` frames make."""
        delayed = torch.stack(self.columns[: size + 1 + self.config.max_delay], dim=1)
        del self.columns[:size]
        lengths = self.rows.lengths()
        is_ended = torch.ones_like(self.rows.is_done) if is_last else self.rows.is_done
        own = (lengths - self.num_frames).clamp(0, size)  # frames of each row
        codes = ids_to_codes(revert_delay(delayed, self.config)[:, :size], self.config)
        codes = codes * (torch.arange(codes.shape[1], device=codes.device) < own[:, None])[..., None]
        self.num_frames += size
        self.times.settle(lengths, is_ended)
        start = self.num_samples / self.config.sampling_rate
        ends = (is_ended & (lengths <= self.num_frames)).tolist()
        pieces = self._decode(codes, lengths.tolist(), ends)
        audio_lengths = [len(pieces[row]) if row in pieces else 0 for row in range(len(codes))]
        audio = torch.zeros(len(codes), max(audio_lengths), device=codes.device)
        for row, piece in pieces.items():
            audio[row, : len(piece)] = piece
        return SmallEAudioChunk(
            audio=audio,
            audio_lengths=torch.tensor(audio_lengths, device=codes.device),
            start=start,
            token_times=self.times.times(),
            sequences=codes,
            sequence_lengths=own,
            is_finished=self.rows.is_finished.clone(),
            is_last=is_last,
            past_key_values=cache,
        )

    def _decode(self, codes: torch.Tensor, lengths: list[int], ends: list[bool]) -> dict[int, torch.Tensor]:
        """New samples of the active rows by row. Those that end leave the batch that the decoder carries on."""
        pieces, staying = {}, [place for place, row in enumerate(self.active) if not ends[row]]
        for place, row in enumerate(self.active):
            if ends[row]:
                size = lengths[row] - (self.num_frames - codes.shape[1])
                pieces[row] = self._decode_end(codes[row, :size], place, lengths[row])
        if len(staying) < len(self.active):
            self.active = [self.active[place] for place in staying]
            self.decoder_state = select_rows(self.decoder_state, staying)
        if self.active:
            decoded, self.decoder_state = self.streaming.decoder.decode_chunk(codes[self.active], self.decoder_state)
            pieces.update(zip(self.active, decoded, strict=True))
            self.num_samples += decoded.shape[1]
        return pieces

    def _decode_end(self, codes: torch.Tensor, place: int, length: int) -> torch.Tensor:
        """The last samples of a row; as many as its frames have, also where the codec gives a few less."""
        num_left = length * self.config.frame_length - self.num_samples
        if length == 0:
            return torch.zeros(0, device=codes.device)
        state = select_rows(self.decoder_state, [place])
        piece = self.streaming.decoder.decode_chunk(codes[None], state, is_last=True)[0][0, :num_left]
        return torch.nn.functional.pad(piece, (0, num_left - len(piece)))


__all__ = ["AudioStreamer", "SmallEStreamingMixin"]
