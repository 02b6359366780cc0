"""`generate()`: rows of a batch are what they are alone, and pieces are one long run."""

from pathlib import Path

import pytest
import torch
from core_models import (
    GREEDY,
    SAMPLED,
    StopAfter,
    assert_close,
    assert_rows_equal,
    endless_model,
    pad,
    random_codes,
    random_text,
    row_codes,
    stopping_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig

from smalle_hf import SmallECache, SmallEForSpeechGeneration, apply_delay


@pytest.fixture(params=["paca", "standard"])
def model(request: pytest.FixtureRequest) -> SmallEForSpeechGeneration:
    return endless_model(cross_attention=request.param)


MODELS = {name: endless_model(cross_attention=name) for name in ("paca", "standard")}
"""For hypothesis, which does not mix with fixtures that are made anew for each test. Nothing may change them."""


# A batch changes nothing


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize(("cross_attention", "side"), [("paca", "left"), ("paca", "right"), ("standard", "left")])
def test_rows_of_a_batch_are_what_they_are_alone(cross_attention: str, side: str, options: dict) -> None:
    """Ragged texts, ragged voice prompts (one row without any), ends at different frames."""
    model = stopping_model(boost=2.5, cross_attention=cross_attention)
    texts = [random_text(model.config, 3 + seed, seed) for seed in range(5)]
    prompts = [random_codes(model.config, frames, frames) for frames in (4, 0, 1, 9, 2)]
    text, mask = pad(texts, side)
    prompt, prompt_mask = pad(prompts, side)
    shared = {"max_new_tokens": 30, "return_alignments": True, **options}
    together = model.generate(
        text,
        attention_mask=mask,
        audio_prompt_codes=prompt,
        audio_prompt_mask=prompt_mask,
        seed=[10, 11, 12, 13, 14],
        **shared,
    )
    singles = []
    for row, (row_text, row_prompt) in enumerate(zip(texts, prompts, strict=True)):
        arguments = {"audio_prompt_codes": row_prompt} if row_prompt.shape[1] else {}
        singles.append(model.generate(row_text, seed=10 + row, **arguments, **shared))
    assert_rows_equal(together, singles)
    for row, single in enumerate(singles):
        kept = together.alignments[row, : single.alignments.shape[1]][:, mask[row].bool()]
        assert_close(kept, single.alignments[0])
    assert len(set(together.sequence_lengths.tolist())) > 1


def test_state_of_a_row_is_what_it_is_alone() -> None:
    """A row that is done is frozen while the others go on."""
    model = stopping_model()
    texts = [random_text(model.config, 7, seed) for seed in range(6)]
    together = model.generate(torch.cat(texts), max_new_tokens=40, **GREEDY)
    assert len(set(together.sequence_lengths.tolist())) > 1
    for row, text in enumerate(texts):
        single = model.generate(text, max_new_tokens=40, **GREEDY).past_key_values
        cache = together.past_key_values[row]
        assert torch.equal(cache.frame_index, single.frame_index)
        assert torch.equal(cache.last_ids, single.last_ids)
        for state, expected in zip(cache.states, single.states, strict=True):
            assert_close(state, expected)


def test_limits_follow_each_rows_own_text(model: SmallEForSpeechGeneration) -> None:
    model.config.max_frames_per_text_token = 1.5
    text, mask = pad([random_text(model.config, 5), random_text(model.config, 8)])
    output = model.generate(text, attention_mask=mask, **GREEDY)
    assert output.sequence_lengths.tolist() == [8, 12]


def test_num_return_sequences_are_rows_with_seeds_of_their_own(model: SmallEForSpeechGeneration) -> None:
    texts = [random_text(model.config, 6, seed) for seed in (1, 2)]
    output = model.generate(torch.cat(texts), num_return_sequences=3, max_new_tokens=8, seed=5, **SAMPLED)
    singles = [model.generate(texts[row // 3], max_new_tokens=8, seed=5 + row, **SAMPLED) for row in range(6)]
    assert_rows_equal(output, singles)
    assert len({tuple(row.flatten().tolist()) for row in output.sequences}) == 6


def test_num_return_sequences_with_prompt_and_default_limit(model: SmallEForSpeechGeneration) -> None:
    model.config.max_frames_per_text_token = 1.0
    text, mask = pad([random_text(model.config, 4), random_text(model.config, 6)])
    prompt, prompt_mask = pad([random_codes(model.config, 5), random_codes(model.config, 2)])
    output = model.generate(
        text,
        attention_mask=mask,
        audio_prompt_codes=prompt,
        audio_prompt_mask=prompt_mask,
        num_return_sequences=2,
        top_k=1,
    )
    assert output.sequence_lengths.tolist() == [4, 4, 6, 6]
    assert torch.equal(output.sequences[0], output.sequences[1])


def test_num_return_sequences_from_a_generation_config(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 6)
    options = {"num_return_sequences": 2, "max_new_tokens": 6, **SAMPLED}
    expected = model.generate(text, seed=5, **options)
    found = model.generate(text, generation_config=GenerationConfig(**options), seed=5)
    assert torch.equal(found.sequences, expected.sequences)
    assert not torch.equal(found.sequences[0], found.sequences[1])


# Pieces change nothing


@settings(deadline=None, max_examples=15)
@given(
    pieces=st.lists(st.integers(1, 7), min_size=2, max_size=4),
    sampled=st.booleans(),
    prompt_frames=st.sampled_from([0, 1, 2, 5]),
    name=st.sampled_from(["paca", "standard"]),
)
def test_pieces_are_one_long_run(pieces: list[int], sampled: bool, prompt_frames: int, name: str) -> None:
    """Greedy, or sampled from one generator that goes on; with or without a voice prompt; alignments too."""
    model = MODELS[name]
    text = random_text(model.config, 7, batch=2)
    options = {"return_alignments": True, **(SAMPLED if sampled else GREEDY)}
    prompt = {"audio_prompt_codes": random_codes(model.config, prompt_frames, batch=2)} if prompt_frames else {}
    whole = model.generate(
        text, max_new_tokens=sum(pieces), generator=torch.Generator().manual_seed(1), **prompt, **options
    )
    generator, cache, outputs = torch.Generator().manual_seed(1), None, []
    for frames in pieces:
        start = prompt if cache is None else {"past_key_values": cache}
        outputs.append(model.generate(text, max_new_tokens=frames, generator=generator, **start, **options))
        cache = outputs[-1].past_key_values
    assert [output.sequences.shape[1] for output in outputs] == pieces
    assert torch.equal(torch.cat([output.sequences for output in outputs], dim=1), whole.sequences)
    assert_close(torch.cat([output.alignments for output in outputs], dim=1), whole.alignments)
    assert torch.equal(cache.frame_index, whole.past_key_values.frame_index)


def test_pieces_survive_saving_the_state(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    text = random_text(model.config, 7)
    whole = model.generate(text, max_new_tokens=14, return_alignments=True, **GREEDY)
    first = model.generate(text, max_new_tokens=5, return_alignments=True, **GREEDY)
    first.past_key_values.save(tmp_path / "state.safetensors")
    cache = SmallECache.load(tmp_path / "state.safetensors", model.config)
    second = model.generate(text, max_new_tokens=9, past_key_values=cache, return_alignments=True, **GREEDY)
    assert torch.equal(torch.cat([first.sequences, second.sequences], dim=1), whole.sequences)
    assert_close(torch.cat([first.alignments, second.alignments], dim=1), whole.alignments)


@pytest.mark.parametrize("first_frames", [1, 3, 8, 20])
def test_pieces_end_where_the_long_run_ends(first_frames: int) -> None:
    """Rows that end in the first piece, at its edge, or later; and once ended, nothing more comes."""
    model = stopping_model()
    texts = [random_text(model.config, 7, seed) for seed in range(6)]
    text = torch.cat(texts)
    whole = model.generate(text, max_new_tokens=40, **GREEDY)
    first = model.generate(text, max_new_tokens=first_frames, **GREEDY)
    second = model.generate(text, max_new_tokens=40 - first_frames, past_key_values=first.past_key_values, **GREEDY)
    for row in range(6):
        joined = torch.cat([row_codes(first, row), row_codes(second, row)])
        assert torch.equal(joined, row_codes(whole, row))
    assert torch.equal(second.is_finished, whole.is_finished)
    third = model.generate(text, max_new_tokens=5, past_key_values=second.past_key_values, **GREEDY)
    assert third.sequence_lengths[whole.is_finished].tolist() == [0] * int(whole.is_finished.sum())


def test_ended_rows_stay_frozen_in_later_pieces() -> None:
    model = stopping_model()
    text = torch.cat([random_text(model.config, 7, seed) for seed in range(6)])
    lengths = model.generate(text, max_new_tokens=40, **GREEDY).sequence_lengths
    first = model.generate(text, max_new_tokens=int(lengths.median()), **GREEDY)
    ended = first.is_finished
    assert ended.any()
    assert not ended.all()
    second = model.generate(text, max_new_tokens=4, past_key_values=first.past_key_values, **GREEDY)
    before, after = first.past_key_values[ended], second.past_key_values[ended]
    assert torch.equal(after.frame_index, before.frame_index)
    assert torch.equal(after.last_ids, before.last_ids)
    assert all(torch.equal(state, old) for state, old in zip(after.states, before.states, strict=True))


@pytest.mark.parametrize("columns", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize("prompt_frames", [0, 2, 6])
def test_pieces_cut_by_a_criterion_are_one_long_run(columns: int, prompt_frames: int) -> None:
    """Also where it cuts before the first frame is complete, or while the prompt's last codes are still to come."""
    model = MODELS["paca"]
    text = random_text(model.config, 7)
    prompt = {"audio_prompt_codes": random_codes(model.config, prompt_frames)} if prompt_frames else {}
    whole = model.generate(text, max_new_tokens=12, **prompt, **GREEDY)
    first = model.generate(text, max_new_tokens=12, stopping_criteria=[StopAfter(columns)], **prompt, **GREEDY)
    assert first.sequences.shape[1] < 12
    rest = 12 - first.sequences.shape[1]
    second = model.generate(text, max_new_tokens=rest, past_key_values=first.past_key_values, **GREEDY)
    assert torch.equal(torch.cat([first.sequences, second.sequences], dim=1), whole.sequences)


def test_prefill_in_pieces_then_generate(model: SmallEForSpeechGeneration) -> None:
    """A voice prompt read through `forward` in chunks is the voice prompt of `generate`."""
    text, codes = random_text(model.config, 7), random_codes(model.config, 20)
    expected = model.generate(text, audio_prompt_codes=codes, max_new_tokens=8, **GREEDY)
    columns = apply_delay(codes, model.config)[:, :21]
    cache = SmallECache(model.config)
    with torch.no_grad():
        for begin, end in [(0, 1), (1, 9), (9, 17)]:
            model(input_ids=text, decoder_input_ids=columns[:, begin:end], past_key_values=cache)
    # Here the model chooses the lagging codebooks of the prompt's last frames: only what precedes them is the same.
    found = model.generate(text, decoder_input_ids=columns[:, 17:], past_key_values=cache, max_new_tokens=8, **GREEDY)
    direct = model.generate(text, decoder_input_ids=columns, max_new_tokens=8, **GREEDY)
    assert torch.equal(found.sequences, direct.sequences)
    assert torch.equal(found.sequences[:, 0, 0], expected.sequences[:, 0, 0])


def test_state_without_ids_asks_for_them(model: SmallEForSpeechGeneration) -> None:
    """A state that `forward` made does not know the last column, and a start column would begin another utterance."""
    text, columns = random_text(model.config, 7), apply_delay(random_codes(model.config, 5), model.config)[:, :4]
    cache = SmallECache(model.config)
    with torch.no_grad():
        model(input_ids=text, decoder_input_ids=columns, past_key_values=cache)
    with pytest.raises(ValueError, match="decoder_input_ids"):
        model.generate(text, past_key_values=cache, max_new_tokens=3)
