"""Libri-Light: rows are the cuts of the manifest, in every way of loading, and what is broken is counted."""

import gzip
import json
import tracemalloc
import warnings

import numpy as np
import pytest
import soundfile
from datasets import load_dataset
from speech_files import cut_line, truncate, write_chapter, write_json_lines
from torch.utils.data import DataLoader

from smalle_hf.data import (
    BrokenInputError,
    BrokenInputReport,
    LibrilightBuilder,
    SpeechSourceError,
    load_speech,
    read_segment,
)
from smalle_hf.data.libriheavy import read_cuts

EMMA = "medium/100/emma_64kb_mp3/emma_01_64kb"
OMOO = "medium/200/omoo_64kb_mp3/omoo_01_64kb"
WALDEN = "small/300/walden_64kb_mp3/walden_01_64kb"


@pytest.fixture
def mini(data_dir):
    return data_dir / "librilight_mini"


@pytest.fixture
def mini_manifest(mini):
    return str(mini / "libriheavy_cuts_mini.jsonl")


@pytest.fixture
def mini_lines(mini_manifest):
    with open(mini_manifest) as file:
        return [json.loads(line) for line in file]


@pytest.fixture
def tree(tmp_path):
    """Three chapters of 10 s with two cuts each; returns the root and the manifest."""
    root = tmp_path / "tree"
    lines = []
    for recording, snr in ((EMMA, 10.0), (OMOO, 20.0), (WALDEN, 30.0)):
        write_chapter(root, recording, snr=snr)
        lines += [cut_line(recording, 0, 0.5, 2.0, text="other"), cut_line(recording, 1, 4.0, 5.0, text="other")]
    return root, write_json_lines(tmp_path / "cuts.jsonl", lines)


def load(root, manifest, tmp_path, **options):
    """The rows of a tree by id, and the report."""
    report = BrokenInputReport()
    rows = load_speech(
        root, format="librilight", manifest=str(manifest), cache_dir=str(tmp_path / "cache"), report=report, **options
    )
    return {row["id"]: row for row in rows}, report


def test_rows_are_the_cuts_of_the_manifest(mini, mini_manifest, mini_lines, tmp_path):
    rows, report = load(mini, mini_manifest, tmp_path)

    assert list(rows) == [line["id"] for line in mini_lines]
    for line in mini_lines:
        row = rows[line["id"]]
        assert (row["start"], row["duration"]) == (line["start"], pytest.approx(line["duration"]))
        assert row["text"] == line["supervisions"][0]["custom"]["texts"][0]
        assert row["speaker"] == line["supervisions"][0]["speaker"]
        assert (row["language"], row["source"], row["subset"]) == ("en", "librilight", "medium")
        metadata = mini / line["recording"]["sources"][0]["source"].replace(".flac", ".json")
        assert row["snr"] == pytest.approx(json.loads(metadata.read_text())["snr"])
    assert (report.num_rows, report.num_broken) == (30, 0)


def test_segments_are_the_joined_utterances(mini, mini_manifest, mini_lines, data_dir, tmp_path):
    rows, _ = load(mini, mini_manifest, tmp_path)
    for line in mini_lines:
        utterance = line["custom"]["librispeech_utt"]
        speaker, chapter, _ = utterance.split("-")
        path = data_dir / "librispeech_sample" / "test-other" / speaker / chapter / f"{utterance}.flac"
        original, _ = soundfile.read(path, dtype="float32")

        segment = read_segment(rows[line["id"]])

        assert len(segment) == len(original)
        # The manifest rounds to 0.1 ms, which is 1.6 samples.
        shifts = [np.corrcoef(np.roll(segment, shift)[2:-2], original[2:-2])[0, 1] for shift in (-1, 0, 1)]
        assert max(shifts) > 0.9999


