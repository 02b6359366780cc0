"""The benchmark of data loading measures what it says; how fast that is, is not tested."""

import importlib.util
import json
from pathlib import Path

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "examples" / "benchmarks" / "data_loading.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("data_loading", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_table_and_json(benchmark, tmp_path, capsys):
    results = tmp_path / "results.json"
    options = ["--rows", "300", "--repeats", "1", "--sampler-rows", "20000", "--json", str(results)]
    assert benchmark.main(options) == 0
    printed = capsys.readouterr().out
    content = json.loads(results.read_text())
    stages = {stage["stage"]: stage for stage in content["stages"]}
    assert set(stages) == {
        "data set alone",
        "loader, texts as bytes",
        "loader, SmallEProcessor",
        "loader, packed",
    }
    assert all(name in printed for name in stages)
    assert stages["data set alone"]["padding"] is None
    assert content["sampler"]["padding"] < 0.05
    assert list(tmp_path.iterdir()) == [results]


def test_rows_frames_and_columns_are_counted_without_what_the_delay_adds(benchmark, tmp_path):
    benchmark.write_cache(tmp_path, 40)
    cache = benchmark.TokenCache(tmp_path, cache_dir=tmp_path / "arrow")
    rows = [cache[index] for index in range(40)]
    config = benchmark.SmallEConfig()
    frames, longest = int(cache.num_frames.sum()), int(cache.num_frames.max())
    for pack_columns in (None, 5000):
        collator = benchmark.SmallECollator(config, benchmark.byte_ids, pack_columns=pack_columns)
        counted = benchmark.count_batch(collator(rows), config.max_delay)
        assert counted[:2] == (40, frames)
        assert pack_columns or counted[2] == 40 * longest
        assert counted[2] >= frames
