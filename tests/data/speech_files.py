"""Small audio files and trees that the data tests make for themselves."""

import json
from pathlib import Path

import numpy as np
import soundfile

RATE = 16_000


def write_tone(path: Path, seconds: float = 1.0, rate: int = RATE, **options) -> Path:
    """Writes a 300 Hz tone, in the format of the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.3 * np.sin(2 * np.pi * 300 * np.arange(round(seconds * rate)) / rate), rate, **options)
    return path


def write_noise(path: Path, seconds: float, rate: int = RATE) -> Path:
    """Writes white noise, which does not compress and whose every segment is different."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.random.default_rng(0).uniform(-0.3, 0.3, round(seconds * rate)), rate)
    return path


def truncate(path: Path, fraction: float = 0.5) -> Path:
    """Cuts off the end of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * fraction)])
    return path


def cut_line(recording: str, index: int, start: float, duration: float, **changes) -> dict:
    """A line of a Libriheavy manifest; `changes` may set `id`, `source`, `rate`, `texts`, `text`."""
    id = changes.get("id", f"{recording}_{index}")
    texts = changes.get("texts", [f"Cut number {index}.", f"CUT NUMBER {index}"])
    supervision = {
        "id": id,
        "recording_id": recording,
        "start": 0,
        "duration": duration,
        "channel": 0,
        "language": "English",
        "speaker": recording.split("/")[1],
        "custom": {"texts": texts, "pre_texts": ["", ""], "begin_byte": 0, "end_byte": 0},
    }
    if "text" in changes:
        supervision["text"] = changes["text"]
    source = {"type": "file", "channels": [0], "source": changes.get("source", f"{recording}.flac")}
    rate = changes.get("rate", RATE)
    return {
        "id": id,
        "start": start,
        "duration": duration,
        "channel": 0,
        "supervisions": [supervision],
        "recording": {"id": recording, "sources": [source], "sampling_rate": rate, "num_samples": 0, "duration": 0},
        "type": "MonoCut",
    }


def write_chapter(root: Path, recording: str, seconds: float = 10.0, snr: float = 20.0, rate: int = RATE) -> Path:
    """Writes a chapter of a Libri-Light tree with the metadata beside it."""
    path = write_noise(root / f"{recording}.flac", seconds, rate)
    metadata = {
        "speaker": recording.split("/")[1],
        "file_length_sec": seconds,
        "book_meta": {"language": "English"},
        "snr": snr,
        "voice_activity": [[0.8, 2.4], [3.2, seconds + 0.04]],
    }
    path.with_suffix(".json").write_text(json.dumps(metadata))
    return path


def write_json_lines(path: Path, records: list) -> Path:
    """Writes one JSON object per line."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path