def test_streaming_parallel_and_parquet_give_the_same_rows(mini, mini_manifest, tmp_path):
    rows, _ = load(mini, mini_manifest, tmp_path)
    streamed, stream_report = load(mini, mini_manifest, tmp_path, streaming=True)
    builder = LibrilightBuilder(data_dir=str(mini), manifest=mini_manifest, cache_dir=str(tmp_path / "other"))
    builder.download_and_prepare(str(tmp_path / "parquet"), file_format="parquet", num_proc=2)
    parquet = load_dataset("parquet", data_dir=str(tmp_path / "parquet"), split="train", cache_dir=str(tmp_path))

    assert streamed == rows
    assert stream_report.num_rows == builder.report.num_rows == 30
    assert {row["id"]: row for row in parquet} == rows
    assert BrokenInputReport.read(tmp_path / "parquet" / "broken_input.json").num_rows == 30


def test_stream_is_shared_out_to_loader_workers(mini_manifest, mini_lines, tmp_path):
    stream = load_speech(mini_manifest, streaming=True, num_parts=4, cache_dir=str(tmp_path))

    ids = [row["id"] for row in DataLoader(stream, batch_size=None, num_workers=2)]

    assert stream.num_shards == 4
    assert sorted(ids) == sorted(line["id"] for line in mini_lines)


def test_stream_that_is_read_twice_is_counted_once(tree, tmp_path):
    root, manifest = tree
    report = BrokenInputReport()
    stream = load_speech(root, manifest=str(manifest), streaming=True, report=report, cache_dir=str(tmp_path))

    assert len(list(stream)) == len(list(stream)) == 6
    assert report.num_rows == 6


def test_gzipped_manifest(tree, tmp_path):
    root, manifest = tree
    (tmp_path / "cuts.jsonl.gz").write_bytes(gzip.compress(manifest.read_bytes()))

    assert load(root, tmp_path / "cuts.jsonl.gz", tmp_path)[0] == load(root, manifest, tmp_path)[0]


def test_several_manifests(tree, tmp_path):
    root, manifest = tree
    lines = manifest.read_text().splitlines(keepends=True)
    parts = [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]
    parts[0].write_text("".join(lines[:3]))
    parts[1].write_text("".join(lines[3:]))

    rows = load_speech(root, manifest=tuple(map(str, parts)), cache_dir=str(tmp_path / "cache"))

    assert rows["id"][:] == [json.loads(line)["id"] for line in lines]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"subset": "small"}, [f"{WALDEN}_0", f"{WALDEN}_1"]),
        ({"subset": ("medium", "small"), "min_snr": 25.0}, [f"{WALDEN}_0", f"{WALDEN}_1"]),
        ({"min_snr": 20.0}, [f"{OMOO}_0", f"{OMOO}_1", f"{WALDEN}_0", f"{WALDEN}_1"]),
        ({"min_duration": 2.5}, [f"{EMMA}_1", f"{OMOO}_1", f"{WALDEN}_1"]),
        ({"max_duration": 2.5}, [f"{EMMA}_0", f"{OMOO}_0", f"{WALDEN}_0"]),
        ({"speakers": ["100"], "min_duration": 2.5}, [f"{EMMA}_1"]),
    ],
)
def test_options_select_rows_and_leave_nothing_to_report(tree, tmp_path, options, kept):
    rows, report = load(*tree, tmp_path, **options)

    assert list(rows) == kept
    assert (report.num_rows, report.num_broken) == (len(kept), 0)


@pytest.mark.parametrize(("column", "text"), [("book", "Cut number 0."), ("asr", "CUT NUMBER 0"), ("text", "other")])
def test_text_column(tree, tmp_path, column, text):
    rows, _ = load(*tree, tmp_path, text_column=column)

    assert rows[f"{EMMA}_0"]["text"] == text


