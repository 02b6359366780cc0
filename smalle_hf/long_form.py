"""Text of any length in one voice: sentence after sentence, heard while it is spoken, with memory that does not grow.

Every sentence begins anew from the same voice, a prompt of a few seconds. So the voice cannot drift, whatever happened
before, and the state of the model is never older than a sentence. Where no voice is given, the first sentence that
ends by itself becomes the voice of all others.
"""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .alignment import map_tokens_to_words, split_words
from .outputs_smalle import SmallEAudioChunk
from .processing_smalle import SmallEProcessor
from .sentences import SpeechJoiner, pause_after, split_text
from .streaming_smalle import CHUNK_MS, open_streaming, refuse_whole_outputs


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
            in order, as soon as the next one is reached.
        text (`str`): The sentence that is being spoken.
    """

    audio: np.ndarray
    start: float
    words: tuple[SpokenWord, ...]
    text: str


def stream_speech(
    text: str | Iterable[str],
    model: Any,
    processor: SmallEProcessor,
    voice: Mapping[str, Any] | None = None,
    *,
    chunk_ms: float = CHUNK_MS,
    lookahead_ms: float = 0.0,
    seed: int | None = None,
    max_seconds: float | None = None,
    **options: Any,
) -> Iterator[SpeechChunk]:
    """Speaks a text of any length and gives the audio while it is being generated.

    All chunks together are what [`join_speech`] makes of the sentences, each generated alone in the same voice.

    Args:
        text (`str` or `Iterable[str]`): A text, or its sentences as they come; see [`collect_sentences`] for text that
            comes in other parts. Sentences that are too long are cut into clauses.
        model ([`SmallEForSpeechGeneration`]): Needs a codec that can be decoded piece by piece.
        processor ([`SmallEProcessor`]): The model's.
        voice (`Mapping`, *optional*): Arguments of the processor that say whose voice it is, as [`load_voice`] returns
            them. Without one, the first sentence becomes the voice.
        chunk_ms (`float`, defaults to 100): Audio of a chunk in milliseconds.
        lookahead_ms (`float`, defaults to 0): How far the model speaks ahead of the audio, so that the times of words
            are known before they are heard.
        seed (`int`, *optional*): Sentence i draws what `generate` draws with `seed + i`.
        max_seconds (`float`, *optional*): Speech at most, pauses not counted.
        options: Sampling options of `generate`.

    Returns:
        Iterator of [`SpeechChunk`].

    Raises:
        ValueError: There is nothing to say, a duration makes no sense, an option is about whole utterances, or the
            model cannot be streamed. Raised with the call, except for sentences that come later.
    """
    open_streaming(model, chunk_ms, lookahead_ms)
    refuse_whole_outputs(options)
    narrator = Narrator(model, processor, voice)
    pieces = iter(narrator.split(text)) if isinstance(text, str) else narrator.split_all(text)
    frame_rate = model.config.frame_rate
    frames = math.inf if max_seconds is None else math.ceil(max_seconds * frame_rate)
    sizes = {"chunk_ms": chunk_ms, "lookahead_ms": lookahead_ms}
    return _speak(pieces, narrator, frames, seed, {**options, **sizes})


def _speak(
    pieces: Iterator[str], narrator: "Narrator", frames_left: float, seed: int | None, options: dict[str, Any]
) -> Iterator[SpeechChunk]:
    rate = narrator.model.config.sampling_rate
    joiner, before, num_given = SpeechJoiner(rate), np.zeros(0, dtype=np.float32), 0
    piece, pause = "", 0.0
    for index, piece in enumerate(pieces):
        if index:
            before = joiner.begin(pause)
        words = WordClock(narrator, piece, (num_given + len(before)) / rate)
        for chunk in narrator.stream(piece, frames_left, None if seed is None else seed + index, options):
            audio = np.concatenate([before, joiner.push(chunk.audio[0].cpu().numpy())])
            yield SpeechChunk(audio, num_given / rate, words.newly_certain(chunk), piece)
            num_given, before = num_given + len(audio), before[:0]
            frames_left -= int(chunk.sequence_lengths)
        pause = pause_after(piece)
        if frames_left <= 0:
            break
    ending = joiner.finish()
    if len(ending):
        yield SpeechChunk(ending, num_given / rate, (), piece)


class Narrator:
    """A model that speaks piece after piece in one voice.

    Args:
        model ([`SmallEForSpeechGeneration`]): The model.
        processor ([`SmallEProcessor`]): The model's.
        voice (`Mapping`, *optional*): Arguments of the processor that say whose voice it is. Without one, the first
            utterance that ends by itself becomes the voice.
    """

    def __init__(self, model: Any, processor: SmallEProcessor, voice: Mapping[str, Any] | None = None) -> None:
        self.model, self.processor = model, processor
        self.voice = dict(voice or {})
        # What is put before every piece. A voice that is found on the way may take as much room as the piece.
        self.given_transcript = self.transcript
        self.max_tokens = processor.max_text_length if self.voice else processor.max_text_length // 2

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
        transcript, processor, max_tokens = self.given_transcript, self.processor, self.max_tokens

        def fits(piece: str) -> bool:
            normalized = processor.normalize(f"{transcript} {piece}")
            return len(processor.tokenizer(normalized)["input_ids"]) <= max_tokens

        with warnings.catch_warnings():
            # What is left out of the vocabulary is reported when the piece is spoken.
            warnings.simplefilter("ignore")
            if not fits("a word"):
                raise ValueError("The voice's text leaves no room for another one: use a shorter recording.")
            pieces = split_text(text, fits)
            can_speak = [any(map(str.isalnum, processor.normalize(piece))) for piece in pieces]
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

    def stream(
        self, piece: str, frames_left: float, seed: int | None, options: Mapping[str, Any]
    ) -> Iterator[SmallEAudioChunk]:
        """Speaks a piece while it is listened to.

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
                self._hear(piece, torch.cat(codes), bool(chunk.is_finished[0]), limit)
            yield chunk

    def _prepare(self, piece: str) -> tuple[Mapping[str, Any], int]:
        """Arguments of `generate`, and the frames that the piece may have."""
        inputs = self.processor(piece, **self.voice).to(self.model.device)
        return inputs, math.ceil(inputs["input_ids"].shape[1] * self.model.config.max_frames_per_text_token)

    def _hear(self, piece: str, codes: torch.Tensor, is_finished: bool, limit: int) -> None:
        """Takes note of what was spoken: the first utterance with an end becomes the voice."""
        if is_finished and not self.voice and len(codes):
            self.voice = {"audio_prompt_codes": codes.cpu(), "audio_prompt_text": piece.strip()}
        if len(codes) == limit and not is_finished:
            warnings.warn(
                f"The model found no end of {piece.strip()[:40]!r}, so it was cut: try another seed, or candidates.",
                stacklevel=4,
            )

    def words_of(self, piece: str) -> tuple[list[str], torch.Tensor]:
        """Words of a piece, and which of them each token of its input belongs to.

        Args:
            piece (`str`): Before it is spoken, while the voice is the one that it will be spoken in.

        Returns:
            Words, and a `torch.LongTensor` of shape `(S,)`: -1 for tokens of no word and those of the transcript.
        """
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            transcript = self.processor.normalize(self.transcript) if self.transcript else ""
            written = self.processor.normalize(piece)
        text = f"{transcript} {written}".strip()
        offsets = self.processor.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        words, spoken = split_words(written), self.processor.words(piece)
        token_to_word = map_tokens_to_words(text, offsets) - len(split_words(transcript))
        # The vocabulary may lack all letters of a word: then words are named as the model reads them.
        return (spoken if len(spoken) == len(words) else words), token_to_word.clamp(min=-1)


