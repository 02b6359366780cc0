"""The token cache: speech as codec codes in Parquet shards, written once and read at random without loading them.

A shard holds these columns, and in its schema metadata which codec made the codes ([`CodecInfo`]):

| column | type | meaning |
|---|---|---|
| `id` | string | unique in the cache |
| `codes` | list of int16 | `num_frames * num_codebooks` codes, frame after frame |
| `num_codebooks` | int16 | codebooks of every frame |
| `num_frames` | int32 | frames |
| `duration` | float32 | seconds of audio |
| `text` | string or null | transcript, not tokenised: that is up to the model that is trained |
| `speaker`, `language`, `licence` | string or null | as the source gives them |

Codes lie flat because a nested list reads many times slower.
"""

import json
import os
import re
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from torch.utils.data import Dataset

METADATA_KEY = b"smalle_hf.codec"
SHARD_NAME = re.compile(r"codes-(\d{5})-of-(\d{5})\.parquet")
ROW_GROUP_SIZE = 1000
SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "codes": pa.list_(pa.int16()),
        "num_codebooks": pa.int16(),
        "num_frames": pa.int32(),
        "duration": pa.float32(),
        "text": pa.string(),
        "speaker": pa.string(),
        "language": pa.string(),
        "licence": pa.string(),
    }
)


class TokenCacheError(ValueError):
    """A token cache that cannot be used: incomplete, inconsistent or damaged."""


@dataclass(frozen=True)
class CodecInfo:
    """Which codec made the codes of a shard; shards of one cache agree in all of it.

    Args:
        name (`str`): Hub id, or name of the folder that the codec was loaded from.
        version (`str`): Fingerprint of its weights.
        sampling_rate (`int`): Of the audio that was encoded, in Hz.
        frame_rate (`float`): Frames per second.
        num_codebooks (`int`): Codebooks that were kept, the first ones.
        codebook_size (`int`): Codes per codebook.
    """

    name: str
    version: str
    sampling_rate: int
    frame_rate: float
    num_codebooks: int
    codebook_size: int


class TokenCache(Dataset[dict[str, Any]]):
    """Map-style data set over a folder of shards.

    The first opening converts the shards to Arrow files with `datasets`, which keeps them in its cache folder (some
    8,000 utterances a second). They are memory-mapped, so that memory does not grow with the corpus and any row is
    read at once. Later openings take no time. Rows are dictionaries of the columns that training needs: `id`, `codes`,
    `num_codebooks`, `text`, `speaker`, `language`.

    Args:
        folder (`str` or `os.PathLike`): Folder with all shards.
        cache_dir (`str` or `os.PathLike`, *optional*): Where the Arrow files are kept. Defaults to the folder of
            `datasets` (`HF_DATASETS_CACHE`).

    Attributes:
        codec ([`CodecInfo`]): What made the codes.
        num_frames (array of shape `(len(cache),)`, int32): Frames of every row, for [`BucketBatchSampler`].

    Raises:
        TokenCacheError: The folder has no shards, lacks some, or they come from different codecs.

    Example:

    ```python
    cache = TokenCache("codes/librilight-medium")
    sampler = BucketBatchSampler(cache.num_frames)
    loader = DataLoader(cache, batch_sampler=sampler, collate_fn=SmallECollator(config, processor))
    ```
    """

    COLUMNS = ("id", "codes", "num_codebooks", "text", "speaker", "language")

    def __init__(self, folder: str | os.PathLike[str], cache_dir: str | os.PathLike[str] | None = None) -> None:
        from datasets import Dataset as ArrowDataset

        shards = shard_paths(folder)
        self.codec = common_codec(shards)
        # An empty shard (all its utterances broken) has no row group, which `datasets` cannot read.
        filled = [str(shard) for shard in shards if pq.read_metadata(shard).num_rows]
        if not filled:
            raise TokenCacheError(f"{folder} holds no utterances: look into the report of the encoding.")
        rows = ArrowDataset.from_parquet(filled, cache_dir=None if cache_dir is None else os.fspath(cache_dir))
        self.num_frames: NDArray[np.int32] = rows.data.column("num_frames").to_numpy()
        self._rows = rows.select_columns(list(self.COLUMNS)).with_format("arrow")

    def __len__(self) -> int:
        return len(self.num_frames)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Returns a row; `codes` is an array of shape `(num_frames * num_codebooks,)`, int16."""
        return self.__getitems__([range(len(self))[index]])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Returns several rows at once, as a `DataLoader` asks for a batch."""
        table = self._rows[list(indices)].combine_chunks()
        codes = table.column("codes").combine_chunks()
        bounds = codes.offsets.to_numpy()
        values = codes.values.to_numpy()
        others = table.drop_columns(["codes"]).to_pylist()
        return [
            {**row, "codes": values[start:stop]}
            for row, start, stop in zip(others, bounds[:-1], bounds[1:], strict=True)
        ]


