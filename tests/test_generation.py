"""`generate()`: against a naive loop, with and without the cache, alone and in a batch, in one run and in pieces."""

import copy
import itertools
import logging
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from core_models import assert_close, lively_model, pad, random_codes, random_text, small_config
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from smalle_hf import SmallECache, SmallEConfig, SmallEForSpeechGeneration, SmallEGenerateOutput, apply_delay
from smalle_hf.sampling_smalle import choose_ids

GREEDY = {"do_sample": False}
SAMPLED = {"do_sample": True, "num_sampled_codebooks": 4, "top_k": 20}


def stopping_model(boost: float = 3.0, **overrides: Any) -> SmallEForSpeechGeneration:
    """A model whose first codebook prefers the stop id now and then, so that utterances end by themselves."""
    model = lively_model(small_config(**overrides))
    with torch.no_grad():
        model.lm_heads.weight[model.config.audio_eos_token_id] *= boost
    return model


def endless_model(**overrides: Any) -> SmallEForSpeechGeneration:
    """A model that never chooses the stop id."""
    model = lively_model(small_config(**overrides))
    with torch.no_grad():
        heads = model.lm_heads.weight.view(model.config.num_codebooks, -1, model.config.hidden_size)
        # A mean is never the largest.
        heads[:, model.config.audio_eos_token_id] = heads[:, model.config.codebook_offset :].mean(dim=1)
    return model


@pytest.fixture(params=["paca", "standard"])
def model(request: pytest.FixtureRequest) -> SmallEForSpeechGeneration:
    return endless_model(cross_attention=request.param)


MODELS = {name: endless_model(cross_attention=name) for name in ("paca", "standard")}
"""For hypothesis, which does not mix with fixtures that are made anew for each test. Nothing may change them."""


def naive_greedy(
    model: SmallEForSpeechGeneration, text: torch.Tensor, frames: int, prompt: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor, bool]:
    """Greedy decoding written anew: everything from the start at every column, one row, no state.

    Returns codes (T, Q), alignments (T, S) and whether the model stopped.
    """
    config = model.config
    delays, offset = config.delays, config.codebook_offset
    start = 0 if prompt is None else prompt.shape[0]
    ids = (
        {}
        if prompt is None
        else {(t, q): int(prompt[t, q]) + offset for t in range(start) for q in range(len(delays))}
    )
    columns = [[config.audio_bos_token_id] * len(delays)]
    end, alignments = None, []
    while len(columns) <= (start + frames if end is None else min(end, start + frames)) + max(delays):
        with torch.no_grad():
            output = model(input_ids=text, decoder_input_ids=torch.tensor([columns]), output_attentions=True)
        maps = output.cross_attentions[0, :, -1]
        alignments.append(maps[1] if config.cross_attention == "paca" else maps.mean(dim=0))
        scores = output.logits[0, -1].clone()
        scores[:, [config.audio_pad_token_id, config.audio_bos_token_id]] = -float("inf")
        for codebook, delay in enumerate(delays):
            frame = len(columns) - 1 - delay
            if codebook != delays.index(0) or frame <= start:
                scores[codebook, config.audio_eos_token_id] = -float("inf")
            best = int(scores[codebook].argmax())
            if frame < 0:
                best = config.audio_bos_token_id
            elif end is not None and frame >= end:
                best = config.audio_eos_token_id
            elif best == config.audio_eos_token_id:
                end = frame
            ids.setdefault((frame, codebook), best)
        columns.append([ids[len(columns) - 1 - delay, codebook] for codebook, delay in enumerate(delays)])
    last = start + frames if end is None else min(end, start + frames)
    codes = [[ids[frame, codebook] - offset for codebook in range(len(delays))] for frame in range(start, last)]
    return torch.tensor(codes), torch.stack(alignments[start:last]), end is not None and end <= start + frames


def alone(output: SmallEGenerateOutput, row: int) -> torch.Tensor:
    """A row's codes up to its end."""
    return output.sequences[row, : output.sequence_lengths[row]]


def assert_rows_equal(together: SmallEGenerateOutput, singles: list[SmallEGenerateOutput]) -> None:
    """Every row of a batch is what it is alone, and nothing stands behind its end."""
    assert together.sequence_lengths.tolist() == [int(single.sequence_lengths) for single in singles]
    assert together.is_finished.tolist() == [bool(single.is_finished) for single in singles]
    assert together.sequences.shape[1] == max(single.sequences.shape[1] for single in singles)
    for row, single in enumerate(singles):
        assert torch.equal(alone(together, row), single.sequences[0])
        assert (together.sequences[row, together.sequence_lengths[row] :] == 0).all()
        if single.alignments is not None:
            length, tokens = single.alignments.shape[1:]
            assert (together.alignments[row, length:] == 0).all()
            assert together.alignments.shape[2] >= tokens