class WordClock:
    """Tells when the words of a piece are spoken, each once.

    Args:
        narrator ([`Narrator`]): Speaks the piece.
        piece (`str`): The piece.
        start (`float`): Seconds from the beginning of the speech to that of the piece.
    """

    def __init__(self, narrator: Narrator, piece: str, start: float) -> None:
        self.words, self.token_to_word = narrator.words_of(piece)
        self.start, self.num_told = start, 0

    def newly_certain(self, chunk: SmallEAudioChunk) -> tuple[SpokenWord, ...]:
        """Words that the alignment has gone beyond with this chunk."""
        token_to_word = self.token_to_word.to(chunk.token_times.device)
        times = chunk.word_times(token_to_word)[0].tolist()
        # Words of which a token is the one reached last, or is not reached, may go on.
        num_certain = int((~chunk.token_times[0, :, 0].isnan()).sum()) - 1
        may_go_on = set() if chunk.is_last else set(token_to_word[max(num_certain, 0) :].tolist())
        told = []
        for word in range(self.num_told, len(times)):
            start, end = times[word]
            if word in may_go_on or math.isnan(start):
                break
            told.append(SpokenWord(self.words[word], self.start + start, self.start + end))
        self.num_told += len(told)
        return tuple(told)


__all__ = ["Narrator", "SpeechChunk", "SpokenWord", "stream_speech"]
