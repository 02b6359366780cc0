"""`smalle encode` and `smalle decode`: recordings to files of codec codes, and back."""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

from .. import SmallEConfig
from ..audio_files import read_audio, resample_audio
from ..codec_smalle import decode_codes, encode_audio
from ..codecs import codec_path
from ..delay_pattern import check_codes
from ..voice_files import TEXT_KEY, encode_codes, read_codes, write_bytes
from .checkpoints import find_checkpoint, load_codec
from .delivery import STDOUT, check_delivery, deliver_audio, refuse_terminal


def run(options: argparse.Namespace) -> int:
    """Runs `encode` or `decode`; returns the exit code.

    Raises:
        OSError: A file or a codec is not there or cannot be used.
        ValueError: The input is damaged, or does not fit the codec.
    """
    return encode(options) if options.command == "encode" else decode(options)


def encode(options: argparse.Namespace) -> int:
    """Encodes one recording; returns the exit code."""
    if options.output == STDOUT:
        refuse_terminal()
    elif Path(options.output).suffix != ".safetensors":
        raise ValueError(f"Codes go into a safetensors file: name one instead of {options.output}.")
    source = sys.stdin.buffer.read() if options.audio == "-" else options.audio
    waveform, rate = read_audio(source)
    codec, config = load_codec(find_checkpoint(options.codec or str(codec_path()), "--codec"))
    num_codebooks = options.num_codebooks or config.num_codebooks
    if num_codebooks > config.num_codebooks:
        raise ValueError(f"The codec has {config.num_codebooks} codebooks, {num_codebooks} are asked for.")
    waveform = resample_audio(waveform, rate, config.sampling_rate)
    with torch.no_grad():
        codes, _ = encode_audio(codec, torch.from_numpy(waveform)[None], None, config)
    codes = codes[0, :, :num_codebooks]
    metadata = {
        "codec": codec.config.model_type,
        "sampling_rate": str(config.sampling_rate),
        "frame_rate": f"{config.frame_rate:g}",
        "samples": str(len(waveform)),
    }
    if options.text is not None:
        metadata[TEXT_KEY] = options.text
    content = encode_codes(codes, metadata)
    if options.output == STDOUT:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    else:
        Path(options.output).parent.mkdir(parents=True, exist_ok=True)
        write_bytes(options.output, content)
    print(f"{_place(options.output)}: {codes.shape[0]} frames of {num_codebooks} codes", file=sys.stderr)
    return 0


def decode(options: argparse.Namespace) -> int:
    """Decodes one file of codes; returns the exit code."""
    check_delivery(options.output)
    codes, metadata = _read_source(options.codes)
    codec, config = load_codec(find_checkpoint(options.codec or str(codec_path()), "--codec"))
    stated = {"codec": codec.config.model_type, "sampling_rate": str(config.sampling_rate)}
    for name, value in stated.items():
        if metadata.get(name, value) != value:
            raise ValueError(
                f"The codes were made by another codec: their {name.replace('_', ' ')} is {metadata[name]}, that of "
                f"this codec {value}. Name the codec that made them with --codec."
            )
    if codes.shape[1] > config.num_codebooks:
        raise ValueError(f"There are {codes.shape[1]} codebooks of codes, the codec has {config.num_codebooks}.")
    check_codes(codes, SmallEConfig(num_codebooks=codes.shape[1], codebook_size=config.codebook_size))
    with torch.no_grad():
        waveform = decode_codes(codec, codes[None], None, config.frame_length)[0].numpy()
    samples = metadata.get("samples", "")
    if samples.isdecimal():
        waveform = waveform[: int(samples)]
    deliver_audio(waveform, config.sampling_rate, options.output)
    print(f"{_place(options.output)}: {len(waveform) / config.sampling_rate:.2f} s", file=sys.stderr)
    return 0


def _read_source(source: str) -> tuple[torch.Tensor, dict[str, str]]:
    if source != "-":
        return read_codes(source)
    with tempfile.TemporaryDirectory() as folder:
        # Its metadata can be read from a file only.
        return read_codes(write_bytes(Path(folder) / "stdin.safetensors", sys.stdin.buffer.read()))


def _place(output: str) -> str:
    return "stdout" if output == STDOUT else output


__all__ = ["decode", "encode", "run"]
