"""Text of any length with an exported model, heard while it is spoken; see `narration.py`."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..narration import Narrator, SpeechChunk, speak_pieces
from .modeling import CHUNK_MS, SmallEOnnxModel, check_stream
from .processing import SmallEOnnxProcessor


def stream_speech(
    text: str | Iterable[str],
    model: SmallEOnnxModel,
    processor: SmallEOnnxProcessor,
    voice: Mapping[str, Any] | None = None,
    *,
    chunk_ms: float = CHUNK_MS,
    seed: int | None = None,
    max_seconds: float | None = None,
    **options: Any,
) -> Iterator[SpeechChunk]:
    """Speaks a text of any length and gives the audio while it is being generated: [`smalle_hf.stream_speech`] for
    exported models, which do not tell the times of words.

    Args:
        text (`str` or `Iterable[str]`): A text, or its sentences as they come; see [`collect_sentences`] for text that
            comes in other parts. Sentences that are too long are cut into clauses.
        model ([`SmallEOnnxModel`]): Needs a codec that can be decoded piece by piece.
        processor ([`SmallEOnnxProcessor`]): The model's.
        voice (`Mapping`, *optional*): `audio_prompt_codes` and `audio_prompt_text`, as [`load_voice_arrays`] returns
            them. Without one, the first sentence becomes the voice.
        chunk_ms (`float`, defaults to 100): Audio of a chunk in milliseconds.
        seed (`int`, *optional*): Sentence i draws what `generate` draws with `seed + i`.
        max_seconds (`float`, *optional*): Speech at most, pauses not counted.
        options: Sampling options of `generate`.

    Returns:
        Iterator of [`SpeechChunk`].

    Raises:
        ValueError: There is nothing to say, a duration makes no sense, an option is about whole utterances, or the
            model cannot be streamed. Raised with the call, except for sentences that come later.
    """
    check_stream(model.config, chunk_ms, options)
    narrator = Narrator(model, processor, voice)
    pieces = iter(narrator.split(text)) if isinstance(text, str) else narrator.split_all(text)
    return speak_pieces(pieces, narrator, max_seconds, seed, {**options, "chunk_ms": chunk_ms})


__all__ = ["stream_speech"]
