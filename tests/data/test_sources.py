"""Every source gives the same columns: public corpora, manifests, and data sets with audio in any form."""

import csv
import gzip
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st
from speech_files import RATE, write_json_lines, write_tone

from smalle_hf.data import (
    BrokenInputError,
    BrokenInputReport,
    SpeechSourceError,
    detect_format,
    load_speech,
    read_segment,
    speech_features,
)
from smalle_hf.data.audio_values import encode_audio
from smalle_hf.data.columns import COLUMN_NAMES, find_columns
from smalle_hf.data.tree import path_inside


@pytest.fixture
def load(tmp_path):
    """Loads a source with a cache of this test, and returns the rows by id and the report."""

    def load_rows(source, **options):
        report = BrokenInputReport()
        rows = load_speech(source, report=report, cache_dir=str(tmp_path / "cache"), **options)
        assert rows.features == speech_features()
        return {row["id"]: row for row in rows}, report

    return load_rows


@pytest.fixture
def known(data_dir):
    """Lines of the manifest of the shared material by path."""
    with open(data_dir / "manifest.jsonl", encoding="utf-8") as file:
        return {str(data_dir / line["path"]): line for line in map(json.loads, file)}


def write_libritts(root):
    for split, speaker, text in (("train-clean-100", "19", "Chapter two."), ("test-clean", "61", "It's 5.")):
        path = write_tone(root / split / speaker / "198" / f"{speaker}_198_000_001.wav", rate=24_000)
        path.with_suffix(".normalized.txt").write_text(text.replace("5", "five"))
        path.with_suffix(".original.txt").write_text(text)
    return root


def write_vctk(root):
    for speaker in ("p225", "s5"):
        for microphone in ("mic1", "mic2"):
            write_tone(root / "wav48_silence_trimmed" / speaker / f"{speaker}_001_{microphone}.flac", rate=48_000)
        (root / "txt" / speaker).mkdir(parents=True)
        (root / "txt" / speaker / f"{speaker}_001.txt").write_text("Please call Stella.\n")
    return root


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("folder", "format", "num_rows", "num_broken"),
    [
        ("ljspeech_sample", "ljspeech", 35, 0),
        ("librispeech_sample", "librispeech", 117, 14),
        ("vctk_sample", "vctk", 46, 0),
        ("multilingual/de_kerstin", "ljspeech", 30, 0),
    ],
)
def test_folder_of_a_public_corpus(data_dir, load, known, folder, format, num_rows, num_broken, streaming):
    rows, report = load(data_dir / folder, streaming=streaming)

    assert {row["source"] for row in rows.values()} == {format}
    assert (len(rows), report.num_rows, report.num_broken) == (num_rows, num_rows + num_broken, num_broken)
    for row in rows.values():
        line = known[row["audio_path"]]
        assert row["text"] == line["text"]
        assert row["duration"] == pytest.approx(line["duration"], abs=1e-3)
        assert row["sampling_rate"] == line["sample_rate"]
        if folder != "multilingual/de_kerstin" and format != "ljspeech":
            assert row["speaker"] == line["speaker"]
    assert len(read_segment(row)) == round(row["duration"] * row["sampling_rate"])


@pytest.mark.parametrize(("column", "text"), [("normalized", "It's five."), ("original", "It's 5.")])
def test_libritts(tmp_path, load, column, text):
    rows, report = load(write_libritts(tmp_path / "LibriTTS"), text_column=column)

    row = rows["61_198_000_001"]
    assert (row["text"], row["speaker"], row["subset"], row["source"]) == (text, "61", "test-clean", "libritts")
    assert (len(rows), report.num_broken) == (2, 0)


def test_one_split_of_libritts(tmp_path, load):
    rows, _ = load(write_libritts(tmp_path / "LibriTTS") / "test-clean")

    assert [(row["subset"], row["speaker"]) for row in rows.values()] == [("test-clean", "61")]


def test_vctk_reads_the_first_microphone(tmp_path, load):
    rows, report = load(write_vctk(tmp_path / "VCTK"), language="en", licence="CC-BY-4.0")

    assert {row["id"]: row["speaker"] for row in rows.values()} == {"p225_001": "p225", "s5_001": "s5"}
    assert {(row["text"], row["language"], row["licence"]) for row in rows.values()} == {
        ("Please call Stella.", "en", "CC-BY-4.0")
    }
    assert all(row["audio_path"].endswith("_mic1.flac") for row in rows.values())
    assert report.num_broken == 0


