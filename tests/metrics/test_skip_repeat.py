"""Skips and repeats in texts, in real speech that was cut or doubled, and in alignments."""

import pytest
import torch
from torch.nn import functional

from smalle_hf.metrics import AlignmentSkipRepeat, RecognizerSkipRepeat, create_recognizer, find_word_runs

TEXT = "Unless to be rather cold hearted and rather selfish is to be ill disposed."


@pytest.mark.parametrize(
    ("heard", "skipped", "repeated"),
    [
        ("unless to be rather cold hearted and rather selfish is to be ill disposed", (), ()),
        ("unless to be rather cold and rather selfish is to be ill disposed", ("hearted",), ()),
        ("unless to be rather selfish is to be ill disposed", ("cold hearted and rather",), ()),
        ("unless to be rather cold hearted", ("and rather selfish is to be ill disposed",), ()),
        ("unless to be rather rather cold hearted and rather selfish is to be ill disposed", (), ("rather",)),
        ("unless to be rather cold cold hearted cold hearted and rather selfish is to be ill disposed", (), ("cold",)),
        ("unless to be rather cold hearted and rather selfish is to is to be ill disposed", (), ("is to",)),
        ("unless to be rather cold hearted and rather selfish is to be ill disposed disposed", (), ("disposed",)),
        # What a recognizer mishears is neither.
        ("homeless to be rather cold hearted in rather selfish is to be the oldest those", (), ()),
        ("unless be rather cold hearted and rather selfish is to be ill disposed", (), ()),
    ],
)
def test_runs_of_words_in_texts(heard, skipped, repeated):
    runs = find_word_runs(TEXT, heard)
    assert runs.skipped == skipped
    assert runs.repeated[: len(repeated)] == repeated
    assert bool(runs.repeated) == bool(repeated)


def test_what_is_written_twice_may_be_said_twice():
    assert find_word_runs("never never never again", "never never never again").repeated == ()
    assert find_word_runs("never never never again", "never never never never again").repeated == ("never",)
    assert find_word_runs("never never never again", "never never again").skipped == ("never",)


def test_options_set_what_counts_as_a_run():
    assert find_word_runs("no no no", "no no").skipped == ()
    assert find_word_runs("no no no", "no no", min_letters=2).skipped == ("no",)
    assert find_word_runs(TEXT, TEXT.replace("hearted ", ""), min_words=2).skipped == ()


def test_nothing_heard_skips_everything_and_nothing_written_is_refused():
    assert find_word_runs("good morning", "").skipped == ("good morning",)
    with pytest.raises(ValueError, match="no words"):
        find_word_runs("--", "good morning")


def test_rates_count_utterances():
    heard = [TEXT, TEXT.replace("cold hearted ", ""), TEXT.replace("hearted", "hearted hearted"), "unless to be"]
    result = RecognizerSkipRepeat().compute(predictions=heard, references=[TEXT] * 4)
    assert result["num_utterances"] == 4
    assert (result["skip_rate"], result["repeat_rate"], result["skip_or_repeat_rate"]) == (0.5, 0.25, 0.75)
    assert result["skipped"][1] == ["cold hearted"]


# (recording, first word, last word): one to three words each, at the beginning, in the middle and at the end.
SPANS = [(0, 3, 4), (0, 12, 14), (1, 5, 6), (2, 3, 5), (2, 8, 8), (3, 2, 3), (3, 9, 11), (4, 5, 7)]


@pytest.mark.slow
def test_words_cut_out_of_speech_are_skips_and_words_doubled_in_speech_are_repeats(recordings):
    texts = [recording.text for recording in recordings]
    recognizer = create_recognizer("pocketsphinx:sentences", texts=texts)

    def count(speech, indices):
        heard = [recognizer(samples, 16000) for samples in speech]
        result = RecognizerSkipRepeat().compute(predictions=heard, references=[texts[index] for index in indices])
        return result["num_skips"], result["num_repeats"]

    rows = [index for index, _, _ in SPANS]
    assert count([recording.samples for recording in recordings], range(5)) == (0, 0)
    assert count([recordings[index].without(first, last) for index, first, last in SPANS], rows) == (len(SPANS), 0)
    assert count([recordings[index].doubled(first, last) for index, first, last in SPANS], rows) == (0, len(SPANS))


def test_the_generic_recognizer_hears_cuts_too(recordings):
    recognizer = create_recognizer("pocketsphinx")
    for index, first, last in SPANS[:4]:
        recording = recordings[index]
        heard = recognizer(recording.without(first, last), 16000)
        assert find_word_runs(recording.text, heard).skipped, heard


def alignment(tokens: list[int], num_tokens: int = 9) -> list[list[float]]:
    return functional.one_hot(torch.tensor(tokens).repeat_interleave(6), num_tokens).float().tolist()


def test_alignments_tell_skipped_repeated_and_unfinished_words():
    words = [-1, 0, 0, 0, 1, 1, 1, 2, -1]
    paths = [
        [0, 1, 2, 3, 4, 5, 6, 7, 8],
        [0, 1, 2, 3, 7, 8],
        [0, 1, 2, 3, 1, 2, 3, 4, 5, 6, 7, 8],
        [0, 1, 2, 3, 4, 5],
    ]
    result = AlignmentSkipRepeat().compute(
        alignments=[alignment(path) for path in paths], token_to_word=[words] * len(paths)
    )
    assert result["skipped"] == [[], [1], [], [2]]
    assert result["repeated"] == [[], [], [0], []]
    assert (result["skip_rate"], result["repeat_rate"], result["unfinished_rate"]) == (0.5, 0.25, 0.25)


def test_ragged_alignments_are_taken_as_they_are():
    result = AlignmentSkipRepeat(keep_in_memory=True).compute(
        alignments=[alignment([0, 1, 2], 3), alignment([0, 1, 2, 3, 4], 5)],
        token_to_word=[[-1, 0, -1], [-1, 0, 0, 1, -1]],
    )
    assert result["skip_or_repeat_rate"] == 0.0
