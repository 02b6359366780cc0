"""Models that a run begins with and ends in: built from a preset or a trained folder, with LoRA, with the codec."""

import copy
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoModel, PreTrainedModel

from ..configuration_smalle import SmallEConfig
from ..data.codec_encoder import weights_fingerprint
from ..data.token_cache import CodecInfo
from ..fla_kernels import kernels_are_installed
from ..layers_smalle import SmallELCLMBlock, SmallEMLP, SmallETextAttention, SmallETextEncoderLayer
from ..modeling_smalle import SmallEForSpeechGeneration
from ..processing_smalle import SmallEProcessor
from .arguments import ArgumentsError, TrainingArguments, model_overrides
from .corpus import TOKENIZER_TEXTS, Corpus

LORA_TARGETS = r".*\.attention\.(q_proj|k_proj|v_proj|g_proj|o_proj)"
"""Projections of the LCLM blocks, PACA's position net among them; the text encoder has other names."""


@dataclass
class ModelParts:
    """What the exported folder is put together from.

    Args:
        config ([`SmallEConfig`]): Without a codec: training needs codes only.
        processor ([`SmallEProcessor`]): Text to ids.
        codec (`PreTrainedModel`, *optional*): Codes to sound.
        initial (`dict`): Weights to begin with; empty for random ones.
    """

    config: SmallEConfig
    processor: SmallEProcessor
    codec: PreTrainedModel | None
    initial: dict[str, torch.Tensor]

    def fingerprint(self) -> str:
        """Changes with the sizes of the model or its text vocabulary, not with what its loss weighs."""
        sizes = {name: value for name, value in self.config.to_diff_dict().items() if name != "codebook_loss_weights"}
        content = json.dumps([sizes, sorted(self.processor.tokenizer.get_vocab().items())])
        return hashlib.sha256(content.encode()).hexdigest()[:16]


def load_parts(arguments: TrainingArguments, corpus: Corpus) -> ModelParts:
    """Loads processor, codec and trained weights, and checks that they fit each other and the data.

    Raises:
        ArgumentsError: They do not, or something is not there.
    """
    initial: dict[str, torch.Tensor] = {}
    codec = None if arguments.codec is None else load_codec(arguments.codec)
    if arguments.init_from is None:
        config = new_config(arguments, corpus.codec)
        processor = load_processor(arguments, config, corpus)
        config.vocab_size = len(processor.tokenizer)
    else:
        model = _load(SmallEForSpeechGeneration, arguments.init_from)
        processor = _load(SmallEProcessor, arguments.processor or arguments.init_from)
        codec = codec or model.codec_model
        model.codec_model, model.config.codec_config = None, None
        initial = model.state_dict()
        config = tuned_config(model.config, arguments)
    try:
        processor.check_model(config)
    except ValueError as error:
        raise ArgumentsError(str(error)) from error
    check_data(config, corpus.codec, corpus.folder)
    if codec is not None:
        check_codec_of_cache(codec, corpus)
    return ModelParts(config, processor, codec, initial)


def build_model(parts: ModelParts, arguments: TrainingArguments) -> PreTrainedModel:
    """Builds the model that is trained; a PEFT model with LoRA."""
    torch.manual_seed(arguments.seed)
    model = SmallEForSpeechGeneration(copy.deepcopy(parts.config))
    if parts.initial:
        model.load_state_dict(parts.initial)
    if not arguments.lora_rank:
        return model
    from peft import LoraConfig, get_peft_model

    alpha = arguments.lora_alpha or 2 * arguments.lora_rank
    lora = LoraConfig(r=arguments.lora_rank, lora_alpha=alpha, target_modules=LORA_TARGETS)  # type: ignore[arg-type]
    return get_peft_model(model, lora)


def complete_model(
    parts: ModelParts, arguments: TrainingArguments, weights: dict[str, torch.Tensor]
) -> SmallEForSpeechGeneration:
    """Builds the model that is exported: trained weights, LoRA merged in, and the codec."""
    trained: Any = build_model(parts, arguments)
    trained.load_state_dict(weights)
    if arguments.lora_rank:
        trained = trained.merge_and_unload()
    config = copy.deepcopy(parts.config)
    config.codec_config = None if parts.codec is None else parts.codec.config
    complete = SmallEForSpeechGeneration(config)
    state = trained.state_dict()
    if parts.codec is not None:
        state |= {f"codec_model.{name}": tensor for name, tensor in parts.codec.state_dict().items()}
    complete.load_state_dict(state)
    return complete.eval()


