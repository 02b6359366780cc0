"""Measures how fast one process feeds training from a token cache, and how much of it is padding.

    python examples/benchmarks/data_loading.py                        # on a made-up cache of 6,000 utterances
    python examples/benchmarks/data_loading.py --cache codes/medium --json data_loading.json

The made-up utterances are as long as LibriLight's (2 to 31 s, 14.8 s in the mean) and have 15 characters of text per
second. Training the paper's 64M model takes less than TARGET frames a second from each process on any one accelerator.
Every stage is run by one process on one thread, several times, and the fastest run counts; "loader" is data set, batch
sampler, DataLoader and collator together. Frames per second of CPU time suffer less from other programs.
"""

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from smalle_hf import SmallEConfig, SmallEProcessor
from smalle_hf.data.batching import BucketBatchSampler
from smalle_hf.data.collator import SmallECollator
from smalle_hf.data.token_cache import CodecInfo, TokenCache, shard_name, write_shard
from smalle_hf.file_replacement import replace_file

TARGET = 1_500_000
FRAME_RATE = 75.0
CHARACTERS_PER_SECOND = 15
ROWS_PER_SHARD = 2000
WORDS = (
    "the of and a to in he was that his it I had with as her for at on she is him be not but you by which all they "
    "said from this so would there have were when could upon very little before never Mr. Bennet's morning, through"
)


@dataclass(frozen=True)
class Measurement:
    """One stage; padding is None where nothing is padded."""

    stage: str
    rows_per_second: float
    frames_per_second: float
    frames_per_cpu_second: float
    padding: float | None


