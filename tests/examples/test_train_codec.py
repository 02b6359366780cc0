"""The codec's training: codebooks find clusters, crops depend on the step only, a resumed run is the same run."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from smalle_hf.configuration_small_codec import SmallCodecConfig
from smalle_hf.layers_small_codec import ResidualVectorQuantizer
from smalle_hf.modeling_small_codec import SmallCodecModel

FOLDER = Path(__file__).resolve().parents[2] / "examples" / "voice"
RATE = 16000


@pytest.fixture
def train_codec(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    import train_codec

    return train_codec


@pytest.fixture
def manifest(tmp_path):
    rng, rows = np.random.default_rng(0), []
    for index, seconds in enumerate((0.3, 1.5, 2.0)):
        time = np.arange(round(seconds * RATE)) / RATE
        tone = 0.3 * np.sin(2 * np.pi * (150 + 100 * index) * time) + 0.01 * rng.standard_normal(len(time))
        soundfile.write(tmp_path / f"{index}.flac", tone, RATE)
        rows.append({"path": f"{index}.flac", "duration": seconds})
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def options(train_codec, manifest, tmp_path):
    return train_codec.Options(
        manifest=manifest,
        held_out=manifest,
        output=tmp_path / "codec",
        steps=6,
        batch_size=2,
        crop_seconds=0.4,
        warmup_steps=2,
        codebook_size=16,
        num_codebooks=2,
        encoder_hidden_size=16,
        num_encoder_layers=1,
        decoder_hidden_size=16,
        num_decoder_layers=1,
        threads=1,
        log_every=3,
    )


def test_codebooks_find_clusters_and_revive_unused_entries(train_codec):
    torch.manual_seed(0)
    config = SmallCodecConfig(num_codebooks=1, codebook_size=4, codebook_dim=8)
    trainer = train_codec.CodebookTrainer(ResidualVectorQuantizer(config), decay=0.9)
    centres = 5 * torch.eye(4, 8)
    generator = torch.Generator().manual_seed(0)

    def draw():
        return centres[torch.randint(4, (200,))] + 0.01 * torch.randn(200, 8)

    # All entries start on the same cluster: only revival can bring them to the others.
    trainer.start(centres[:1] + 0.01 * torch.randn(50, 8), generator)
    for _ in range(40):
        vectors = draw()
        trainer.quantize(vectors[None])
        trainer.revive(vectors, generator)
    entries = trainer.quantizer.codebooks[0]
    assert torch.cdist(centres, entries).min(dim=1).values.max() < 0.1
    assert trainer.perplexity()[0] > 3.5


def test_gradients_pass_straight_through(train_codec):
    config = SmallCodecConfig(num_codebooks=2, codebook_size=4, codebook_dim=8)
    quantizer = ResidualVectorQuantizer(config)
    torch.nn.init.normal_(quantizer.codebooks)
    trainer = train_codec.CodebookTrainer(quantizer, decay=0.9)
    latents = torch.randn(1, 5, 8, requires_grad=True)
    before = quantizer.codebooks.clone()
    quantized = trainer.quantize(latents, update=False)
    torch.testing.assert_close(quantized, quantizer.decode(quantizer.encode(latents)))
    weights = torch.randn_like(latents)
    (quantized * weights).sum().backward()
    assert torch.equal(latents.grad, weights)
    assert torch.equal(quantizer.codebooks, before)


def test_crops_depend_on_the_step_only(train_codec, manifest):
    crops = train_codec.CropDataset(manifest, SmallCodecConfig(), 9600)
    one, two = crops.batch(8, seed=0, step=3), crops.batch(8, seed=0, step=4)
    assert one.shape == (8, 9600)
    assert torch.equal(one, train_codec.CropDataset(manifest, SmallCodecConfig(), 9600).batch(8, seed=0, step=3))
    assert not torch.equal(one, two)
    with pytest.raises(ValueError, match="16000 Hz"):
        train_codec.CropDataset(manifest, SmallCodecConfig(sampling_rate=24000), 9600)


def test_spectral_loss_is_nought_for_the_same_and_grows_with_the_difference(train_codec):
    torch.manual_seed(0)
    waveform = torch.randn(2, 8000)
    losses = [
        train_codec.spectral_loss(waveform + noise * torch.randn_like(waveform), waveform, 512).item()
        for noise in (0.0, 0.1, 1.0)
    ]
    assert losses[0] == 0.0
    assert losses == sorted(losses)


def test_a_resumed_run_is_the_same_run(train_codec, options):
    whole = train_codec.Training(options)
    for _ in range(4):
        whole.train_step()
    first = train_codec.Training(options)
    first.train_step()
    first.train_step()
    options.output.mkdir()
    first.save()
    second = train_codec.Training(options)
    assert second.resume()
    assert second.step == 2
    second.train_step()
    second.train_step()
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in second.model.state_dict().items())
    assert torch.equal(second.codebooks.counts, whole.codebooks.counts)


def test_more_training_of_the_decoder_leaves_the_codes_alone(train_codec, options, tmp_path):
    train_codec.train(options)
    more = dataclasses.replace(options, output=tmp_path / "better", decoder_of=options.output)
    train_codec.train(more)
    first, second = (SmallCodecModel.from_pretrained(folder) for folder in (options.output, more.output))
    audio = torch.randn(1, 1, 6400)
    assert torch.equal(first.encode(audio).audio_codes, second.encode(audio).audio_codes)
    changed = {
        name.split(".")[0] for name, value in second.state_dict().items() if not value.equal(first.state_dict()[name])
    }
    assert changed == {"decoder", "head"}


def test_the_script_trains_and_writes_a_codec(train_codec, options, capsys):
    train_codec.train(options)
    assert "step 6" in capsys.readouterr().out
    config = json.loads((options.output / "config.json").read_text())
    assert config["model_type"] == "small_codec"
    assert (options.output / "model.safetensors").exists()
    assert not list(options.output.glob("*.tmp"))
    train_codec.train(options)  # the schedule is over: nothing is trained
    assert "Going on from step 6" in capsys.readouterr().out
    assert SmallCodecConfig.from_pretrained(options.output).num_codebooks == 2
