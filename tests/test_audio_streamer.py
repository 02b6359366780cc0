"""`AudioStreamer`: speech from the thread that generates it to another one."""

import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from core_models import random_codes, random_text
from streamed_speech import assert_streamed, speaking_model
from transformers.generation.streamers import BaseStreamer

from smalle_hf import AudioStreamer, SmallEForSpeechGeneration

PATIENCE = 60
"""Seconds after which a thread that should have ended hangs."""


@pytest.fixture(scope="module")
def model() -> SmallEForSpeechGeneration:
    return speaking_model()


@contextmanager
def generating(model: SmallEForSpeechGeneration, streamer: Any, **options: Any) -> Iterator[list]:
    """`generate` in a thread, whose output is put into the list; fails if the thread does not end."""
    outputs: list = []
    inputs = {"input_ids": random_text(model.config, 9), "seed": 1, "max_new_tokens": 120, **options}
    thread = threading.Thread(target=lambda: outputs.append(model.generate(streamer=streamer, **inputs)), daemon=True)
    thread.start()
    yield outputs
    thread.join(PATIENCE)
    assert not thread.is_alive()


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_thread_speaks_what_generate_returns(model: SmallEForSpeechGeneration) -> None:
    streamer = AudioStreamer(chunk_ms=10, lookahead_ms=5)
    assert isinstance(streamer, BaseStreamer)
    with generating(model, streamer, audio_prompt_codes=random_codes(model.config, 5)) as outputs:
        chunks = list(streamer)
    expected = model.generate(
        random_text(model.config, 9), seed=1, max_new_tokens=120, audio_prompt_codes=random_codes(model.config, 5)
    )
    assert_streamed(chunks, expected)
    assert torch.equal(outputs[0].sequences, expected.sequences)
    assert outputs[0].audio is None
    assert outputs[0].past_key_values is chunks[-1].past_key_values


def test_the_output_has_audio_if_asked_for(model: SmallEForSpeechGeneration) -> None:
    streamer = AudioStreamer()
    with generating(model, streamer, output_audio=True, return_alignments=True) as outputs:
        chunks = list(streamer)
    assert_streamed(chunks, outputs[0])
    assert outputs[0].alignments is not None


def test_a_slow_consumer_makes_the_generation_wait(model: SmallEForSpeechGeneration) -> None:
    streamer = AudioStreamer(chunk_ms=1, max_chunks=3)
    with generating(model, streamer):
        wait_until(lambda: len(streamer._chunks) == 3)
        time.sleep(0.3)
        assert len(streamer._chunks) == 3
        frames = 0
        for chunk in streamer:
            frames += int(chunk.sequence_lengths)
            assert len(streamer._chunks) <= 3
    assert frames == 120


@pytest.mark.parametrize("leave", ["loop", "with", "close", "before"])
def test_leaving_ends_the_generation(model: SmallEForSpeechGeneration, leave: str) -> None:
    streamer = AudioStreamer(chunk_ms=1, max_chunks=2)
    with generating(model, streamer, max_new_tokens=100_000) as outputs:
        if leave == "loop":
            for _ in streamer:
                break
        elif leave == "with":
            with streamer:
                wait_until(lambda: len(streamer._chunks) == 2)
        elif leave == "close":
            for index, _ in enumerate(streamer):
                if index == 3:
                    streamer.close()
        else:
            streamer.close()
            streamer.close()
    assert outputs[0].sequence_lengths < 100
    assert not streamer._chunks
    assert list(streamer) == []


def test_nothing_is_kept_after_an_early_end(model: SmallEForSpeechGeneration) -> None:
    streamer = AudioStreamer(chunk_ms=1)
    with generating(model, streamer) as outputs:
        for chunk in streamer:
            audio = weakref.ref(chunk.audio)
            break
    del chunk
    cache = weakref.ref(outputs[0].past_key_values)
    outputs.clear()
    assert audio() is None
    assert cache() is None


def test_what_was_broken_off_can_go_on(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 9)
    streamer = AudioStreamer(chunk_ms=1)
    with generating(model, streamer, do_sample=False, seed=None) as outputs:
        for index, _ in enumerate(streamer):
            if index == 5:
                break
    begun = outputs[0]
    assert 5 < begun.sequence_lengths < 120
    rest = model.generate(text, past_key_values=begun.past_key_values, max_new_tokens=10, do_sample=False)
    whole = model.generate(text, max_new_tokens=int(begun.sequence_lengths) + 10, do_sample=False)
    assert torch.equal(torch.cat([begun.sequences, rest.sequences], dim=1), whole.sequences)


@pytest.mark.parametrize("fault", [{"max_new_tokens": 0}, {"num_beams": 3}, {"logits_processor": [lambda *_: 1 / 0]}])
def test_a_generation_that_fails_does_not_leave_the_consumer_waiting(
    model: SmallEForSpeechGeneration, fault: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list = []
    monkeypatch.setattr(threading, "excepthook", lambda arguments: errors.append(arguments.exc_value))
    streamer = AudioStreamer()
    with generating(model, streamer, **fault), pytest.raises(RuntimeError, match="see the error in its thread"):
        list(streamer)
    assert len(errors) == 1


def test_any_streamer_is_given_chunks(model: SmallEForSpeechGeneration) -> None:
    class Recorder(BaseStreamer):
        def __init__(self) -> None:
            self.chunks: list = []
            self.has_ended = False

        def put(self, value: Any) -> None:
            self.chunks.append(value)

        def end(self) -> None:
            self.has_ended = True

    recorder = Recorder()
    output = model.generate(
        random_text(model.config, 9), seed=1, max_new_tokens=30, streamer=recorder, output_audio=True
    )
    assert_streamed(recorder.chunks, output)
    assert recorder.has_ended


def test_two_threads_share_a_model(model: SmallEForSpeechGeneration) -> None:
    streamers = [AudioStreamer(chunk_ms=2), AudioStreamer(chunk_ms=3)]
    heard: list[list] = [[], []]
    with generating(model, streamers[0], seed=1), generating(model, streamers[1], seed=2):
        consumer = threading.Thread(target=lambda: heard[1].extend(streamers[1]), daemon=True)
        consumer.start()
        heard[0].extend(streamers[0])
        consumer.join(PATIENCE)
    for seed, chunks in zip((1, 2), heard, strict=True):
        assert_streamed(chunks, model.generate(random_text(model.config, 9), seed=seed, max_new_tokens=120))


def test_errors(model: SmallEForSpeechGeneration) -> None:
    with pytest.raises(ValueError, match="`max_chunks` must be at least 1"):
        AudioStreamer(max_chunks=0)
    with pytest.raises(ValueError, match="`chunk_ms`"):
        AudioStreamer(chunk_ms=-5)
    with pytest.raises(TypeError, match="`streamer` must have `put` and `end`, got list: use `AudioStreamer`"):
        model.generate(random_text(model.config, 9), streamer=[1])
