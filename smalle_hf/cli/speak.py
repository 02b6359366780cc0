"""`smalle speak`: text to speech, sentence by sentence."""

import argparse
import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from .. import SmallEForSpeechGeneration, SmallEProcessor
from ..long_form import Narrator, stream_speech
from ..sentences import collect_sentences, join_speech, pause_after
from ..voice_files import default_voice, load_voice, read_codes
from .audio_sinks import AudioSinks, find_stream_player
from .checkpoints import find_checkpoint, load_speaker
from .delivery import STDOUT, check_delivery, deliver_audio
from .texts import read_fragments, read_text, sampling_options


def run(options: argparse.Namespace) -> int:
    """Speaks what the command line says; returns the exit code.

    Raises:
        OSError: A file, a checkpoint or the player is not there or cannot be used.
        ValueError: An input makes no sense; the message says which.
    """
    torch.set_num_threads(options.threads)
    if options.stream:
        return run_stream(options)
    text = read_text(options.text)
    player = check_delivery(options.output, options.play)
    checkpoint = find_checkpoint(options.model, "--model")
    model, processor = load_speaker(checkpoint, options.device)
    voice = choose_voice(model, processor, checkpoint, options)
    started = time.perf_counter()
    narrator = Narrator(model, processor, voice)
    pieces = narrator.split(text)
    waveforms, pauses = [], []
    progress = tqdm(pieces, desc="speaking", unit="sentence", file=sys.stderr, disable=None, leave=False)
    for piece, waveform in zip(progress, speak_pieces(pieces, narrator, options), strict=False):
        waveforms.append(waveform)
        pauses.append(pause_after(piece))
    rate = model.config.sampling_rate
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


def run_stream(options: argparse.Namespace) -> int:
    """Speaks while it is listened to; as [`run`]."""
    check_delivery(options.output)
    player = find_stream_player() if options.play else None
    checkpoint = find_checkpoint(options.model, "--model")
    text = collect_sentences(read_fragments()) if options.text == "-" else read_text(options.text)
    model, processor = load_speaker(checkpoint, options.device)
    voice = choose_voice(model, processor, checkpoint, options)
    rate, num_samples, first = model.config.sampling_rate, 0, math.nan
    started = time.perf_counter()
    chunks = stream_speech(
        text,
        model,
        processor,
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


def choose_voice(
    model: SmallEForSpeechGeneration, processor: SmallEProcessor, checkpoint: str, options: argparse.Namespace
) -> dict[str, Any]:
    """The voice that the command line names, as the processor takes it; empty if there is none.

    Raises:
        OSError: The recording is not there or cannot be read.
        ValueError: The checkpoint has no such voice, or a transcript is given for a voice that has its own.
    """
    name = options.voice
    if name is None:
        default = default_voice(checkpoint)
        return dict(load_voice(checkpoint, default)) if default else {}
    path = Path(name).expanduser()
    is_recording = path.is_file() and path.suffix != ".safetensors"
    if options.voice_text is not None and not is_recording:
        raise ValueError(f"--voice-text goes with a recording, and {name} is none: the voices have their own texts.")
    if is_recording:
        codes, _ = model.encode_audio(processor(audio=str(path)).input_values.to(model.device))
        # Without a transcript the processor warns that speech may stumble; "" would silence that.
        voice = {"audio_prompt_codes": codes[0].cpu(), "audio_prompt_text": options.voice_text}
        return {key: value for key, value in voice.items() if value is not None}
    if path.is_file():
        codes, metadata = read_codes(path)
        return {"audio_prompt_codes": codes, "audio_prompt_text": metadata.get("text", "")}
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"There is no recording {name}: check the path.")
    return dict(load_voice(checkpoint, name))


def speak_pieces(pieces: list[str], narrator: Narrator, options: argparse.Namespace) -> Iterator[np.ndarray]:
    """Waveforms of the pieces, each of shape `(samples,)`, until the time is up."""
    left = math.inf
    if options.max_seconds is not None:
        left = math.ceil(options.max_seconds * narrator.model.config.frame_rate)
    more = {**sampling_options(options), "num_candidates": options.num_candidates}
    for index, piece in enumerate(pieces):
        output = narrator.generate(piece, left, options.seed + index, more)
        yield narrator.processor.decode(output)
        left -= int(output.sequence_lengths[0])
        if left <= 0:
            return


__all__ = ["choose_voice", "run", "speak_pieces"]