def test_ljspeech_has_one_speaker_and_two_texts(tmp_path, load):
    write_tone(tmp_path / "LJ" / "wavs" / "a.wav")
    (tmp_path / "LJ" / "metadata.csv").write_text("a|5 men|five men\n")

    assert load(tmp_path / "LJ")[0]["a"]["text"] == "five men"
    assert load(tmp_path / "LJ", text_column="original")[0]["a"]["text"] == "5 men"
    assert load(tmp_path / "LJ")[0]["a"]["speaker"] == "LJ"
    assert load(tmp_path / "LJ", speaker="Linda")[0]["a"]["speaker"] == "Linda"


def test_broken_corpus_folder(tmp_path, load):
    root = tmp_path / "corpus"
    for name in ("good", "bad_text", "no_text", "empty", "twice", "elsewhere/twice", "silent_letters"):
        write_tone(root / "wavs" / f"{name}.wav")
    lines = ["good|Good.", "bad_text|caf\xe9", "empty| ", "silent_letters|?!", "gone|No audio.", "twice|Which?"]
    lines += ["../../etc/passwd|Root.", "good|Again.", "no separator"]
    (root / "metadata.csv").write_bytes("\n".join(lines).encode("latin-1"))
    (root / "wavs" / "loop").symlink_to(root, target_is_directory=True)

    rows, report = load(root)

    assert list(rows) == ["good"]
    assert report.counts == {
        "empty_text": 2,
        "duplicate_id": 2,
        "not_utf8": 1,
        "audio_without_text": 1,
        "text_without_audio": 1,
        "path_outside_root": 1,
        "bad_metadata": 1,
        "symlink_loop": 1,
    }
    files = {entry.reason.value: entry.file for entry in report.files()}
    assert files["bad_metadata"].endswith("metadata.csv:9")
    assert files["audio_without_text"].endswith("no_text.wav")


def test_files_that_are_broken_in_their_header(tmp_path, load):
    root = tmp_path / "corpus"
    for name, rate in (("good", RATE), ("other_rate", 8_000), ("cut", RATE)):
        write_tone(root / f"{name}.wav", rate=rate)
    (root / "text.wav").write_text("not audio")
    content = (root / "cut.wav").read_bytes()
    (root / "cut.wav").write_bytes(content[:-100])
    names = ("good", "other_rate", "cut", "text")
    (root / "metadata.csv").write_text("".join(f"{name}|Text.\n" for name in names))

    rows, report = load(root, sampling_rate=RATE)

    assert list(rows) == ["good"]
    assert report.counts == {"wrong_sampling_rate": 1, "truncated_audio": 1, "unreadable_audio": 1}


def test_shared_manifest_keeps_speaker_language_and_licence(data_dir, load, known):
    rows, report = load(data_dir / "manifest.jsonl", max_duration=20.0)

    usable = [line for line in known.values() if line["text"] is not None and line["duration"] <= 20.0]
    assert len(rows) == len(usable)
    for row in rows.values():
        line = known[row["audio_path"]]
        for column, key in {"text": "text", "speaker": "speaker", "language": "lang", "licence": "licence"}.items():
            assert row[column] == line[key]
        assert row["subset"] == line.get("split")
    assert set(report.counts) == {"audio_without_text"}


def test_every_format_of_the_shared_manifest_can_be_read(data_dir, load, known):
    rows, _ = load(data_dir / "manifest.jsonl")
    by_suffix = {os.path.splitext(row["audio_path"])[1]: row for row in rows.values()}

    assert set(by_suffix) == {".wav", ".flac", ".mp3", ".opus"}
    for row in by_suffix.values():
        waveform = read_segment(row, sampling_rate=RATE)
        assert len(waveform) / RATE == pytest.approx(known[row["audio_path"]]["duration"], abs=0.02)


