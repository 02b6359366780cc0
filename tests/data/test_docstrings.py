"""The examples in the docstrings run, in a folder that holds the corpora they name."""

import doctest
import gzip
import importlib
import json

import datasets
import pytest
from speech_files import cut_line, write_chapter, write_tone

MODULES = [
    "audio_segments",
    "audio_values",
    "chapters",
    "columns",
    "corpora",
    "dataset_rows",
    "folders",
    "libriheavy",
    "librilight",
    "manifests",
    "schema",
    "sources",
    "text_files",
    "tree",
    "validation",
]


@pytest.fixture
def corpora(tmp_path, monkeypatch):
    """A folder with a small corpus of every kind, which becomes the working directory."""
    write_tone(tmp_path / "LJSpeech-1.1" / "wavs" / "LJ001-0001.wav", rate=22_050)
    (tmp_path / "LJSpeech-1.1" / "metadata.csv").write_text("LJ001-0001|In 1465.|In fourteen sixty-five.\n")
    chapter = tmp_path / "LibriSpeech" / "test-clean" / "61" / "70968"
    write_tone(chapter / "61-70968-0000.flac", seconds=3.5)
    (chapter / "61-70968.trans.txt").write_text("61-70968-0000 HE BEGAN A CONFUSED COMPLAINT\n")
    path = write_tone(
        tmp_path / "LibriTTS" / "test-clean" / "61" / "70968" / "61_70968_000000_000000.wav", rate=24_000
    )
    path.with_suffix(".normalized.txt").write_text("He began a confused complaint.")
    write_tone(tmp_path / "VCTK-Corpus-0.92" / "wav48_silence_trimmed" / "p225" / "p225_001_mic1.flac", rate=48_000)
    (tmp_path / "VCTK-Corpus-0.92" / "txt" / "p225").mkdir(parents=True)
    (tmp_path / "VCTK-Corpus-0.92" / "txt" / "p225" / "p225_001.txt").write_text("Please call Stella.")
    write_tone(tmp_path / "corpus" / "a.wav")
    (tmp_path / "corpus" / "manifest.tsv").write_text("path\tsentence\na.wav\tHello.\n")
    emma = "small/100/emma_64kb_mp3/emma_01_64kb"
    write_chapter(tmp_path / "librilight", emma, snr=14.2)
    cut = cut_line(emma, 0, 0.5, 2.0, texts=["Emma Woodhouse, handsome."])
    with gzip.open(tmp_path / "libriheavy_cuts_small.jsonl.gz", "wt") as file:
        file.write(json.dumps(cut) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    return {"my_dataset": datasets.Dataset.from_dict({"audio": ["corpus/a.wav"], "sentence": ["Hello."]})}


@pytest.mark.parametrize("name", MODULES)
def test_examples_run(name, corpora):
    module = importlib.import_module(f"smalle_hf.data.{name}")

    results = doctest.testmod(module, extraglobs=corpora)

    assert results.attempted > 0
    assert results.failed == 0