# Against the definition


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("delays", [None, [0, 0, 0, 0], [2, 0, 3, 1], [0, 5, 0, 1]], ids=str)
def test_greedy_is_what_a_naive_loop_gives(
    model: SmallEForSpeechGeneration, delays: list[int] | None, use_cache: bool
) -> None:
    if delays is not None:
        model = endless_model(cross_attention=model.config.cross_attention, delays=delays)
    text = random_text(model.config, 7)
    codes, alignments, stopped = naive_greedy(model, text, 12)
    output = model.generate(text, max_new_tokens=12, return_alignments=True, use_cache=use_cache, **GREEDY)
    assert torch.equal(output.sequences[0], codes)
    assert_close(output.alignments[0], alignments)
    assert output.is_finished.tolist() == [stopped]


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("prompt_frames", [1, 2, 3, 4, 11])
def test_voice_prompt_is_what_a_naive_loop_gives(
    model: SmallEForSpeechGeneration, prompt_frames: int, use_cache: bool
) -> None:
    text, prompt = random_text(model.config, 7), random_codes(model.config, prompt_frames)
    codes, alignments, _ = naive_greedy(model, text, 9, prompt[0])
    output = model.generate(
        text, audio_prompt_codes=prompt, max_new_tokens=9, return_alignments=True, use_cache=use_cache, **GREEDY
    )
    assert torch.equal(output.sequences[0], codes)
    assert_close(output.alignments[0], alignments)


@pytest.mark.parametrize("num_codebooks", [1, 2, 8])
def test_any_number_of_codebooks(num_codebooks: int) -> None:
    model = endless_model(num_codebooks=num_codebooks)
    text = random_text(model.config, 7)
    codes, alignments, _ = naive_greedy(model, text, 6)
    output = model.generate(text, max_new_tokens=6, return_alignments=True, **GREEDY)
    assert torch.equal(output.sequences[0], codes)
    assert_close(output.alignments[0], alignments)
    more = model.generate(text, max_new_tokens=4, past_key_values=output.past_key_values, **GREEDY)
    assert torch.equal(torch.cat([output.sequences, more.sequences], dim=1)[0], naive_greedy(model, text, 10)[0])


@pytest.mark.parametrize("seed", range(6))
def test_stop_is_what_a_naive_loop_gives(seed: int) -> None:
    model = stopping_model()
    text = random_text(model.config, 7, seed)
    codes, _, stopped = naive_greedy(model, text, 40)
    output = model.generate(text, max_new_tokens=40, **GREEDY)
    assert torch.equal(output.sequences[0], codes)
    assert output.is_finished.tolist() == [stopped]
    assert output.sequence_lengths.tolist() == [len(codes)]


def test_some_of_these_models_stop() -> None:
    """Without this the tests of the end might test nothing."""
    model = stopping_model()
    lengths = [len(naive_greedy(model, random_text(model.config, 7, seed), 40)[0]) for seed in range(6)]
    assert min(lengths) < 40
    assert len(set(lengths)) > 2


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_delay_pattern_is_kept(options: dict) -> None:
    """What was emitted is the delayed form of what came back: special ids stand in the corners and nowhere else."""
    model = stopping_model()
    for seed in range(4):
        text = random_text(model.config, 7, seed)
        output = model.generate(text, max_new_tokens=40, seed=seed, **options)
        delayed = apply_delay(output.sequences, model.config)[:, 1:-1]  # the start is given, the end is known
        columns = output.delayed_ids.shape[1]
        if output.is_finished:
            assert torch.equal(output.delayed_ids, delayed)
        else:
            frames = int(output.sequence_lengths)
            assert columns == frames + model.config.max_delay
            for codebook, delay in enumerate(model.config.delays):
                kept = slice(0, frames + delay)
                assert torch.equal(output.delayed_ids[:, kept, codebook], delayed[:, kept, codebook])


