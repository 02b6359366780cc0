"""Trains the small frame-rate codec from scratch on the audio of a manifest.

    python examples/voice/train_codec.py --manifest corpus/train.jsonl --held_out corpus/held_out.jsonl --output codec
    python examples/voice/train_codec.py ... --minutes 45 --decoder_hidden_size 256
    python examples/voice/train_codec.py ... --output better --decoder_of codec --learning_rate 5e-4

Losses: L1 on the log-mel spectrogram, L1 on log-magnitude and spectral convergence at two random of four resolutions,
and the commitment of the encoder to its codes. Codebooks follow moving averages of the vectors that fall on them;
entries that nothing falls on are moved to vectors of the batch. A run that was stopped goes on from its last
checkpoint. `OUTPUT` loads with `AutoModel.from_pretrained`. Loss and held-out mel distance go to stdout and to
TensorBoard (`OUTPUT/runs`).
"""

import argparse
import json
import math
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import soundfile
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torch.utils.tensorboard import SummaryWriter
from transformers import HfArgumentParser

from smalle_hf.configuration_small_codec import SmallCodecConfig
from smalle_hf.layers_small_codec import LogMelSpectrogram, ResidualVectorQuantizer
from smalle_hf.modeling_small_codec import SmallCodecModel

STFT_SIZES = (256, 512, 1024, 2048)
STATE_FILE = "training_state.safetensors"
USED_ENOUGH = 0.1  # an entry with less than this share of the average use is moved


@dataclass
class Options:
    """Options of the training run."""

    manifest: Path = field(metadata={"help": "JSONL with `path` and `duration`; paths relative to it"})
    held_out: Path = field(metadata={"help": "JSONL of speech that is never trained on"})
    output: Path = field(metadata={"help": "folder for the codec, its checkpoint and logs"})
    decoder_of: Path | None = field(
        default=None, metadata={"help": "go on training the decoder of this codec; its codes stay what they are"}
    )
    steps: int = field(default=6000, metadata={"help": "length of the learning rate schedule"})
    minutes: float = field(default=math.inf, metadata={"help": "finish the schedule in this time, if that is sooner"})
    batch_size: int = field(default=16, metadata={"help": "crops per step"})
    crop_seconds: float = field(default=1.0, metadata={"help": "length of a crop"})
    learning_rate: float = field(default=1.5e-3, metadata={"help": "highest learning rate"})
    warmup_steps: int = field(default=200, metadata={"help": "steps of linear warm-up"})
    weight_decay: float = field(default=0.01, metadata={"help": "of AdamW"})
    commitment_weight: float = field(default=0.25, metadata={"help": "weight of the commitment loss"})
    codebook_decay: float = field(default=0.99, metadata={"help": "of the codebooks' moving averages"})
    codebook_size: int = field(default=512, metadata={"help": "entries per codebook"})
    num_codebooks: int = field(default=4, metadata={"help": "codebooks"})
    encoder_hidden_size: int = field(default=128, metadata={"help": "width of the encoder"})
    num_encoder_layers: int = field(default=3, metadata={"help": "blocks of the encoder"})
    decoder_hidden_size: int = field(default=192, metadata={"help": "width of the decoder"})
    num_decoder_layers: int = field(default=6, metadata={"help": "blocks of the decoder"})
    threads: int = field(default=2, metadata={"help": "CPU threads"})
    device: str = field(default="cpu", metadata={"help": "cpu or cuda"})
    log_every: int = field(default=50, metadata={"help": "steps between log lines"})
    save_minutes: float = field(default=4.0, metadata={"help": "minutes between checkpoints"})
    seed: int = field(default=0, metadata={"help": "of weights, crops and revived entries"})

    def codec_config(self) -> SmallCodecConfig:
        return SmallCodecConfig(
            codebook_size=self.codebook_size,
            num_codebooks=self.num_codebooks,
            encoder_hidden_size=self.encoder_hidden_size,
            num_encoder_layers=self.num_encoder_layers,
            decoder_hidden_size=self.decoder_hidden_size,
            num_decoder_layers=self.num_decoder_layers,
        )


