"""The token cache: what is written comes back, from memory-mapped files, and nothing inconsistent is accepted."""

import os
from dataclasses import replace

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, Subset

from smalle_hf.configuration_smalle import SmallEConfig
from smalle_hf.data.batching import BucketBatchSampler
from smalle_hf.data.collator import SmallECollator
from smalle_hf.data.token_cache import (
    CodecInfo,
    TokenCache,
    TokenCacheError,
    read_codec,
    shard_name,
    shard_paths,
    verify_token_cache,
    write_shard,
)

CODEC = CodecInfo("tiny", "sha256:0", sampling_rate=24_000, frame_rate=75.0, num_codebooks=4, codebook_size=1024)


def make_rows(lengths, first=0, seed=0):
    rng = np.random.default_rng(seed)
    return [
        {
            "id": f"utt-{first + index}",
            "codes": rng.integers(0, 1024, (length, 4)),
            "text": None if index % 7 == 6 else f"text {index}",
            "speaker": f"speaker {index % 3}",
            "duration": length / 75,
        }
        for index, length in enumerate(lengths)
    ]


def write_cache(folder, lengths, rows_per_shard=10, codec=CODEC):
    rows = make_rows(lengths)
    folder.mkdir(exist_ok=True)
    parts = [rows[start : start + rows_per_shard] for start in range(0, len(rows), rows_per_shard)]
    for index, part in enumerate(parts):
        write_shard(folder / shard_name(index, len(parts)), part, codec)
    return rows


@pytest.fixture
def cache_folder(tmp_path):
    write_cache(tmp_path / "cache", range(1, 36))
    return tmp_path / "cache"


def test_rows_come_back_in_order(tmp_path):
    rows = write_cache(tmp_path / "cache", range(1, 36))
    cache = TokenCache(tmp_path / "cache", cache_dir=tmp_path / "arrow")
    assert cache.codec == CODEC
    assert cache.num_frames.tolist() == list(range(1, 36))
    assert len(cache) == 35
    for index in (0, 9, 10, 34, -1):
        row = cache[index]
        assert (row["id"], row["text"], row["speaker"]) == tuple(rows[index][k] for k in ("id", "text", "speaker"))
        assert row["codes"].dtype == np.int16
        assert (row["codes"].reshape(-1, row["num_codebooks"]) == rows[index]["codes"]).all()
    with pytest.raises(IndexError):
        cache[35]
    picked = [30, 2, 2, 17]
    assert [row["id"] for row in cache.__getitems__(picked)] == [f"utt-{index}" for index in picked]
    assert [row["id"] for row in Subset(cache, [5, 3]).__getitems__([1, 0])] == ["utt-3", "utt-5"]


@settings(deadline=None, max_examples=20)
@given(lengths=st.lists(st.integers(1, 50), max_size=12), codebooks=st.integers(1, 8))
def test_shards_are_flat_parquet_for_any_reader(tmp_path_factory, lengths, codebooks):
    path = tmp_path_factory.mktemp("shard") / shard_name(0, 1)
    codec = replace(CODEC, num_codebooks=codebooks)
    rng = np.random.default_rng(0)
    rows = [{"id": str(i), "codes": rng.integers(0, 1024, (n, codebooks))} for i, n in enumerate(lengths)]
    write_shard(path, rows, codec, {b"note": b"kept"})
    table = pq.read_table(path)
    assert str(table.schema.field("codes").type) == "list<element: int16>"
    assert table.column("codes").to_pylist() == [row["codes"].ravel().tolist() for row in rows]
    assert table.column("num_frames").to_pylist() == lengths
    assert table.column("num_codebooks").to_pylist() == [codebooks] * len(rows)
    assert table.schema.metadata[b"note"] == b"kept"
    assert read_codec(path) == codec
    assert os.listdir(path.parent) == [path.name]


def test_datasets_reads_the_shards_without_this_package(cache_folder, tmp_path):
    files = [str(path) for path in shard_paths(cache_folder)]
    rows = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "arrow"))
    assert rows.features["codes"] == datasets.List(datasets.Value("int16"))
    assert len(rows) == 35


def test_rows_are_memory_mapped_and_survive_pickling_to_workers(cache_folder, tmp_path):
    cache = TokenCache(cache_folder, cache_dir=tmp_path / "arrow")
    assert cache._rows.cache_files  # Arrow files on disk, not tables in memory
    collator = SmallECollator(SmallEConfig.from_preset("tiny"), lambda text: [1, 2])
    with_text = [index for index in range(len(cache)) if cache[index]["text"] is not None]
    subset = Subset(cache, with_text)
    sampler = BucketBatchSampler(cache.num_frames[with_text], tokens_per_batch=200)
    batches = [
        list(DataLoader(subset, batch_sampler=sampler, collate_fn=collator, num_workers=workers)) for workers in (0, 2)
    ]
    assert len(batches[0]) == len(sampler)
    for alone, parallel in zip(*batches, strict=True):
        assert all(torch.equal(alone[name], parallel[name]) for name in alone)