def test_without_the_pattern_the_models_own_ids_come_back() -> None:
    model = lively_model()
    text = random_text(model.config, 7)
    output = model.generate(text, max_new_tokens=12, enforce_delay_pattern=False, **GREEDY)
    columns = torch.full((1, 1, 4), model.config.audio_bos_token_id)
    for _ in range(output.delayed_ids.shape[1]):
        with torch.no_grad():
            best = model(input_ids=text, decoder_input_ids=columns).logits[:, -1:].argmax(dim=-1)
        columns = torch.cat([columns, best], dim=1)
    assert torch.equal(output.delayed_ids, columns[:, 1:])


# The cache changes nothing


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("prompted", [False, True])
def test_without_cache_the_same(model: SmallEForSpeechGeneration, options: dict, prompted: bool) -> None:
    texts = [random_text(model.config, length, length) for length in (5, 9)]
    text, mask = pad(texts)
    arguments: dict[str, Any] = {"attention_mask": mask, "max_new_tokens": 15, "seed": 3, "return_alignments": True}
    if prompted:
        prompt, prompt_mask = pad([random_codes(model.config, 2), random_codes(model.config, 6)])
        arguments |= {"audio_prompt_codes": prompt, "audio_prompt_mask": prompt_mask}
    cached = model.generate(text, **arguments, **options)
    anew = model.generate(text, use_cache=False, **arguments, **options)
    assert torch.equal(cached.sequences, anew.sequences)
    assert_close(cached.alignments, anew.alignments)
    assert anew.past_key_values is None


def test_without_cache_rows_end_alike() -> None:
    model = stopping_model()
    text = torch.cat([random_text(model.config, 7, seed) for seed in range(6)])
    cached = model.generate(text, max_new_tokens=40, **GREEDY)
    anew = model.generate(text, max_new_tokens=40, use_cache=False, **GREEDY)
    assert torch.equal(cached.sequences, anew.sequences)
    assert torch.equal(cached.sequence_lengths, anew.sequence_lengths)
    assert torch.equal(cached.is_finished, anew.is_finished)


def test_configuration_may_turn_the_cache_off() -> None:
    model = endless_model(use_cache=False)
    assert model.generate(random_text(model.config, 7), max_new_tokens=3).past_key_values is None


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
        joined = torch.cat([alone(first, row), alone(second, row)])
        assert torch.equal(joined, alone(whole, row))
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


class StopAfter(StoppingCriteria):
    """Stops all rows after so many columns."""

    def __init__(self, columns: int) -> None:
        self.columns = columns

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        assert input_ids.ndim == 3
        return torch.full((len(input_ids),), input_ids.shape[1] - 1 >= self.columns)


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


# Sampling


def test_same_seed_same_speech(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 7, batch=2)
    first = model.generate(text, max_new_tokens=10, seed=4, **SAMPLED)
    assert torch.equal(model.generate(text, max_new_tokens=10, seed=4, **SAMPLED).sequences, first.sequences)
    assert not torch.equal(model.generate(text, max_new_tokens=10, seed=6, **SAMPLED).sequences, first.sequences)
    explicit = [torch.Generator().manual_seed(seed) for seed in (4, 5)]
    for same in ({"seed": [4, 5]}, {"generator": explicit}):
        assert torch.equal(model.generate(text, max_new_tokens=10, **same, **SAMPLED).sequences, first.sequences)


def test_one_generator_serves_the_batch(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 7, batch=2)
    outputs = [
        model.generate(text, max_new_tokens=10, generator=torch.Generator().manual_seed(seed), **SAMPLED).sequences
        for seed in (1, 1, 2)
    ]
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_global_generator_is_used_only_without_another(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 7)
    torch.manual_seed(0)
    before = torch.get_rng_state()
    model.generate(text, max_new_tokens=5, seed=4, **SAMPLED)
    model.generate(text, max_new_tokens=5, generator=torch.Generator(), **SAMPLED)
    model.generate(text, max_new_tokens=5, **GREEDY)
    assert torch.equal(torch.get_rng_state(), before)
    first = model.generate(text, max_new_tokens=5, **SAMPLED).sequences
    torch.manual_seed(0)
    assert torch.equal(model.generate(text, max_new_tokens=5, **SAMPLED).sequences, first)


def test_default_is_the_papers_sampling(model: SmallEForSpeechGeneration) -> None:
    """Top-k 100 at temperature 1 for the first codebook, the best id for the others."""
    config = model.generation_config
    assert (config.do_sample, config.top_k, config.temperature) == (True, 100, 1.0)
    text = random_text(model.config, 7)
    expected = model.generate(
        text, max_new_tokens=10, seed=1, do_sample=True, top_k=100, temperature=1.0, num_sampled_codebooks=1
    )
    assert torch.equal(model.generate(text, max_new_tokens=10, seed=1).sequences, expected.sequences)