@pytest.fixture
def records(tmp_path):
    """Two lines of a manifest whose audio lies in `tmp_path`."""
    texts = ['She said "no", twice.', "Zwölf Boxkämpfer."]
    paths = [write_tone(tmp_path / "audio" / f"{index}.wav", seconds=2.0) for index in range(2)]
    return [
        {"path": os.path.relpath(path, tmp_path), "sentence": text, "locale": "en", "client_id": "7"}
        for path, text in zip(paths, texts, strict=True)
    ]


def write_table(path, records, **dialect):
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]), **dialect)
        writer.writeheader()
        writer.writerows(records)
    return path


def test_all_kinds_of_manifests_give_the_same_rows(tmp_path, load, records):
    jsonl = write_json_lines(tmp_path / "a.jsonl", records)
    tsv = write_table(tmp_path / "b.tsv", records, delimiter="\t", quoting=csv.QUOTE_NONE, quotechar=None)
    table = write_table(tmp_path / "c.csv", records)
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(table.read_bytes()))
    with_mark = tmp_path / "e.csv"
    with_mark.write_bytes(b"\xef\xbb\xbf" + table.read_bytes())

    expected, _ = load(jsonl)

    assert [row["text"] for row in expected.values()] == [record["sentence"] for record in records]
    assert list(expected) == ["audio/0", "audio/1"]
    assert {(row["speaker"], row["language"]) for row in expected.values()} == {("7", "en")}
    for path in (tsv, table, tmp_path / "d.csv.gz", with_mark):
        assert load(path)[0] == expected
        assert load(path, streaming=True)[0] == expected


def test_folder_with_a_manifest(tmp_path, load, records):
    write_table(tmp_path / "metadata.csv", [{"file_name": r["path"], "transcription": r["sentence"]} for r in records])

    assert detect_format(tmp_path) == "manifest"
    assert len(load(tmp_path)[0]) == 2


def test_columns_can_be_named(data_dir, load):
    columns = {"audio": "target_audio", "text": "target_text", "id": "target_utt"}
    rows, report = load(data_dir / "libritts_pairs" / "pairs.tsv", columns=columns)

    assert report.counts == {"duplicate_id": 1}  # the source has one target twice
    assert len(rows) == 39
    assert all(row["speaker"] == id.split("_")[0] for id, row in rows.items())


def test_manifest_of_segments(tmp_path, load):
    write_tone(tmp_path / "long.wav", seconds=10.0)
    segments = [
        {"audio_filepath": "long.wav", "text": "a", "offset": 2.5 * part, "duration": 2.5} for part in range(4)
    ]
    rows, report = load(write_json_lines(tmp_path / "nemo.jsonl", segments))

    assert [(row["start"], row["duration"]) for row in rows.values()] == [(2.5 * part, 2.5) for part in range(4)]
    assert (len(rows), report.num_broken) == (4, 0)


def test_broken_manifest(tmp_path, load, records):
    outside = write_tone(tmp_path / "outside.wav")
    (tmp_path / "data").mkdir()
    (tmp_path / "audio").rename(tmp_path / "data" / "audio")
    good = records[0]
    lines = [
        good,
        good | {"path": "../outside.wav"},
        good | {"path": str(outside)},
        good | {"path": None},
        good | {"path": "audio/9.wav"},
        good | {"path": "audio/1.wav", "sentence": ["a", "list"]},
        good | {"path": "audio/1.wav", "sentence": None},
        good | {"path": "audio/1.wav", "duration": 9.0},
        good | {"path": "audio/1.wav", "duration": "long"},
        good | {"path": "audio/1.wav", "sampling_rate": 44_100},
        good | {"path": "audio/1.wav", "sentence": "lone \udc80 surrogate"},
        good,
    ]
    manifest = tmp_path / "data" / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines) + '["a list"]\n{"half\n')

    rows, report = load(manifest)

    assert list(rows) == ["audio/0"]
    assert report.counts == {
        "bad_metadata": 4,
        "path_outside_root": 2,
        "text_without_audio": 2,
        "audio_without_text": 1,
        "cut_outside_file": 1,
        "wrong_sampling_rate": 1,
        "not_utf8": 1,
        "duplicate_id": 1,
    }
    assert report.num_rows == 1 + report.num_broken