def test_without_manifest_there_are_voice_activity_segments_and_one_warning(mini, tmp_path):
    with pytest.warns(UserWarning, match="without text") as caught:
        rows = load_speech(mini, num_proc=2, cache_dir=str(tmp_path))

    assert len(caught) == 1
    (chapter,) = mini.glob("medium/1688/*/*.json")
    segments = [row for row in rows if row["speaker"] == "1688"]
    times = [[row["start"], pytest.approx(row["start"] + row["duration"])] for row in segments]
    assert json.loads(chapter.read_text())["voice_activity"] == times
    assert {row["text"] for row in rows} == {None}
    assert all(len(read_segment(row)) == round(row["duration"] * 16_000) for row in segments)


def test_voice_activity_that_ends_behind_the_file_is_clipped(tree, tmp_path):
    with pytest.warns(UserWarning, match="without text"):
        rows = load_speech(tree[0], cache_dir=str(tmp_path))

    assert max(row["start"] + row["duration"] for row in rows) == 10.0


def test_manifest_with_the_preparers_folders_in_front(tree, tmp_path):
    root, _ = tree
    line = cut_line(EMMA, 0, 0.5, 2.0, source=f"download/librilight/{EMMA}.flac")
    manifest = write_json_lines(tmp_path / "prepared.jsonl", [line])

    rows, _ = load(root, manifest, tmp_path)

    assert rows[f"{EMMA}_0"]["audio_path"] == str(root / f"{EMMA}.flac")


def test_manifest_is_streamed(tmp_path):
    lines = [json.dumps(cut_line(EMMA, index, 0.5, 2.0)) + "\n" for index in range(1000)]
    manifest = tmp_path / "cuts.jsonl.gz"
    with gzip.open(manifest, "wt", compresslevel=1) as file:
        for _ in range(10):
            file.writelines(lines)
    size = 10 * sum(map(len, lines))

    tracemalloc.start()
    count = sum(not isinstance(cut, BrokenInputError) for cut in read_cuts(manifest))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert count == 10_000
    assert peak < size / 20


BROKEN_CUTS = {
    "cut_outside_file": cut_line(EMMA, 2, 9.0, 2.0),
    "text_without_audio": cut_line("medium/100/emma_64kb_mp3/emma_02_64kb", 0, 0.0, 1.0),
    "empty_text": cut_line(EMMA, 3, 1.0, 1.0, texts=[" ... ", ""]),
    "audio_without_text": cut_line(EMMA, 4, 1.0, 1.0, texts=[]),
    "wrong_sampling_rate": cut_line(EMMA, 5, 1.0, 1.0, rate=44_100),
    "duplicate_id": cut_line(EMMA, 6, 1.0, 1.0, id=f"{OMOO}_0"),
    "path_outside_root": cut_line(EMMA, 7, 1.0, 1.0, source="../../etc/passwd.flac"),
    "bad_metadata": {"id": "no cut"},
}


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("reason", BROKEN_CUTS)
def test_broken_cut_is_skipped_and_counted(tree, tmp_path, reason, streaming):
    root, manifest = tree
    with manifest.open("a") as file:
        file.write(json.dumps(BROKEN_CUTS[reason]) + "\n")

    rows, report = load(root, manifest, tmp_path, streaming=streaming)

    assert len(rows) == 6
    assert (report.num_rows, report.counts) == (7, {reason: 1})
    (entry,) = report.files()
    assert entry.file


@pytest.mark.parametrize("num_proc", [1, 3])
def test_all_kinds_of_broken_input_at_once(tree, tmp_path, num_proc):
    root, manifest = tree
    content = manifest.read_bytes() + b"".join(json.dumps(cut).encode() + b"\n" for cut in BROKEN_CUTS.values())
    manifest.write_bytes(content + b'{"id": "caf\xe9"}\n' + b"not json\n")
    write_chapter(root, "medium/400/unused_64kb_mp3/unused_64kb")
    (root / "medium" / "100" / "loop").symlink_to(root / "medium", target_is_directory=True)
    (root / "medium" / "self").symlink_to(root / "medium" / "self")

    rows, report = load(root, manifest, tmp_path, num_proc=num_proc)

    assert len(rows) == 6
    expected = dict.fromkeys(BROKEN_CUTS, 1) | {"not_utf8": 1, "symlink_loop": 2, "bad_metadata": 2}
    assert report.counts == expected | {"audio_without_text": 2}
    assert report.num_rows == 6 + report.num_broken


