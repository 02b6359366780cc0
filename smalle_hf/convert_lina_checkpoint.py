"""Converts checkpoints of the paper's authors into a folder that `from_pretrained` loads.

    python -m smalle_hf.convert_lina_checkpoint --weights model.ckpt --output small-e

Sizes are read off the tensors; a configuration, if given, is checked against them. Only tensors are read: pickled
objects are refused.
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoModel

from .checkpoint_files import read_tensors
from .configuration_smalle import SmallEConfig
from .modeling_smalle import SmallEForSpeechGeneration

ANCHOR = "txt_embed.weight"
"""Present in every checkpoint: whatever stands before it (Lightning's `model.`, say) is a prefix to strip."""

BLOCK = {
    "norm1": "attention_norm",
    "norm2": "mlp_norm",
    "cmix.p_in": "mlp.in_proj",
    "cmix.p_out": "mlp.out_proj",
    "tmix.qkv": "attention.qkv_proj",
    "tmix.q_proj": "attention.q_proj",
    "tmix.k_proj": "attention.k_proj",
    "tmix.v_proj": "attention.v_proj",
    "tmix.g_proj": "attention.g_proj",
    "tmix.o_proj": "attention.o_proj",
    "tmix.gk_proj.0": "attention.decay_down_proj",
    "tmix.gk_proj.1": "attention.decay_up_proj",
    "tmix.g_norm_swish_gate": "attention.norm",
}
"""Names inside a block, theirs to ours."""

PLACES = (
    (r"txt_embed", "model.text_encoder.embed_tokens"),
    (r"rvq_embed", "model.embed_audio"),
    (r"logits_head", "lm_heads"),
    (r"txt_encoder\.sa\.(\d+)\.(.+)", r"model.text_encoder.layers.\1.{block}"),
    (r"attentive_rnn\.encoder\.(\d+)\.(.+)", r"model.audio_encoder.\1.{block}"),
    (r"attentive_rnn\.decoder\.(\d+)\.(.+)", r"model.audio_decoder.\1.{block}"),
    (r"attentive_rnn\.cross_att\.([qkv])", r"model.cross_attention.\1_proj"),
    (r"attentive_rnn\.cross_att\.ln_([qkv])", r"model.cross_attention.\1_norm"),
    (r"attentive_rnn\.cross_att\.pos_net()\.(.+)", r"model.cross_attention.position_net.{block}"),
)
"""Where modules stand, theirs (a regular expression over the whole name without `.weight` or `.bias`) to ours."""


SIZE_TENSORS = (
    "txt_embed.weight",
    "rvq_embed.weight",
    "txt_encoder.sa.0.tmix.rotary.freqs",
    "attentive_rnn.encoder.0.tmix.g_norm_swish_gate.weight",
    "attentive_rnn.encoder.0.tmix.k_proj.weight",
    "attentive_rnn.encoder.0.tmix.v_proj.weight",
    "attentive_rnn.encoder.0.tmix.gk_proj.0.weight",
    "attentive_rnn.decoder.0.tmix.k_proj.weight",
)
"""Tensors whose shapes and numbers give the configuration."""


def read_weights(path: str | os.PathLike) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Reads a state dict and the configuration stored with it.

    Args:
        path (`str` or `os.PathLike`): A `.safetensors` file, or a `.ckpt` or `.pt` file of tensors only.

    Returns:
        The tensors by the authors' names, prefixes stripped, and the configuration (empty if there is none).

    Raises:
        ValueError: The file is damaged, holds pickled objects, or is no Small-E checkpoint.
        FileNotFoundError: There is no such file.
    """
    tensors, metadata = read_tensors(path)
    tensors = tensors.get("state_dict", tensors)
    anchors = [name for name in tensors if name == ANCHOR or name.endswith("." + ANCHOR)]
    if not anchors:
        raise ValueError(f"{path} is no Small-E checkpoint: it has no `{ANCHOR}`.")
    prefix = min(anchors, key=len)[: -len(ANCHOR)]
    weights = {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return weights, json.loads(metadata.get("config", "{}"))


def convert_name(name: str) -> str:
    """Our name of one of the authors' tensors.

    Raises:
        ValueError: The name is unknown.
    """
    module, _, kind = name.rpartition(".")
    for pattern, place in PLACES:
        match = re.fullmatch(pattern, module)
        if match is None:
            continue
        block = match.group(2) if "{block}" in place else None
        if block is not None and block not in BLOCK:
            break
        return match.expand(place).replace("{block}", BLOCK.get(block or "", "")) + f".{kind}"
    raise ValueError(f"Unknown tensor `{name}`: this is another architecture.")


def infer_config(weights: Mapping[str, torch.Tensor], original: Mapping[str, Any] | None = None) -> SmallEConfig:
    """Derives the configuration from the shapes of the tensors.

    Args:
        weights (`Mapping[str, torch.Tensor]`): Tensors by the authors' names.
        original (`Mapping[str, Any]`, *optional*): The authors' configuration; what it says must agree.

    Raises:
        ValueError: The configuration contradicts the tensors, or one that tells a size is missing.
    """
    original = original or {}
    if missing := [name for name in SIZE_TENSORS if name not in weights]:
        raise ValueError(f"The checkpoint lacks `{missing[0]}`: it is incomplete, or of another architecture.")
    num_codebooks, audio_vocab_size, hidden_size = weights["rvq_embed.weight"].shape
    num_special = int(original.get("n_special_token_in", SmallEConfig().codebook_offset))
    is_paca = any(".pos_net." in name for name in weights)
    norm_size = weights["attentive_rnn.encoder.0.tmix.g_norm_swish_gate.weight"].shape[0]
    value_size, key_size = (weights[f"attentive_rnn.encoder.0.tmix.{x}_proj.weight"].shape[0] for x in "vk")
    text_rotary = weights["txt_encoder.sa.0.tmix.rotary.freqs"]
    found = {
        "d_model": hidden_size,
        "n_layer": count_blocks(weights, "attentive_rnn.encoder"),
        "encoder_layers": count_blocks(weights, "txt_encoder.sa"),
        "heads": value_size // norm_size,
        "d_blind": weights["attentive_rnn.cross_att.pos_net.norm1.weight"].shape[0] if is_paca else None,
        "n_quant": num_codebooks,
        "blind": is_paca,
        "n_codebook": audio_vocab_size - num_special,
        "n_txt_vocab": weights["txt_embed.weight"].shape[0],
    }
    for name, value in found.items():
        if name in original and original[name] != value:
            raise ValueError(
                f"The configuration says {name} = {original[name]}, the weights {value}: they do not belong together."
            )
    return SmallEConfig(
        vocab_size=found["n_txt_vocab"],
        hidden_size=hidden_size,
        num_audio_encoder_layers=found["n_layer"],
        num_audio_decoder_layers=count_blocks(weights, "attentive_rnn.decoder"),
        num_attention_heads=found["heads"],
        num_text_encoder_layers=found["encoder_layers"],
        num_text_encoder_attention_heads=hidden_size
        // (4 * len(text_rotary)),  # a quarter of a head is its frequencies
        cross_attention="paca" if is_paca else "standard",
        key_expand=key_size / hidden_size,
        value_expand=value_size / hidden_size,
        gate_low_rank_size=weights["attentive_rnn.encoder.0.tmix.gk_proj.0.weight"].shape[0],
        num_codebooks=num_codebooks,
        codebook_size=found["n_codebook"],
        codebook_offset=num_special,
        **({"position_size": found["d_blind"]} if is_paca else {}),
    )


def count_blocks(weights: Mapping[str, torch.Tensor], stack: str) -> int:
    """Number of blocks in a stack."""
    return 1 + max(int(name[len(stack) + 1 :].split(".")[0]) for name in weights if name.startswith(stack + "."))


def convert_weights(weights: Mapping[str, torch.Tensor], config: SmallEConfig) -> dict[str, torch.Tensor]:
    """Renames the tensors and merges the tables of the codebooks.

    Raises:
        ValueError: A tensor is unknown, or its rotary frequencies are not those of the paper.
    """
    converted = {}
    for name, tensor in weights.items():
        if name.endswith("rotary.freqs"):
            exponents = torch.arange(len(tensor), dtype=torch.float32) / len(tensor)
            if not torch.allclose(tensor.float(), config.rope_theta**-exponents, rtol=1e-3):
                raise ValueError(f"`{name}` holds learnt frequencies, which this model does not have.")
            continue
        converted[convert_name(name)] = tensor.flatten(0, 1) if tensor.ndim == 3 else tensor
    return converted


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """The authors' configuration.

    Raises:
        ValueError: The file holds no JSON object.
    """
    try:
        config = json.loads(Path(path).read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no JSON ({error}).") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds no JSON object: write the configuration as {{...}}.")
    return config


def convert_checkpoint(
    weights_path: str | os.PathLike,
    output: str | os.PathLike,
    config_path: str | os.PathLike | None = None,
    codec: str | None = None,
) -> SmallEForSpeechGeneration:
    """Converts one checkpoint.

    Args:
        weights_path (`str` or `os.PathLike`): The authors' weights.
        output (`str` or `os.PathLike`): Folder to write.
        config_path (`str` or `os.PathLike`, *optional*): The authors' configuration as JSON, to check the weights
            against.
        codec (`str`, *optional*): Folder or Hub name of a codec to put inside, such as `facebook/encodec_24khz`.

    Returns:
        The converted model.

    Raises:
        ValueError: Something does not fit; the message names it.
    """
    if Path(output).is_file():
        raise ValueError(f"{output} is a file: name a folder to write.")
    weights, stored = read_weights(weights_path)
    original = stored if config_path is None else read_config(config_path)
    config = infer_config(weights, original)
    state_dict = convert_weights(weights, config)
    codec_model = None if codec is None else AutoModel.from_pretrained(codec)
    if codec_model is not None:
        config = SmallEConfig(**{**config.to_dict(), "codec_config": codec_model.config.to_dict()})
        state_dict |= {f"codec_model.{name}": tensor for name, tensor in codec_model.state_dict().items()}
    model = SmallEForSpeechGeneration(config)
    expected = model.state_dict()
    for name in {**expected, **state_dict}:
        if name not in state_dict or name not in expected:
            raise ValueError(
                f"`{name}` is {'missing' if name in expected else 'unknown'}: the checkpoint is incomplete."
            )
        if state_dict[name].shape != expected[name].shape:
            shapes = f"{tuple(state_dict[name].shape)} instead of {tuple(expected[name].shape)}"
            raise ValueError(f"`{name}` has shape {shapes}: the checkpoint is of another architecture.")
    model.load_state_dict(state_dict)
    model.eval().save_pretrained(output)
    return model


def main(arguments: Sequence[str] | None = None, prog: str = "python -m smalle_hf.convert_lina_checkpoint") -> int:
    """Command line of a program that calls itself `prog`; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Convert a checkpoint of the paper's authors into a folder that `from_pretrained` loads.",
        epilog=f"example: {prog} --weights model.ckpt --codec facebook/encodec_24khz --output small-e",
    )
    parser.add_argument("--weights", required=True, help="state dict: .safetensors, .ckpt or .pt")
    parser.add_argument("--config", help="the authors' configuration as JSON, checked against the weights")
    parser.add_argument("--codec", help="folder or Hub name of a codec to put into the checkpoint")
    parser.add_argument("--output", required=True, help="folder to write")
    options = parser.parse_args(arguments)
    try:
        model = convert_checkpoint(options.weights, options.output, options.config, options.codec)
    except (OSError, ValueError, StrictDataclassError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    parameters = sum(math.prod(p.shape) for p in model.parameters())
    print(f"{options.output}: {parameters / 1e6:.1f}M parameters", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