def compile_layers(model: nn.Module, device: torch.device) -> None:
    """Compiles layers, each kind once for all lengths: whole blocks where the recurrence is a CUDA kernel, elsewhere
    the feed-forward layers and the text encoder's attention.

    The recurrence in PyTorch is left out: its loop over chunks would be compiled anew, for minutes, for every number
    of chunks.
    """
    kinds: tuple[type[nn.Module], ...] = (SmallEMLP, SmallETextAttention)
    if device.type == "cuda" and kernels_are_installed():
        kinds = (SmallELCLMBlock, SmallETextEncoderLayer)
    for module in model.modules():
        if isinstance(module, kinds):
            module.compile(dynamic=True)


def load_processor(arguments: TrainingArguments, config: SmallEConfig, corpus: Corpus) -> SmallEProcessor:
    """Loads the processor, or makes one for the texts of the corpus."""
    if arguments.processor is not None:
        return _load(SmallEProcessor, arguments.processor)
    if arguments.text_units == "characters":
        return SmallEProcessor.from_characters(language=arguments.language, config=config)
    if arguments.text_units == "phonemes":
        return _new_phoneme_processor(arguments, config)
    return SmallEProcessor.train(
        corpus.texts(TOKENIZER_TEXTS), config.vocab_size, language=arguments.language, config=config
    )


def _new_phoneme_processor(arguments: TrainingArguments, config: SmallEConfig) -> SmallEProcessor:
    try:
        return SmallEProcessor.from_phonemes(arguments.phoneme_voice, arguments.language, config)
    except (ImportError, ValueError) as error:
        raise ArgumentsError(str(error)) from error


def new_config(arguments: TrainingArguments, codec: CodecInfo) -> SmallEConfig:
    """Configuration of a model to be trained from scratch: the preset, fitted to data and text vocabulary."""
    fitted = {
        "vocab_size": arguments.text_vocab_size,
        "num_codebooks": codec.num_codebooks,
        "codebook_size": codec.codebook_size,
        "sampling_rate": codec.sampling_rate,
        "frame_rate": codec.frame_rate,
    }
    try:
        return SmallEConfig.from_preset(arguments.preset, **(fitted | model_overrides(arguments.model_options)))
    except (ValueError, TypeError, StrictDataclassError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ArgumentsError(f"`preset` and `model_options` do not fit: {reason}") from error


def tuned_config(config: SmallEConfig, arguments: TrainingArguments) -> SmallEConfig:
    """Configuration of a trained model; only dropout may differ."""
    overrides = model_overrides(arguments.model_options)
    if fixed := sorted(set(overrides) - {"dropout", "text_encoder_dropout"}):
        raise ArgumentsError(f"`init_from` fixes {', '.join(fixed)}: leave it out of `model_options`.")
    for name, value in overrides.items():
        setattr(config, name, value)
    return config


def check_data(config: SmallEConfig, codec: CodecInfo, folder: Path) -> None:
    """Raises `ArgumentsError` where codes are not those that the model was made for."""
    if codec.num_codebooks < config.num_codebooks:
        raise ArgumentsError(
            f"{folder} holds {codec.num_codebooks} codebooks, the model needs {config.num_codebooks}: encode the data "
            "again or set num_codebooks in `model_options`."
        )
    for name in ("codebook_size", "sampling_rate", "frame_rate"):
        if getattr(codec, name) != getattr(config, name):
            raise ArgumentsError(
                f"{folder} has {name} {getattr(codec, name)}, the model {getattr(config, name)}: encode the data with "
                "the codec that the model was trained with."
            )


def check_codec_of_cache(codec: PreTrainedModel, corpus: Corpus) -> None:
    """Raises `ArgumentsError` where the codec is not the one that made the codes."""
    version = f"sha256:{weights_fingerprint(codec)}"
    if version != corpus.codec.version:
        raise ArgumentsError(
            f"{corpus.folder} was encoded with {corpus.codec.name} ({corpus.codec.version}), but the codec given has "
            f"other weights ({version}): pass the codec that made the codes, or encode the data again."
        )


def load_codec(name: str) -> PreTrainedModel:
    """Loads a codec, or the one inside a Small-E checkpoint.

    Raises:
        ArgumentsError: There is none.
    """
    model = _load(AutoModel, name, dtype=torch.float32)
    codec = getattr(model, "codec_model", model)
    if codec is None:
        raise ArgumentsError(f"The checkpoint {name} has no codec inside: pass the codec that it was trained with.")
    return codec


def _load(loader: Any, name: str, **options: Any) -> Any:
    try:
        return loader.from_pretrained(name, **options)
    except (OSError, ValueError) as error:
        raise ArgumentsError(f"Cannot load {name}: {' '.join(str(error).split())}") from error


__all__ = ["LORA_TARGETS", "ModelParts", "build_model", "compile_layers", "complete_model", "load_parts"]
