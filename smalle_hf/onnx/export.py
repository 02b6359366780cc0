"""A checkpoint as a folder of ONNX graphs, with all that [`SmallEOnnxModel`] needs to speak without torch."""

import logging
import math
import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime import InferenceSession
from onnxscript import opset20
from torch import nn
from tqdm import tqdm

from ..cache_smalle import state_shapes
from ..modeling_smalle import SmallEForSpeechGeneration
from ..processing_smalle import SmallEProcessor
from ..voice_files import VOICES_FOLDER
from .codec_graphs import codec_jobs, streaming_decoder
from .configuration import SmallEOnnxConfig
from .fused_layers import add_definitions, fuse_layers
from .graphs import (
    PREFILL_COLUMNS,
    DecoderPrefillGraph,
    DecoderStepGraph,
    PromptEncoderGraph,
    TextEncoderGraph,
)
from .weights import quantize_weights, save_graphs

OPSET = 20
BATCH, NUM_TOKENS = 2, 7
"""Sizes of the examples: any but 0 and 1, which the exporter takes for constants."""

MAX_DIFFERENCE = 1e-3
"""Of what a graph computes, as a share of the largest value: far above rounding, far below any mistake."""

MAX_OTHER_CODES = 0.05
"""Share of codes that may differ: where two are almost equally near, rounding decides, and so do those that follow."""

CARD_NAME = "README.md"
QUANTIZATIONS = ("int8", "int4", "none")
CODEC_PREFIX, TEXT_ENCODER = "codec_", "text_encoder"
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
    checkpoint: str | os.PathLike[str] | None = None,
    with_encoder: bool = True,
) -> Path:
    """Writes a model as ONNX graphs.

    Args:
        model ([`SmallEForSpeechGeneration`]): Model in float32 on the CPU, with or without a codec.
        processor ([`SmallEProcessor`]): Its processor.
        folder (`str` or `os.PathLike`): Folder to write; it must not be there yet, or be empty. It is written under a
            temporary name and renamed.
        quantization (`str`, defaults to `"int8"`): `"int8"` keeps the weights of matrix products in 8 bits; `"int4"`
            keeps those of the decoder, which every column waits for, in 4; `"none"` keeps everything in float32. The
            codec always stays in float32.
        checkpoint (`str` or `os.PathLike`, *optional*): Folder of the model, whose card and voices are copied.
        with_encoder (`bool`, defaults to `True`): Whether to write the codec's encoder, where it has one: it makes
            voices of recordings.

    Returns:
        `Path`: The folder.

    Raises:
        FileExistsError: The folder holds something.
        ValueError: The quantisation is unknown, or torch cannot export the codec.
    """
    check_export(folder, quantization)
    processor.check_model(model.config)
    graphs = export_graphs(model.eval(), with_encoder)
    return write_model(graphs, model, processor, folder, quantization, checkpoint)


def check_export(folder: str | os.PathLike[str], quantization: str) -> None:
    """Refuses what cannot be written, before anything is computed; see [`export_model`]."""
    folder = Path(folder)
    if quantization not in QUANTIZATIONS:
        raise ValueError(f"Unknown quantisation {quantization!r}: choose one of {', '.join(QUANTIZATIONS)}.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} is there already: remove it, or name another folder.")


def write_model(
    graphs: dict[str, onnx.ModelProto],
    model: SmallEForSpeechGeneration,
    processor: SmallEProcessor,
    folder: str | os.PathLike[str],
    quantization: str,
    checkpoint: str | os.PathLike[str] | None = None,
) -> Path:
    """Writes graphs from [`export_graphs`], which are used up by it; other arguments as [`export_model`]."""
    check_export(folder, quantization)
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        target = Path(temporary) / "model"
        target.mkdir()
        save_graphs({name: quantize(name, graph, quantization) for name, graph in graphs.items()}, target)
        describe_model(model, processor, quantization, "codec_encoder" in graphs).save(target)
        model.config.save_pretrained(target)
        model.generation_config.save_pretrained(target)
        processor.save_pretrained(target)
        for path in target.glob("*.py"):  # the code of the torch model, which is not here
            path.unlink()
        if checkpoint is not None:
            copy_extras(Path(checkpoint), target)
        if folder.exists():
            folder.rmdir()
        os.chmod(target, 0o755)
        os.replace(target, folder)
    return folder


def quantize(name: str, graph: onnx.ModelProto, quantization: str) -> onnx.ModelProto:
    """The graph of a name with its weights as [`export_model`] says."""
    if quantization == "none" or name.startswith(CODEC_PREFIX):
        return graph
    return quantize_weights(graph, 4 if quantization == "int4" and name != TEXT_ENCODER else 8)


def copy_extras(checkpoint: Path, target: Path) -> None:
    """Copies card and voices of a checkpoint, those that there are."""
    if (checkpoint / CARD_NAME).is_file():
        shutil.copyfile(checkpoint / CARD_NAME, target / CARD_NAME)
    if (checkpoint / VOICES_FOLDER).is_dir():
        shutil.copytree(checkpoint / VOICES_FOLDER, target / VOICES_FOLDER)


