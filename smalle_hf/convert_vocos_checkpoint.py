"""Converts the public Vocos vocoder for EnCodec tokens (arXiv 2306.00814, the paper's vocoder) into a
[`SmallCodecModel`].

    python -m smalle_hf.convert_vocos_checkpoint --weights pytorch_model.bin --output vocos-encodec-24khz

The result has a decoder only: it decodes the codes that EnCodec at 24 kHz makes, 2, 4, 8 or 16 codebooks of them.
Sizes are read off the tensors; the layer order, the window and the hop of 320 samples are those of the published
model.
"""

import argparse
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence

import torch

from .checkpoint_files import read_tensors
from .configuration_small_codec import SmallCodecConfig
from .modeling_small_codec import SmallCodecModel

ANCHOR = "backbone.embed.weight"
CODEBOOKS = "feature_extractor.codebook_weights"
ENCODEC_CODEBOOK_SIZE = 1024
CONDITIONING_NUM_CODEBOOKS = (2, 4, 8, 16)
"""Codebooks at 1.5, 3, 6 and 12 kbit/s, in the order of the checkpoint's conditional norms."""

PLACES = (
    (r"backbone\.embed\.(weight|bias)", r"decoder.embed.\1"),
    (r"backbone\.norm\.scale\.weight", r"decoder.norm.weight"),
    (r"backbone\.norm\.shift\.weight", r"decoder.norm.bias"),
    (r"backbone\.convnext\.(\d+)\.dwconv\.(weight|bias)", r"decoder.layers.\1.depthwise.\2"),
    (r"backbone\.convnext\.(\d+)\.norm\.scale\.weight", r"decoder.layers.\1.norm.weight"),
    (r"backbone\.convnext\.(\d+)\.norm\.shift\.weight", r"decoder.layers.\1.norm.bias"),
    (r"backbone\.convnext\.(\d+)\.pwconv1\.(weight|bias)", r"decoder.layers.\1.up_proj.\2"),
    (r"backbone\.convnext\.(\d+)\.pwconv2\.(weight|bias)", r"decoder.layers.\1.down_proj.\2"),
    (r"backbone\.convnext\.(\d+)\.gamma", r"decoder.layers.\1.scale"),
    (r"backbone\.final_layer_norm\.(weight|bias)", r"decoder.final_norm.\1"),
    (r"head\.out\.(weight|bias)", r"head.out_proj.\1"),
)
"""Where tensors stand, theirs (a regular expression over the whole name) to ours."""

NOT_NEEDED = re.compile(r"head\.istft\.window|feature_extractor\.encodec\..*")
"""The window is a Hann window, which we make ourselves; EnCodec itself is in some checkpoints."""


def read_weights(path: str | os.PathLike[str]) -> dict[str, torch.Tensor]:
    """Reads a state dict.

    Args:
        path (`str` or `os.PathLike`): `pytorch_model.bin` of `charactr/vocos-encodec-24khz`, or a `.safetensors` file.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is damaged, holds pickled objects, or is no Vocos model for EnCodec tokens.
    """
    weights, _ = read_tensors(path)
    for name in (ANCHOR, CODEBOOKS):
        if name not in weights:
            raise ValueError(f"{path} is no Vocos model for EnCodec tokens: it has no `{name}`.")
    return weights


def infer_config(weights: Mapping[str, torch.Tensor]) -> SmallCodecConfig:
    """Reads the sizes off the tensors.

    Args:
        weights (mapping of `str` to `torch.Tensor`): From [`read_weights`].

    Raises:
        ValueError: The sizes are not those of a Vocos model for EnCodec tokens.
    """
    hidden_size, codebook_dim, kernel_size = weights[ANCHOR].shape
    inner_size = weights["backbone.convnext.0.pwconv1.weight"].shape[0]
    num_conditions = len(weights["backbone.norm.scale.weight"])
    num_codebooks, rest = divmod(len(weights[CODEBOOKS]), ENCODEC_CODEBOOK_SIZE)
    if rest or num_codebooks < CONDITIONING_NUM_CODEBOOKS[num_conditions - 1] or inner_size % hidden_size:
        raise ValueError(
            f"{len(weights[CODEBOOKS])} codes, {num_conditions} bandwidths and widths {hidden_size} and {inner_size} "
            "are not those of Vocos for EnCodec at 24 kHz."
        )
    layers = {match[1] for name in weights if (match := re.match(r"backbone\.convnext\.(\d+)\.", name))}
    return SmallCodecConfig(
        sampling_rate=24000,
        hop_length=320,
        num_codebooks=num_codebooks,
        codebook_size=ENCODEC_CODEBOOK_SIZE,
        codebook_dim=codebook_dim,
        num_encoder_layers=0,
        decoder_hidden_size=hidden_size,
        num_decoder_layers=len(layers),
        expansion=inner_size // hidden_size,
        kernel_size=kernel_size,
        decoder_input_lookahead=kernel_size // 2,
        decoder_layer_lookahead=kernel_size // 2,
        istft_size=len(weights["head.out.bias"]) - 2,
        conditioning_num_codebooks=list(CONDITIONING_NUM_CODEBOOKS[:num_conditions]),
    )


def convert_name(name: str) -> str:
    """Our name of one of their tensors.

    Raises:
        ValueError: There is no such tensor in a Vocos model.
    """
    for pattern, replacement in PLACES:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise ValueError(f"Unknown tensor `{name}`: this is not the Vocos model for EnCodec tokens.")


def convert_checkpoint(weights_path: str | os.PathLike[str], output: str | os.PathLike[str]) -> SmallCodecModel:
    """Converts one checkpoint.

    Args:
        weights_path (`str` or `os.PathLike`): The published weights.
        output (`str` or `os.PathLike`): Folder to write.

    Returns:
        The converted model, in evaluation mode.

    Raises:
        FileNotFoundError, ValueError: Something is missing or does not fit; the message names it.
    """
    weights = read_weights(weights_path)
    config = infer_config(weights)
    shape = (config.num_codebooks, config.codebook_size, config.codebook_dim)
    state_dict = {"quantizer.codebooks": weights.pop(CODEBOOKS).reshape(shape)}
    state_dict |= {convert_name(name): weight for name, weight in weights.items() if not NOT_NEEDED.fullmatch(name)}
    model = SmallCodecModel(config)
    missing, unexpected = model.load_state_dict(state_dict, strict=False)
    if missing or unexpected:
        raise ValueError(f"The checkpoint lacks {missing[:3]} and has unknown {unexpected[:3]}.")
    model.eval().save_pretrained(output)
    return model


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m smalle_hf.convert_vocos_checkpoint",
        description="Convert the public Vocos vocoder for EnCodec tokens into a folder that `from_pretrained` loads.",
        epilog="example: python -m smalle_hf.convert_vocos_checkpoint --weights pytorch_model.bin --output vocos",
    )
    parser.add_argument("--weights", required=True, help="pytorch_model.bin of charactr/vocos-encodec-24khz")
    parser.add_argument("--output", required=True, help="folder to write")
    options = parser.parse_args(arguments)
    try:
        model = convert_checkpoint(options.weights, options.output)
    except (OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    parameters = sum(math.prod(p.shape) for p in model.parameters())
    print(f"{options.output}: {parameters / 1e6:.1f}M parameters", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
