"""examples/evaluate_tts.py: faults that were put into speech come out, and the results stand on their own."""

import csv
import html.parser
import importlib
import json
import re
import shutil
import sys
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import soundfile
import torch
from transformers import EncodecConfig

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.voice_files import save_voice

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
QUICK = ["--mos-model", "none", "--speaker-model", "none"]


@pytest.fixture(scope="module")
def load():
    """Imports a module of examples/ as its scripts do."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module
    for name in [name for name in sys.modules if name.startswith(("evaluate_tts", "evaluation_"))]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    processor = SmallEProcessor.from_characters()
    codec = EncodecConfig(num_filters=4, hidden_size=32, codebook_dim=32, num_lstm_layers=1, target_bandwidths=[3.0])
    torch.manual_seed(0)
    config = SmallEConfig.from_preset("tiny", vocab_size=len(processor.tokenizer), codec_config=codec)
    SmallEForSpeechGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


@pytest.fixture
def voice(tmp_path):
    path = tmp_path / "voice.wav"
    soundfile.write(path, 0.1 * np.sin(np.arange(12000) / 20), 24000)
    return path


class Links(html.parser.HTMLParser):
    """Collects what a page refers to, and checks that its elements are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.links += [value for name, value in attributes if name in ("src", "href")]
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_report(folder: Path) -> str:
    page = (folder / "report.html").read_text(encoding="utf-8")
    report = Links(page)
    assert not report.open
    assert all((folder / unquote(link)).is_file() for link in report.links)
    assert not re.search(r"https?:", page)
    assert not [path for path in folder.rglob("*") if path.name.startswith(".")]
    return page


@pytest.mark.slow
def test_cut_and_doubled_words_are_reported_beside_the_originals(load, data_dir, tmp_path, capsys):
    source = data_dir / "librivox_sense"
    with (source / "metadata.csv").open() as file:
        texts = dict(csv.reader(file, delimiter="|"))
    names = list(texts)[1:4]
    (tmp_path / "audio").mkdir()
    with (tmp_path / "list.jsonl").open("w") as file:
        for name in names:
            file.write(json.dumps({"text": texts[name], "path": str(source / f"{name}.wav")}) + "\n")
    # "young" (2.11 s to 2.33 s) and the silence after it stay; "ill disposed" is cut, "rather selfish" is doubled.
    for name, keep in zip(names, ([(0, 1.3), (2.11, 9)], [(0, 3.59), (2.39, 9)], [(0, 9)]), strict=True):
        samples, rate = soundfile.read(source / f"{name}.wav")
        pieces = [samples[int(start * rate) : int(end * rate)] for start, end in keep]
        soundfile.write(tmp_path / "audio" / f"{name}.flac", np.concatenate(pieces), rate)

    arguments = [str(tmp_path / "list.jsonl"), str(tmp_path / "out"), "--audio-dir", str(tmp_path / "audio")]
    assert load("evaluate_tts").main(arguments) == 0
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [row["skipped"] for row in results["sentences"]] == [["ill disposed"], [], []]
    assert [row["repeated"] for row in results["sentences"]] == [[], ["rather selfish"], []]
    summary = results["summary"]
    assert summary["skip_rate"] == summary["repeat_rate"] == pytest.approx(1 / 3)
    assert summary["reference_skip_or_repeat_rate"] == 0.0
    assert summary["wer_corpus_above_reference"] == summary["wer_corpus"] - summary["reference_wer_corpus"] > 0.05
    assert summary["speaker_similarity_mean"] > 0.9
    untouched = results["sentences"][2]
    assert untouched["mos"] == pytest.approx(untouched["reference_mos"])
    assert untouched["wer"] == untouched["reference_wer"] == 0.0
    assert "num_never_ended" not in summary
    page = check_report(tmp_path / "out")
    assert "skipped: ill disposed" in page
    table = capsys.readouterr().out
    assert re.search(r"Sentences with a skip +33\.3 % +0\.0 %", table)


