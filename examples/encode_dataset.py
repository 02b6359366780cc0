"""Encodes speech into a token cache: sharded Parquet files of codec codes and texts, for examples/train.py.

    python examples/encode_dataset.py LJSpeech-1.1 codes/ljspeech
    accelerate launch examples/encode_dataset.py librilight codes/medium --manifest libriheavy_cuts_medium.jsonl.gz \\
        --subset medium --min-duration 2 --max-duration 31
    python examples/encode_dataset.py someone/speech-on-the-hub codes/hub --split train --codec checkpoints/my_codec
    accelerate launch examples/encode_dataset.py SOURCE OUTPUT --shard 0 --num-shards 4   # on the first of 4 machines

SOURCE is a Libri-Light tree, a folder in the style of LJSpeech, LibriSpeech, LibriTTS or VCTK, a CSV, TSV or JSONL
manifest, or a data set on the Hub. OUTPUT is shared by all processes and machines. They need not talk to each other:
each encodes shards of its own, and a shard appears under its name only when it is complete. A run that was killed at
any point, by whatever means, goes on when it is started again, with as many processes as you like.

Broken input is skipped; whoever finishes last writes OUTPUT/broken_input.json.
Exit codes: 0 done; 1 something is wrong, or more input is broken than --max-broken-fraction allows.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from accelerate import PartialState
from numpy.typing import NDArray
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from smalle_hf.data import BrokenInputError, BrokenInputReport, TooMuchBrokenInputError, load_speech, read_segment
from smalle_hf.data.codec_encoder import CodecEncoder
from smalle_hf.data.token_cache import (
    CodecInfo,
    TokenCacheError,
    read_codec,
    read_notes,
    shard_name,
    verify_token_cache,
    write_shard,
)

FINGERPRINT = b"smalle_hf.fingerprint"
BROKEN_INPUT = b"smalle_hf.broken_input"
SOURCE_OPTIONS = (
    "columns",
    "language",
    "licence",
    "manifest",
    "max_duration",
    "min_duration",
    "min_snr",
    "speaker",
    "speakers",
    "subset",
    "text_column",
)


@dataclass(frozen=True)
class Work:
    """All rows that shall be encoded, and how they are shared out to shards: the same in every process.

    Args:
        rows (`datasets.Dataset`): In the order of their ids, whatever the order in which they were listed.
        durations (array of shape `(len(rows),)`): Seconds.
        rows_per_shard (`int`): Rows of every shard but the last.
        fingerprint (`str`): Tells different work apart.
    """

    rows: datasets.Dataset
    durations: NDArray[np.float64]
    rows_per_shard: int
    fingerprint: str

    @property
    def num_shards(self) -> int:
        """Shards in all."""
        return -(-len(self.rows) // self.rows_per_shard)

    def path(self, output: Path, shard: int) -> Path:
        """File of a shard."""
        return output / shard_name(shard, self.num_shards)

    def shard_rows(self, shard: int) -> range:
        """Row numbers of a shard."""
        return range(shard * self.rows_per_shard, min((shard + 1) * self.rows_per_shard, len(self.rows)))

    def seconds(self, shards: Sequence[int]) -> float:
        """Seconds of audio in some shards."""
        return sum(float(self.durations[self.shard_rows(shard)].sum()) for shard in shards)


def plan_work(rows: datasets.Dataset, rows_per_shard: int) -> Work:
    """Orders the listed rows by id and takes their fingerprint, in which the folder of the audio does not count."""
    ids, durations, digest = [], [], 0
    for table in rows.select_columns(["id", "start", "duration", "text", "speaker"]).with_format("arrow").iter(10_000):
        ids.append(table.column("id"))
        durations.append(table.column("duration").to_numpy())
        # A sum, so that the order in which the rows were listed does not count either.
        hashes = (sha256(repr(row).encode()).digest() for row in table.to_pylist())
        digest += sum(int.from_bytes(row_hash, "big") for row_hash in hashes)
    order = pc.sort_indices(pa.chunked_array([chunk for column in ids for chunk in column.chunks]))
    order = order.to_numpy().astype(np.int64)  # `datasets` cannot do with unsigned numbers
    fingerprint = sha256(f"{digest} {rows_per_shard}".encode()).hexdigest()[:16]
    return Work(rows.select(order), np.concatenate(durations)[order], rows_per_shard, fingerprint)


def plan_batches(durations: NDArray[np.float64], seconds: float) -> list[list[int]]:
    """Cuts rows into batches of similar length, of at most `seconds` with padding where a row is not longer itself."""
    batches: list[list[int]] = []
    for row in np.argsort(-durations, kind="stable").tolist():
        if not batches or (len(batches[-1]) + 1) * durations[batches[-1][0]] > seconds:
            batches.append([])
        batches[-1].append(row)
    return batches


def check_output(output: Path, work: Work, codec: CodecInfo) -> None:
    """Raises `TokenCacheError` when shards of other rows or of another codec are in the folder."""
    for path in sorted(output.glob("codes-*.parquet")):
        if read_codec(path) != codec:
            raise TokenCacheError(f"{path} was made with {read_codec(path)}, not {codec}: choose another folder.")
        if read_notes(path).get(FINGERPRINT) != work.fingerprint.encode():
            raise TokenCacheError(f"{path} is of other rows or another --rows-per-shard: choose another folder.")


def read_batches(
    work: Work, rows: range, batches: list[list[int]], sampling_rate: int, pool: ThreadPoolExecutor
) -> Iterator[tuple[list[int], list[dict[str, Any]], list[Future[NDArray[np.float32]]]]]:
    """Yields batches of rows with their audio, which is read while the batch before is being encoded."""
    ahead: list[tuple[list[int], list[dict[str, Any]], list[Future[NDArray[np.float32]]]]] = []
    for batch in batches:
        listed = work.rows.select([rows[place] for place in batch]).to_list()
        read = partial(read_segment, sampling_rate=sampling_rate)
        ahead.append((batch, listed, [pool.submit(read, row) for row in listed]))
        if len(ahead) == 2:
            yield ahead.pop(0)
    yield from ahead


def encode_shard(
    work: Work, shard: int, encoder: CodecEncoder, batch_seconds: float, pool: ThreadPoolExecutor, progress: tqdm
) -> tuple[list[dict[str, Any]], BrokenInputReport]:
    """Encodes the rows of a shard and returns them in their order, without the broken ones."""
    rows = work.shard_rows(shard)
    batches = plan_batches(work.durations[rows], batch_seconds)
    report = BrokenInputReport()
    encoded: dict[int, dict[str, Any]] = {}
    for batch, listed, audio in read_batches(work, rows, batches, encoder.info.sampling_rate, pool):
        places, waveforms = [], []
        for place, future in zip(range(len(batch)), audio, strict=True):
            try:
                waveforms.append(future.result())
                places.append(place)
            except BrokenInputError as error:
                report.add(error)
        codes = encoder.encode(waveforms)
        for place, waveform, row_codes in zip(places, waveforms, codes, strict=True):
            duration = len(waveform) / encoder.info.sampling_rate
            encoded[batch[place]] = {**listed[place], "duration": duration, "codes": row_codes}
        progress.update(sum(row["duration"] for row in listed))
    return [encoded[place] for place in sorted(encoded)], report


def encode_shards(args: argparse.Namespace, work: Work, encoder: CodecEncoder, state: PartialState) -> None:
    """Encodes the shards of this process that are not there yet."""
    worker = args.shard * state.num_processes + state.process_index
    mine = range(worker, work.num_shards, args.num_shards * state.num_processes)
    missing = [shard for shard in mine if not work.path(args.output, shard).exists()]
    started, seconds = time.monotonic(), work.seconds(missing)
    bar = tqdm(
        total=work.seconds(mine),
        initial=work.seconds(mine) - seconds,
        desc=f"process {worker}",
        unit=" audio-s",
        unit_scale=True,
        disable=None if state.is_local_main_process else True,
    )
    with bar as progress, ThreadPoolExecutor(args.num_threads) as pool:
        for shard in missing:
            path = work.path(args.output, shard)
            for leftover in args.output.glob(f"{path.name}.*.tmp"):
                leftover.unlink()
            rows, report = encode_shard(work, shard, encoder, args.batch_seconds, pool, progress)
            notes = {FINGERPRINT: work.fingerprint.encode(), BROKEN_INPUT: report.to_json().encode()}
            write_shard(path, rows, encoder.info, notes)
    elapsed = time.monotonic() - started
    print(
        f"process {worker}: {len(missing)} of {len(mine)} shards encoded, {seconds:.0f} s of audio in {elapsed:.0f} s"
        f" ({seconds / max(elapsed, 1e-9):.1f} times real time)"
    )


def finish(args: argparse.Namespace, work: Work, report: BrokenInputReport) -> None:
    """Checks the cache and writes the report, once all shards of all processes are there.

    Raises:
        TooMuchBrokenInputError: More input is broken than is allowed.
    """
    paths = [work.path(args.output, shard) for shard in range(work.num_shards)]
    done = [path for path in paths if path.exists()]
    if len(done) < len(paths):
        print(f"{len(done)} of {len(paths)} shards are there, the others are up to other processes")
        return
    for path in paths:
        report.update(BrokenInputReport.from_json(read_notes(path)[BROKEN_INPUT].decode()))
    report.write(args.output / "broken_input.json")
    num_rows, num_frames = verify_token_cache(args.output)
    print(f"{args.output}: {num_rows} rows, {num_frames} frames in {len(paths)} shards\n{report.summary()}")
    report.check(args.max_broken_fraction)


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parses and checks the command line."""
    description, _, examples = (__doc__ or "").partition("\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", help="folder, manifest or Hub data set")
    parser.add_argument("output", type=Path, help="folder of the token cache")
    codec = parser.add_argument_group("codec")
    codec.add_argument("--codec", default="facebook/encodec_24khz", help="Hub id or folder (default: %(default)s)")
    codec.add_argument("--revision", default="main", help="branch, tag or commit of the codec on the Hub")
    codec.add_argument("--num-codebooks", type=int, default=4, help="codebooks to keep (default: %(default)s)")
    codec.add_argument("--cpu", action="store_true", help="do not use an accelerator")
    work = parser.add_argument_group("work")
    work.add_argument("--shard", type=int, default=0, help="which machine this is, from 0 (default: %(default)s)")
    work.add_argument("--num-shards", type=int, default=1, help="number of machines (default: %(default)s)")
    work.add_argument("--rows-per-shard", type=int, default=1000, help="rows of a file (default: %(default)s)")
    work.add_argument(
        "--batch-seconds", type=float, default=240.0, help="seconds of a batch, with padding (default: %(default)s)"
    )
    work.add_argument("--num-threads", type=int, default=4, help="threads that read audio (default: %(default)s)")
    work.add_argument(
        "--max-broken-fraction", type=float, default=0.05, help="broken input that is tolerated (default: %(default)s)"
    )
    source = parser.add_argument_group("source", "Which apply depends on the format.")
    source.add_argument("--format", help="what the source is, where that cannot be told from its looks")
    source.add_argument("--name", help="configuration of a Hub data set")
    source.add_argument("--split", help="split of a Hub data set")
    source.add_argument("--manifest", nargs="+", help="Libriheavy manifests of a Libri-Light tree")
    source.add_argument("--subset", nargs="+", help="subsets of a Libri-Light tree, for example medium")
    source.add_argument("--min-snr", type=float, help="lowest signal-to-noise ratio in dB")
    source.add_argument("--min-duration", type=float, help="shortest utterance in seconds")
    source.add_argument("--max-duration", type=float, help="longest utterance in seconds")
    source.add_argument("--speakers", nargs="+", help="keep only these speakers")
    source.add_argument("--text-column", help="which of several texts")
    source.add_argument("--allow-untranscribed", action="store_true", help="keep audio without text")
    source.add_argument("--speaker", help="speaker of rows that name none")
    source.add_argument("--language", help="language of rows that name none")
    source.add_argument("--licence", help="licence of rows that name none")
    source.add_argument("--columns", type=json.loads, help='columns by role, as JSON: {"text": "sentence"}')
    source.add_argument("--listing-processes", type=int, help="processes that list the source")
    args = parser.parse_args(arguments)
    if not 0 <= args.shard < args.num_shards:
        parser.error(f"--shard {args.shard} must lie in 0..{args.num_shards - 1}, one less than --num-shards")
    for name in ("num_codebooks", "rows_per_shard", "batch_seconds", "num_threads"):
        if getattr(args, name) <= 0:
            parser.error(f"--{name.replace('_', '-')} must be positive")
    return args


def list_source(args: argparse.Namespace, report: BrokenInputReport) -> datasets.Dataset:
    """Lists the source with the options that were given."""
    options = {name: getattr(args, name) for name in SOURCE_OPTIONS if getattr(args, name) is not None}
    if args.allow_untranscribed:
        options["require_text"] = False
    return load_speech(
        args.source,
        format=args.format,
        name=args.name,
        split=args.split,
        num_proc=args.listing_processes,
        report=report,
        **options,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the script and returns its exit code."""
    args = parse_arguments(arguments)
    state = PartialState(cpu=args.cpu)
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    try:
        encoder = CodecEncoder.from_pretrained(args.codec, args.num_codebooks, state.device, args.revision)
        report = BrokenInputReport()
        work = plan_work(list_source(args, report), args.rows_per_shard)
        args.output.mkdir(parents=True, exist_ok=True)
        check_output(args.output, work, encoder.info)
        encode_shards(args, work, encoder, state)
        finish(args, work, report)
    except (OSError, ValueError, TooMuchBrokenInputError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        state.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
