"""Audio to codec codes, for data preparation: every row gets the codes that it gets alone."""

import copy
import hashlib
import inspect
import math
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, PreTrainedModel

from ..codec_smalle import available_codebooks, codebook_options
from .token_cache import CodecInfo

SHORT_FRAMES = 10  # shorter rows are never padded: EnCodec mirrors the first 7 frames, so that these do hear padding
PROBE_FRAMES = (10, 13, 20, 29)  # lengths of the waveforms that show whether a codec hears padding


class CodecEncoder:
    """Encodes waveforms with a Transformers codec that has `encode` and returns `audio_codes`: EnCodec, Mimi, DAC, ...

    Waveforms are padded with zeros to whole frames, so that the codec has nothing to add at their ends (EnCodec would
    reflect the last samples). Then a causal codec, such as EnCodec at 24 kHz, or one that masks its padding gives
    every row of a padded batch what it gives the row alone. Whether a codec does is tried out; with one that does not,
    as DAC, only rows of the same number of frames share a batch. The same goes for rows of less than 10 frames.

    What remains are the rounding errors of float32, which depend on the shape of a batch and tip a code where two
    entries of a codebook are almost equally near. On the CPU rows are therefore encoded one by one: batches are no
    faster there.

    Args:
        codec (`PreTrainedModel`): The codec.
        num_codebooks (`int`): How many codebooks are kept, the first ones.
        name (`str`): What the metadata calls the codec.
        device (`str` or `torch.device`, defaults to `"cpu"`): Where it runs.
        batched (`bool`, *optional*): Whether rows share batches. Defaults to everywhere but on the CPU.

    Attributes:
        info ([`CodecInfo`]): For the metadata of a token cache.
        frame_length (`int`): Samples per frame.
        hears_padding (`bool`): Whether only rows of the same number of frames share a batch.

    Raises:
        ValueError: The codec has fewer codebooks, needs more than a waveform, or cannot decode from codes alone.
    """

    def __init__(
        self,
        codec: PreTrainedModel,
        num_codebooks: int,
        name: str,
        device: str | torch.device = "cpu",
        batched: bool | None = None,
    ) -> None:
        check_codec(codec, num_codebooks, name)
        config = codec.config
        sampling_rate = int(getattr(config, "sampling_rate", None) or config.sample_rate)
        self.frame_length = int(getattr(config, "hop_length", None) or round(sampling_rate / config.frame_rate))
        self.info = CodecInfo(
            name=name,
            version=f"sha256:{weights_fingerprint(codec)}",
            sampling_rate=sampling_rate,
            # Not the codec's own `frame_rate`: DAC and others round it.
            frame_rate=sampling_rate / self.frame_length,
            num_codebooks=num_codebooks,
            codebook_size=int(config.codebook_size),
        )
        self.hears_padding = hears_padding(codec.eval(), num_codebooks, self.frame_length)
        self.device = torch.device(device)
        self.batched = self.device.type != "cpu" if batched is None else batched
        self.codec = codec.requires_grad_(False).to(self.device)

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike[str],
        num_codebooks: int,
        device: str | torch.device = "cpu",
        revision: str = "main",
    ) -> "CodecEncoder":
        """Loads a codec, or the codec inside a Small-E checkpoint.

        Args:
            name (`str` or `os.PathLike`): Hub id or folder.
            num_codebooks (`int`): How many codebooks are kept.
            device (`str` or `torch.device`, defaults to `"cpu"`): Where it runs.
            revision (`str`, defaults to `"main"`): Branch, tag or commit on the Hub.

        Raises:
            OSError: There is no model of that name.
            ValueError: The model is no codec that can be used.
        """
        model = AutoModel.from_pretrained(name, revision=revision, dtype=torch.float32)
        codec = getattr(model, "codec_model", model)
        if codec is None:
            raise ValueError(f"The checkpoint {name} has no codec inside: pass the codec that it was trained with.")
        label = Path(name).resolve().name if os.path.isdir(name) else os.fspath(name)
        return cls(codec, num_codebooks, label, device)

    def num_frames(self, num_samples: int) -> int:
        """Frames that a waveform gives, the last of them perhaps in part."""
        return math.ceil(num_samples / self.frame_length)

    @torch.inference_mode()
    def encode(self, waveforms: Sequence[NDArray[np.float32]]) -> list[NDArray[np.int16]]:
        """Encodes a batch.

        Args:
            waveforms (sequence of arrays of shape `(samples,)`): Mono, full scale 1.0, at `info.sampling_rate`.

        Returns:
            One array of shape `(ceil(samples / frame_length), num_codebooks)` per waveform.

        Raises:
            ValueError: A waveform is empty, or the codec gives too few frames.
        """
        frames = [self.num_frames(len(waveform)) for waveform in waveforms]
        if 0 in frames:
            raise ValueError(f"Waveform {frames.index(0)} is empty: pass at least one sample.")
        codes: dict[int, NDArray[np.int16]] = {}
        for group in self._groups(frames):
            batch = [torch.from_numpy(waveforms[row]).to(self.device) for row in group]
            # TensorFloat-32, which convolutions use by default, rounds so coarsely that many codes change.
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                encoded = encode_padded(self.codec, batch, self.info.num_codebooks, self.frame_length)
            arrays = encoded.to("cpu", torch.int16).numpy()
            codes |= {row: arrays[place, : frames[row]] for place, row in enumerate(group)}
        return [codes[row] for row in range(len(waveforms))]

    def _groups(self, frames: list[int]) -> list[list[int]]:
        """Returns the rows that may share a batch."""
        if not self.batched:
            return [[row] for row in range(len(frames))]
        groups: dict[int, list[int]] = {}
        for row, count in enumerate(frames):
            may_be_padded = not self.hears_padding and count >= SHORT_FRAMES
            groups.setdefault(0 if may_be_padded else count, []).append(row)
        return list(groups.values())


