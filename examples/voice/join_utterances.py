"""Joins token caches into one in which some utterances are followed by another one of the same speaker.

A voice prompt is an utterance that goes before what is to be said. A model that has only seen single sentences does
not know how one follows the other; this shows it.

    python examples/voice/join_utterances.py codes/part-1 codes/part-2 codes/train --without corpus/held_out.jsonl
    python examples/voice/join_utterances.py codes/single codes/train --max-frames 1000 --seed 1

Exit codes: 0 done; 1 a cache cannot be read or written; 2 wrong arguments.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from smalle_hf.data.token_cache import TokenCache, TokenCacheError, common_codec, shard_name, shard_paths, write_shard

ROWS_PER_SHARD = 4096

Row = dict[str, Any]


def join_rows(rows: Sequence[Row], share: float, max_frames: int, seed: int) -> list[Row]:
    """Puts utterances behind others of the same speaker, each utterance once.

    Args:
        rows: With `id`, `codes` of shape `(frames, num_codebooks)`, `text`, `speaker`.
        share (`float`): Share of the utterances that are joined with another one, where the two are short enough.
        max_frames (`int`): Longest joined utterance.
        seed (`int`): Of the choice.

    Returns:
        `list`: Rows in random order.
    """
    generator = random.Random(seed)
    shuffled = generator.sample(list(rows), len(rows))
    waiting: dict[str, Row] = {}
    joined: list[Row] = []
    for row in shuffled:
        if generator.random() >= share:
            joined.append(row)
            continue
        first = waiting.pop(row["speaker"], None)
        if first is None:
            waiting[row["speaker"]] = row
        elif len(first["codes"]) + len(row["codes"]) > max_frames:
            joined += [first, row]
        else:
            joined.append(pair(first, row))
    joined += waiting.values()
    return generator.sample(joined, len(joined))


def pair(first: Row, second: Row) -> Row:
    """One utterance that says the first, then the second."""
    return {
        **first,
        "id": f"{first['id']}+{second['id']}",
        "codes": np.concatenate([first["codes"], second["codes"]]),
        "text": f"{first['text']} {second['text']}",
    }


def texts_of(manifest: Path) -> set[str]:
    """Texts of a JSONL manifest, in lower case."""
    return {json.loads(line)["text"].lower() for line in manifest.read_text(encoding="utf-8").splitlines()}


def read_rows(folder: Path, number: int) -> list[Row]:
    """All rows of a cache, codes by frame; its number goes before each id, which another cache may hold too."""
    rows = TokenCache(folder)
    return [
        {**row, "id": f"{number}/{row['id']}", "codes": row["codes"].reshape(-1, row["num_codebooks"])}
        for row in rows.__getitems__(range(len(rows)))
    ]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    description = __doc__ or ""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("caches", nargs="+", type=Path, help="token caches made with the same codec")
    parser.add_argument("out", type=Path, help="new token cache")
    parser.add_argument("--without", type=Path, help="manifest of sentences to leave out, such as the held-out ones")
    parser.add_argument("--share", type=float, default=0.4, help="share of the utterances to join (0.4)")
    parser.add_argument("--max-frames", type=int, default=1500, help="longest joined utterance in frames (1500)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if not 0 <= options.share <= 1:
        parser.error(f"--share ({options.share}) must be from 0 to 1.")
    if options.out.exists() and any(options.out.iterdir()):
        parser.error(f"{options.out} is not empty: choose another folder.")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(arguments)
    try:
        codec = common_codec([shard for folder in options.caches for shard in shard_paths(folder)])
        unwanted = texts_of(options.without) if options.without else set()
        found = [row for number, folder in enumerate(options.caches) for row in read_rows(folder, number)]
        rows = [row for row in found if row["text"].lower() not in unwanted]
    except (TokenCacheError, OSError, ValueError, KeyError) as error:
        print(f"join_utterances.py: error: {error}", file=sys.stderr)
        return 1
    joined = join_rows(rows, options.share, options.max_frames, options.seed)
    options.out.mkdir(parents=True, exist_ok=True)
    count = -(-len(joined) // ROWS_PER_SHARD)
    for index in range(count):
        write_shard(options.out / shard_name(index, count), joined[index::count], codec)
    print(f"{options.out}: {len(joined)} utterances out of {len(rows)}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
