"""The decoder-only baseline is a fair one: cached, batched, padded and packed it computes the same, and it learns."""

import importlib
import sys
from pathlib import Path

import pytest
import torch
from transformers import StaticCache

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration, apply_delay
from smalle_hf.data import SmallECollator

BASELINES = Path(__file__).resolve().parents[2] / "examples" / "baselines"
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture(scope="module")
def baseline():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BASELINES)
        yield importlib.import_module("decoder_only")
    del sys.modules["decoder_only"]


@pytest.fixture(scope="module")
def config():
    return SmallEConfig(vocab_size=40, codebook_size=30, num_codebooks=3, delays=[0, 2, 1])


@pytest.fixture
def model(baseline, config):
    """Random weights, so large that a wrong position or mask shows."""
    torch.manual_seed(0)
    model = baseline.DecoderOnlyForSpeechGeneration(config, SIZES).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * (1.5 / parameter.shape[-1] ** 0.5))
        for embedding in (model.transformer.embed_tokens, model.embed_audio):
            embedding.weight.normal_()
    return model


def text_of(length, seed=0):
    return torch.randint(3, 40, (1, length), generator=torch.Generator().manual_seed(seed))


def rows_of(config, lengths=((5, 9), (12, 4), (3, 20))):
    """Rows of a token cache with so many text tokens and frames."""
    generator = torch.Generator().manual_seed(0)
    return [
        {
            "id": str(index),
            "text": "".join(chr(97 + (7 * index + place) % 26) for place in range(tokens)),
            "codes": torch.randint(config.codebook_size, (frames, config.num_codebooks), generator=generator).numpy(),
        }
        for index, (tokens, frames) in enumerate(lengths)
    ]


def letters(text):
    return [3 + ord(letter) - 97 for letter in text]


@pytest.mark.parametrize("preset", ["86m", "64m"])
def test_presets_have_the_promised_number_of_parameters(baseline, preset):
    with torch.device("meta"):
        model = baseline.DecoderOnlyForSpeechGeneration.from_preset(preset)
        ours = sum(weight.numel() for weight in SmallEForSpeechGeneration(SmallEConfig()).parameters())
    expected = {"86m": 86e6, "64m": ours}[preset]
    assert sum(weight.numel() for weight in model.parameters()) == pytest.approx(expected, rel=0.005)
    with pytest.raises(ValueError, match="86m"):
        baseline.DecoderOnlyForSpeechGeneration.from_preset("87m")


@pytest.mark.parametrize("overrides", [{}, {"hidden_size": 256, "num_audio_encoder_layers": 3}])
def test_equal_size(baseline, overrides):
    config = SmallEConfig(**overrides)
    with torch.device("meta"):
        model = baseline.DecoderOnlyForSpeechGeneration(config, baseline.equal_size(config))
        ours = SmallEForSpeechGeneration(config)
    counts = [sum(weight.numel() for weight in m.parameters()) for m in (model, ours)]
    assert counts[0] == pytest.approx(counts[1], rel=0.005)
    assert overrides or baseline.equal_size(config) == baseline.PRESETS["64m"]


def test_padding_does_not_matter(model, config):
    collate = SmallECollator(config, letters)
    rows = rows_of(config)
    together = collate(rows)
    logits = model(**together).logits
    for index, row in enumerate(rows):
        alone = collate([row])
        expected = model(alone["input_ids"], decoder_input_ids=alone["decoder_input_ids"]).logits[0]
        torch.testing.assert_close(logits[index, : len(expected)], expected, atol=1e-4, rtol=1e-4)


def test_packed_rows_give_what_single_ones_give(model, config):
    rows = rows_of(config)
    packed = SmallECollator(config, letters, pack_columns=64)(rows)
    assert len(packed["input_ids"]) == 1
    logits = model(**packed).logits[0]
    found = {int(segment): logits[packed["decoder_segment_ids"][0] == segment] for segment in (1, 2, 3)}
    lengths = [len(row["codes"]) for row in rows]
    for segment, index in enumerate(sorted(range(3), key=lambda index: -lengths[index]), start=1):
        alone = SmallECollator(config, letters)([rows[index]])
        torch.testing.assert_close(found[segment], model(**alone).logits[0], atol=1e-4, rtol=1e-4)
    losses = [model(**batch).loss.item() for batch in (packed, SmallECollator(config, letters)(rows))]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_one_packed_side_is_refused(model, config):
    packed = SmallECollator(config, letters, pack_columns=64)(rows_of(config))
    del packed["segment_ids"]
    with pytest.raises(ValueError, match="segment_ids"):
        model(**packed)


