"""Codes to sound on a CPU: the Vocos decoder against EnCodec's own.

    python examples/benchmarks/codec_decoders.py
    python examples/benchmarks/codec_decoders.py --durations 1 10 60 --threads 1 2
    python examples/benchmarks/codec_decoders.py --quick

Real-time factor: seconds of computing per second of audio. EnCodec and Vocos decode codes of the same kind, at 24 kHz
with 75 frames per second and 4 codebooks; the codec that comes with this package, at 16 kHz and 50 frames per second,
runs beside them. All run in alternation in one process. Writes codec_decoders.json and, where matplotlib is installed,
codec_decoders.png.
"""

import sys
from collections.abc import Sequence
from typing import Any

import torch
from comparison import Results, alternate, median_ratio, medians, parse, report
from rivals import encodec, num_parameters, vocos
from transformers import AutoModel

from smalle_hf.codec_smalle import decode_codes
from smalle_hf.codecs import codec_path

ENCODEC, VOCOS, SMALL = "EnCodec", "Vocos", "small codec, 16 kHz"
NUM_CODEBOOKS = 4
DURATIONS, QUICK_DURATIONS = [1.0, 10.0], [0.5]


def decoders() -> dict[str, Any]:
    """The codecs by name. Only the last one has trained weights: speed does not depend on them."""
    return {ENCODEC: encodec(), VOCOS: vocos(), SMALL: AutoModel.from_pretrained(codec_path()).eval()}


def num_decoder_parameters(codec: Any) -> int:
    """Weights that decoding needs."""
    parts = (codec.decoder, codec.quantizer, getattr(codec, "head", None))
    return num_parameters([part for part in parts if part is not None])


def measure(codecs: dict[str, Any], duration: float, repeats: int, threads: int) -> list[Results]:
    """Real-time factors at one length."""
    torch.set_num_threads(threads)

    def decode(codec: Any) -> None:
        config = codec.config
        hop_length = round(config.sampling_rate / config.frame_rate)
        frames = round(duration * config.frame_rate)
        codes = torch.randint(config.codebook_size, (1, frames, NUM_CODEBOOKS))
        with torch.no_grad():
            decode_codes(codec, codes, torch.tensor([frames]), hop_length)

    times = alternate({name: (lambda codec=codec: decode(codec)) for name, codec in codecs.items()}, repeats)
    return [
        {
            "decoder": name,
            "parameters": num_decoder_parameters(codecs[name]),
            "threads": threads,
            "duration": str(duration),
            "real_time_factor": elapsed / duration,
            "times_as_fast_as_encodec": median_ratio(times[ENCODEC], times[name]),
        }
        for name, elapsed in medians(times).items()
    ]


def print_rows(rows: Sequence[Results]) -> None:
    """Prints a table."""
    for row in rows:
        print(
            f"{row['decoder']:<22}{row['parameters'] / 1e6:5.1f}M, {row['threads']} threads, {row['duration']:>5} s: "
            f"real-time factor {row['real_time_factor']:.4f}, {row['times_as_fast_as_encodec']:6.1f} x EnCodec's speed"
        )


def draw(figure: Any, phases: Results) -> None:
    """Bars of the real-time factors of the longest utterance, a panel for each number of threads."""
    rows = phases["decoding"]["rows"]
    duration = max((row["duration"] for row in rows), key=float)
    threads = sorted({row["threads"] for row in rows})
    for axes, count in zip(figure.subplots(1, len(threads), squeeze=False)[0], threads, strict=True):
        factors = {
            row["decoder"]: row["real_time_factor"]
            for row in rows
            if (row["duration"], row["threads"]) == (duration, count)
        }
        bars = axes.barh(list(factors), list(factors.values()))
        axes.bar_label(bars, fmt="%.3f", padding=2)
        axes.margins(x=0.15)
        axes.invert_yaxis()
        axes.set_title(f"real-time factor, {duration} s, {count} thread{'s' if count > 1 else ''}", fontsize="medium")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(
        __doc__ or "",
        ["decoding"],
        arguments,
        ("--durations", {"nargs": "+", "type": float, "help": "of the utterances in seconds"}),
    )
    durations = options.durations or (QUICK_DURATIONS if options.quick else DURATIONS)
    repeats = options.repeats or (1 if options.quick else 5)
    codecs = decoders()
    rows = []
    for threads in options.threads:
        for duration in durations:
            rows += measure(codecs, duration, repeats, threads)
    print_rows(rows)
    report(options.output, "codec_decoders", "decoding", {"num_codebooks": NUM_CODEBOOKS}, rows, draw=draw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
