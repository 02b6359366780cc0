"""Joined token caches: every utterance once, pairs of one speaker, held-out sentences left out."""

import json
from pathlib import Path

import numpy as np
import pytest

from smalle_hf.data.token_cache import CodecInfo, TokenCache, shard_name, write_shard

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "voice"
CODEC = CodecInfo(name="test", version="1", sampling_rate=16000, frame_rate=50.0, num_codebooks=2, codebook_size=8)


@pytest.fixture
def join(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import join_utterances

    return join_utterances


def rows(count: int, speakers: int = 2) -> list[dict]:
    generator = np.random.default_rng(0)
    return [
        {
            "id": str(index),
            "codes": generator.integers(8, size=(3 + index % 5, 2), dtype=np.int16),
            "text": f"Sentence {index}.",
            "speaker": f"s{index % speakers}",
            "language": "en",
        }
        for index in range(count)
    ]


def cache(folder: Path, content: list[dict]) -> Path:
    folder.mkdir()
    write_shard(folder / shard_name(0, 1), content, CODEC)
    return folder


def test_every_utterance_is_there_once_with_its_codes(join):
    content = rows(101)
    joined = join.join_rows(content, 0.5, 100, seed=1)
    assert len(joined) < 101
    assert sorted(part for row in joined for part in row["id"].split("+")) == sorted(row["id"] for row in content)
    by_id = {row["id"]: row for row in content}
    for row in joined:
        parts = [by_id[part] for part in row["id"].split("+")]
        assert np.array_equal(row["codes"], np.concatenate([part["codes"] for part in parts]))
        assert row["text"] == " ".join(part["text"] for part in parts)
        assert {part["speaker"] for part in parts} == {row["speaker"]}


def test_long_pairs_stay_apart_and_no_share_joins_nothing(join):
    assert len(join.join_rows(rows(40), 1.0, 5, seed=0)) == 40
    assert len(join.join_rows(rows(40), 0.0, 100, seed=0)) == 40
    assert len(join.join_rows(rows(40), 1.0, 100, seed=0)) == 20


def test_the_command_writes_a_cache_without_the_held_out_sentences(join, tmp_path):
    first, second = cache(tmp_path / "first", rows(10)), cache(tmp_path / "second", rows(12))
    held_out = tmp_path / "held_out.jsonl"
    held_out.write_text(json.dumps({"text": "SENTENCE 3."}) + "\n", encoding="utf-8")
    arguments = [str(first), str(second), str(tmp_path / "out"), "--without", str(held_out), "--share", "0.5"]
    assert join.main(arguments) == 0
    found = TokenCache(tmp_path / "out", cache_dir=tmp_path / "arrow")
    ids = [part for row in found.__getitems__(range(len(found))) for part in row["id"].split("+")]
    assert len(ids) == len(set(ids)) == 20
    assert found.codec == CODEC
    assert not any("Sentence 3." in row["text"] for row in found.__getitems__(range(len(found))))


def test_wrong_inputs_are_refused_in_one_line(join, tmp_path, capsys):
    folder = cache(tmp_path / "codes", rows(4))
    with pytest.raises(SystemExit, match="2"):
        join.main([str(folder), str(folder)])
    assert "is not empty" in capsys.readouterr().err
    assert join.main([str(tmp_path / "nowhere"), str(tmp_path / "out")]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
