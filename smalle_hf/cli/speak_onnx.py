"""`smalle speak` with a model that `smalle export` wrote: the same command, without torch."""

import argparse
import math
import sys
import time
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..onnx import SmallEOnnxModel, SmallEOnnxProcessor
from ..sentences import SpeechJoiner, collect_sentences, pause_after, split_text
from ..voice_files import TEXT_KEY, VOICES_FOLDER, default_voice, list_voices, read_arrays
from .audio_sinks import AudioSinks, find_stream_player
from .delivery import STDOUT, check_delivery, deliver_audio
from .texts import read_fragments, read_text, sampling_options


def run(options: argparse.Namespace) -> int:
    """Speaks what the command line says; returns the exit code.

    Raises:
        OSError: A file, the model or the player is not there or cannot be used.
        ValueError: An input makes no sense; the message says which.
    """
    if options.num_candidates > 1:
        raise ValueError("An exported model speaks one candidate: leave out --num-candidates, or use the checkpoint.")
    if options.device not in (None, "cpu"):
        raise ValueError(f"An exported model computes on the CPU, not on {options.device}: leave out --device.")
    player = check_delivery(options.output, options.play and not options.stream)
    if options.stream:
        player = find_stream_player() if options.play else None
    from_stdin = options.stream and options.text == "-"
    texts = collect_sentences(read_fragments()) if from_stdin else [read_text(options.text)]
    model = SmallEOnnxModel.from_pretrained(options.model, options.threads)
    processor = SmallEOnnxProcessor.from_pretrained(options.model)
    voice = choose_voice(options, model.config.num_codebooks)
    started, rate = time.perf_counter(), model.config.sampling_rate
    chunks = speak(split_texts(texts, processor, voice), model, processor, voice, options)
    if options.stream:
        with AudioSinks(options.output, player, rate) as sinks:
            num_samples = 0
            for chunk in chunks:
                sinks.write(chunk)
                num_samples += len(chunk)
    else:
        speech = np.concatenate([*chunks, np.zeros(0, dtype=np.float32)])
        num_samples = len(speech)
    if not num_samples:
        raise ValueError("The model said nothing: try another --seed, or a longer text.")
    took = time.perf_counter() - started
    if not options.stream:
        deliver_audio(speech, rate, options.output, player)
    place = {None: "played", STDOUT: "stdout"}.get(options.output, options.output)
    print(f"{place}: {num_samples / rate:.2f} s of speech, spoken in {took:.1f} s", file=sys.stderr)
    return 0


def choose_voice(options: argparse.Namespace, num_codebooks: int) -> dict[str, Any]:
    """The voice that the command line names, as the processor takes it; the folder's default, if it names none.

    Raises:
        OSError: There is no such voice, or it cannot be read.
        ValueError: It is a recording, or of another codec.
    """
    name = options.voice or default_voice(options.model)
    if name is None:
        return {}
    path = Path(name).expanduser()
    if path.is_file() and path.suffix != ".safetensors":
        raise ValueError(
            f"An exported model cannot encode {path}: make a voice of it with `smalle encode {path} --text ... -o "
            "voice.safetensors`."
        )
    if options.voice_text is not None:
        raise ValueError("--voice-text goes with a recording: the voices have their own texts.")
    if not path.suffix and name not in (known := list_voices(options.model)):
        raise ValueError(f"{options.model} has no voice {name!r}: it has {', '.join(known) or 'none'}.")
    file = path if path.suffix else Path(options.model) / VOICES_FOLDER / f"{name}.safetensors"
    codes, metadata = read_arrays(file)
    if codes.shape[1] != num_codebooks:
        raise ValueError(
            f"The voice {name} has {codes.shape[1]} codebooks, not {num_codebooks}: it is of another codec."
        )
    return {"audio_prompt_codes": codes, "audio_prompt_text": metadata.get(TEXT_KEY, "")}


def split_texts(texts: Iterable[str], processor: SmallEOnnxProcessor, voice: dict[str, Any]) -> Iterator[str]:
    """Sentences of texts, or parts of them, that the model can speak at once.

    Raises:
        ValueError: Nothing can be spoken, or the voice's text leaves no room.
    """
    transcript, longest = voice.get("audio_prompt_text", ""), processor.config.max_text_length

    def fits(piece: str) -> bool:
        # Without a voice, the first sentence becomes one.
        return processor.num_tokens(f"{transcript} {piece}") <= (longest if voice else longest // 2)

    is_empty = True
    for text in texts:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is left out is reported when the piece is spoken
            if not fits("a word"):
                raise ValueError("The voice's text leaves no room for another one: use a shorter recording.")
            pieces = [piece for piece in split_text(text, fits) if any(map(str.isalnum, processor.normalize(piece)))]
        for piece in pieces:
            is_empty = False
            yield piece
    if is_empty:
        raise ValueError("There is nothing to say that the model can write: pass at least one word.")


def speak(
    pieces: Iterable[str],
    model: SmallEOnnxModel,
    processor: SmallEOnnxProcessor,
    voice: dict[str, Any],
    options: argparse.Namespace,
) -> Iterator[np.ndarray]:
    """Speech of the pieces with pauses between them, in chunks of shape `(samples,)`, until the time is up.

    Without a voice, the first piece that ends by itself becomes the voice of the others.
    """
    config = model.config
    joiner, pause, left = SpeechJoiner(config.sampling_rate), 0.0, math.inf
    if options.max_seconds is not None:
        left = math.ceil(options.max_seconds * config.frame_rate)
    for index, piece in enumerate(pieces):
        if index:
            yield joiner.begin(pause)
        inputs: dict[str, Any] = {**processor(piece, **voice), **sampling_options(options)}
        limit = math.ceil(inputs["input_ids"].shape[1] * config.max_frames_per_text_token)
        inputs |= {"max_new_tokens": int(min(limit, left)), "seed": options.seed + index}
        if options.stream and voice:
            num_frames = 0
            for chunk in model.stream(**inputs, chunk_ms=options.chunk_ms):
                num_frames += int(chunk.sequence_lengths[0])
                yield joiner.push(chunk.audio[0])
        else:
            output = model.generate(**inputs)
            num_frames = int(output.sequence_lengths[0])
            yield joiner.push(processor.batch_decode(output)[0])
            if not voice and output.is_finished[0] and num_frames:
                voice = {"audio_prompt_codes": output.sequences[0], "audio_prompt_text": piece.strip()}
        if num_frames == limit:
            warnings.warn(f"The model found no end of {piece.strip()[:40]!r}: try another --seed.", stacklevel=2)
        pause, left = pause_after(piece), left - num_frames
        if left <= 0:
            break
    yield joiner.finish()


__all__ = ["choose_voice", "run", "speak", "split_texts"]