def librilight_seconds(num_rows: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Draws durations of 2 to 31 s, 14.8 s in the mean."""
    return 2 + 29 * rng.beta(2.1, 2.66, num_rows)


def write_cache(folder: Path, num_rows: int) -> None:
    """Writes a token cache of random codes and words."""
    rng = np.random.default_rng(0)
    codec = CodecInfo("random", "0", 24_000, FRAME_RATE, num_codebooks=4, codebook_size=1024)
    seconds = librilight_seconds(num_rows, rng)
    num_shards = -(-num_rows // ROWS_PER_SHARD)
    for shard in range(num_shards):
        rows = range(shard * ROWS_PER_SHARD, min((shard + 1) * ROWS_PER_SHARD, num_rows))
        write_shard(
            folder / shard_name(shard, num_shards), [random_row(row, seconds[row], rng) for row in rows], codec
        )


def random_row(row: int, seconds: float, rng: np.random.Generator) -> dict[str, Any]:
    """Makes an utterance up."""
    words = " ".join(rng.choice(WORDS.split(), int(seconds * CHARACTERS_PER_SECOND / 3)))
    text = words[: int(seconds * CHARACTERS_PER_SECOND)].strip().capitalize() + "."
    codes = rng.integers(0, 1024, (int(seconds * FRAME_RATE), 4), dtype=np.int16)
    return {"id": f"utt-{row}", "codes": codes, "text": text, "speaker": str(row % 100), "duration": seconds}


def byte_ids(text: str) -> list[int]:
    """The least that a tokenizer can do."""
    return list(text.encode())


def measure(
    stage: str, batches: Iterable[Any], count: Callable[[Any], tuple[int, int, int]], repeats: int
) -> Measurement:
    """Draws all batches; `count` says how many rows, frames and columns, padding included, a batch has."""
    fastest = fastest_cpu = float("inf")
    for _ in range(repeats):
        started, cpu_started = time.perf_counter(), time.process_time()
        rows, frames, columns = np.sum([count(batch) for batch in batches], axis=0).tolist()
        fastest = min(fastest, time.perf_counter() - started)
        fastest_cpu = min(fastest_cpu, time.process_time() - cpu_started)
    padding = 1 - frames / columns if columns else None
    return Measurement(stage, rows / fastest, frames / fastest, frames / fastest_cpu, padding)


def count_batch(batch: dict[str, Any], max_delay: int) -> tuple[int, int, int]:
    """Rows, frames and columns of a collated batch; the columns that the delay adds are no padding and no frames."""
    mask = batch["decoder_attention_mask"]
    segments = batch.get("decoder_segment_ids", mask)
    rows = int(segments.amax(dim=1).sum())
    added = rows * (max_delay + 1)
    return rows, int(mask.sum()) - added, mask.numel() - added


def measure_stages(cache: TokenCache, tokens_per_batch: int, repeats: int) -> list[Measurement]:
    """Measures reading, and loader and collator with different tokenizers and with packing."""
    config = SmallEConfig(num_codebooks=min(4, cache.codec.num_codebooks), codebook_size=cache.codec.codebook_size)
    sampler = BucketBatchSampler(cache.num_frames, tokens_per_batch=tokens_per_batch)
    processor = SmallEProcessor.from_characters(config=config)

    def loader(**options: Any) -> DataLoader:
        collator = SmallECollator(config, **options)
        return DataLoader(cache, batch_sampler=sampler, collate_fn=collator, generator=torch.Generator())

    def count_rows(rows: list[dict[str, Any]]) -> tuple[int, int, int]:
        return len(rows), sum(len(row["codes"]) // int(row["num_codebooks"]) for row in rows), 0

    def count(batch: dict[str, Any]) -> tuple[int, int, int]:
        return count_batch(batch, config.max_delay)

    longest = int(cache.num_frames.max()) + config.max_delay + 1
    return [
        measure("data set alone", DataLoader(cache, batch_sampler=sampler, collate_fn=list), count_rows, repeats),
        measure("loader, texts as bytes", loader(tokenizer=byte_ids), count, repeats),
        measure("loader, SmallEProcessor", loader(tokenizer=processor), count, repeats),
        measure("loader, packed", loader(tokenizer=processor, pack_columns=2 * longest), count, repeats),
    ]


def measure_sampler(num_rows: int) -> dict[str, float]:
    """Measures the batch sampler on a corpus of any size: seconds to build it and to plan an epoch, and memory."""
    lengths = (librilight_seconds(num_rows, np.random.default_rng(0)) * FRAME_RATE).astype(np.int32)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    sampler = BucketBatchSampler(lengths)
    built = time.perf_counter()
    rows, bounds = sampler.plan(0)
    planned = time.perf_counter()
    longest = np.maximum.reduceat(lengths[rows], np.sort(bounds[:, 0]))
    columns = (longest.astype(np.int64) * np.diff(np.append(np.sort(bounds[:, 0]), num_rows))).sum()
    return {
        "rows": num_rows,
        "batches": len(sampler),
        "build_seconds": built - started,
        "plan_seconds": planned - built,
        "memory_mib": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024,
        "padding": 1 - float(lengths.sum(dtype=np.int64) / columns),
    }


def print_table(measurements: list[Measurement], sampler: dict[str, float]) -> None:
    """Prints the results."""
    print(f"{'stage':<26}{'rows/s':>10}{'M frames/s':>12}{'M frames/CPU s':>16}{'padding':>9}")
    for result in measurements:
        padding = "" if result.padding is None else f"{result.padding:.1%}"
        print(
            f"{result.stage:<26}{result.rows_per_second:>10,.0f}{result.frames_per_second / 1e6:>12.2f}"
            f"{result.frames_per_cpu_second / 1e6:>16.2f}{padding:>9}"
        )
    print(
        f"\nbatch sampler, {sampler['rows']:,.0f} rows: built in {sampler['build_seconds']:.1f} s, epoch planned in "
        f"{sampler['plan_seconds']:.1f} s, {sampler['memory_mib']:,.0f} MiB, {sampler['padding']:.1%} padding"
    )
    slowest = min(result.frames_per_cpu_second for result in measurements)
    verdict = "reached" if slowest >= TARGET else "missed"
    print(
        f"target of {TARGET / 1e6} M frames/s: {verdict}, the slowest stage has {slowest / 1e6:.2f} M per CPU second"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the benchmark and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, help="token cache to read instead of a made-up one")
    parser.add_argument("--rows", type=int, default=6_000, help="made-up utterances (default: %(default)s)")
    parser.add_argument("--tokens-per-batch", type=int, default=80_000, help="frames (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of every stage (default: %(default)s)")
    parser.add_argument("--sampler-rows", type=int, default=10_000_000, help="for the sampler (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    parser.add_argument("--quick", action="store_true", help="2,000 utterances, one run, a sampler of a million rows")
    args = parser.parse_args(arguments)
    if args.quick:
        args.rows, args.repeats, args.sampler_rows = 2_000, 1, 1_000_000
    torch.set_num_threads(1)
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory() as folder:
        if args.cache is None:
            write_cache(Path(folder), args.rows)
        cache = TokenCache(args.cache or folder, cache_dir=Path(folder, "arrow"))
        measurements = measure_stages(cache, args.tokens_per_batch, args.repeats)
    sampler = measure_sampler(args.sampler_rows)
    print_table(measurements, sampler)
    if args.json:
        results = {
            "target_frames_per_second": TARGET,
            "stages": [asdict(result) for result in measurements],
            "sampler": sampler,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "processor": platform.machine(),
        }
        with replace_file(args.json) as temporary:
            temporary.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
