"""Contracts of the text normaliser: no text fails, twice is once, and English comes out as it is spoken."""

import re
import sys
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smalle_hf.text_normalization import normalize_text

LANGUAGES = ["en", "en-GB", "de", "fr", "pl", "pt-BR", "ar", "ja", "xx", ""]

# What rules look for, so that generated text meets them in every combination.
FRAGMENTS = [
    *".,;:!?'\"-–—()[]/%$€£¥&@+=#~^°_*|…’“”½²™№0125abiABI",
    *("--", "10", "12", "03", "1984", "2021", "1,000", "3.5", "007", "1990s", "1st", "22nd", "II", "mr", "Mr.", "MR"),
    *("mrs.", "st", "St.", "Dr.", "dr.", "e.g.", "i.e", "etc.", "Jr.", "No.", "no.", "vs", "p.", "c.", "am", "p.m."),
    *("PM", "km", "kg", "°C", "m²", "March", "Mar.", "May", "BBC", "NASA", "USA", "CEOs", "U.S.", "example", ".com"),
    *("www.", "http://", "million", "k", "USD", "o'clock", "Henry", "Chapter", "and/or", "w/o", "&c", "Ph.D.", "x.y"),
    *("é", "e\u0301", "\u0301", "ß", "İ", "ſ", "K", "\u200d", "\ud800", "３", "٣", "。", "💡"),
]
RULE_TEXT = st.lists(st.sampled_from([*FRAGMENTS, " ", " ", " "]), max_size=12).map("".join)
ANY_TEXT = st.one_of(st.text(max_size=40), st.text(st.characters(), max_size=20), RULE_TEXT)


@given(ANY_TEXT, st.sampled_from(LANGUAGES))
@settings(max_examples=600, deadline=None)
def test_any_text_is_normalized_and_twice_is_once(text: str, language: str) -> None:
    once = normalize_text(text, language)
    assert normalize_text(once, language) == once
    assert once == once.strip()
    assert "  " not in once
    once.encode("utf-8")


def test_every_compatibility_character_is_normalized_at_once() -> None:
    characters = [chr(point) for point in range(sys.maxunicode + 1)]
    changed = [character for character in characters if unicodedata.normalize("NFKC", character) != character]
    assert len(changed) > 4000
    for character in changed:
        once = normalize_text(f"a{character}b 5{character}6")
        assert normalize_text(once) == once


@given(RULE_TEXT)
@settings(max_examples=400, deadline=None)
def test_english_is_left_without_digits_signs_or_capitals(text: str) -> None:
    assert not re.search(r"[0-9A-Z$€£¥%&@+=#~^°_*|<>(){}\[\]]", normalize_text(text))


@pytest.mark.parametrize(
    ("text", "spoken"),
    [
        ("In 1984 and the 1990s, or the '90s.", "in nineteen eighty-four and the nineteen nineties, or the nineties."),
        (
            "1,234,567 and 20 000 and 007",
            "one million two hundred and thirty-four thousand five hundred and sixty-seven "
            "and twenty thousand and zero zero seven",
        ),
        ("-5, -2.5, .5 and 3.14", "minus five, minus two point five, point five and three point one four"),
        ("1st, 22nd, 1,000th", "first, twenty-second, one thousandth"),
        (
            "1/2, 3/4, 1 1/2, 2½, 24/7, 7/5",
            "one half, three quarters, one and a half, two and a half, twenty-four seven, seven over five",
        ),
        ("50/50, x² and 10^5", "fifty fifty, x squared and ten to the power of five"),
        ("100%, 5‰, №7 and #8", "one hundred percent, five per mille, number seven and number eight"),
        (
            "$3.50, £1, €20, ¥500, 5€",
            "three dollars and fifty cents, one pound, twenty euros, five hundred yen, five euros",
        ),
        (
            "$1.2 million, £5m, $0.99, $1.01, -$5",
            "one point two million dollars, five million pounds, "
            "ninety-nine cents, one dollar and one cent, minus five dollars",
        ),
        (
            "at 3:45pm, 10:00 am, 10:00, 10:05, 7 o'clock or 5 a.m.",
            "at three forty-five p m, ten a m, ten o'clock, ten oh five, seven o'clock or five a m.",
        ),
        ("on 12 March 2021", "on the twelfth of march, twenty twenty-one"),
        (
            "On August 28th, Aug. 28, 2021-03-12, 31.12.2020",
            "on august twenty-eighth, august twenty-eighth, "
            "march twelfth, twenty twenty-one, december thirty-first, twenty twenty",
        ),
        (
            "Mr. and Mrs Smith vs. Dr. Who, Prof. X, John Jr., etc.",
            "mister and missus smith versus doctor who, professor x, john junior, et cetera.",
        ),
        (
            "St. John of Baker St. is here, e.g. at No. 5, i.e. near &c",
            "saint john of baker street is here, for example at number five, that is near et cetera",
        ),
        ("A & B @ C + D = E, approx. 5", "a and b at c plus d equals e, approximately five"),
        (
            "5 km, 1 kg, 60mph, 20 °C, 10 m², a 5-km run",
            "five kilometers, one kilogram, sixty miles per hour, "
            "twenty degrees celsius, ten square meters, a five kilometer run",
        ),
        ("€5-10, 20%-30%, pp. 3-5", "five euros to ten, twenty percent to thirty percent, pages three to five"),
        ("1-800-555-1234 at 5.30pm,", "one, eight zero zero, five five five, one two three four at five thirty p m,"),
        ("NASA, the BBC, U.S.A., J. R. R. Tolkien", "nasa, the b b c, u s a, j r r tolkien"),
        ("Henry VIII in World War II", "henry the eighth in world war two"),
        (
            "me@mail.co.uk, https://www.example.com/a_b",
            "me at mail dot co dot uk, example dot com slash a underscore b",
        ),
        ("“Curly” ‘quotes’ — dash–dash… and 5–10", "\"curly\" 'quotes' - dash - dash... and five to ten"),
        ("He said (quietly) that. (He left.) [Gone]", "he said, quietly, that. he left. gone"),
        ("MR QUILTER IS THE APOSTLE", "mister quilter is the apostle"),
        ("  tabs\tand\r\nlines\u00a0\u200b\x00 ", "tabs and lines"),
        ("ﬁne ｆｕｌｌ Ⅷ CAFÉ", "fine full viii café"),
        ("", ""),
        (" \u200b\ud800 ", ""),
    ],
)
def test_english_is_written_as_it_is_spoken(text: str, spoken: str) -> None:
    assert normalize_text(text) == spoken


