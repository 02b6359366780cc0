"""The corpus of the demo voice: plain sentences, splits that do not meet, runs that resume."""

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "voice"
SCRIPT = FOLDER / "make_corpus.py"
FORMS = {
    "cat": ["cat", "cat's", "cats"],
    "box": ["box", "box's", "boxes"],
    "city": ["city", "city's", "cities"],
    "walk": ["walk", "walks", "walked", "walking"],
    "stop": ["stop", "stops", "stopped", "stopping"],
    "carry": ["bury", "buries", "buried", "burying"],
    "bake": ["bake", "bakes", "baked", "baking"],
    "small": ["small", "smaller", "smallest"],
    "happy": ["happy", "happier", "happiest"],
    "useful": ["useful", "usefully"],
    "slow": ["slow", "slower", "slowest", "slowly"],
}


@pytest.fixture
def corpus_modules(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import lexicon
    import make_corpus
    import sentences

    return lexicon, sentences, make_corpus


@pytest.fixture
def word_lexicon(corpus_modules):
    words = {word for forms in FORMS.values() for word in forms}
    return corpus_modules[0].build_lexicon({10: words, 20: set(), 35: set()})


def test_parts_of_speech_follow_from_the_inflections(word_lexicon):
    assert word_lexicon.nouns[10] == (("box", "boxes"), ("cat", "cats"), ("city", "cities"))
    regular = [(verb.base, verb.third, verb.past, verb.gerund) for verb in word_lexicon.verbs[10] if verb.base < "c"]
    assert ("bury", "buries", "buried", "burying") in regular
    assert ("bake", "bakes", "baked", "baking") in regular
    assert {"small", "happy", "useful", "slow"} <= set(word_lexicon.adjectives[10])
    assert word_lexicon.adverbs[10] == ("slowly", "usefully")
    walk = next(verb for verb in word_lexicon.verbs[10] if verb.base == "write")
    assert (walk.past, walk.participle, walk.gerund) == ("wrote", "written", "writing")


def test_sentences_are_plain_unique_and_reproducible(corpus_modules, word_lexicon):
    _, sentences, _ = corpus_modules

    def draw(seed, ordinary):
        generator = sentences.SentenceGenerator(word_lexicon, random.Random(seed))
        return list(sentences.unique_sentences(generator, 1000, ordinary, set()))

    texts = draw(1, False)
    assert texts == draw(1, False) != draw(2, False)
    assert len({sentences.normalise(text) for text in texts}) == len(texts)
    for text in texts:
        assert re.fullmatch(r"[A-Z][A-Za-z ,'-]*[.?!]", text), text
        assert 1 <= len(text.split()) <= 40
        assert "  " not in text
        assert not re.search(r"\b[Aa] [aeiou]\w", text.replace(", a ", "")), text
    assert any(re.search(r"\b(\w+),? \1,? \1\b", text) for text in texts)  # repeats
    assert any(re.search(r"\b[A-Z]( [A-Z]){2,}", text) for text in texts)  # spelled letters
    assert any("hundred" in text for text in texts)
    assert any(len(text.split()) >= 20 for text in texts)
    assert sum(text.endswith("?") for text in texts) > 50
    assert max(len(text.split()) for text in draw(1, True)) < 35


def test_no_sentence_is_in_both_splits(corpus_modules, word_lexicon, monkeypatch):
    _, sentences, make_corpus = corpus_modules
    monkeypatch.setattr(make_corpus, "read_scowl", dict)
    monkeypatch.setattr(make_corpus, "build_lexicon", lambda levels: word_lexicon)
    training, held_out = make_corpus.plan_corpus(["one", "two"], hours=0.5, held_out=20, seed=0)
    assert not {sentences.normalise(item.text) for item in training} & {
        sentences.normalise(item.text) for item in held_out
    }
    assert [sum(item.speaker == voice for item in held_out) for voice in ("one", "two")] == [20, 20]
    assert len({item.id for item in training + held_out}) == len(training) + len(held_out)


def test_silence_is_cut_alike_at_both_ends(corpus_modules):
    trim_silence = corpus_modules[2].trim_silence
    rate = 16000
    speech = 0.3 * np.sin(np.arange(rate) / 5)
    kept = trim_silence(np.concatenate([np.zeros(9000), speech, np.zeros(30000)]), rate)
    assert abs(len(kept) - (0.1 + 1.0 + 0.16) * rate) < 0.03 * rate
    assert np.abs(kept[: rate // 20]).max() == 0.0
    assert len(trim_silence(speech, rate)) == len(speech)
    assert len(trim_silence(np.zeros(100), rate)) == 100


def run(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *map(str, arguments)], capture_output=True, text=True, check=False)


@pytest.mark.skipif(shutil.which("flite") is None, reason="flite is not installed")
def test_a_stopped_run_goes_on_and_gives_the_same(tmp_path, corpus_modules):
    if not corpus_modules[0].SCOWL_DIRECTORY.exists():
        pytest.skip("the word lists of the package scowl are not installed")
    options = [tmp_path, "--hours", 0.004, "--voices", "slt", "--held-out", 2, "--workers", 1]
    assert run(*options).returncode == 0
    manifests = {name: (tmp_path / name).read_text() for name in ("train.jsonl", "held_out.jsonl")}
    rows = [json.loads(line) for text in manifests.values() for line in text.splitlines()]
    assert len(manifests["held_out.jsonl"].splitlines()) == 2
    audio = {row["path"]: (tmp_path / row["path"]).read_bytes() for row in rows}
    for row in rows:
        info = soundfile.info(tmp_path / row["path"])
        assert (info.samplerate, info.channels) == (16000, 1) == (row["sampling_rate"], 1)
        assert info.duration == pytest.approx(row["duration"], abs=1e-3)
        assert (row["speaker"], row["language"], row["licence"]) == ("slt", "en", "MIT-Festival")
    lost = rows[0]["path"]
    (tmp_path / lost).unlink()
    (tmp_path / "train.jsonl").unlink()
    assert run(*options).returncode == 0
    assert {name: (tmp_path / name).read_text() for name in manifests} == manifests
    assert (tmp_path / lost).read_bytes() == audio[lost]
    other = run(*options, "--seed", 1)
    assert other.returncode == 1
    assert "other options" in other.stderr
    assert len(other.stderr.strip().splitlines()) == 1