@pytest.mark.parametrize("kind", ["default", "static"])
def test_generation_follows_the_uncached_forward(model, config, kind):
    text, frames = text_of(7), 12
    cache = None
    if kind == "static":
        cache = StaticCache(config=model.transformer.config, max_cache_len=64)
    output = model.generate(text, frames, min_new_tokens=frames, top_k=None, cache=cache)
    assert output.sequences.shape == (1, frames, config.num_codebooks)
    delayed = apply_delay(output.sequences, config)
    scores = model(text, decoder_input_ids=delayed[:, :-1]).logits
    scores[..., : config.codebook_offset] = -torch.inf
    for codebook, delay in enumerate(config.delays):  # column t predicts column t + 1, where frame t - delay stands
        chosen = scores[0, delay : delay + frames, codebook].argmax(dim=-1) - config.codebook_offset
        assert torch.equal(chosen, output.sequences[0, :, codebook])


def test_rows_of_a_batch_are_what_they_are_alone(model, config):
    texts = [text_of(length, seed) for seed, length in enumerate((4, 11, 7))]
    model.lm_heads.weight.data[config.audio_eos_token_id] *= 2.0  # utterances of different lengths
    singles = [model.generate(text, 25, top_k=None) for text in texts]
    ids = torch.stack([torch.nn.functional.pad(text[0], (0, 11 - text.shape[1])) for text in texts])
    together = model.generate(ids, 25, attention_mask=(ids > 0).long(), top_k=None)
    lengths = [int(single.sequence_lengths) for single in singles]
    assert together.sequence_lengths.tolist() == lengths
    assert len(set(lengths)) > 1
    for row, single in enumerate(singles):
        assert torch.equal(together.sequences[row, : lengths[row]], single.sequences[0])
        assert (together.sequences[row, lengths[row] :] == 0).all()
        assert bool(together.is_finished[row]) == bool(single.is_finished)


def test_limits_and_seeds(model, config):
    text = text_of(5)

    def speak(seed):
        return model.generate(text, 20, min_new_tokens=20, generator=torch.Generator().manual_seed(seed)).sequences

    assert torch.equal(speak(1), speak(1))
    assert not torch.equal(speak(1), speak(2))
    assert int(speak(1).min()) >= 0
    assert int(speak(1).max()) < config.codebook_size


def test_the_default_cache_grows_by_one_position_per_frame_and_refuses_more_than_it_holds(baseline, model):
    cache = baseline.PreallocatedCache(model.transformer.config, 16)
    columns = torch.ones(2, 5, 3, dtype=torch.long)
    per_position = 2 * SIZES["num_hidden_layers"] * 2 * SIZES["hidden_size"] * 4
    for calls in (1, 2, 3):
        model.transformer(inputs_embeds=model.embed_columns(columns), past_key_values=cache, use_cache=True)
        assert cache.nbytes == calls * 5 * per_position
    with pytest.raises(ValueError, match="16"):
        model.transformer(inputs_embeds=model.embed_columns(columns), past_key_values=cache, use_cache=True)


def test_a_truncated_cache_forgets_what_came_after(baseline, model):
    columns = torch.randint(3, 33, (1, 9, 3), generator=torch.Generator().manual_seed(0))

    def read(first, last, cache):
        embedded = model.embed_columns(columns[:, first:last])
        return model.transformer(inputs_embeds=embedded, past_key_values=cache, use_cache=True)[0][:, -1]

    caches = [baseline.PreallocatedCache(model.transformer.config, 16) for _ in range(2)]
    read(0, 9, caches[0])
    caches[0].truncate(4)
    read(0, 4, caches[1])
    torch.testing.assert_close(read(6, 8, caches[0]), read(6, 8, caches[1]))


def test_it_learns_a_batch_by_heart(baseline, config):
    torch.manual_seed(0)
    model = baseline.DecoderOnlyForSpeechGeneration(config, SIZES)
    batch = SmallECollator(config, letters)(rows_of(config))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(120):
        output = model(**batch)
        output.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(output.loss.item())
    assert losses[0] > 3.0
    assert losses[-1] < 0.2
    assert output.codebook_losses.shape == (3,)
