"""Error rates on texts whose errors can be counted by hand, and on real speech."""

import pytest

from smalle_hf.metrics import WordErrorRate, create_recognizer, scoring_text


def test_mean_and_corpus_value_differ_and_are_named():
    result = WordErrorRate(keep_in_memory=True).compute(
        predictions=["yes", "one two three for five six seven ate"],
        references=["No.", "one two three four five six seven eight"],
    )
    assert result["wer_mean"] == pytest.approx((1 + 2 / 8) / 2)
    assert result["wer_corpus"] == pytest.approx(3 / 9)
    assert result["wer"] == pytest.approx([1.0, 0.25])
    assert result["cer"][0] == pytest.approx(1.5)
    assert result["cer_corpus"] == pytest.approx((3 + 1 + 5) / (2 + 39))
    assert (result["hits"], result["substitutions"], result["deletions"], result["insertions"]) == (6, 3, 0, 0)


def test_both_sides_are_normalized_alike():
    spoken, heard = "Dr. Smith paid $3 - “twice”, didn't he?", "doctor smith paid three dollars twice didn't he"
    assert scoring_text(spoken) == heard
    assert WordErrorRate().compute(predictions=[spoken.upper()], references=[heard])["wer_mean"] == 0.0


@pytest.mark.parametrize("text", ["", " ... ", "'", "-_-"])
def test_scoring_text_of_no_words_is_empty(text):
    assert scoring_text(text) == ""


def test_silence_is_all_deletions():
    result = WordErrorRate().compute(predictions=[""], references=["a b c"])
    assert result["wer_corpus"] == 1.0
    assert result["deletions"] == 3


def test_a_reference_without_words_is_refused():
    with pytest.raises(ValueError, match="no words"):
        WordErrorRate().compute(predictions=["a"], references=["?!"])


def test_batches_add_up():
    metric = WordErrorRate()
    metric.add_batch(predictions=["a b"], references=["a b"])
    metric.add(prediction="a", reference="a b")
    assert metric.compute()["wer_corpus"] == 0.25


@pytest.mark.slow
def test_recognizer_that_expects_the_sentences_is_sharper_than_the_generic_one(recordings):
    texts = [recording.text for recording in recordings]
    rates = {}
    for name in ("pocketsphinx", "pocketsphinx:words", "pocketsphinx:sentences"):
        recognizer = create_recognizer(name, texts=texts)
        heard = [recognizer(recording.samples, 16000) for recording in recordings]
        rates[name] = WordErrorRate().compute(predictions=heard, references=texts)["wer_corpus"]
    assert rates["pocketsphinx"] > rates["pocketsphinx:words"] > rates["pocketsphinx:sentences"]
    assert rates["pocketsphinx"] < 0.4
    assert rates["pocketsphinx:sentences"] < 0.05