def encode_padded(
    codec: PreTrainedModel, waveforms: Sequence[torch.Tensor], num_codebooks: int, frame_length: int
) -> torch.Tensor:
    """Encodes waveforms as one batch, padded with zeros to whole frames and to the longest.

    Args:
        codec (`PreTrainedModel`): The codec.
        waveforms (sequence of `torch.Tensor` of shape `(samples,)`): Audio.
        num_codebooks (`int`): How many codebooks are kept.
        frame_length (`int`): Samples per frame.

    Returns:
        `torch.LongTensor` of shape `(B, T, num_codebooks)`; what stands behind the end of a row means nothing.

    Raises:
        ValueError: The codec gives fewer frames than `frame_length` leads to expect.
    """
    samples = torch.tensor([math.ceil(len(waveform) / frame_length) * frame_length for waveform in waveforms])
    batch = waveforms[0].new_zeros(len(waveforms), 1, int(samples.max()))
    for row, waveform in enumerate(waveforms):
        batch[row, 0, : len(waveform)] = waveform
    options = codebook_options(codec, num_codebooks)
    if "padding_mask" in inspect.signature(codec.encode).parameters:
        mask = torch.arange(batch.shape[-1]) < samples[:, None, None]
        options["padding_mask"] = mask.to(batch.device)
    codes = codec.encode(batch, **options).audio_codes
    codes = codes[0] if codes.ndim == 4 else codes  # EnCodec: (chunks, B, Q, T)
    if codes.shape[-1] < batch.shape[-1] // frame_length:
        raise ValueError(
            f"{type(codec).__name__} gave {codes.shape[-1]} frames for {batch.shape[-1]} samples, "
            f"{batch.shape[-1] // frame_length} were expected: choose another codec."
        )
    return codes[:, :num_codebooks].transpose(1, 2)


def hears_padding(codec: PreTrainedModel, num_codebooks: int, frame_length: int) -> bool:
    """Tells whether a codec's codes for a row in a padded batch differ from those for the row alone.

    Tried out on noise in float64, in which no code lies so close to another one that rounding decides, and on the CPU,
    so that all machines that encode a corpus come to the same answer.
    """
    exact = copy.deepcopy(codec).to("cpu", torch.float64)
    generator = torch.Generator().manual_seed(0)
    waveforms = [
        0.1 * torch.randn(frames * frame_length, generator=generator, dtype=torch.float64) for frames in PROBE_FRAMES
    ]
    with torch.inference_mode():
        batch = encode_padded(exact, waveforms, num_codebooks, frame_length)
        for row, frames, waveform in zip(batch, PROBE_FRAMES, waveforms, strict=True):
            alone = encode_padded(exact, [waveform], num_codebooks, frame_length)[0]
            if not torch.equal(row[:frames], alone[:frames]):
                return True
    return False


def check_codec(codec: PreTrainedModel, num_codebooks: int, name: str) -> None:
    """Raises `ValueError` for a model whose codes cannot be cached."""
    if not hasattr(codec, "encode") or not hasattr(codec.config, "codebook_size"):
        raise ValueError(f"{name} is a {type(codec).__name__} and no codec: choose one such as EnCodec, Mimi or DAC.")
    required = [
        parameter.name
        for parameter in inspect.signature(codec.encode).parameters.values()
        if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    if len(required) != 1:
        raise ValueError(f"{name} encodes {', '.join(required)}: choose a codec that needs a waveform only.")
    if getattr(codec.config, "chunk_length", None) is not None or getattr(codec.config, "normalize", False):
        raise ValueError(
            f"{name} scales its input or cuts it into chunks: choose a codec that codes alone can decode."
        )
    if getattr(codec.config, "audio_channels", 1) != 1:
        raise ValueError(f"{name} has {codec.config.audio_channels} audio channels: choose a mono codec.")
    available = available_codebooks(codec)
    if num_codebooks < 1 or (available is not None and available < num_codebooks):
        raise ValueError(f"{name} has {available} codebooks, {num_codebooks} are asked for: change --num-codebooks.")


def weights_fingerprint(model: PreTrainedModel) -> str:
    """Returns 16 hexadecimal digits that tell the weights of two models apart, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


__all__ = ["CodecEncoder"]
