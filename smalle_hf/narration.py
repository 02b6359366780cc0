"""Text of any length in one voice: sentence after sentence, with memory that does not grow. Needs no torch.

Every sentence begins anew from the same voice, a prompt of a few seconds. So the voice cannot drift, whatever happened
before, and the state of the model is never older than a sentence. Where no voice is given, the first sentence that
ends by itself becomes the voice of all others.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .sentences import SpeechJoiner, pause_after, split_text


@dataclass(frozen=True)
class SpokenWord:
    """A word and when it is spoken, in seconds from the beginning of the speech."""

    text: str
    start: float
    end: float


@dataclass(frozen=True)
class SpeechChunk:
    """Speech as it comes from [`stream_speech`].

    Args:
        audio (`np.ndarray` of shape `(samples,)`): The next samples, float32, at the model's sampling rate.
        start (`float`): Seconds from the beginning of the speech to the first of them.
        words (`tuple[SpokenWord, ...]`): Words of which start and end have become certain with this chunk: each once,
            in order, as soon as the next one is reached. Exported models do not tell them.
        text (`str`): The sentence that is being spoken.
    """

    audio: np.ndarray
    start: float
    words: tuple[SpokenWord, ...]
    text: str


def speak_pieces(
    pieces: Iterable[str],
    narrator: "Narrator",
    max_seconds: float | None,
    seed: int | None,
    options: Mapping[str, Any],
) -> Iterator[SpeechChunk]:
    """Speech of pieces with pauses between them, as it comes.

    Args:
        pieces (`Iterable[str]`): From [`Narrator.split`].
        narrator ([`Narrator`]): Speaks them.
        max_seconds (`float`, *optional*): Speech at most, pauses not counted.
        seed (`int`, *optional*): Piece i draws what `generate` draws with `seed + i`.
        options (`Mapping`): Arguments of `model.stream`.
    """
    config = narrator.model.config
    rate, frames_left = config.sampling_rate, frames_in(max_seconds, config.frame_rate)
    joiner, before, num_given = SpeechJoiner(rate), np.zeros(0, dtype=np.float32), 0
    piece, pause = "", 0.0
    for index, piece in enumerate(pieces):
        if index:
            before = joiner.begin(pause)
        newly_certain = narrator.clock(piece, (num_given + len(before)) / rate)
        for chunk in narrator.stream(piece, frames_left, None if seed is None else seed + index, options):
            audio = np.concatenate([before, joiner.push(narrator.samples(chunk))])
            yield SpeechChunk(audio, num_given / rate, newly_certain(chunk), piece)
            num_given, before = num_given + len(audio), before[:0]
            frames_left -= int(chunk.sequence_lengths[0])
        pause = pause_after(piece)
        if frames_left <= 0:
            break
    ending = joiner.finish()
    if len(ending):
        yield SpeechChunk(ending, num_given / rate, (), piece)


def frames_in(seconds: float | None, frame_rate: float) -> float:
    """Frames that so many seconds have; infinitely many if `None`."""
    return math.inf if seconds is None else math.ceil(seconds * frame_rate)


class Narrator:
    """A model that speaks piece after piece in one voice.

    Args:
        model ([`SmallEForSpeechGeneration`] or [`SmallEOnnxModel`]): The model.
        processor ([`SmallEProcessor`] or [`SmallEOnnxProcessor`]): The model's.
        voice (`Mapping`, *optional*): Arguments of the processor that say whose voice it is. Without one, the first
            utterance that ends by itself becomes the voice.
    """

    def __init__(self, model: Any, processor: Any, voice: Mapping[str, Any] | None = None) -> None:
        self.model, self.processor = model, processor
        self.voice = dict(voice or {})
        # What is put before every piece. A voice that is found on the way may take as much room as the piece.
        self.given_transcript = self.transcript
        longest = model.config.max_text_length
        self.max_tokens = longest if self.voice else longest // 2

    @property
    def transcript(self) -> str:
        """What is said in the voice prompt."""
        return str(self.voice.get("audio_prompt_text") or "")

    def split(self, text: str) -> list[str]:
        """Sentences of a text, or parts of them, that the model can speak at once.

        Args:
            text (`str`): Any text. Parts that the vocabulary cannot write are left out with a warning.

        Raises:
            ValueError: Nothing of the text can be spoken, or the voice's text leaves no room.
        """
        pieces = self._split(text)
        if not pieces:
            raise ValueError(
                f"There is nothing to say in {text.strip()[:40]!r}: the model cannot write these letters."
            )
        return pieces

    def split_all(self, texts: Iterable[str]) -> Iterator[str]:
        """The same for texts that come one by one; of some there may be nothing to say.

        Raises:
            ValueError: There is nothing to say in any of them.
        """
        is_empty = True
        for text in texts:
            for piece in self._split(text):
                is_empty = False
                yield piece
        if is_empty:
            raise ValueError("There is nothing to say: pass at least one sentence.")

    def _split(self, text: str) -> list[str]:
        def fits(piece: str) -> bool:
            return self.processor.num_tokens(f"{self.given_transcript} {piece}") <= self.max_tokens

        with warnings.catch_warnings():
            # What is left out of the vocabulary is reported when the piece is spoken.
            warnings.simplefilter("ignore")
            if not fits("a word"):
                raise ValueError("The voice's text leaves no room for another one: use a shorter recording.")
            pieces = split_text(text, fits)
            can_speak = [any(map(str.isalnum, self.processor.normalize(piece))) for piece in pieces]
        left_out = [piece.strip() for piece, can in zip(pieces, can_speak, strict=True) if not can]
        if left_out and any(can_speak):
            warnings.warn(f"The vocabulary cannot write these parts, which are left out: {left_out}", stacklevel=3)
        return [piece for piece, can in zip(pieces, can_speak, strict=True) if can]

    def generate(self, piece: str, frames_left: float, seed: int | None, options: Mapping[str, Any]) -> Any:
        """Speaks a piece: the output of `model.generate`. Arguments as [`Narrator.stream`]."""
        inputs, limit = self._prepare(piece)
        output = self.model.generate(**inputs, **options, max_new_tokens=int(min(limit, frames_left)), seed=seed)
        self._hear(piece, output.sequences[0, : output.sequence_lengths[0]], bool(output.is_finished[0]), limit)
        return output

    def stream(self, piece: str, frames_left: float, seed: int | None, options: Mapping[str, Any]) -> Iterator[Any]:
        """Speaks a piece while it is listened to: the chunks of `model.stream`.

        Args:
            piece (`str`): From [`Narrator.split`].
            frames_left (`float`): Frames that it may have at most.
            seed (`int`, *optional*): Of the sampling.
            options (`Mapping`): Arguments of `model.stream`.
        """
        inputs, limit = self._prepare(piece)
        codes = []
        for chunk in self.model.stream(**inputs, **options, max_new_tokens=int(min(limit, frames_left)), seed=seed):
            codes.append(chunk.sequences[0])
            if chunk.is_last:
                self._hear(piece, self.join_codes(codes), bool(chunk.is_finished[0]), limit)
            yield chunk

    def _prepare(self, piece: str) -> tuple[Mapping[str, Any], int]:
        """Arguments of `generate`, and the frames that the piece may have."""
        inputs = self.prepare(piece)
        return inputs, math.ceil(inputs["input_ids"].shape[1] * self.model.config.max_frames_per_text_token)

    def _hear(self, piece: str, codes: Any, is_finished: bool, limit: int) -> None:
        """Takes note of what was spoken: the first utterance with an end becomes the voice."""
        if is_finished and not self.voice and len(codes):
            self.voice = {"audio_prompt_codes": self.join_codes([codes]), "audio_prompt_text": piece.strip()}
        if len(codes) == limit and not is_finished:
            warnings.warn(
                f"The model found no end of {piece.strip()[:40]!r}, so it was cut: try another seed, or candidates.",
                stacklevel=4,
            )

    def prepare(self, piece: str) -> Mapping[str, Any]:
        """What the processor makes of a piece and the voice, for the model."""
        return self.processor(piece, **self.voice)

    def join_codes(self, pieces: Sequence[Any]) -> Any:
        """Codes `(T, Q)` of consecutive pieces, to be kept."""
        return np.concatenate(pieces)

    def samples(self, chunk: Any) -> np.ndarray:
        """Audio `(samples,)` of a chunk of `model.stream`."""
        return chunk.audio[0]

    def clock(self, piece: str, start: float) -> Callable[[Any], tuple[SpokenWord, ...]]:
        """What tells of each chunk which words of a piece, begun `start` seconds into the speech, are certain."""
        return lambda chunk: ()


__all__ = ["Narrator", "SpeechChunk", "SpokenWord", "frames_in", "speak_pieces"]