def test_a_shard_that_is_written_again_is_read_again(cache_folder, tmp_path):
    before = TokenCache(cache_folder, cache_dir=tmp_path / "arrow")[0]["codes"]
    path = shard_paths(cache_folder)[0]
    write_shard(path, make_rows(range(1, 11), seed=1), CODEC)
    os.utime(path, (1e9, 2e9))
    after = TokenCache(cache_folder, cache_dir=tmp_path / "arrow")[0]["codes"]
    assert before.shape == after.shape
    assert (before != after).any()


def test_verification_counts_rows_and_frames(cache_folder):
    assert verify_token_cache(cache_folder) == (35, sum(range(1, 36)))


def test_missing_and_foreign_shards_are_refused(cache_folder, tmp_path):
    with pytest.raises(TokenCacheError, match="no token cache"):
        TokenCache(tmp_path)
    (cache_folder / "codes-00000-of-00004.parquet.abc.tmp").write_bytes(b"left by a killed process")
    assert len(shard_paths(cache_folder)) == 4
    write_shard(cache_folder / shard_name(0, 2), make_rows([3]), CODEC)
    with pytest.raises(TokenCacheError, match="several caches"):
        TokenCache(cache_folder)
    (cache_folder / shard_name(0, 2)).unlink()
    (cache_folder / shard_name(2, 4)).unlink()
    with pytest.raises(TokenCacheError, match=r"lacks 1 of 4 shards, codes-00002-of-00004.parquet"):
        TokenCache(cache_folder)


@pytest.mark.parametrize("change", [{"version": "sha256:1"}, {"name": "other"}, {"frame_rate": 50.0}])
def test_shards_of_different_codecs_are_refused(cache_folder, change):
    write_shard(cache_folder / shard_name(3, 4), make_rows([4], first=30), replace(CODEC, **change))
    for read in (TokenCache, verify_token_cache):
        with pytest.raises(TokenCacheError, match="different codecs"):
            read(cache_folder)


def test_verification_finds_doubled_ids_and_damage(cache_folder):
    path = shard_paths(cache_folder)[3]
    write_shard(path, make_rows([4], first=3), CODEC)
    with pytest.raises(TokenCacheError, match="there twice"):
        verify_token_cache(cache_folder)

    write_shard(path, make_rows([40], first=30), CODEC)
    content = bytearray(path.read_bytes())
    content[4:60] = bytes(56)
    path.write_bytes(content)
    with pytest.raises(TokenCacheError, match=f"{path.name} is damaged"):
        verify_token_cache(cache_folder)
    path.write_bytes(content[:100])
    with pytest.raises(TokenCacheError, match=f"{path.name} is damaged"):
        TokenCache(cache_folder)


def test_verification_finds_inconsistent_rows(cache_folder):
    path = shard_paths(cache_folder)[1]
    table = pq.read_table(path)
    for column, values, message in (
        ("num_frames", [1] * 10, "do not fit"),
        ("num_codebooks", [2] * 10, "another number of codebooks"),
        ("codes", [[1024] * len(codes) for codes in table.column("codes").to_pylist()], "outside 0..1023"),
    ):
        field = table.schema.field(column)
        changed = table.set_column(table.schema.get_field_index(column), field, pa.array(values, field.type))
        pq.write_table(changed, path)
        with pytest.raises(TokenCacheError, match=message):
            verify_token_cache(cache_folder)


@pytest.mark.parametrize(
    "codes",
    [np.zeros((0, 4), int), np.zeros((3, 3), int), np.zeros(12, int), np.zeros((3, 4)), np.full((3, 4), 1024)],
)
def test_codes_that_do_not_fit_the_codec_are_not_written(tmp_path, codes):
    with pytest.raises(TokenCacheError, match="Row utt-0 has"):
        write_shard(tmp_path / shard_name(0, 1), [{"id": "utt-0", "codes": codes}], CODEC)
    assert not list(tmp_path.iterdir())


def test_parquet_of_another_kind_is_refused(tmp_path):
    datasets.Dataset.from_dict({"a": [1]}).to_parquet(tmp_path / shard_name(0, 1))
    with pytest.raises(TokenCacheError, match="no shard of a token cache"):
        TokenCache(tmp_path)


def test_empty_shards_are_passed_over(cache_folder, tmp_path):
    write_shard(cache_folder / shard_name(1, 4), [], CODEC)
    kept = [row["id"] for row in (TokenCache(cache_folder, cache_dir=tmp_path / "arrow")[i] for i in (0, 10))]
    assert len(set(kept)) == 2
    for index in range(4):
        write_shard(cache_folder / shard_name(index, 4), [], CODEC)
    with pytest.raises(TokenCacheError, match="holds no utterances"):
        TokenCache(cache_folder, cache_dir=tmp_path / "arrow")