def test_listing_of_a_manifest_is_repeated_on_request(tmp_path, load, records):
    manifest = write_json_lines(tmp_path / "a.jsonl", records)
    (tmp_path / "audio" / "1.wav").rename(tmp_path / "audio" / "moved.wav")
    assert len(load(manifest)[0]) == 1

    (tmp_path / "audio" / "moved.wav").rename(tmp_path / "audio" / "1.wav")

    assert len(load(manifest, refresh=True)[0]) == 2


def test_one_report_serves_several_sources(tmp_path, records):
    report = BrokenInputReport()
    for name in ("a", "b"):
        manifest = write_json_lines(tmp_path / f"{name}.jsonl", [*records, records[0]])
        load_speech(manifest, report=report, cache_dir=str(tmp_path / "cache"))

    assert (report.num_rows, report.num_broken) == (6, 2)


def test_line_of_a_table_with_too_few_fields(tmp_path, load, records):
    table = write_table(tmp_path / "table.csv", records)
    with open(table, "a") as file:
        file.write("audio/1.wav,half a line\n")

    rows, report = load(table)

    assert (len(rows), report.counts) == (2, {"bad_metadata": 1})
    assert next(report.files()).file == f"{table}:4"


def test_untranscribed_audio_on_request(tmp_path, load):
    write_tone(tmp_path / "a.wav")
    manifest = write_json_lines(tmp_path / "audio.jsonl", [{"path": "a.wav"}])

    with pytest.raises(SpeechSourceError, match="no column for the text"):
        load(manifest)
    assert load(manifest, require_text=False)[0]["a"]["text"] is None


def audio_forms(path):
    samples, rate = soundfile.read(path, dtype="float32")
    decoded = SimpleNamespace(data=torch.from_numpy(samples)[None], sample_rate=rate)
    return {
        "path": str(path),
        "bytes": path.read_bytes(),
        "dict of bytes": {"bytes": path.read_bytes(), "path": "inside.tar/a.wav"},
        "dict of path": {"bytes": None, "path": str(path)},
        "dict of array": {"array": samples, "sampling_rate": rate},
        "16 bit array": {"array": (samples * 32768).astype(np.int16), "sampling_rate": rate},
        "decoder": SimpleNamespace(get_all_samples=lambda: decoded),
    }


@pytest.mark.parametrize(
    "form", ["path", "bytes", "dict of bytes", "dict of path", "dict of array", "16 bit array", "decoder"]
)
def test_audio_of_a_data_set_in_every_form(tmp_path, load, form):
    path = write_tone(tmp_path / "a.wav")
    values = audio_forms(path)
    stream = datasets.IterableDataset.from_generator(
        lambda: iter([{"audio": values[form], "text": "a", "speaker": 3, "license": "CC0"}])
    )

    rows, _ = load(stream, streaming=True)

    (row,) = rows.values()
    assert (row["text"], row["speaker"], row["licence"], row["sampling_rate"]) == ("a", "3", "CC0", RATE)
    np.testing.assert_allclose(read_segment(row), soundfile.read(path)[0], atol=1e-4)


@pytest.fixture
def hub_like(tmp_path):
    """A data set as the Hub has them: embedded audio with the feature `Audio`, speakers as class labels."""
    content = [write_tone(tmp_path / f"{index}.wav", seconds=1 + index).read_bytes() for index in range(4)]
    dataset = datasets.Dataset.from_dict(
        {
            "audio": [{"bytes": value, "path": None} for value in content],
            "sentence": ["one", "two", "three", ""],
            "speaker": ["ann", "bob", "bob", "ann"],
        }
    )
    labels = datasets.ClassLabel(names=["ann", "bob"])
    return dataset.cast_column("audio", datasets.Audio()).cast_column("speaker", labels)


def check_hub_rows(rows, report):
    assert [(row["text"], row["speaker"], row["duration"]) for row in rows.values()] == [
        ("one", "ann", 1.0),
        ("two", "bob", 2.0),
        ("three", "bob", 3.0),
    ]
    assert all(len(read_segment(row)) == row["duration"] * RATE for row in rows.values())
    assert report.counts == {"empty_text": 1}


@pytest.mark.parametrize("streaming", [False, True])
def test_data_set_in_memory(hub_like, load, streaming):
    check_hub_rows(*load(hub_like, streaming=streaming))


