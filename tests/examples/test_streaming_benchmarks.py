"""The benchmarks of streams and of long form run in their quick form and write what they say."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "examples" / "benchmarks"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--threads", "1", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=280)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("streaming", {"first_audio_ms", "real_time_factor", "slowest_chunk", "generate_real_time_factor"}),
        ("long_form", {"resident_mib", "real_time_factor"}),
    ],
)
def test_quick_form(name: str, numbers: set[str], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    more = ["--minutes", "3"] if name == "long_form" else []
    done = run(name, "--quick", "--output", str(tmp_path), *more)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "target" in done.stdout
    phase = json.loads((tmp_path / f"{name}.json").read_text())["tiny"]
    assert len(phase["rows"]) >= 2
    for row in phase["rows"]:
        assert numbers <= row.keys()
        assert all(math.isfinite(row[number]) and row[number] > 0 for number in numbers)
    assert phase["targets"]
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_long_form_needs_a_voice() -> None:
    done = run("long_form")
    assert done.returncode == 2
    assert "name a checkpoint with --model" in done.stderr
