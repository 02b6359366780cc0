"""The JSON log after a run was killed."""

import json

from smalle_hf.training.logbook import cut_log, read_log


def test_a_log_is_cut_to_the_checkpoint(tmp_path):
    path = tmp_path / "log.jsonl"
    entries = [{"kind": "train", "step": step, "loss": 1 / step} for step in range(1, 8)]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries) + '{"kind": "train", "st')
    assert read_log(path) == entries
    cut_log(path, 4)
    assert path.read_text() == "".join(json.dumps(entry) + "\n" for entry in entries[:4])
    assert [entry.name for entry in tmp_path.iterdir()] == ["log.jsonl"]


def test_there_may_be_no_log(tmp_path):
    cut_log(tmp_path / "log.jsonl", 3)
    assert read_log(tmp_path / "log.jsonl") == []