def test_streamed_data_set(hub_like, load):
    check_hub_rows(*load(hub_like.to_iterable_dataset(), streaming=True))
    with pytest.raises(SpeechSourceError, match="as_streaming_dataset"):
        load(hub_like.to_iterable_dataset())


def test_data_set_listed_by_two_processes(hub_like, load):
    rows, report = load(hub_like, num_proc=2)

    check_hub_rows(dict(sorted(rows.items())), report)


@pytest.mark.parametrize("streaming", [False, True])
def test_data_set_on_disk(hub_like, load, tmp_path, streaming):
    hub_like.save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(train=hub_like, test=hub_like).save_to_disk(tmp_path / "saved_splits")
    (tmp_path / "parquet").mkdir()
    hub_like.to_parquet(tmp_path / "parquet" / "train.parquet")

    check_hub_rows(*load(tmp_path / "saved", streaming=streaming))
    check_hub_rows(*load(tmp_path / "saved_splits", split="test", streaming=streaming))
    check_hub_rows(*load(tmp_path / "parquet", streaming=streaming))
    with pytest.raises(SpeechSourceError, match="split= one of train, test"):
        load(tmp_path / "saved_splits", streaming=streaming)


def test_paths_of_a_data_set_stay_below_the_root(tmp_path, load):
    write_tone(tmp_path / "audio" / "a.wav")
    write_tone(tmp_path / "b.wav")
    dataset = datasets.Dataset.from_dict({"audio": ["a.wav", "../b.wav"], "text": ["a", "b"]})

    rows, report = load(dataset, data_dir=str(tmp_path / "audio"))

    assert [row["audio_path"] for row in rows.values()] == [str(tmp_path / "audio" / "a.wav")]
    assert report.counts == {"path_outside_root": 1}


@pytest.mark.parametrize(
    "value", [None, b"", "", {}, {"bytes": None, "path": None}, 5, {"array": [1, 2], "sampling_rate": 8}]
)
def test_value_that_is_no_audio(value):
    with pytest.raises(BrokenInputError, match=r"row 1: (text_without_audio|bad_metadata)"):
        encode_audio(value, "row 1")


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "/", "etc"]), min_size=1, max_size=8).map("/".join))
def test_only_paths_below_the_root_are_accepted(path):
    meant = os.path.normpath(os.path.join("/corpus/data", path))
    if meant.startswith("/corpus/data/"):
        assert path_inside("/corpus/data", path) == meant
    else:
        with pytest.raises(BrokenInputError, match="path_outside_root"):
            path_inside("/corpus/data", path)


@given(st.sets(st.sampled_from(sorted({name for names in COLUMN_NAMES.values() for name in names}))))
def test_found_columns_exist_and_hold_one_role_each(available):
    try:
        columns = find_columns(available)
    except SpeechSourceError:
        assert not available & set(COLUMN_NAMES["audio"]) or not available & set(COLUMN_NAMES["text"])
    else:
        assert set(columns.values()) <= available
        assert len(set(columns.values())) == len(columns)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"sound": "path"}, "unknown column role 'sound': choose from audio, text"),
        ({"audio": "wave"}, "no column 'wave' for audio: there are path, sentence, locale, client_id"),
    ],
)
def test_wrong_columns_are_refused(tmp_path, load, records, columns, message):
    with pytest.raises(SpeechSourceError, match=message):
        load(write_json_lines(tmp_path / "a.jsonl", records), columns=columns)


def test_sources_that_cannot_be_told(tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")

    with pytest.raises(SpeechSourceError, match="pass format= with one of librilight, ljspeech"):
        detect_format(tmp_path)
    with pytest.raises(SpeechSourceError, match="no manifest at"):
        detect_format(tmp_path / "none.tsv")
    with pytest.raises(SpeechSourceError, match="is no folder and no manifest"):
        detect_format(tmp_path / "none")
    with pytest.raises(SpeechSourceError, match="unknown format 'lj'"):
        load_speech(tmp_path, format="lj")


def test_importing_the_package_does_not_import_datasets():
    code = "import sys, smalle_hf.data; smalle_hf.data.read_segment; assert 'datasets' not in sys.modules"

    subprocess.run([sys.executable, "-c", code], check=True)