def test_cached_listing_keeps_its_report(tree, tmp_path):
    root, manifest = tree
    write_json_lines(manifest, [cut_line(EMMA, 0, 0.5, 2.0), cut_line(OMOO, 0, 0.5, 2.0), BROKEN_CUTS["empty_text"]])

    reports = [load(root, manifest, tmp_path)[1].to_json() for _ in range(2)]

    assert reports[0] == reports[1]
    assert "empty_text" in reports[0]


def test_repaired_audio_is_noticed(tree, tmp_path):
    root, manifest = tree
    path = root / f"{EMMA}.flac"
    content = path.read_bytes()
    path.write_bytes(b"")
    assert load(root, manifest, tmp_path)[1].counts == {"unreadable_audio": 2}

    path.write_bytes(content)

    assert load(root, manifest, tmp_path)[1].num_broken == 0


def test_truncated_chapter_fails_where_its_samples_are_missing(tree, tmp_path):
    root, manifest = tree
    truncate(root / f"{EMMA}.flac")
    rows, report = load(root, manifest, tmp_path)
    assert report.num_broken == 0

    assert len(read_segment(rows[f"{EMMA}_0"])) == 32_000
    with pytest.raises(BrokenInputError, match="truncated_audio"):
        read_segment(rows[f"{EMMA}_1"])


@pytest.mark.parametrize("num_proc", [1, 3])
@pytest.mark.parametrize("content", ["", "[1, 2]", '{"snr": "loud"}'])
def test_broken_chapter_metadata(tree, tmp_path, content, num_proc):
    root, manifest = tree
    (root / f"{EMMA}.json").write_text(content)

    rows, report = load(root, manifest, tmp_path, num_proc=num_proc)

    assert (len(rows), report.counts) == (4, {"bad_metadata": 2})


def test_chapter_metadata_may_be_absent_unless_it_is_asked_for(tree, tmp_path):
    root, manifest = tree
    (root / f"{EMMA}.json").unlink()

    assert load(root, manifest, tmp_path)[0][f"{EMMA}_0"]["snr"] is None
    assert load(root, manifest, tmp_path, min_snr=0.0)[1].counts == {"bad_metadata": 2}


@pytest.mark.parametrize("options", [{}, {"num_proc": 2}, {"streaming": True}])
def test_damaged_manifest_stops_the_run_with_one_line(tree, tmp_path, options):
    root, manifest = tree
    damaged = tmp_path / "damaged.jsonl.gz"
    damaged.write_bytes(gzip.compress(manifest.read_bytes())[:-20])

    with pytest.raises(SpeechSourceError, match=r"cannot read .*damaged\.jsonl\.gz to its end"):
        load(root, damaged, tmp_path, **options)


def test_nothing_usable_is_an_error_that_says_why(tree, tmp_path):
    manifest = write_json_lines(tmp_path / "broken.jsonl", [BROKEN_CUTS["empty_text"]])

    with pytest.raises(SpeechSourceError, match=r"no usable row in .*'empty_text': 1"):
        load(tree[0], manifest, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"manifest": "none.jsonl"}, "no manifest at none.jsonl"),
        ({"subset": "large"}, r"no subset 'large' .*medium"),
        ({"text_column": "title"}, "choose one of book, asr, text"),
        ({"min_duration": 5.0, "max_duration": 1.0}, "leave no utterance"),
        ({"speakers": "100"}, r'pass a list, speakers=\["100"\]'),
        ({"min_srn": 5.0}, "unknown options min_srn"),
    ],
)
def test_wrong_options_are_refused(tree, tmp_path, options, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match=message):
            load_speech(tree[0], cache_dir=str(tmp_path), **options)