def test_a_model_is_spoken_judged_and_drawn_the_same_in_any_batch(load, model_folder, voice, tmp_path):
    sentences = ["hello there", "one two three four", "good morning my friends"]
    (tmp_path / "list.jsonl").write_text(
        "\n".join(
            json.dumps({"id": f"s{i}", "text": text, "reference": "voice.wav"}) for i, text in enumerate(sentences)
        )
    )
    for size in ("1", "3"):
        arguments = ["--model", str(model_folder), "--batch-size", size, "--generate", "max_new_tokens=40", *QUICK]
        assert load("evaluate_tts").main([str(tmp_path / "list.jsonl"), str(tmp_path / size), *arguments]) == 0
        check_report(tmp_path / size)
    one, three = (json.loads((tmp_path / size / "results.json").read_text()) for size in ("1", "3"))
    for row, other in zip(one["sentences"], three["sentences"], strict=True):
        assert row["alignment_word_times"] == other["alignment_word_times"]
        assert len(row["words"]) == len(row["alignment_word_times"]) == len(row["text"].split())
        np.testing.assert_allclose(
            soundfile.read(tmp_path / "1" / row["audio_file"])[0],
            soundfile.read(tmp_path / "3" / other["audio_file"])[0],
            atol=1e-3,
        )
        assert (tmp_path / "1" / row["alignment_file"]).read_bytes().startswith(b"\x89PNG")
    summary = one["summary"]
    assert summary["num_sentences"] == 3
    assert summary["real_time_factor"] > 0
    assert len(summary["perplexity_per_codebook"]) == 4
    # An untrained model knows nothing: every id is about equally likely.
    assert summary["perplexity"] == pytest.approx(1027, rel=0.2)
    assert {"alignment_skip_rate", "alignment_repeat_rate", "wer_mean", "wer_corpus", "cer_corpus"} <= set(summary)


def test_a_voice_prompt_is_used_and_its_words_are_not_judged(load, model_folder, voice, tmp_path):
    (tmp_path / "list.txt").write_text("good morning\n")
    arguments = [
        "--voice",
        str(voice),
        "--voice-text",
        "a prompt of five words",
        "--generate",
        "max_new_tokens=20",
        *QUICK,
    ]
    paths = [str(tmp_path / "list.txt"), str(tmp_path / "out"), "--model", str(model_folder)]
    assert load("evaluate_tts").main([*paths, *arguments]) == 0
    [row] = json.loads((tmp_path / "out" / "results.json").read_text())["sentences"]
    assert row["words"] == ["good", "morning"]
    assert len(row["alignment_word_times"]) == 2


