"""What `smalle speak` does, with whatever speaks: a checkpoint in PyTorch, or an exported model without it."""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ..narration import Narrator, SpeechChunk, frames_in
from ..sentences import collect_sentences, join_speech, pause_after
from ..voice_files import PROMPT_NAME, TEXT_KEY, default_voice, load_voice_arrays, read_arrays
from .audio_sinks import AudioSinks, find_stream_player
from .delivery import STDOUT, check_delivery, deliver_audio
from .texts import read_fragments, read_text, sampling_options


@dataclass(frozen=True)
class Speaker:
    """A model that is ready to speak.

    Args:
        model, processor: The model and its processor.
        folder (`str`): Where its voices are: a folder, or a name on the Hub.
        narrator_class (`type`): What reads texts piece by piece with it.
        stream_speech (`Callable`): What streams texts with it.
        encode (`Callable`): Codes `(T, Q)` of the recording in a file.
    """

    model: Any
    processor: Any
    folder: str
    narrator_class: type[Narrator]
    stream_speech: Callable[..., Iterator[SpeechChunk]]
    encode: Callable[[str], Any]


def run(options: argparse.Namespace, load: Callable[[argparse.Namespace], Speaker]) -> int:
    """Speaks what the command line says; returns the exit code.

    Args:
        options (`argparse.Namespace`): The command line.
        load (`Callable`): Loads the model that it names.

    Raises:
        OSError: A file, a checkpoint or the player is not there or cannot be used.
        ValueError: An input makes no sense; the message says which.
    """
    if options.stream:
        return run_stream(options, load)
    text = read_text(options.text)
    player = check_delivery(options.output, options.play)
    speaker = load(options)
    voice = choose_voice(speaker, options)
    started = time.perf_counter()
    narrator = speaker.narrator_class(speaker.model, speaker.processor, voice)
    pieces = narrator.split(text)
    waveforms, pauses = [], []
    progress = tqdm(pieces, desc="speaking", unit="sentence", file=sys.stderr, disable=None, leave=False)
    for piece, waveform in zip(progress, speak_pieces(pieces, narrator, options), strict=False):
        waveforms.append(waveform)
        pauses.append(pause_after(piece))
    rate = speaker.model.config.sampling_rate
    speech = join_speech(waveforms, pauses, rate)
    if not speech.size:
        raise ValueError("The model said nothing: try another --seed, or a longer text.")
    took = time.perf_counter() - started
    deliver_audio(speech, rate, options.output, player)
    place = {None: "played", STDOUT: "stdout"}.get(options.output, options.output)
    print(
        f"{place}: {len(speech) / rate:.2f} s of speech, {len(waveforms)} of {len(pieces)} sentences, spoken in "
        f"{took:.1f} s",
        file=sys.stderr,
    )
    return 0


def run_stream(options: argparse.Namespace, load: Callable[[argparse.Namespace], Speaker]) -> int:
    """Speaks while it is listened to; as [`run`]."""
    check_delivery(options.output)
    player = find_stream_player() if options.play else None
    text = collect_sentences(read_fragments()) if options.text == "-" else read_text(options.text)
    speaker = load(options)
    voice = choose_voice(speaker, options)
    rate, num_samples, first = speaker.model.config.sampling_rate, 0, math.nan
    started = time.perf_counter()
    chunks = speaker.stream_speech(
        text,
        speaker.model,
        speaker.processor,
        voice,
        chunk_ms=options.chunk_ms,
        seed=options.seed,
        max_seconds=options.max_seconds,
        **sampling_options(options),
    )
    with AudioSinks(options.output, player, rate) as sinks:
        for chunk in chunks:
            if len(chunk.audio):
                first = time.perf_counter() - started if not num_samples else first
                sinks.write(chunk.audio)
                num_samples += len(chunk.audio)
        if not num_samples:
            raise ValueError("The model said nothing: try another --seed, or a longer text.")
    place = {None: "played", STDOUT: f"stdout (16-bit mono, {rate} Hz)"}.get(options.output, options.output)
    took = time.perf_counter() - started
    print(
        f"{place}: {num_samples / rate:.2f} s of speech, the first after {first:.2f} s, all in {took:.1f} s",
        file=sys.stderr,
    )
    return 0


def choose_voice(speaker: Speaker, options: argparse.Namespace) -> dict[str, Any]:
    """The voice that the command line names, as the processor takes it; the model's default if it names none, and
    nothing if there is no default.

    Raises:
        OSError: The recording is not there or cannot be read.
        ValueError: There is no such voice, it is of another codec, the recording cannot be encoded, or a transcript is
            given for a voice that has its own.
    """
    name = options.voice
    if name is None:
        default = default_voice(speaker.folder)
        return load_voice_arrays(speaker.folder, default) if default else {}
    path = Path(name).expanduser()
    is_recording = path.is_file() and path.suffix != ".safetensors"
    if options.voice_text is not None and not is_recording:
        raise ValueError(f"--voice-text goes with a recording, and {name} is none: the voices have their own texts.")
    if is_recording:
        # Without a transcript the processor warns that speech may stumble; "" would silence that.
        voice = {PROMPT_NAME: speaker.encode(str(path)), "audio_prompt_text": options.voice_text}
        return {key: value for key, value in voice.items() if value is not None}
    if not path.is_file():
        if path.suffix or len(path.parts) > 1:
            raise FileNotFoundError(f"There is no recording {name}: check the path.")
        return load_voice_arrays(speaker.folder, name)
    codes, metadata = read_arrays(path)
    expected = speaker.model.config.num_codebooks
    if codes.shape[1] != expected:
        raise ValueError(f"The voice {name} is of another codec: it has {codes.shape[1]} codebooks, not {expected}.")
    return {PROMPT_NAME: codes, "audio_prompt_text": metadata.get(TEXT_KEY, "")}


def speak_pieces(pieces: list[str], narrator: Narrator, options: argparse.Namespace) -> Iterator[np.ndarray]:
    """Waveforms of the pieces, each of shape `(samples,)`, until the time is up."""
    left = frames_in(options.max_seconds, narrator.model.config.frame_rate)
    more = {**sampling_options(options), "num_candidates": options.num_candidates}
    for index, piece in enumerate(pieces):
        output = narrator.generate(piece, left, options.seed + index, more)
        yield narrator.processor.decode(output)
        left -= int(output.sequence_lengths[0])
        if left <= 0:
            return


__all__ = ["Speaker", "choose_voice", "run"]