class CropDataset:
    """Random crops. A step's crops depend on the seed and the step only, so that a resumed run sees what it would
    have seen.

    Args:
        manifest (`Path`): JSONL with `path` and `duration` in seconds.
        config ([`SmallCodecConfig`]): Gives the sampling rate.
        crop_samples (`int`): Length N of a crop; shorter utterances are padded with silence.

    Raises:
        ValueError: No usable audio, or audio at another sampling rate.
    """

    def __init__(self, manifest: Path, config: SmallCodecConfig, crop_samples: int) -> None:
        rows = [json.loads(line) for line in manifest.read_text(encoding="utf-8").splitlines()]
        self.paths = [manifest.parent / row["path"] for row in rows]
        self.num_samples = np.array([round(row["duration"] * config.sampling_rate) for row in rows])
        if not rows:
            raise ValueError(f"{manifest} has no utterances.")
        rate = soundfile.info(self.paths[0]).samplerate
        if rate != config.sampling_rate:
            raise ValueError(f"{self.paths[0]} is at {rate} Hz, the codec at {config.sampling_rate} Hz: resample it.")
        self.crop_samples = crop_samples

    def batch(self, size: int, seed: int, step: int) -> torch.Tensor:
        """Crops of shape `(size, N)`; an utterance is drawn with a probability in proportion to its length."""
        rng = np.random.default_rng((seed, step))
        chosen = rng.choice(len(self.paths), size, p=self.num_samples / self.num_samples.sum())
        crops = np.zeros((size, self.crop_samples), dtype=np.float32)
        for crop, index in zip(crops, chosen, strict=True):
            start = rng.integers(max(self.num_samples[index] - self.crop_samples, 0) + 1)
            audio, _ = soundfile.read(self.paths[index], self.crop_samples, int(start), dtype="float32")
            crop[: len(audio)] = audio
        return torch.from_numpy(crops)


