"""Text of any length: what comes as a stream is what the sentences are alone, joined; one voice, constant memory."""

import gc
import itertools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from codec_models import lively_codec, small_codec_config
from core_models import endless_model, random_codes, stopping_model
from hypothesis import given, settings
from hypothesis import strategies as st

from smalle_hf import SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.alignment import analyze_alignment, map_tokens_to_words, split_words, token_times, word_times
from smalle_hf.long_form import Narrator, stream_speech
from smalle_hf.sentences import SpeechJoiner, join_speech, pause_after

TEXT = "Mr. Smith paid $3. He said: it is café time!\n\nWas it?"
VOICE_TEXT = "one two"
SAMPLED = {"top_k": 20, "num_sampled_codebooks": 4}


@pytest.fixture(scope="module")
def processor() -> SmallEProcessor:
    return SmallEProcessor.from_characters()


def speaker(processor: SmallEProcessor, build: Any = endless_model, **options: Any) -> SmallEForSpeechGeneration:
    codec = small_codec_config(codebook_size=32)
    sizes = {"vocab_size": len(processor.tokenizer), "codec_config": codec, "codebook_size": 32}
    model = build(**sizes, max_text_length=60, max_frames_per_text_token=1.5, **options)
    lively_codec(model.codec_model)
    processor.sampling_rate, processor.num_codebooks = model.config.sampling_rate, model.config.num_codebooks
    processor.codebook_size, processor.max_text_length = 32, 60
    return model


@pytest.fixture(scope="module")
def model(processor: SmallEProcessor) -> SmallEForSpeechGeneration:
    return speaker(processor)


@pytest.fixture(scope="module")
def voice(model: SmallEForSpeechGeneration) -> dict[str, Any]:
    return {"audio_prompt_codes": random_codes(model.config, 8)[0], "audio_prompt_text": VOICE_TEXT}


def offline(model: Any, processor: Any, pieces: list[str], voice: dict, seed: int) -> list[Any]:
    """The outputs of `generate` for each piece alone."""
    outputs = []
    for index, piece in enumerate(pieces):
        inputs = processor(piece, **voice)
        limit = math.ceil(inputs.input_ids.shape[1] * model.config.max_frames_per_text_token)
        outputs.append(
            model.generate(**inputs, max_new_tokens=limit, seed=seed + index, return_alignments=True, **SAMPLED)
        )
    return outputs


def heard(chunks: list) -> np.ndarray:
    return np.concatenate([chunk.audio for chunk in chunks])


@pytest.mark.filterwarnings("ignore:The model found no end")
@pytest.mark.parametrize("as_sentences", [False, True], ids=["text", "sentences"])
@pytest.mark.parametrize(("chunk_ms", "lookahead_ms"), [(1, 0), (9, 4), (500, 0)])
def test_a_long_text_is_its_sentences_joined(model, processor, voice, chunk_ms, lookahead_ms, as_sentences) -> None:
    pieces = Narrator(model, processor, voice).split(TEXT)
    assert len(pieces) >= 3
    outputs = offline(model, processor, pieces, voice, seed=5)
    expected = join_speech(
        [processor.decode(output) for output in outputs],
        [pause_after(piece) for piece in pieces],
        processor.sampling_rate,
    )
    text = iter(pieces) if as_sentences else TEXT
    chunks = list(
        stream_speech(text, model, processor, voice, seed=5, chunk_ms=chunk_ms, lookahead_ms=lookahead_ms, **SAMPLED)
    )
    np.testing.assert_allclose(heard(chunks), expected, atol=1e-4)
    samples = 0
    for chunk in chunks:
        assert chunk.audio.dtype == np.float32
        assert chunk.start == pytest.approx(samples / processor.sampling_rate)
        samples += len(chunk.audio)
    assert [text for text, _ in itertools.groupby(chunk.text for chunk in chunks)] == pieces


