"""Speech whose faults are known: recordings with word times, from which words can be cut out or said twice."""

import csv
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

RATE = 16000


@dataclass(frozen=True)
class Recording:
    """Speech `(samples,)` at 16 kHz and its words, each with start and end in samples."""

    samples: np.ndarray
    words: list[tuple[str, int, int]]

    @property
    def text(self) -> str:
        return " ".join(word for word, _, _ in self.words)

    def without(self, first: int, last: int) -> np.ndarray:
        return np.concatenate([self.samples[: self.words[first][1]], self.samples[self.words[last][2] :]])

    def doubled(self, first: int, last: int) -> np.ndarray:
        return np.concatenate([self.samples[: self.words[last][2]], self.samples[self.words[first][1] :]])


def read_recording(folder: Path, name: str) -> Recording:
    samples, rate = soundfile.read(folder / f"{name}.wav", dtype="float32")
    assert rate == RATE
    entries = json.loads((folder / f"{name}.json").read_text())["w"]
    words = [
        (re.sub(r"\(\d+\)", "", entry["t"]), int(entry["b"] * RATE), int((entry["b"] + entry["d"]) * RATE))
        for entry in entries
        if not entry["t"].startswith("<")
    ]
    return Recording(samples, words)


@pytest.fixture(scope="session")
def recordings(data_dir: Path) -> list[Recording]:
    """Five sentences of LibriVox with word times."""
    folder = data_dir / "librivox_sense"
    with (folder / "metadata.csv").open() as file:
        return [read_recording(folder, name) for name, _ in csv.reader(file, delimiter="|")]


@pytest.fixture(scope="session")
def speech(data_dir: Path):
    """Reads clips of the manifest: `speech("vctk_sample", speaker="p225", count=2)` gives `(samples, rate)` pairs."""
    lines = (data_dir / "manifest.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]

    def read(folder: str, speaker: str, count: int) -> list[tuple[np.ndarray, int]]:
        paths = [
            data_dir / row["path"]
            for row in rows
            if row["path"].startswith(folder) and row["speaker"] == speaker and 2 < row["duration"] < 8
        ]
        assert len(paths) >= count
        return [soundfile.read(path, dtype="float32") for path in paths[:count]]

    return read