class CodebookTrainer:
    """Moves the entries of a quantiser to the means of the vectors that fall on them (VQ-VAE, arXiv 1711.00937,
    appendix).

    Args:
        quantizer ([`ResidualVectorQuantizer`]): Its codebooks are changed in place.
        decay (`float`): Of the moving averages.
    """

    def __init__(self, quantizer: ResidualVectorQuantizer, decay: float) -> None:
        self.quantizer = quantizer.requires_grad_(False)
        self.decay = decay
        self.counts = torch.zeros(quantizer.codebooks.shape[:2], device=quantizer.codebooks.device)
        self.sums = torch.zeros_like(quantizer.codebooks)

    @torch.no_grad()
    def start(self, latents: torch.Tensor, generator: torch.Generator) -> None:
        """Puts the entries of every codebook on random vectors of `latents`, `(M, D)`."""
        residual = latents
        for index in range(len(self.quantizer.codebooks)):
            self._place(index, torch.arange(self.counts.shape[1]), residual, generator)
            residual = residual - self._entries(residual, index)[0]

    def quantize(self, latents: torch.Tensor, update: bool = True) -> torch.Tensor:
        """Quantises `(B, T, D)` with gradients passed straight through, and learns from it."""
        residual = latents.detach().reshape(-1, latents.shape[-1])
        total = torch.zeros_like(residual)
        for index in range(len(self.quantizer.codebooks)):
            entries, codes = self._entries(residual, index)
            if update:
                self._learn(index, residual, codes)
            total, residual = total + entries, residual - entries
        return latents + (total.view_as(latents) - latents).detach()

    @torch.no_grad()
    def revive(self, latents: torch.Tensor, generator: torch.Generator) -> int:
        """Moves the entries that are hardly used to random vectors of `latents`, `(M, D)`. Returns how many."""
        residual, moved = latents, 0
        for index in range(len(self.quantizer.codebooks)):
            counts = self.counts[index]
            dead = torch.nonzero(counts < USED_ENOUGH * counts.mean())[:, 0]
            self._place(index, dead, residual, generator)
            residual = residual - self._entries(residual, index)[0]
            moved += len(dead)
        return moved

    def perplexity(self) -> list[float]:
        """How many entries of each codebook are in use, weighted by use."""
        shares = self.counts / self.counts.sum(dim=1, keepdim=True).clamp(min=1e-9)
        return torch.exp(-(shares * shares.clamp(min=1e-9).log()).sum(dim=1)).tolist()

    def _entries(self, residual: torch.Tensor, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        codes = self.quantizer.nearest(residual, index)
        return F.embedding(codes, self.quantizer.codebooks[index]), codes

    @torch.no_grad()
    def _learn(self, index: int, residual: torch.Tensor, codes: torch.Tensor) -> None:
        counts = torch.bincount(codes, minlength=self.counts.shape[1]).to(self.counts)
        sums = torch.zeros_like(self.sums[index]).index_add_(0, codes, residual)
        self.counts[index].lerp_(counts, 1 - self.decay)
        self.sums[index].lerp_(sums, 1 - self.decay)
        used = self.counts[index] > 1e-3
        self.quantizer.codebooks[index][used] = self.sums[index][used] / self.counts[index][used, None]

    def _place(self, index: int, rows: torch.Tensor, residual: torch.Tensor, generator: torch.Generator) -> None:
        if not len(rows):
            return
        chosen = residual[torch.randint(len(residual), (len(rows),), generator=generator).to(residual.device)]
        average = self.counts[index].mean().clamp(min=1.0)
        self.quantizer.codebooks[index, rows] = chosen
        self.counts[index, rows] = average
        self.sums[index, rows] = chosen * average


def spectral_loss(estimate: torch.Tensor, target: torch.Tensor, size: int) -> torch.Tensor:
    """L1 of the log-magnitudes plus spectral convergence (arXiv 1910.11480) of two waveforms `(B, N)`."""
    window = torch.hann_window(size, device=target.device)

    def magnitudes(waveform: torch.Tensor) -> torch.Tensor:
        spectrum = torch.stft(waveform, size, size // 4, window=window, return_complex=True)
        return spectrum.abs() / window.square().sum().sqrt()

    ours, theirs = magnitudes(estimate), magnitudes(target)
    # The floor is the level of the synthesiser's background noise, which is not worth modelling.
    log_distance = F.l1_loss((ours + 1e-3).log(), (theirs + 1e-3).log())
    convergence = (theirs - ours).norm() / theirs.norm().clamp(min=1e-5)
    return log_distance + 0.5 * convergence


class Training:
    """One training run: everything that a checkpoint holds."""

    def __init__(self, options: Options) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        if options.decoder_of is None:
            self.model = SmallCodecModel(options.codec_config())
        else:
            self.model = SmallCodecModel.from_pretrained(options.decoder_of, dtype=torch.float32)
            for name, parameter in self.model.named_parameters():
                parameter.requires_grad_(name.startswith(("decoder.", "head.")))
        config = self.model.config
        self.model.train().to(torch.device(options.device))
        self.mel = LogMelSpectrogram(config).to(options.device)
        self.codebooks = CodebookTrainer(self.model.quantizer, options.codebook_decay)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(parameters, weight_decay=options.weight_decay, betas=(0.9, 0.99))
        crop_samples = round(options.crop_seconds * config.frame_rate) * config.hop_length
        self.crops = CropDataset(options.manifest, config, crop_samples)
        self.held_out = CropDataset(options.held_out, config, 2 * crop_samples)
        self.step, self.seconds = 0, 0.0

    @property
    def progress(self) -> float:
        """From 0 to 1: share of the schedule that is over."""
        return min(max(self.step / self.options.steps, self.seconds / 60 / self.options.minutes), 1.0)

    def learning_rate(self) -> float:
        """Linear warm-up, then a cosine to zero."""
        warmup = min((self.step + 1) / self.options.warmup_steps, 1.0)
        return self.options.learning_rate * warmup * 0.5 * (1 + math.cos(math.pi * self.progress))

    def train_step(self) -> dict[str, float]:
        options, generator = self.options, torch.Generator().manual_seed(self.options.seed * 1_000_003 + self.step)
        waveform = self.crops.batch(options.batch_size, options.seed, self.step).to(options.device)
        latents = self.model.embed(waveform)
        vectors = latents.detach().flatten(0, 1)
        learns_codes = options.decoder_of is None
        if learns_codes and self.step == 0:
            self.codebooks.start(vectors, generator)
        elif learns_codes and self.step % 20 == 0 and self.progress < 0.8:
            self.codebooks.revive(vectors, generator)
        quantized = self.codebooks.quantize(latents, update=learns_codes)
        estimate = self.model.synthesize(quantized)
        mel = F.l1_loss(self.mel(estimate), self.mel(waveform))
        sizes = [STFT_SIZES[i] for i in torch.randperm(len(STFT_SIZES), generator=generator)[:2]]
        spectral = torch.stack([spectral_loss(estimate, waveform, size) for size in sizes]).mean()
        # Relative to their variance, so that the encoder cannot escape it by shrinking the latents.
        commitment = F.mse_loss(latents, quantized.detach()) / vectors.var(dim=0).mean()
        loss = mel + spectral + options.commitment_weight * commitment
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        self.optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 2.0)
        self.optimizer.step()
        self.step += 1
        values = {"loss": loss, "mel": mel, "spectral": spectral, "commitment": commitment, "gradient": norm}
        return {name: value.item() for name, value in values.items()}

    @torch.no_grad()
    def held_out_mel_distance(self) -> float:
        """L1 of the log-mel spectrograms of 16 held-out crops, always the same."""
        waveform = self.held_out.batch(16, 0, 0).to(self.options.device)
        estimate = self.model.synthesize(self.codebooks.quantize(self.model.embed(waveform), update=False))
        return F.l1_loss(self.mel(estimate), self.mel(waveform)).item()

    def save(self) -> None:
        """Writes the codec for use, and the whole state for going on."""
        self.model.save_pretrained(self.options.output)
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {"codebooks.counts": self.codebooks.counts, "codebooks.sums": self.codebooks.sums}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        tensors["step"], tensors["seconds"] = torch.tensor(self.step), torch.tensor(self.seconds, dtype=torch.float64)
        path = self.options.output / STATE_FILE
        temporary = path.with_suffix(".tmp")
        save_file(tensors, temporary)
        os.replace(temporary, path)

    def resume(self) -> bool:
        """Loads the last checkpoint if there is one."""
        path = self.options.output / STATE_FILE
        if not path.exists():
            return False
        tensors = load_file(path, device=self.options.device)
        self.model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
        self.codebooks.counts, self.codebooks.sums = tensors["codebooks.counts"], tensors["codebooks.sums"]
        optimizer = self.optimizer.state_dict()
        optimizer["state"] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                optimizer["state"].setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict(optimizer)
        self.step, self.seconds = int(tensors["step"]), float(tensors["seconds"])
        return True


def train(options: Options) -> None:
    """Runs the schedule to its end, from a checkpoint if the output folder has one."""
    torch.set_num_threads(options.threads)
    options.output.mkdir(parents=True, exist_ok=True)
    training = Training(options)
    if training.resume():
        print(f"Going on from step {training.step}.", flush=True)
    writer = SummaryWriter(str(options.output / "runs"), purge_step=training.step)
    print(f"{sum(p.numel() for p in training.model.parameters()):,} parameters", flush=True)
    last, last_saved = time.monotonic(), training.seconds
    while training.progress < 1.0:
        values = training.train_step()
        now = time.monotonic()
        training.seconds, last = training.seconds + now - last, now
        if training.step % options.log_every == 0:
            values["held_out_mel"], values["learning_rate"] = (
                training.held_out_mel_distance(),
                training.learning_rate(),
            )
            for name, value in values.items():
                writer.add_scalar(name, value, training.step)
            used = " ".join(f"{perplexity:.0f}" for perplexity in training.codebooks.perplexity())
            shown = " ".join(f"{name} {value:.4g}" for name, value in values.items())
            print(f"step {training.step} {training.seconds / 60:.1f} min {shown} used {used}", flush=True)
        if training.seconds - last_saved > options.save_minutes * 60:
            training.save()
            last_saved = training.seconds
    training.save()
    writer.close()


def main() -> int:
    parser = HfArgumentParser(
        [cast(Any, Options)], description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    (options,) = parser.parse_args_into_dataclasses()
    try:
        train(options)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