def test_long_number_is_read_digit_by_digit() -> None:
    digits = "1234567890" * 4
    assert normalize_text(digits) == " ".join(["one two three four five six seven eight nine zero"] * 4)
    assert normalize_text("call 555-123-4567.").startswith("call five five five, one two three, four")


@pytest.mark.parametrize(
    "unit",
    [
        *(
            "1",
            "1,",
            "1.",
            "111,",
            "1/",
            "1:",
            "1-",
            "0 1 ",
            "a",
            "A",
            "a.b.",
            "a-",
            "( ",
            ", ",
            "!,",
            "$",
            "'",
            "@",
            "x@",
        ),
        *("www.", "St. ", "March 5 ", "é", "\u0301", "  ", "-", "III ", "~", "I. "),
    ],
)
def test_long_text_takes_linear_time(unit: str) -> None:
    normalize_text("warm up")
    start = time.process_time()
    normalize_text(unit * (50_000 // len(unit)))
    # A quadratic rule takes minutes here.
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("text", "language", "spoken"),
    [
        (
            "Es ist 21 Uhr, 1.234 Leute – 3,5 %",
            "de",
            "es ist einundzwanzig uhr, eintausendzweihundertvierunddreißig leute - drei komma fünf %",
        ),
        ("J'ai 71 ans", "fr-FR", "j'ai soixante et onze ans"),
        ("Τέλος 5", "el", "τέλος 5"),
        ("«Да» 7", "ru", '"да" семь'),
        ("٣", "ar", "ثلاثة"),
    ],
)
def test_other_languages_get_their_numbers_where_num2words_knows_them(text: str, language: str, spoken: str) -> None:
    assert normalize_text(text, language) == spoken


def test_reading_agrees_with_published_transcripts(data_dir: Path) -> None:
    rows = [line.split("|") for line in (data_dir / "ljspeech_sample/metadata.csv").read_text("utf-8").splitlines()]
    assert len(rows) >= 35
    for name, written, spoken in rows:
        assert normalize_text(written) == normalize_text(spoken), name


def test_hard_sentences_keep_their_words(data_dir: Path) -> None:
    lines = (data_dir / "hard_texts/hard_en.txt").read_text("utf-8").splitlines()
    assert lines
    for line in lines:
        normalized = normalize_text(line)
        assert normalize_text(normalized) == normalized
        if not re.search(r"\d|\b(Mr|AI)\b", line):
            assert re.findall(r"[a-z]+", normalized) == re.findall(r"[a-z]+", line.lower())


def test_real_text_of_many_languages_is_normalized(data_dir: Path) -> None:
    files = sorted((data_dir / "hard_texts").glob("**/*.txt"))
    assert len(files) >= 40
    for file in files:
        for line in file.read_text("utf-8").splitlines():
            normalized = normalize_text(line, file.stem)
            assert normalize_text(normalized, file.stem) == normalized