def export_graphs(model: SmallEForSpeechGeneration, with_encoder: bool = True) -> dict[str, onnx.ModelProto]:
    """The graphs of a model in float32 by their names, see `graphs.py` and `codec_graphs.py`."""
    jobs = graph_jobs(model)
    if model.codec_model is not None:
        jobs |= codec_jobs(model.codec_model, model.config, with_encoder)
    progress = tqdm(jobs.items(), desc="exporting", unit="graph", file=sys.stderr, disable=None, leave=False)
    return {name: export_graph(name, *job) for name, job in progress}


Job = tuple[nn.Module, dict[str, torch.Tensor], list[str], nn.Module]


def graph_jobs(model: SmallEForSpeechGeneration) -> dict[str, Job]:
    """What is to be exported, by the names of the graphs: module, examples of its inputs, names of its outputs, and
    the module that says what the graph has to compute."""
    config, generator = model.config, torch.Generator().manual_seed(0)

    def random_ids(size: int, *shape: int) -> torch.Tensor:
        return torch.randint(size, (BATCH, *shape), generator=generator)

    text_encoder, text_mask = TextEncoderGraph(model), torch.ones(BATCH, NUM_TOKENS, dtype=torch.long)
    text_mask[-1, -2:] = 0
    inputs = {"input_ids": random_ids(config.vocab_size, NUM_TOKENS), "attention_mask": text_mask}
    with torch.no_grad():
        text = text_encoder(**inputs)
    outputs = [f"text_{index}" for index in range(len(text))]
    jobs: dict[str, Job] = {TEXT_ENCODER: (text_encoder, inputs, outputs, text_encoder)}
    states = {
        f"state_{index}": torch.randn(BATCH, *shape, generator=generator)
        for index, shape in enumerate(state_shapes(config))
    }
    columns = random_ids(config.audio_vocab_size, PREFILL_COLUMNS, config.num_codebooks)
    audio_mask = torch.ones(BATCH, PREFILL_COLUMNS, dtype=torch.long)
    audio_mask[-1, -20:] = 0
    more = {"frame_index": random_ids(100), "attention_mask": text_mask}
    more |= {f"text_{index}": tensor for index, tensor in enumerate(text)}
    fused, given = fuse_layers(model.model), (model, model.model, len(text))
    step, prefill = DecoderStepGraph(model, fused, len(text)), DecoderPrefillGraph(model, fused, len(text))
    outputs = ["logits", "alignment", *(f"new_{name}" for name in states)]
    jobs["decoder_step"] = (step, {"audio_ids": columns[:, 0], **more, **states}, outputs, DecoderStepGraph(*given))
    own = dict(list(states.items())[: config.num_audio_encoder_layers])
    inputs = {"audio_ids": columns, "audio_mask": audio_mask, **own}
    encoder, outputs = PromptEncoderGraph(model.model), ["hidden_states", *(f"new_{name}" for name in own)]
    jobs["prompt_encoder"] = (PromptEncoderGraph(fused), inputs, outputs, encoder)
    others = {name: state for name, state in states.items() if name not in own}
    hidden_states = torch.randn(*audio_mask.shape, config.hidden_size, generator=generator)
    inputs = {"hidden_states": hidden_states, "audio_mask": audio_mask, **more, **others}
    jobs["decoder_prefill"] = (prefill, inputs, [f"new_{name}" for name in others], DecoderPrefillGraph(*given))
    return jobs


DYNAMIC_AXES = {
    "input_ids": {0: "batch", 1: "tokens"},
    "attention_mask": {0: "batch", 1: "tokens"},
    "text": {0: "batch", 1: "tokens"},
    "audio_codes": {0: "batch", 2: "frames"},
    "audio": {0: "batch", 1: "frames"},
}
"""Dimensions of the inputs that may have any size; of all others, the first one."""


