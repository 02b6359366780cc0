"""`generate()` against a naive loop: what it emits, with and without the cache, in several threads."""

import threading
from typing import Any

import pytest
import torch
from core_models import (
    GREEDY,
    SAMPLED,
    assert_close,
    endless_model,
    lively_model,
    pad,
    random_codes,
    random_text,
    small_config,
    stopping_model,
)

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration, SmallEGenerateOutput, apply_delay


@pytest.fixture(params=["paca", "standard"])
def model(request: pytest.FixtureRequest) -> SmallEForSpeechGeneration:
    return endless_model(cross_attention=request.param)


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
