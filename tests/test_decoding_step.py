"""The step with tensors that stay in place, run without a recording: the same speech as the ordinary one's."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from core_models import (
    GREEDY,
    SAMPLED,
    assert_close,
    endless_model,
    lively_model,
    random_codes,
    random_text,
    small_config,
    stopping_model,
)
from streamed_speech import assert_streamed, speaking_model

from smalle_hf import SmallEForSpeechGeneration, SmallEGenerateOutput, decoding_step
from smalle_hf.decoding_step import MAX_KEPT, TEXT_BLOCK, StaticStep, StepPool


@pytest.fixture
def static(monkeypatch: pytest.MonkeyPatch) -> Callable[..., SmallEGenerateOutput]:
    """`generate` by static steps."""

    def generate(model: SmallEForSpeechGeneration, *args: Any, **kwargs: Any) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(decoding_step, "runs_static_steps", lambda *arguments: True)
            return model.generate(*args, **kwargs)

    return generate


def assert_same(found: SmallEGenerateOutput, expected: SmallEGenerateOutput) -> None:
    """Ids, lengths and ends are equal; states, scores and alignments up to rounding: the text has another length."""
    for name in ("sequences", "sequence_lengths", "is_finished", "delayed_ids"):
        assert torch.equal(found[name], expected[name]), name
    assert torch.equal(found.past_key_values.frame_index, expected.past_key_values.frame_index)
    for x, y in zip(found.past_key_values.states, expected.past_key_values.states, strict=True):
        assert_close(x, y)
    for x, y in zip(found.logits or (), expected.logits or (), strict=True):
        assert_close(x, y)
    if expected.alignments is not None:
        assert_close(found.alignments, expected.alignments)


def kept(model: SmallEForSpeechGeneration) -> int:
    return len(model.__dict__["_decoding_steps"])


@pytest.mark.parametrize("cross_attention", ["paca", "standard"])
@pytest.mark.parametrize("options", [GREEDY, {**SAMPLED, "seed": 3}], ids=["greedy", "sampled"])
def test_rows_that_end_at_different_times(static: Any, options: dict[str, Any], cross_attention: str) -> None:
    model = stopping_model(cross_attention=cross_attention)
    text = random_text(model.config, 9, batch=4)
    mask = torch.ones_like(text)
    mask[1, 5:] = 0
    options = {**options, "attention_mask": mask, "max_new_tokens": 30}
    options |= {"output_logits": True, "return_alignments": True}
    expected = model.generate(text, **options)
    assert len(set(expected.sequence_lengths.tolist())) > 1
    assert_same(static(model, text, **options), expected)


@pytest.mark.parametrize("options", [GREEDY, {**SAMPLED, "seed": 5}], ids=["greedy", "sampled"])
def test_voice_prompts(static: Any, options: dict[str, Any]) -> None:
    model = stopping_model()
    text, codes = random_text(model.config, 12, batch=2), random_codes(model.config, 10, batch=2)
    mask = torch.ones_like(codes[..., 0])
    mask[0, 6:] = 0
    options = {**options, "audio_prompt_codes": codes, "audio_prompt_mask": mask, "max_new_tokens": 20}
    assert_same(static(model, text, **options), model.generate(text, **options))


def test_a_generation_is_continued(static: Any) -> None:
    model = endless_model()
    text = random_text(model.config, 9, batch=2)
    whole = model.generate(text, max_new_tokens=20, **GREEDY)
    first = static(model, text, max_new_tokens=8, **GREEDY)
    before = [state.clone() for state in first.past_key_values.states]
    second = static(model, text, max_new_tokens=12, past_key_values=first.past_key_values, **GREEDY)
    assert torch.equal(torch.cat([first.sequences, second.sequences], dim=1), whole.sequences)
    # What was returned is nobody else's: the same recording served both.
    assert kept(model) == 1
    assert all(torch.equal(x, y) for x, y in zip(first.past_key_values.states, before, strict=True))


def test_recordings_serve_texts_and_voices_of_other_lengths(static: Any) -> None:
    model = endless_model()
    built = []
    for length in (20, 7, TEXT_BLOCK, 3):
        text = random_text(model.config, length)
        assert_same(static(model, text, max_new_tokens=6, **GREEDY), model.generate(text, max_new_tokens=6, **GREEDY))
        built.append(model.__dict__["_decoding_steps"]._steps[-1][1])
    assert all(step is built[0] for step in built)
    text = random_text(model.config, TEXT_BLOCK + 1)
    assert_same(static(model, text, max_new_tokens=6, **GREEDY), model.generate(text, max_new_tokens=6, **GREEDY))
    assert kept(model) == 2


def test_only_so_many_recordings_are_kept(static: Any) -> None:
    model = endless_model()
    for rows in range(1, MAX_KEPT + 3):
        static(model, random_text(model.config, 5, batch=rows), max_new_tokens=1, **GREEDY)
    assert kept(model) == MAX_KEPT


def test_other_weights_make_another_recording(static: Any) -> None:
    """A recording has their addresses in it."""
    model = endless_model()
    text = random_text(model.config, 6)
    static(model, text, max_new_tokens=3, **GREEDY)
    first = model.__dict__["_decoding_steps"]._steps[0][1]
    model.load_state_dict({k: v.clone() for k, v in model.state_dict().items()}, assign=True)
    static(model, text, max_new_tokens=3, **GREEDY)
    assert kept(model) == 2
    assert model.__dict__["_decoding_steps"]._steps[1][1] is not first


def test_streams_have_steps_of_their_own_and_give_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = speaking_model()
    text = random_text(model.config, 8, batch=2)
    options = {"seed": 1, "max_new_tokens": 30}
    expected = model.generate(text, **options)
    monkeypatch.setattr(decoding_step, "runs_static_steps", lambda *arguments: True)
    assert_streamed(list(model.stream(text, chunk_ms=2.0, **options)), expected)
    assert kept(model) == 1
    left = model.stream(text, chunk_ms=2.0, **options)
    next(left)
    busy = model.stream(text, chunk_ms=2.0, **options)
    first = next(busy)
    assert kept(model) == 0
    left.close()
    assert kept(model) == 1
    assert_streamed([first, *busy], expected)
    assert kept(model) == 2


def test_results_are_not_written_over_by_later_steps() -> None:
    model = endless_model()
    text = random_text(model.config, 6)
    with torch.no_grad():
        cache = model.generate(text, max_new_tokens=2, **GREEDY).past_key_values
        model(input_ids=text, decoder_input_ids=cache.last_ids[:, -1:], past_key_values=cache)
        step = StaticStep(model, cache, TEXT_BLOCK)
        step.load(cache, None)
        first, _ = step.run(model, cache.last_ids[:, -1:], None)
        kept_values = first.clone()
        second, _ = step.run(model, cache.last_ids[:, -1:], None)
    assert torch.equal(first, kept_values)
    assert not torch.equal(first, second)


def test_a_masked_column_leaves_no_trace() -> None:
    model = endless_model()
    text = random_text(model.config, 6, batch=2)
    with torch.no_grad():
        cache = model.generate(text, max_new_tokens=2, **GREEDY).past_key_values
        model(input_ids=text, decoder_input_ids=cache.last_ids[:, -1:], past_key_values=cache)
        step = StaticStep(model, cache, TEXT_BLOCK)
        step.load(cache, None)
        before = [x.clone() for x in (*step.cache.states, step.cache.frame_index)]
        step.run(model, cache.last_ids[:, -1:], torch.tensor([[0], [1]]))
    for x, y in zip((*step.cache.states, step.cache.frame_index), before, strict=True):
        assert torch.equal(x[0], y[0])
        assert not torch.equal(x[1], y[1])


def test_where_nothing_can_be_recorded_the_ordinary_step_runs(
    static: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = []

    def fail(*arguments: Any) -> None:
        attempts.append(1)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    model = stopping_model()
    text = random_text(model.config, 7, batch=2)
    expected = model.generate(text, max_new_tokens=20, **GREEDY)
    monkeypatch.setattr(decoding_step, "StaticStep", fail)
    monkeypatch.setattr(decoding_step.logger, "propagate", True)
    assert_same(static(model, text, max_new_tokens=20, **GREEDY), expected)
    assert len(attempts) == 1
    messages = [record.getMessage() for record in caplog.records if "CUDA graph" in record.getMessage()]
    assert len(messages) == 1
    assert "not permitted" in messages[0]
    assert "disable_compile=True" in messages[0]


def test_cpu_models_run_the_ordinary_step() -> None:
    model = lively_model(small_config())
    model.generate(random_text(model.config, 5), max_new_tokens=2, **GREEDY)
    assert "_decoding_steps" not in model.__dict__


def test_copies_of_a_model_have_no_recordings(static: Any) -> None:
    """A CUDA graph can be neither copied nor pickled."""
    model = endless_model()
    static(model, random_text(model.config, 5), max_new_tokens=1, **GREEDY)
    assert kept(model) == 1
    assert kept(copy.deepcopy(model)) == 0
    assert len(pickle.loads(pickle.dumps(model.__dict__["_decoding_steps"]))) == 0


def test_pool_hands_out_each_step_once() -> None:
    pool, step = StepPool(), object()
    pool.give("key", step)  # type: ignore[arg-type]
    assert pool.take("other") is None
    assert pool.take("key") is step
    assert pool.take("key") is None


@pytest.mark.gpu
@pytest.mark.parametrize("options", [GREEDY, {**SAMPLED, "seed": 3}], ids=["greedy", "sampled"])
def test_recorded_steps_on_a_gpu(options: dict[str, Any]) -> None:
    model = stopping_model().cuda()
    text = random_text(model.config, 9, batch=4).cuda()
    expected = model.generate(text, max_new_tokens=30, disable_compile=True, **options)
    for _ in range(2):
        found = model.generate(text, max_new_tokens=30, **options)
        assert_same(found, expected)
    (_, step) = model.__dict__["_decoding_steps"]._steps[0]
    assert step.graph is not None
