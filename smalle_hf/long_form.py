"""Text of any length, heard while it is spoken, with the times of its words; see `narration.py`."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from . import narration
from .alignment import map_tokens_to_words, split_words
from .narration import SpeechChunk, SpokenWord, speak_pieces
from .outputs_smalle import SmallEAudioChunk
from .processing_smalle import SmallEProcessor
from .streaming_smalle import CHUNK_MS, open_streaming, refuse_whole_outputs


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
    sizes = {"chunk_ms": chunk_ms, "lookahead_ms": lookahead_ms}
    return speak_pieces(pieces, narrator, max_seconds, seed, {**options, **sizes})


class Narrator(narration.Narrator):
    """The same with tensors, and with the times of words."""

    def prepare(self, piece: str) -> Mapping[str, Any]:
        return self.processor(piece, **self.voice).to(self.model.device)

    def join_codes(self, pieces: Sequence[torch.Tensor]) -> torch.Tensor:
        return torch.cat(list(pieces)).cpu()

    def samples(self, chunk: SmallEAudioChunk) -> np.ndarray:
        return chunk.audio[0].cpu().numpy()

    def clock(self, piece: str, start: float) -> Callable[[SmallEAudioChunk], tuple[SpokenWord, ...]]:
        return WordClock(self, piece, start).newly_certain

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