def export_graph(
    name: str,
    module: nn.Module,
    inputs: dict[str, torch.Tensor],
    outputs: list[str],
    reference: nn.Module | None = None,
) -> onnx.ModelProto:
    """One graph, which is known to compute what the reference computes of the examples.

    Args:
        name (`str`): Its name, for messages.
        module (`nn.Module`): One of those of `graphs.py`.
        inputs (`dict[str, torch.Tensor]`): Examples of its inputs by name.
        outputs (`list[str]`): Names of its outputs.
        reference (`nn.Module`, *optional*): Computes the same in PyTorch, if the module itself does not.

    Raises:
        ValueError: This version of torch cannot export the module, or does it wrongly.
    """
    packed = [key for key in inputs if key.startswith(("text_", "state_"))]
    axes = {key: DYNAMIC_AXES.get(key.rpartition("_")[0] if key in packed else key, {0: "batch"}) for key in inputs}
    dynamic: list[Any] = [axes[key] for key in inputs if key not in packed]
    if packed:
        dynamic.append(tuple(axes[key] for key in packed))

    def arguments() -> tuple[Any, ...]:
        # Copies: the exporter takes one tensor that is given twice for one input, and a step may overwrite states.
        single = [tensor.clone() for key, tensor in inputs.items() if key not in packed]
        return (*single, tuple(inputs[key].clone() for key in packed)) if packed else tuple(single)

    with torch.no_grad():
        expected = (reference or module).eval()(*arguments())
    try:
        with _silence():
            program = torch.onnx.export(
                module.eval(),
                arguments(),
                dynamo=True,
                dynamic_shapes=tuple(dynamic),
                opset_version=OPSET,
                custom_translation_table=TRANSLATIONS,
                input_names=list(inputs),
                output_names=outputs,
                verbose=False,
            )
    except (RuntimeError, torch.onnx.errors.OnnxExporterError) as error:
        reason = str(error.__cause__ or error).strip().splitlines()[0]
        raise ValueError(f"torch {torch.__version__} cannot export the {name} ({reason}).") from error
    graph = add_definitions(program.model_proto if program is not None else onnx.ModelProto())
    check_graph(name, graph, inputs, [expected] if isinstance(expected, torch.Tensor) else list(expected))
    return graph


def check_graph(
    name: str, graph: onnx.ModelProto, inputs: dict[str, torch.Tensor], expected: list[torch.Tensor]
) -> None:
    """Refuses a graph that computes something else than the module that it was made of.

    Raises:
        ValueError: An output differs by more than rounding does.
    """
    session = InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(None, {key: tensor.numpy() for key, tensor in inputs.items()})
    for output, tensor, array in zip(session.get_outputs(), expected, found, strict=True):
        difference, limit = (tensor - torch.from_numpy(array)).abs(), MAX_DIFFERENCE * tensor.abs().max()
        if not tensor.is_floating_point():
            difference, limit = (difference > 0).float().mean(), torch.tensor(MAX_OTHER_CODES)
        if not difference.max() <= limit:
            raise ValueError(
                f"torch {torch.__version__} exports the {name} wrongly, for its {output.name} differs by "
                f"{difference.max():.2g}: use another version."
            )


def log_sigmoid(x: Any) -> Any:
    """As ONNX operators. The exporter's log(sigmoid(x)) is wrong below -15, where the runtime's sigmoid ends: strong
    decays would become total ones. Softplus would do as well, at five times the time."""
    zero = opset20.Constant(value_float=0.0)
    return opset20.Min(x, zero) + opset20.Log(opset20.Sigmoid(opset20.Abs(x)))


def exp2(x: Any) -> Any:
    """As ONNX operators. The exporter's power of 2 takes the runtime several times as long."""
    return opset20.Exp(x * opset20.Constant(value_float=math.log(2)))


TRANSLATIONS: dict[Any, Callable[..., Any]] = {
    torch.ops.aten.exp2.default: exp2,
    torch.ops.aten.log_sigmoid.default: log_sigmoid,
}
"""Operators that are not left to the exporter."""


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
    model: SmallEForSpeechGeneration, processor: SmallEProcessor, quantization: str, has_codec_encoder: bool
) -> SmallEOnnxConfig:
    """What the runtime has to know of a model and its processor."""
    config = model.config
    same = set(SmallEOnnxConfig.__dataclass_fields__) & set(type(config).__dataclass_fields__)
    streaming = None if model.codec_model is None else streaming_decoder(model.codec_model)
    generation = model.generation_config.to_dict()
    return SmallEOnnxConfig(
        **{name: getattr(config, name) for name in same},
        frame_length=config.frame_length,
        state_shapes=[list(shape) for shape in state_shapes(config)],
        prefill_columns=PREFILL_COLUMNS,
        has_codec=model.codec_model is not None,
        codec_state_shapes=None if streaming is None else [list(shape) for shape in streaming.state_shapes()],
        codec_delay=0 if streaming is None else streaming.delay,
        codec_first_frames=1 if streaming is None else streaming.first_frames,
        has_codec_encoder=has_codec_encoder,
        num_parameters=count_parameters(model),
        num_codec_parameters=0 if model.codec_model is None else count_parameters(model.codec_model),
        quantization=quantization,
        language=processor.language,
        phoneme_voice=processor.phoneme_voice,
        unknown_id=processor.tokenizer.unk_token_id,
        generation={name: generation[name] for name in GENERATION_DEFAULTS if generation.get(name) is not None},
    )


def count_parameters(model: nn.Module) -> int:
    """Numbers in the checkpoint of a model, those that are shared counted once."""
    tensors = {tensor.data_ptr(): tensor.numel() for tensor in model.state_dict().values()}
    return sum(tensors.values())


__all__ = [
    "QUANTIZATIONS",
    "check_graph",
    "describe_model",
    "export_graph",
    "export_graphs",
    "export_model",
    "write_model",
]
