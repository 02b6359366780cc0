"""Learns three short clips by heart and speaks them again from their text alone, on a laptop in a minute.

    python examples/demo.py
    python examples/demo.py --output outputs/demo --max-steps 800

It writes a checkpoint folder that `pipeline("text-to-speech", model=...)` loads, and a wav and an alignment picture
per clip. What it shows is that text, model, delay pattern, codec and generation fit together. A model that has learnt
three clips can say nothing else, and its codec is untrained, so the wavs sound like noise.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import soxr
import torch
from tqdm import tqdm
from transformers import EncodecConfig

from smalle_hf import SmallEConfig, SmallEForSpeechGeneration, SmallEProcessor, apply_delay
from smalle_hf.alignment import plot_alignment

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
SENTENCES = ("hello world", "in eighteen thirteen", "in being comparatively modern.")
RECORDINGS = {
    SENTENCES[1]: "ljspeech_sample/wavs/LJ002-0020.wav",
    SENTENCES[2]: "ljspeech_sample/wavs/LJ001-0002.wav",
}
ENCODEC_CODES = "encodec_codes/hello_world.qnt.pt"
TARGET_LOSS = 0.004
"""Nats per id at which every clip is known by heart."""


@dataclass
class Clip:
    """A text and the codes (T, Q) that shall come back from it."""

    text: str
    codes: torch.Tensor


def build_model(processor: SmallEProcessor, seed: int) -> SmallEForSpeechGeneration:
    """The `tiny` preset with a very small, untrained EnCodec inside."""
    torch.manual_seed(seed)
    codec = EncodecConfig(
        num_filters=4, hidden_size=32, codebook_dim=32, num_lstm_layers=1, target_bandwidths=[3.0], sampling_rate=24000
    )
    config = SmallEConfig.from_preset("tiny", vocab_size=len(processor.tokenizer), codec_config=codec)
    return SmallEForSpeechGeneration(config)


@torch.no_grad()
def fill_codebooks(model: SmallEForSpeechGeneration, audio: torch.Tensor) -> None:
    """Draws the codebooks of the untrained codec, which begin as zeros, from what its encoder makes of some audio."""
    codec: Any = model.codec_model
    residual = codec.encoder(audio[None, None])  # (1, channels, T)
    for layer in codec.quantizer.layers:
        vectors, table = residual[0].T, layer.codebook.embed
        chosen = vectors[torch.randint(len(vectors), (len(table),))]
        table.copy_(chosen + 0.1 * vectors.std(dim=0) * torch.randn_like(chosen))
        residual = residual - layer.decode(layer.encode(residual))


def read_audio(path: Path, sampling_rate: int) -> torch.Tensor:
    """A recording as mono audio at another rate."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return torch.from_numpy(soxr.resample(audio.mean(axis=1), rate, sampling_rate))


def recorded_clips(model: SmallEForSpeechGeneration) -> list[Clip]:
    """Real EnCodec codes of one clip, and two recordings encoded by the model's codec."""
    audio = [read_audio(SHARED / RECORDINGS[text], model.config.sampling_rate) for text in SENTENCES[1:]]
    fill_codebooks(model, torch.cat(audio))
    codes = torch.load(SHARED / ENCODEC_CODES, weights_only=True)[0, : model.config.num_codebooks].T
    clips = [Clip(SENTENCES[0], codes)]
    return clips + [
        Clip(text, model.encode_audio(a[None])[0][0]) for text, a in zip(SENTENCES[1:], audio, strict=True)
    ]


def synthesised_clips(model: SmallEForSpeechGeneration) -> tuple[list[Clip], str]:
    """Clips spoken by a synthesiser that is installed, or else codes from a random number generator; and which."""
    speakers = {
        "flite": ["flite", "-t", "{text}", "-o", "{path}"],
        "espeak-ng": ["espeak-ng", "-w", "{path}", "{text}"],
    }
    name = next((name for name in speakers if shutil.which(name)), None)
    if name is None:
        shape = (100, model.config.num_codebooks)
        codes = [torch.randint(model.config.codebook_size, shape) for _ in SENTENCES]
        fill_codebooks(model, torch.randn(model.config.sampling_rate * 2))
        return [Clip(text, code) for text, code in zip(SENTENCES, codes, strict=True)], "random codes"
    audio = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clip.wav"
        for text in SENTENCES:
            command = [part.format(text=text, path=path) for part in speakers[name]]
            subprocess.run(command, check=True, capture_output=True)
            audio.append(read_audio(path, model.config.sampling_rate))
    fill_codebooks(model, torch.cat(audio))
    clips = [Clip(text, model.encode_audio(a[None])[0][0]) for text, a in zip(SENTENCES, audio, strict=True)]
    return clips, f"clips spoken by {name}"


