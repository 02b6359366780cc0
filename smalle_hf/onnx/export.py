"""A checkpoint as a folder of ONNX graphs, with all that [`SmallEOnnxModel`] needs to speak without torch."""

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxscript import opset20
from torch import nn
from tqdm import tqdm

from ..cache_smalle import state_shapes
from ..configuration_small_codec import SmallCodecConfig
from ..modeling_smalle import SmallEForSpeechGeneration
from ..processing_smalle import SmallEProcessor
from ..voice_files import VOICES_FOLDER
from .configuration import SmallEOnnxConfig
from .graphs import (
    PREFILL_COLUMNS,
    DecoderPrefillGraph,
    DecoderStepGraph,
    TextEncoderGraph,
    codec_graph,
)
from .weights import quantize_weights, save_graphs

OPSET = 20
EXAMPLE_SIZES = {"batch": 2, "tokens": 7, "frames": 20}
"""Any sizes but 0 and 1, which the exporter takes for constants."""

MIN_CODEC_FRAMES = 16
"""EnCodec mirrors the beginning of an utterance, and cannot if there is less of it than a convolution is wide."""

QUANTIZATIONS = ("int8", "none")
GENERATION_DEFAULTS = (
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "num_sampled_codebooks",
    "max_new_tokens",
    "max_length",
)


