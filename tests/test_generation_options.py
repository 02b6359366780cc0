"""Options of `generate()`: sampling, processors, criteria, limits, what comes back."""

import copy
import itertools
import logging
import time
from pathlib import Path

import pytest
import torch
from core_models import (
    GREEDY,
    SAMPLED,
    StopAfter,
    assert_rows_equal,
    endless_model,
    pad,
    random_text,
    stopping_model,
)
from transformers import GenerationConfig, LogitsProcessor

from smalle_hf import SmallEForSpeechGeneration
from smalle_hf.sampling_smalle import choose_ids


@pytest.fixture(params=["paca", "standard"])
def model(request: pytest.FixtureRequest) -> SmallEForSpeechGeneration:
    return endless_model(cross_attention=request.param)


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


# Limits and results


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


def test_limit_without_any_generation_config(model: SmallEForSpeechGeneration, tmp_path: Path) -> None:
    """A folder may lack the file, and a configuration may lack a maximum: the text still sets a limit."""
    model.config.max_frames_per_text_token = 1.0
    text = random_text(model.config, 7)
    model.save_pretrained(tmp_path)
    (tmp_path / "generation_config.json").unlink()
    loaded = SmallEForSpeechGeneration.from_pretrained(tmp_path)
    model.generation_config.max_length = None
    for endless in (model, loaded):
        assert endless.generate(text, **GREEDY).sequence_lengths.tolist() == [7]


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