@pytest.mark.filterwarnings("ignore:The model found no end")
def test_words_are_told_once_when_they_are_certain(model, processor, voice) -> None:
    pieces = Narrator(model, processor, voice).split(TEXT)
    outputs = offline(model, processor, pieces, voice, seed=5)
    expected, start = [], 0.0
    for piece, output in zip(pieces, outputs, strict=True):
        text = f"{processor.normalize(VOICE_TEXT)} {processor.normalize(piece)}"
        offsets = processor.tokenizer(text, return_offsets_mapping=True)["offset_mapping"]
        path = analyze_alignment(output.alignments, output.sequence_lengths).path
        tokens = token_times(path, output.sequence_lengths, len(offsets), model.config.frame_rate)
        times = word_times(tokens, map_tokens_to_words(text, offsets))[0, len(split_words(VOICE_TEXT)) :]
        for word, span in zip(processor.words(piece), times.tolist(), strict=False):
            if not math.isnan(span[0]):
                expected.append((word, start + span[0], start + span[1]))
        start += len(processor.decode(output)) / processor.sampling_rate + pause_after(piece)
    chunks = list(stream_speech(TEXT, model, processor, voice, seed=5, chunk_ms=4, **SAMPLED))
    told = [(word.text, word.start, word.end) for chunk in chunks for word in chunk.words]
    assert [word for word, *_ in told] == [word for word, *_ in expected]
    np.testing.assert_allclose([span for _, *span in told], [span for _, *span in expected], atol=1e-3)
    assert len(told) >= 6
    assert sum(bool(chunk.words) for chunk in chunks) >= 3
    assert {"café", "mister"} & {word for word, *_ in told}


@pytest.mark.filterwarnings("ignore:The model found no end")
def test_sentences_are_asked_for_one_at_a_time(model, processor, voice) -> None:
    asked = []

    def sentences() -> Iterator[str]:
        for sentence in ("One. ", "Two. ", "Three. "):
            asked.append(sentence)
            yield sentence

    stream = stream_speech(sentences(), model, processor, voice, seed=0)
    assert asked == []
    for chunk in stream:
        assert asked[-1] == chunk.text
    assert len(asked) == 3


def recorded(chunks: Iterator[Any], outcomes: list) -> Iterator[Any]:
    """Passes chunks on; notes of each utterance whether it ended by itself, and its codes."""
    codes = []
    for chunk in chunks:
        codes.append(chunk.sequences[0])
        if chunk.is_last:
            outcomes.append((bool(chunk.is_finished[0]), torch.cat(codes)))
        yield chunk


def test_without_a_voice_the_first_utterance_with_an_end_becomes_it(processor, monkeypatch) -> None:
    model = speaker(processor, stopping_model)
    prompts = []
    call = SmallEProcessor.__call__
    monkeypatch.setattr(
        SmallEProcessor,
        "__call__",
        lambda self, text, **more: prompts.append((text, more)) or call(self, text, **more),
    )
    text = "One and two. Three is it. Four again. Five is last."
    outcomes = []
    stream = model.stream
    monkeypatch.setattr(model, "stream", lambda **inputs: recorded(stream(**inputs), outcomes))
    list(stream_speech(text, model, processor, seed=1, **SAMPLED))
    first = next(index for index, outcome in enumerate(outcomes) if outcome[0])
    assert first < 3
    for index, (_, voice) in enumerate(prompts):
        if index <= first:
            assert voice == {}
        else:
            assert torch.equal(voice["audio_prompt_codes"], outcomes[first][1])
            assert voice["audio_prompt_text"] == prompts[first][0].strip()
    assert "".join(piece for piece, _ in prompts) == text


@pytest.mark.filterwarnings("ignore:The model found no end")
@pytest.mark.parametrize("has_voice", [False, True])
def test_pieces_fit_with_the_voice_before_them(model, processor, voice, has_voice) -> None:
    """Also with a voice that is found on the way, which is a piece itself."""
    text = "This sentence is far too long to be spoken at once, so it is cut where it has a comma. It is so. " * 2
    narrator = Narrator(model, processor, voice if has_voice else None)
    pieces = narrator.split(text)
    assert "".join(pieces) == text
    transcripts = [VOICE_TEXT] if has_voice else [piece.strip() for piece in pieces]
    for piece, transcript in itertools.product(pieces, transcripts):
        written = processor.normalize(f"{transcript} {piece}")
        assert len(processor.tokenizer(written)["input_ids"]) <= processor.max_text_length


