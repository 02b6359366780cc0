"""Long texts fall apart into what one would say in one breath, lose nothing, and are joined without clicks."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalle_hf.sentences import collect_sentences, join_speech, pause_after, split_sentences, split_text

SENTENCES = [
    ["One. ", "Two! ", "Three? ", "Four"],
    ["Dr. Smith paid $3.14. ", "He left."],
    ["Mr. and Mrs. Dursley live at no. 4. ", "Fig. 3 shows e.g. apples. ", "It was 1999. ", "Then nothing."],
    ['He said: "What?" and left. ', '"No!" she cried. ', "‘Yes.’ ", "(He knew.) ", "Good."],
    ["Well... perhaps not. ", "Wait… ", "What?! ", "No."],
    ["He met J. R. R. Tolkien in the U.S. army, etc. ", "Then he went home."],
    ["We meet at 5 p.m. sharp. ", "At 6 p.m. ", "Ann left on Jan. 5 with 3.5 kg."],
    ["No. ", "I will not. ", "Can I? ", "It was I. ", "Newton said so."],
    ["1. Do this. ", "2. Do that. ", "3) Stop."],
    ["A heading\n\n", "A wrapped\nline goes on.\n\n\n", "The end.\n"],
    ["你好。", "再见！", "「好。」", "完"],
    ["Really?! ", "-- ... Yes 🙂."],
    ["He ate a fig. ", "She drew in vol. 2, p. 7 of it. ", "The dog sat. ", "See www.example.com. ", "Fine."],
    ["..."],
    [" \n"],
]


@pytest.mark.parametrize("sentences", SENTENCES, ids=lambda sentences: sentences[0].strip()[:20])
def test_sentences(sentences: list[str]) -> None:
    assert split_sentences("".join(sentences)) == sentences


def test_no_text_has_no_sentences() -> None:
    assert split_sentences("") == []
    assert split_text("", lambda piece: True) == []


def test_leading_punctuation_stays_with_the_first_sentence() -> None:
    assert split_sentences("... ! And so it began. Then") == ["... ! And so it began. ", "Then"]


TEXTS = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.sampled_from(
            ["a", "Dr", "No", "5", ".", "...", "!", "?", ",", ";", " ", "\n", "\n\n", '"', ")", "“", "。", "é"]
        ),
        max_size=80,
    ).map("".join),
)


@settings(max_examples=300, deadline=None)
@given(text=TEXTS, longest=st.integers(1, 40))
def test_the_pieces_are_the_text_and_fit(text: str, longest: int) -> None:
    pieces = split_text(text, lambda piece: len(piece) <= longest)
    assert "".join(pieces) == text
    assert all(0 < len(piece) <= longest for piece in pieces)


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_every_sentence_has_a_word_if_the_text_has_one(text: str) -> None:
    sentences = split_sentences(text)
    assert "".join(sentences) == text
    if any(map(str.isalnum, text)):
        assert all(any(map(str.isalnum, sentence)) for sentence in sentences)


def test_long_sentences_are_cut_at_clauses_before_words_and_at_words_before_letters() -> None:
    text = "When it was late in the evening, we went home through the empty streets of the town"
    assert split_text(text, lambda piece: len(piece) <= 60)[0] == "When it was late in the evening, "
    words = split_text("one two three four five six seven eight", lambda piece: len(piece) <= 12)
    assert [piece.strip() for piece in words] == ["one two", "three four", "five six", "seven eight"]
    assert split_text("a" * 10, lambda piece: len(piece) <= 5) == ["aaaaa", "aaaaa"]


@pytest.mark.parametrize("unit", [" ", "\n", "\n ", "word ", "a. b. ", "!", "a", '."', "! ", "1. ", "a\n\nb "])
def test_time_grows_with_the_text_and_not_with_its_square(unit: str) -> None:
    text = unit * (60_000 // len(unit))
    started = time.process_time()
    assert "".join(split_text(text, lambda piece: len(piece) <= 200)) == text
    assert time.process_time() - started < 5.0


def test_pauses_by_what_ends_a_piece() -> None:
    pieces = ["The end.\n\n", 'He said "no." ', "if so, ", "in the "]
    pauses = [pause_after(piece) for piece in pieces]
    assert pauses == sorted(pauses, reverse=True)
    assert len(set(pauses)) == 4
    assert pauses[-1] == 0.0


def test_speech_is_joined_with_silence_between_and_no_clicks() -> None:
    rate = 1000
    parts = [np.full(200, 0.5), np.full(100, -0.5, dtype=np.float32)]
    joined = join_speech(parts, [0.1, 9.0], rate)
    assert joined.dtype == np.float32
    assert joined.shape == (200 + 100 + 100,)
    assert not joined[200:300].any()
    assert abs(np.diff(joined)).max() <= 0.5 / 4 + 1e-6  # edges are ramps of five samples
    np.testing.assert_array_equal(joined[:195], 0.5)
    np.testing.assert_array_equal(parts[0], 0.5)  # the input is left alone


def test_one_waveform_is_joined_to_itself() -> None:
    waveform = np.linspace(-1, 1, 50, dtype=np.float32)
    np.testing.assert_array_equal(join_speech([waveform], [0.3], 1000), waveform)
    assert join_speech([waveform[:0], waveform], [0.0, 0.0], 1000).shape == (50,)


def test_joining_needs_a_pause_for_each_waveform() -> None:
    with pytest.raises(ValueError, match="one pause for each"):
        join_speech([np.zeros(3)], [], 1000)
    with pytest.raises(ValueError, match="0 waveforms"):
        join_speech([], [], 1000)


@given(
    st.lists(
        st.sampled_from(
            ["Dr. ", "Smith. ", "it", " is", "? ", ".", " ", "\n\n", '"No', '." ', "3.", "5 ", "A", "e.g. "]
        )
    ),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_sentences_are_the_same_however_the_text_arrives(words: list[str], sizes: list[int]) -> None:
    text, fragments, start = "".join(words), [], 0
    while start < len(text):
        size = sizes[len(fragments) % len(sizes)]
        fragments.append(text[start : start + size])
        start += size
    assert list(collect_sentences(fragments)) == split_sentences(text)


def test_a_sentence_is_there_as_soon_as_a_word_follows_it() -> None:
    fragments = iter(["Hello, Dr", ". Smith", ". ", "How", " are you?"])
    sentences = collect_sentences(fragments)
    assert next(sentences) == "Hello, Dr. Smith. "
    assert next(fragments) == " are you?"