def shard_name(index: int, count: int) -> str:
    """Returns the file name of shard `index` of `count`."""
    return f"codes-{index:05d}-of-{count:05d}.parquet"


def shard_paths(folder: str | os.PathLike[str]) -> list[Path]:
    """Returns the shards of a complete cache, in order.

    Raises:
        TokenCacheError: There are none, some are missing, or they belong to different caches.
    """
    found = {path.name: path for path in Path(folder).glob("codes-*.parquet") if SHARD_NAME.fullmatch(path.name)}
    if not found:
        raise TokenCacheError(f"There is no token cache in {folder}: make one with examples/encode_dataset.py.")
    counts = {int(name[-13:-8]) for name in found}
    if len(counts) > 1:
        raise TokenCacheError(f"{folder} holds shards of several caches, of {sorted(counts)} shards: separate them.")
    names = [shard_name(index, max(counts)) for index in range(max(counts))]
    missing = [name for name in names if name not in found]
    if missing:
        raise TokenCacheError(
            f"{folder} lacks {len(missing)} of {len(names)} shards, {missing[0]} for one: run the encoding again, it "
            "goes on where it stopped."
        )
    return [found[name] for name in names]


def read_codec(path: str | os.PathLike[str]) -> CodecInfo:
    """Reads from a shard's metadata which codec made it.

    Raises:
        TokenCacheError: The file is no shard of a token cache.
    """
    return _read_metadata(path)[0]


def read_notes(path: str | os.PathLike[str]) -> dict[bytes, bytes]:
    """Reads the notes that a shard was written with; see [`write_shard`].

    Raises:
        TokenCacheError: The file is no shard of a token cache.
    """
    return _read_metadata(path)[1]


def _read_metadata(path: str | os.PathLike[str]) -> tuple[CodecInfo, dict[bytes, bytes]]:
    try:
        metadata = dict(pq.read_schema(path).metadata or {})
        return CodecInfo(**json.loads(metadata.pop(METADATA_KEY))), metadata
    except (KeyError, TypeError, ValueError, pa.ArrowException) as error:
        raise TokenCacheError(f"{path} is damaged or no shard of a token cache: {_one_line(error)}") from error


def common_codec(shards: Sequence[Path]) -> CodecInfo:
    """Returns the codec that made all shards.

    Raises:
        TokenCacheError: Two shards were made with different codecs.
    """
    first = read_codec(shards[0])
    for shard in shards[1:]:
        if (codec := read_codec(shard)) != first:
            raise TokenCacheError(f"{shards[0]} and {shard} come from different codecs, {first} and {codec}.")
    return first