def make_batch(processor: SmallEProcessor, clips: list[Clip], config: SmallEConfig) -> dict[str, torch.Tensor]:
    """Texts and delayed codes as the model is trained on them, right padded."""
    delayed = [apply_delay(clip.codes, config) for clip in clips]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        **processor([clip.text for clip in clips], return_tensors="pt"),
        "decoder_input_ids": pad([ids[:-1] for ids in delayed], True, config.audio_pad_token_id),
        "decoder_attention_mask": pad([torch.ones_like(ids[:-1, 0]) for ids in delayed], True, 0),
        "labels": pad([ids[1:] for ids in delayed], True, -100),
    }


def learn_by_heart(model: SmallEForSpeechGeneration, batch: dict[str, torch.Tensor], max_steps: int) -> float:
    """Trains until the clips are known, and returns the last loss."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=max_steps, pct_start=0.1)
    model.train()
    progress = tqdm(range(max_steps), desc="learning by heart", unit="step", file=sys.stderr, disable=None)
    for _ in progress:
        loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        progress.set_postfix_str(f"loss {loss.item():.3f}", refresh=False)
        if loss.item() < TARGET_LOSS:
            break
    model.eval()
    return loss.item()


def compare(codes: torch.Tensor, spoken: torch.Tensor) -> float:
    """Share of codes that came back; missing and surplus frames count as wrong."""
    frames = min(len(codes), len(spoken))
    return (codes[:frames] == spoken[:frames]).sum().item() / (max(len(codes), len(spoken)) * codes.shape[1])


def run(output: Path, max_steps: int, seed: int) -> float:
    """Runs the demonstration and returns the share of codes that came back in the worst clip."""
    started = time.perf_counter()
    torch.set_num_threads(1)  # matrices this small are faster on one core than shared between several
    processor = SmallEProcessor.from_characters()
    model = build_model(processor, seed)
    if SHARED.is_dir():
        clips, source = recorded_clips(model), "real EnCodec codes and two recordings"
    else:
        clips, source = synthesised_clips(model)
    print(f"Learning {len(clips)} clips by heart ({source}).", file=sys.stderr)
    batch = make_batch(processor, clips, model.config)
    loss = learn_by_heart(model, batch, max_steps)

    texts: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask")}
    spoken: Any = model.generate(**texts, do_sample=False, return_alignments=True)
    model.save_pretrained(output)
    processor.save_pretrained(output)
    shares = []
    for i, clip in enumerate(clips):
        length = int(spoken.sequence_lengths[i])
        share = compare(clip.codes, spoken.sequences[i, :length])
        shares.append(share)
        name = output / clip.text.strip(".").replace(" ", "_")
        audio = np.asarray(spoken.audio[i, : int(spoken.audio_lengths[i])])
        processor.save_audio(audio, name.with_suffix(".wav"), sampling_rate=model.config.sampling_rate)
        num_tokens = int(batch["attention_mask"][i].sum())
        tokens = processor.tokenizer.convert_ids_to_tokens(batch["input_ids"][i, :num_tokens])
        plot_alignment(spoken.alignments[i, :length, :num_tokens], tokens, name.with_suffix(".png"))
        print(f"  {100 * share:5.1f} % of {length} frames came back: {clip.text!r}")
    print(
        f"{output}: checkpoint, wavs and alignment pictures (loss {loss:.4f}, {time.perf_counter() - started:.0f} s)"
    )
    return min(shares)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0 if at least 99 % of every clip came back."""
    description, _, details = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=description, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/demo"), help="folder to write (default: %(default)s)"
    )
    parser.add_argument("--max-steps", type=int, default=800, help="training steps at most (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of weights and codebooks (default: %(default)s)")
    options = parser.parse_args(arguments)
    return 0 if run(options.output, options.max_steps, options.seed) >= 0.99 else 1


if __name__ == "__main__":
    sys.exit(main())