@pytest.mark.filterwarnings("ignore:The model found no end")
def test_max_seconds_ends_the_speech(model, processor, voice) -> None:
    seconds = 30 / model.config.frame_rate
    chunks = list(stream_speech("One. Two. Three. Four. " * 9, model, processor, voice, max_seconds=seconds))
    pauses = sum(pause_after(text) for text, _ in itertools.groupby(chunk.text for chunk in chunks))
    assert len(heard(chunks)) / processor.sampling_rate <= seconds + pauses
    frames = (heard(chunks) != 0).sum() / model.config.frame_length
    assert frames > 25


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The model found no end")
def test_ten_minutes_of_text_take_the_memory_of_ten_sentences(processor, voice) -> None:
    """1,500 words, spoken fast; all tensors are counted at every hundredth sentence."""
    model = speaker(processor)
    model.config.max_frames_per_text_token = 0.3
    words = ["one", "two", "three", "four", "five"]
    text = " ".join(f"{words[index % 5].capitalize()} and {words[index // 5 % 5]}." for index in range(500))
    assert len(text.split()) == 1500
    # What compilers have kept from earlier tests could go away meanwhile.
    left_behind = [entry for entry in gc.get_objects() if type(entry) in (torch.Tensor, torch.nn.Parameter)]
    stream = stream_speech(text, model, processor, voice, seed=0, chunk_ms=20)
    sizes = []
    for index, (_, chunks) in enumerate(itertools.groupby(stream, key=lambda chunk: chunk.text)):
        assert sum(len(chunk.audio) for chunk in chunks)
        if index % 100 == 10:
            gc.collect()
            # Fake tensors that a compiler or exporter left behind have no bytes.
            tensors = [entry for entry in gc.get_objects() if type(entry) in (torch.Tensor, torch.nn.Parameter)]
            sizes.append((len(tensors), sum(tensor.nbytes for tensor in tensors)))
            del tensors
    assert index == 499
    assert len(sizes) == 5
    assert len({count for count, _ in sizes}) == 1
    assert max(size for _, size in sizes) <= 1.001 * min(size for _, size in sizes)
    del left_behind


@settings(deadline=None, max_examples=30)
@given(
    lengths=st.lists(st.integers(0, 40), min_size=1, max_size=5),
    cut=st.integers(1, 17),
    rate=st.sampled_from([200, 1000, 4000]),
)
def test_speech_is_joined_in_chunks_as_at_once(lengths, cut, rate) -> None:
    generator = np.random.default_rng(0)
    waveforms = [generator.normal(size=length).astype(np.float32) for length in lengths]
    pauses = [0.01 * index for index in range(len(lengths))]
    joiner, parts = SpeechJoiner(rate), []
    for index, waveform in enumerate(waveforms):
        if index:
            parts.append(joiner.begin(pauses[index - 1]))
        parts += [joiner.push(waveform[start : start + cut]) for start in range(0, len(waveform), cut)]
    parts.append(joiner.finish())
    np.testing.assert_array_equal(np.concatenate(parts), join_speech(waveforms, pauses, rate))


def test_errors(model, processor, tiny_model) -> None:
    with pytest.raises(ValueError, match=r"nothing to say in '\.\.\.'"):
        stream_speech("...", model, processor)
    with pytest.raises(ValueError, match="nothing to say: pass at least one sentence"):
        list(stream_speech(iter(["...", ""]), model, processor))
    with pytest.raises(ValueError, match="`chunk_ms`"):
        stream_speech("One.", model, processor, chunk_ms=0)
    with pytest.raises(ValueError, match="num_candidates"):
        stream_speech("One.", model, processor, num_candidates=3)
    with pytest.raises(ValueError, match="holds no codec"):
        stream_speech("One.", tiny_model, processor)
    with pytest.raises(ValueError, match="leaves no room"):
        Narrator(model, processor, {"audio_prompt_text": "word " * 30}).split("One.")