def write_shard(
    path: str | os.PathLike[str],
    rows: Sequence[Mapping[str, Any]],
    codec: CodecInfo,
    notes: Mapping[bytes, bytes] | None = None,
) -> None:
    """Writes a shard, whole or not at all: to a temporary name that is then renamed.

    Args:
        path (`str` or `os.PathLike`): File to write, named by [`shard_name`].
        rows (sequence of mappings): The columns at the top of this module; `codes` is an array of shape
            `(frames, num_codebooks)`, from which `num_codebooks` and `num_frames` follow. Other columns are left out.
        codec ([`CodecInfo`]): What made the codes.
        notes (mapping of `bytes`, *optional*): More metadata to keep in the schema.

    Raises:
        TokenCacheError: Codes have another number of codebooks than `codec` says, or are out of range.
    """
    matrices = [np.asarray(row["codes"]) for row in rows]
    for row, codes in zip(rows, matrices, strict=True):
        _check_codes(row["id"], codes, codec)
    flat = np.concatenate([np.empty(0, np.int16), *[codes.ravel() for codes in matrices]], dtype=np.int16)
    offsets = np.cumsum([0, *[codes.size for codes in matrices]], dtype=np.int32)
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA.names}
    columns["codes"] = pa.ListArray.from_arrays(offsets, flat)
    columns["num_codebooks"] = [codec.num_codebooks] * len(rows)
    columns["num_frames"] = [len(codes) for codes in matrices]
    metadata = {METADATA_KEY: json.dumps(asdict(codec)).encode(), **(notes or {})}
    table = pa.table(columns, schema=SCHEMA.with_metadata(metadata))
    target = Path(path)
    temporary = target.with_name(f"{target.name}.{uuid.uuid4().hex}.tmp")
    pq.write_table(table, temporary, compression="zstd", row_group_size=ROW_GROUP_SIZE)
    with temporary.open("rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(target)


def verify_token_cache(folder: str | os.PathLike[str]) -> tuple[int, int]:
    """Reads a whole cache and checks all that training relies on.

    Returns:
        `(rows, frames)`, the totals.

    Raises:
        TokenCacheError: Shards are missing or damaged, come from different codecs, or a row is inconsistent or there
            twice.
    """
    shards = shard_paths(folder)
    codec = common_codec(shards)
    ids: set[str] = set()
    num_frames = 0
    for shard in shards:
        try:
            for batch in pq.ParquetFile(shard).iter_batches(ROW_GROUP_SIZE, columns=SCHEMA.names):
                _check_batch(shard, batch, codec)
                before = len(ids)
                ids.update(batch.column("id").to_pylist())
                if len(ids) != before + len(batch):
                    raise TokenCacheError(f"{shard} has ids that are there twice: encode into a new folder.")
                num_frames += pc.sum(batch.column("num_frames")).as_py() or 0
        except (pa.ArrowException, OSError) as error:
            raise TokenCacheError(f"{shard} is damaged, delete it and encode again: {_one_line(error)}") from error
    return len(ids), num_frames


def _check_batch(shard: Path, batch: pa.RecordBatch, codec: CodecInfo) -> None:
    sizes = pc.list_value_length(batch.column("codes")).to_numpy()
    if (sizes != batch.column("num_frames").to_numpy() * codec.num_codebooks).any():
        raise TokenCacheError(f"{shard} has rows whose codes do not fit their number of frames: encode it again.")
    if pc.any(pc.not_equal(batch.column("num_codebooks"), codec.num_codebooks)).as_py():
        raise TokenCacheError(f"{shard} has rows of another number of codebooks than {codec.num_codebooks}.")
    if len(batch) and not _in_range(batch.column("codes").flatten().to_numpy(), codec):
        raise TokenCacheError(f"{shard} has codes outside 0..{codec.codebook_size - 1}: encode it again.")


def _check_codes(id: str, codes: NDArray[Any], codec: CodecInfo) -> None:
    if codes.ndim != 2 or codes.shape[1] != codec.num_codebooks or not codes.size or codes.dtype.kind not in "iu":
        raise TokenCacheError(
            f"Row {id} has {codes.dtype} codes of shape {codes.shape}, expected integers of shape "
            f"(frames, {codec.num_codebooks})."
        )
    if not _in_range(codes, codec):
        raise TokenCacheError(f"Row {id} has codes outside 0..{codec.codebook_size - 1}.")


def _in_range(codes: NDArray[Any], codec: CodecInfo) -> bool:
    return bool(codes.min() >= 0 and codes.max() < min(codec.codebook_size, 2**15))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


__all__ = [
    "CodecInfo",
    "TokenCache",
    "TokenCacheError",
    "read_codec",
    "read_notes",
    "shard_name",
    "shard_paths",
    "verify_token_cache",
    "write_shard",
]