@pytest.mark.parametrize("num_sampled", [0, 1, 2, 4])
def test_codebooks_beyond_the_sampled_ones_take_the_best_id(
    model: SmallEForSpeechGeneration, num_sampled: int
) -> None:
    text = random_text(model.config, 7)
    output = model.generate(
        text,
        max_new_tokens=30,
        do_sample=True,
        top_k=0,
        num_sampled_codebooks=num_sampled,
        seed=0,
        output_scores=True,
        temperature=3.0,
    )
    scores = torch.stack(output.scores, dim=1)  # (B, C, Q, V)
    best = scores.argmax(dim=-1)
    inside = output.delayed_ids >= model.config.codebook_offset
    is_best = [bool((output.delayed_ids == best)[..., q][inside[..., q]].all()) for q in range(4)]
    assert is_best == [q >= num_sampled for q in range(4)]


@pytest.mark.parametrize(
    "options", [{"top_k": 1}, {"top_p": 1e-6, "top_k": 0}, {"temperature": 1e-4, "top_k": 0}], ids=str
)
def test_narrowest_sampling_is_greedy(model: SmallEForSpeechGeneration, options: dict) -> None:
    text = random_text(model.config, 7)
    expected = model.generate(text, max_new_tokens=10, **GREEDY)
    found = model.generate(text, max_new_tokens=10, do_sample=True, num_sampled_codebooks=4, seed=2, **options)
    assert torch.equal(found.sequences, expected.sequences)