def test_a_voice_of_the_checkpoint_is_spoken_in(load, model_folder, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    save_voice(model, "anna", torch.randint(100, (30, 4)), "a prompt of five words")
    sentences = load("evaluation_sentences").Sentence
    speaker = load("evaluation_speech").Speaker(str(model), "cpu", 0, {"max_new_tokens": 20})
    for voice, before in (("anna", len("a prompt of five words ")), (None, 0)):
        [(utterance, _)] = speaker.speak([(0, sentences("a", "good morning", voice=voice))])
        assert utterance.words == ["good", "morning"]
        # Begin, letters, end; the words of the prompt are read and not judged.
        assert utterance.alignment.shape == (20, before + len("good morning") + 2)
        first = utterance.token_to_word.tolist().index(0)
        assert first == 1 + before
        assert set(utterance.token_to_word[first:].tolist()) == {0, -1, 1}


def test_a_voice_that_the_checkpoint_lacks_is_refused(load, model_folder, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("good morning\n")
    paths = [str(tmp_path / "list.txt"), str(tmp_path / "out"), "--model", str(model_folder)]
    assert load("evaluate_tts").main([*paths, "--voice", "bert", *QUICK]) == 1
    assert "no voice 'bert'" in capsys.readouterr().err


def test_earlier_results_do_not_stay(load, voice, tmp_path):
    (tmp_path / "list.tsv").write_text("voice\thello\n")
    old = tmp_path / "out" / "audio" / "old.wav"
    old.parent.mkdir(parents=True)
    old.write_bytes(b"")
    arguments = [str(tmp_path / "list.tsv"), str(tmp_path / "out"), "--audio-dir", str(tmp_path), *QUICK]
    assert load("evaluate_tts").main(arguments) == 0
    assert [path.name for path in old.parent.iterdir()] == ["voice.wav"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--audio-dir", "."], "lacks the speech"),
        (["--model", ".", "--recognizer", "telepathy"], "choose one of"),
        (["--model", ".", "--language", "de"], "English only"),
        (["--audio-dir", ".", "--voice", "missing.wav"], "does not exist"),
        (["--model", "missing-folder", *QUICK], "missing-folder"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_exit_code_1(load, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("list.txt").write_text("hello\n")
    assert load("evaluate_tts").main(["list.txt", "out", *arguments]) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("out").exists()


@pytest.mark.parametrize(
    "arguments",
    [[], ["--model", "a", "--audio-dir", "b"], ["--model", "a", "--limit", "0"], ["--model", "a", "--generate", "x"]],
)
def test_wrong_arguments_end_with_exit_code_2(load, capsys, arguments):
    with pytest.raises(SystemExit) as error:
        load("evaluate_tts").parse_arguments(["list.txt", "out", *arguments])
    assert error.value.code == 2
    assert capsys.readouterr().err


def test_lists_of_sentences_are_read(load, tmp_path, voice):
    read = load("evaluation_sentences").read_sentences
    lists = {
        "plain.txt": "First one.\n\n  Second one. \n...\n",
        "plain.tsv": "First one.\nSecond one.\n",
        "named.tsv": "a\tFirst one.\nb\tSecond one.\n",
        "header.tsv": 'category\ttext\tid\nx\tFirst one.\ta/b\nx\tSecond "one.\tc\n',
        "manifest.jsonl": '{"path": "voice.wav", "text": "First one."}\n{"path": "x.wav", "text": null}\n'
        '{"id": "b", "text": "Second one.", "prompt": "voice.wav", "prompt_text": "hm", "voice": "anna"}\n',
    }
    found = {}
    for name, content in lists.items():
        (tmp_path / name).write_text(content)
        found[name] = read(tmp_path / name)
    ids = {name: [sentence.id for sentence in sentences] for name, (sentences, _) in found.items()}
    assert ids == {
        "plain.txt": ["0001", "0002"],
        "plain.tsv": ["0001", "0002"],
        "named.tsv": ["a", "b"],
        "header.tsv": ["a_b", "c"],
        "manifest.jsonl": ["voice", "b"],
    }
    assert found["header.tsv"][0][1].text == 'Second "one.'
    assert [left_out for _, left_out in found.values()] == [1, 0, 0, 0, 1]
    first, second = found["manifest.jsonl"][0]
    assert (first.reference, first.prompt, first.speaker) == (voice, None, voice)
    assert (second.reference, second.prompt, second.prompt_text, second.voice) == (None, voice, "hm", "anna")
    assert len(read(tmp_path / "plain.txt", limit=1)[0]) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("list.txt", "...\n", "no sentence"),
        ("list.md", "hello", "ends in"),
        ("list.txt", b"\xff\xfe", "UTF-8"),
        ("list.tsv", "a\tb\tc\n", "header"),
        ("list.jsonl", "{", "line 1"),
        ("list.jsonl", "[1]", "line 1"),
        ("list.jsonl", '{"text": "a", "id": "x"}\n{"text": "b", "id": "x"}', "2 times"),
    ],
)
def test_broken_lists_are_refused(load, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        load("evaluation_sentences").read_sentences(path)


def test_a_missing_recording_is_refused(load, tmp_path):
    (tmp_path / "list.jsonl").write_text('{"text": "a b", "reference": "missing.wav"}')
    with pytest.raises(FileNotFoundError, match=r"missing\.wav"):
        load("evaluation_sentences").read_sentences(tmp_path / "list.jsonl")


def test_the_report_shows_any_text_and_numbers_that_are_not_finite(load, tmp_path):
    report = load("evaluation_report")
    row = {
        "id": "a",
        "text": '<script>alert("x")</script> & more',
        "heard": "<b>",
        "seconds": 1.0,
        "ended": False,
        "wer": 0.5,
        "mos": float("nan"),
        "skipped": ["<i>"],
        "alignment_repeated": [0, 1, 3],
        "words": ["one", "two", "three", "four"],
    }
    results = {
        "settings": {"model": "<m>"},
        "summary": {"num_sentences": 1, "perplexity": float("inf")},
        "sentences": [row],
    }
    report.write_results(tmp_path, results)
    page = check_report(tmp_path)
    assert "<script>alert" not in page
    assert "alignment repeated: one two<" in page
    assert "alignment repeated: four<" in page
    assert "never ended" in page
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["summary"]["perplexity"] is None
    assert written["sentences"][0]["mos"] is None
    assert "Perplexity" in report.format_summary(results["summary"])