def export_model(
    model: SmallEForSpeechGeneration,
    processor: SmallEProcessor,
    folder: str | os.PathLike[str],
    quantization: str = "int8",
    voices: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes a model as ONNX graphs.

    Args:
        model ([`SmallEForSpeechGeneration`]): Model in float32 on the CPU, with or without a codec.
        processor ([`SmallEProcessor`]): Its processor.
        folder (`str` or `os.PathLike`): Folder to write; it must not be there yet, or be empty. It is written under a
            temporary name and renamed.
        quantization (`str`, defaults to `"int8"`): `"int8"` keeps the weights of matrix products in 8 bits; `"none"`
            keeps everything in float32. The codec always stays in float32.
        voices (`str` or `os.PathLike`, *optional*): Folder of a checkpoint whose voices are copied.

    Returns:
        `Path`: The folder.

    Raises:
        FileExistsError: The folder holds something.
        ValueError: The quantisation is unknown, or torch cannot export the codec.
    """
    folder = Path(folder)
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"Unknown quantisation {quantization!r}: choose one of {', '.join(QUANTIZATIONS)}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already: remove it, or name another folder.")
    processor.check_model(model.config)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        target = Path(temporary) / "model"
        target.mkdir()
        model.eval()
        graphs = export_graphs(model)
        if quantization == "int8":
            graphs = {
                name: graph if name == "codec_decoder" else quantize_weights(graph) for name, graph in graphs.items()
            }
        save_graphs(graphs, target)
        describe_model(model, processor, quantization).save(target)
        model.config.save_pretrained(target)
        model.generation_config.save_pretrained(target)
        processor.save_pretrained(target)
        for path in target.glob("*.py"):  # the code of the torch model, which is not here
            path.unlink()
        if voices is not None and (Path(voices) / VOICES_FOLDER).is_dir():
            shutil.copytree(Path(voices) / VOICES_FOLDER, target / VOICES_FOLDER)
        if folder.exists():
            folder.rmdir()
        os.chmod(target, 0o755)
        os.replace(target, folder)
    return folder


def export_graphs(model: SmallEForSpeechGeneration) -> dict[str, onnx.ModelProto]:
    """The graphs of a model in float32 by their names, see `graphs.py`."""
    sizes = EXAMPLE_SIZES
    with torch.no_grad():
        ids = torch.ones(sizes["batch"], sizes["tokens"], dtype=torch.long)
        text = TextEncoderGraph(model)(ids, ids)
    jobs: dict[str, tuple[nn.Module, dict[str, Any], list[str]]] = {
        "text_encoder": (
            TextEncoderGraph(model),
            {"input_ids": ids, "attention_mask": ids},
            [f"text_{index}" for index in range(len(text))],
        )
    }
    shapes = state_shapes(model.config)
    states = [torch.zeros(sizes["batch"], *shape) for shape in shapes]
    decoder = {
        "frame_index": torch.zeros(sizes["batch"], dtype=torch.long),
        "attention_mask": ids,
        **{f"text_{index}": tensor for index, tensor in enumerate(text)},
        **{f"state_{index}": tensor for index, tensor in enumerate(states)},
    }
    new_states = [f"new_state_{index}" for index in range(len(states))]
    columns = torch.ones(sizes["batch"], PREFILL_COLUMNS, model.config.num_codebooks, dtype=torch.long)
    jobs["decoder_step"] = (
        DecoderStepGraph(model, len(text)),
        {"audio_ids": columns[:, 0], **decoder},
        ["logits", "alignment", *new_states],
    )
    jobs["decoder_prefill"] = (
        DecoderPrefillGraph(model, len(text)),
        {"audio_ids": columns, "audio_mask": columns[..., 0], **decoder},
        new_states,
    )
    if model.codec_model is not None:
        codes = torch.ones(sizes["batch"], model.config.num_codebooks, sizes["frames"], dtype=torch.long)
        jobs["codec_decoder"] = (codec_graph(model.codec_model), {"audio_codes": codes}, ["audio"])
    graphs = {}
    for name, (module, inputs, outputs) in tqdm(jobs.items(), desc="exporting", unit="graph", disable=None):
        graphs[name] = export_graph(name, module, inputs, outputs)
    return graphs


DYNAMIC_AXES = {
    "input_ids": {0: "batch", 1: "tokens"},
    "attention_mask": {0: "batch", 1: "tokens"},
    "text": {0: "batch", 1: "tokens"},
    "audio_codes": {0: "batch", 2: "frames"},
}
"""Dimensions of the inputs that may have any size; of all others, the first one."""


def export_graph(name: str, module: nn.Module, inputs: dict[str, Any], outputs: list[str]) -> onnx.ModelProto:
    """One graph.

    Args:
        name (`str`): Its name, for messages.
        module (`nn.Module`): One of those of `graphs.py`.
        inputs (`dict[str, torch.Tensor]`): Examples of its inputs by name.
        outputs (`list[str]`): Names of its outputs.

    Raises:
        ValueError: torch cannot export the module.
    """
    named = [key for key in inputs if not key.startswith(("text_", "state_"))]
    packed = [key for key in inputs if key not in named]
    axes = {key: DYNAMIC_AXES.get(key.rpartition("_")[0] if key in packed else key, {0: "batch"}) for key in inputs}
    # Copies: the exporter takes one tensor that is given twice for one input.
    inputs = {key: tensor.clone() for key, tensor in inputs.items()}
    arguments: list[Any] = [inputs[key] for key in named]
    dynamic: list[Any] = [axes[key] for key in named]
    if packed:
        arguments.append(tuple(inputs[key] for key in packed))
        dynamic.append(tuple(axes[key] for key in packed))
    try:
        with _silence():
            program = torch.onnx.export(
                module.eval(),
                tuple(arguments),
                dynamo=True,
                dynamic_shapes=tuple(dynamic),
                opset_version=OPSET,
                custom_translation_table={torch.ops.aten.log_sigmoid.default: log_sigmoid},
                input_names=list(inputs),
                output_names=outputs,
                verbose=False,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"torch {torch.__version__} cannot export {name} ({reason}).") from error
    if program is None:
        raise ValueError(f"torch {torch.__version__} cannot export {name}.")
    return program.model_proto


def log_sigmoid(x: Any) -> Any:
    """As ONNX operators. The exporter's log(sigmoid(x)) is wrong below -15, where the runtime's sigmoid ends: strong
    decays would become total ones."""
    return opset20.Neg(opset20.Softplus(opset20.Neg(x)))


@contextmanager
def _silence() -> Iterator[None]:
    """The exporter warns of operators of packages that are not installed, and of names that it does not use."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def describe_model(
    model: SmallEForSpeechGeneration, processor: SmallEProcessor, quantization: str
) -> SmallEOnnxConfig:
    """What the runtime has to know of a model and its processor."""
    config = model.config
    same = set(SmallEOnnxConfig.__dataclass_fields__) & set(type(config).__dataclass_fields__)
    codec = config.codec_config
    lookback = lookahead = None
    if isinstance(codec, SmallCodecConfig):
        lookback, lookahead = codec_context(codec)
    generation = model.generation_config.to_dict()
    ids = torch.ones(1, 2, dtype=torch.long)
    with torch.no_grad():
        text = TextEncoderGraph(model)(ids, ids)
    return SmallEOnnxConfig(
        **{name: getattr(config, name) for name in same},
        frame_length=config.frame_length,
        state_shapes=[list(shape) for shape in state_shapes(config)],
        text_shapes=[list(tensor.shape[2:]) for tensor in text],
        prefill_columns=PREFILL_COLUMNS,
        has_codec=model.codec_model is not None,
        min_codec_frames=1 if codec is None or lookback is not None else MIN_CODEC_FRAMES,
        codec_lookback=lookback,
        codec_lookahead=lookahead,
        quantization=quantization,
        language=processor.language,
        phoneme_voice=processor.phoneme_voice,
        unknown_id=processor.tokenizer.unk_token_id,
        generation={name: generation[name] for name in GENERATION_DEFAULTS if generation.get(name) is not None},
    )


def codec_context(config: SmallCodecConfig) -> tuple[int, int]:
    """Frames before and after a frame that decide its samples."""
    reach = config.kernel_size - 1
    lookaheads: Sequence[int] = [
        config.decoder_input_lookahead,
        *[config.decoder_layer_lookahead] * config.num_decoder_layers,
    ]
    windows = config.lookahead_frames - sum(lookaheads)
    return sum(reach - lookahead for lookahead in lookaheads) + windows, config.lookahead_frames


__all__ = ["QUANTIZATIONS", "codec_context", "describe_model", "export_graph", "export_graphs", "export_model"]
