"""Phonemes as text units: words keep their places, processors keep their voice, errors say what to do."""

import sys
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalle_hf import SmallEProcessor
from smalle_hf.alignment import split_words
from smalle_hf.phonemes import IPA_CHARACTERS, phonemize
from smalle_hf.text_normalization import normalize_text

pytest.importorskip("espeakng_loader", reason="espeak-ng is not installed")


@pytest.fixture(scope="module")
def processor() -> SmallEProcessor:
    return SmallEProcessor.from_phonemes()


def test_words_become_phonemes_and_the_rest_stays():
    assert phonemize("the quick fox, it's lazy!") == "ðə kwˈɪk fˈɑːks, ɪts lˈeɪzi!"


def test_spelling_does_not_matter_but_sound_does():
    assert phonemize("knight") == phonemize("night")
    assert phonemize("though") != phonemize("tough")


def test_other_languages_have_voices_of_their_own():
    assert phonemize("tag", "de") == "tˈɑːk"
    assert phonemize("tag") == "tˈæɡ"


@pytest.mark.parametrize("word", ["www", "qqq", "mother-in-law", "o'clock", "déjà"])
def test_a_word_stays_one_word(word):
    assert len(phonemize(word).split()) == 1


@given(st.text(max_size=60))
@settings(deadline=None)
def test_any_text_has_as_many_words_in_phonemes(text):
    normalized = normalize_text(text)
    assert len(split_words(phonemize(normalized))) == len(split_words(normalized))


@given(st.text(alphabet="abcdefghijklmnopqrstuvwxyz' .,?", min_size=1, max_size=60))
@settings(deadline=None)
def test_english_needs_no_other_characters(text):
    known = set(IPA_CHARACTERS + " !\"',-.:;?abcdefghijklmnopqrstuvwxyz")
    assert set(phonemize(normalize_text(text))) <= known


def test_every_character_survives_the_tokenizer(processor):
    assert all(unicodedata.normalize("NFKC", character).lower() == character for character in IPA_CHARACTERS)
    assert len(set(IPA_CHARACTERS)) == len(IPA_CHARACTERS)
    text = processor.normalize("The quick brown fox, paid $5!")
    ids = processor.tokenizer(text)["input_ids"]
    assert processor.tokenizer.decode(ids, skip_special_tokens=True) == text


def test_words_are_read_in_letters_and_counted_in_phonemes(processor):
    text = "Dr. Dolittle's mother-in-law paid $5."
    assert processor.words(text) == ["doctor", "dolittle's", "mother-in-law", "paid", "five", "dollars."]
    assert len(split_words(processor.normalize(text))) == 6


def test_a_saved_processor_reads_phonemes_again(processor, tmp_path):
    processor.save_pretrained(tmp_path)
    loaded = SmallEProcessor.from_pretrained(tmp_path)
    assert loaded.phoneme_voice == "en-us"
    assert loaded("knight").input_ids.tolist() == processor("night").input_ids.tolist()


def test_letters_are_the_default():
    assert SmallEProcessor.from_characters().normalize("Knight") == "knight"


def test_an_unknown_voice_is_named_before_any_work():
    with pytest.raises(ValueError, match="no voice 'xx-yy'"):
        SmallEProcessor.from_phonemes("xx-yy")
    assert phonemize("night") == "nˈaɪt"  # and the next call finds its own voice again


def test_without_espeak_the_error_says_what_to_install(monkeypatch):
    from smalle_hf import phonemes

    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(ImportError, match="pip install espeakng-loader"):
        phonemes._Espeak()