def test_samples_follow_the_models_probabilities() -> None:
    """First frame of the first codebook, 4,000 times, against its probabilities: within 4 standard deviations."""
    model = endless_model(num_codebooks=1, codebook_size=5, num_audio_encoder_layers=1)
    with torch.no_grad():
        model.lm_heads.weight *= 0.3
    text = random_text(model.config, 4)
    output = model.generate(
        text, max_new_tokens=1, num_return_sequences=4000, do_sample=True, top_k=0, output_scores=True,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    expected = output.scores[0][0, 0].softmax(dim=-1)[model.config.codebook_offset :]
    found = output.sequences.flatten().bincount(minlength=5) / 4000
    deviation = (expected * (1 - expected) / 4000).sqrt()
    assert ((found - expected).abs() <= 4 * deviation).all()
    assert (expected > 0.02).sum() >= 3


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24])
def test_no_random_number_samples_an_excluded_id(number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ends of the interval that random numbers come from; excluded ids stand at both ends of the vocabulary."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.full(shape, number))
    scores = torch.randn(50, 3, 40, generator=torch.Generator().manual_seed(0))
    scores[..., :5] = scores[..., 17] = scores[..., 30:] = -float("inf")
    ids = choose_ids(scores, 3, None)
    assert torch.isfinite(scores.gather(-1, ids[..., None])).all()


# Options


def test_scores_and_logits_of_every_column(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 7, batch=2)
    output = model.generate(text, max_new_tokens=6, output_scores=True, output_logits=True, **GREEDY)
    assert len(output.scores) == len(output.logits) == output.delayed_ids.shape[1] == 9
    for scores, logits in zip(output.scores, output.logits, strict=True):
        assert scores.shape == logits.shape == (2, 4, model.config.audio_vocab_size)
        assert torch.isfinite(logits).all()
        assert (scores[..., model.config.audio_bos_token_id] == -float("inf")).all()
    assert model.generate(text, max_new_tokens=3).scores is None


class Forbid(LogitsProcessor):
    """Rules one id out and notes the shapes it is shown."""

    def __init__(self, token_id: int) -> None:
        self.token_id, self.shapes = token_id, []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.shapes.append((tuple(input_ids.shape), tuple(scores.shape)))
        return scores.index_fill(-1, torch.tensor([self.token_id]), -float("inf"))


def test_logits_processors_are_asked(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 7, batch=2)
    usual = model.generate(text, max_new_tokens=10, **GREEDY)
    code = int(usual.sequences[0, 4, 1])
    processor = Forbid(code + model.config.codebook_offset)
    output = model.generate(text, max_new_tokens=10, logits_processor=[processor], **GREEDY)
    assert code in usual.sequences
    assert code not in output.sequences
    vocabulary = model.config.audio_vocab_size
    assert processor.shapes[:2] == [((8, 1), (8, vocabulary)), ((8, 2), (8, vocabulary))]


def test_built_in_processors_work(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 7)
    usual = model.generate(text, max_new_tokens=30, **GREEDY).sequences
    penalised = model.generate(text, max_new_tokens=30, repetition_penalty=10.0, **GREEDY).sequences
    assert len(penalised.unique()) > len(usual.unique())
    unrepeated = model.generate(text, max_new_tokens=30, no_repeat_ngram_size=2, **GREEDY).sequences[0, :, 0].tolist()
    pairs = list(itertools.pairwise(unrepeated))
    assert len(set(pairs)) == len(pairs)


def test_stopping_criteria_cut_the_utterance(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 7)
    usual = model.generate(text, max_new_tokens=20, **GREEDY)
    output = model.generate(text, max_new_tokens=20, stopping_criteria=[StopAfter(9)], **GREEDY)
    assert output.delayed_ids.shape[1] == 9
    assert torch.equal(output.sequences, usual.sequences[:, :6])
    assert output.is_finished.tolist() == [False]


def test_max_time_ends_what_would_run_on(model: SmallEForSpeechGeneration) -> None:
    start = time.monotonic()
    output = model.generate(random_text(model.config, 7), max_new_tokens=100_000, max_time=0.3, **GREEDY)
    assert time.monotonic() - start < 10
    assert 0 < output.sequences.shape[1] < 100_000
    assert output.is_finished.tolist() == [False]


@pytest.mark.parametrize("options", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_min_new_tokens_forbids_an_early_end(options: dict) -> None:
    model = stopping_model()
    text = torch.cat([random_text(model.config, 7, seed) for seed in range(6)])
    usual = model.generate(text, max_new_tokens=40, seed=0, **options).sequence_lengths
    assert usual.min() < 20
    lengths = model.generate(text, max_new_tokens=40, min_new_tokens=20, seed=0, **options).sequence_lengths
    assert lengths.min() >= 20


def test_an_utterance_has_at_least_one_frame() -> None:
    model = stopping_model(boost=1.0)
    with torch.no_grad():  # the stop id is the best whatever the state is
        heads = model.lm_heads.weight.view(4, -1, model.config.hidden_size)
        heads[0] = 0
        heads[0, model.config.audio_eos_token_id + 1 :] = -heads[0, model.config.audio_eos_token_id]
    output = model.generate(random_text(model.config, 7), max_new_tokens=9, **GREEDY)
    assert output.sequence_lengths.item() >= 1


def test_max_new_tokens_counts_frames(model: SmallEForSpeechGeneration) -> None:
    for frames in (1, 2, 5):
        output = model.generate(random_text(model.config, 7), max_new_tokens=frames)
        assert output.sequences.shape == (1, frames, 4)
        assert output.sequence_lengths.tolist() == [frames]
        assert output.is_finished.tolist() == [False]


def test_limit_follows_from_the_text_and_is_reported(
    model: SmallEForSpeechGeneration, caplog: pytest.LogCaptureFixture
) -> None:
    model.config.max_frames_per_text_token = 1.5
    with caplog.at_level(logging.WARNING), Propagating("transformers"), Propagating("smalle_hf"):
        output = model.generate(random_text(model.config, 7), **GREEDY)
    assert output.sequence_lengths.tolist() == [11]
    assert output.is_finished.tolist() == [False]
    assert "limit of [11] frames" in caplog.text
    assert "`max_new_tokens`" in caplog.text


class Propagating:
    """Lets pytest see the records of a logger that keeps them to itself."""

    def __init__(self, name: str) -> None:
        self.logger = logging.getLogger(name)

    def __enter__(self) -> None:
        self.before, self.logger.propagate = self.logger.propagate, True

    def __exit__(self, *error: object) -> None:
        self.logger.propagate = self.before


def test_alignments_are_distributions_over_the_text(model: SmallEForSpeechGeneration) -> None:
    text, mask = pad([random_text(model.config, 5), random_text(model.config, 9)])
    output = model.generate(text, attention_mask=mask, max_new_tokens=6, return_alignments=True, **GREEDY)
    assert output.alignments.shape == (2, 6, 9)
    torch.testing.assert_close(output.alignments.sum(dim=-1), torch.ones(2, 6))
    assert (output.alignments[0, :, 5:] == 0).all()
    assert model.generate(text, attention_mask=mask, max_new_tokens=3).alignments is None


def test_without_dict_the_codes_come_back(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 7)
    expected = model.generate(text, max_new_tokens=5, **GREEDY).sequences
    found = model.generate(text, max_new_tokens=5, return_dict_in_generate=False, **GREEDY)
    assert torch.equal(found, expected)


def test_text_by_position_by_name_or_encoded(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 7)
    expected = model.generate(text, max_new_tokens=5, **GREEDY).sequences
    assert torch.equal(model.generate(input_ids=text, max_new_tokens=5, **GREEDY).sequences, expected)
    with torch.no_grad():
        encoded = model.get_encoder()(text)
    assert torch.equal(model.generate(encoder_outputs=encoded, max_new_tokens=5, **GREEDY).sequences, expected)


def test_padded_text_without_mask_is_what_it_is_alone(model: SmallEForSpeechGeneration) -> None:
    """Transformers derives the mask from the pad id."""
    model.config.max_frames_per_text_token = 1.0
    texts = [random_text(model.config, 5), random_text(model.config, 9)]
    together = model.generate(pad(texts)[0], **GREEDY)
    assert_rows_equal(together, [model.generate(text, **GREEDY) for text in texts])


def test_options_from_a_generation_config(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 7)
    options = {"max_new_tokens": 7, "min_new_tokens": 7, "do_sample": True, "top_k": 5, "num_sampled_codebooks": 3}
    expected = model.generate(text, seed=1, **options)
    found = model.generate(text, generation_config=GenerationConfig(**options), seed=1)
    assert torch.equal(found.sequences, expected.sequences)


def test_generation_config_without_a_limit(model: SmallEForSpeechGeneration) -> None:
    model.config.max_frames_per_text_token = 1.0
    output = model.generate(random_text(model.config, 7), generation_config=GenerationConfig(do_sample=False))
    assert output.sequence_lengths.tolist() == [7]


def test_models_generation_config_is_obeyed_and_left_as_it_is(
    model: SmallEForSpeechGeneration, tmp_path: Path
) -> None:
    model.generation_config.max_new_tokens = 4
    model.generation_config.num_sampled_codebooks = 2
    model.generation_config.return_alignments = True
    before = copy.deepcopy(model.generation_config.to_dict())
    text = random_text(model.config, 7)
    output = model.generate(text, seed=3)
    assert output.alignments.shape[1] == output.sequences.shape[1] == 4
    assert model.generation_config.to_dict() == before
    model.save_pretrained(tmp_path)
    loaded = SmallEForSpeechGeneration.from_pretrained(tmp_path)
    assert torch.equal(loaded.generate(text, seed=3).sequences, output.sequences)


# Concurrency


def test_two_threads_generate_with_one_model(model: SmallEForSpeechGeneration) -> None:
    jobs = [
        (random_text(model.config, 5 + seed, seed), random_codes(model.config, 3 + seed, seed)) for seed in range(4)
    ]

    def speak(job: int) -> SmallEGenerateOutput:
        text, prompt = jobs[job]
        return model.generate(text, audio_prompt_codes=prompt, max_new_tokens=25, seed=job, **SAMPLED)

    expected = [speak(job) for job in range(4)]
    found: dict[int, SmallEGenerateOutput] = {}
    barrier = threading.Barrier(4)

    def run(job: int) -> None:
        barrier.wait()
        found[job] = speak(job)

    threads = [threading.Thread(target=run, args=(job,)) for job in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for job in range(4):
        assert torch.equal(found[job].sequences, expected[job].sequences)


def test_generation_in_training_mode_without_dropout_is_the_same(model: SmallEForSpeechGeneration) -> None:
    text = random_text(model.config, 7)
    expected = model.generate(text, max_new_tokens=5, **GREEDY).sequences
    assert torch.equal(model.train().generate(text, max_new_tokens=5, **GREEDY).sequences, expected)


def test_special_ids_may_be_others() -> None:
    config = small_config(codebook_offset=6, audio_pad_token_id=5, audio_bos_token_id=3, audio_eos_token_id=0)
    model = lively_model(SmallEConfig(**config.to_dict()))
    text = random_text(model.config, 7)
    codes, _, stopped = naive_greedy(model, text, 10)
    output = model.generate(text, max_new_tokens=10, **GREEDY)
    assert torch.equal(output.sequences[0], codes)
    assert output.is_finished.tolist() == [stopped]
