"""Decoding column by column: the forward pass of one column, on CUDA replayed as one graph.

A step has some hundreds of kernels, each of which takes a GPU less time than Python takes to start it. Recorded once,
as a CUDA graph, they are started together. A graph reads and writes the same memory at every replay, so ids, masks,
text and states have tensors that stay where they are. Recordings are kept for later generations of the same shape.

Transformers' options apply: `disable_compile=True` runs the step as it is, `compile_config` compiles it instead.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import GenerationConfig
from transformers.utils import logging

from .cache_smalle import SmallECache
from .outputs_smalle import SmallEOutput

logger = logging.get_logger(__name__)

TEXT_BLOCK = 64
"""Texts are padded to a multiple of this many tokens, so that a recording serves texts of many lengths."""

MAX_KEPT = 4
"""Recordings that are kept per model. Each holds states and texts of its batch."""

WARM_UPS = 3
"""Runs before a recording, in which kernels are compiled and chosen."""


class StaticStep:
    """The forward pass of one column over tensors that stay where they are.

    On CUDA it is recorded when it is built and replayed at every call: module hooks are not run then.

    Args:
        model ([`SmallEForSpeechGeneration`]): In evaluation mode.
        cache ([`SmallECache`]): Of a generation of the batch size B that has read its first columns.
        num_tokens (`int`): Text tokens S that there is room for.
    """

    def __init__(self, model: Any, cache: SmallECache, num_tokens: int) -> None:
        assert cache.text is not None
        assert cache.text_source is not None
        rows, device = cache.batch_size, cache.device
        self.ids = torch.full((rows, 1, model.config.num_codebooks), model.config.audio_bos_token_id, device=device)
        self.is_column = torch.ones(rows, 1, dtype=torch.long, device=device)
        self.is_text = torch.ones(rows, num_tokens, dtype=torch.long, device=device)
        self.cache = SmallECache(model.config, rows, device)
        self.cache.text = tuple(x.new_zeros(rows, num_tokens, *x.shape[2:]) for x in cache.text)
        # Only compared with: the model reads the projections of the text, not the text.
        self.cache.text_source = cache.text_source.new_zeros(rows, num_tokens, 1)
        self.results: tuple[torch.Tensor, ...] = self._compute(model)
        self.graph = self._record(model) if device.type == "cuda" else None

    def load(self, cache: SmallECache, attention_mask: torch.Tensor | None) -> None:
        """Takes over the states and the text of a generation."""
        own: Any = self.cache
        num_tokens = cache.text_source.shape[1]  # type: ignore[union-attr]
        for buffer, value in zip((*own.states, own.frame_index), (*cache.states, cache.frame_index), strict=True):
            buffer.copy_(value)
        for buffer, value in zip(own.text, cache.text or (), strict=True):
            buffer.zero_()
            buffer[:, :num_tokens] = value
        self.is_text.zero_()
        self.is_text[:, :num_tokens] = 1 if attention_mask is None else attention_mask

    def save(self, cache: SmallECache) -> None:
        """Leaves copies of the states in the generation's own cache."""
        cache.states = [state.clone() for state in self.cache.states]
        cache.frame_index = self.cache.frame_index.clone()

    def run(self, model: Any, ids: torch.Tensor, mask: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Reads a column, ids `(B, 1, Q)` and mask `(B, 1)`; returns logits `(B, 1, Q, V)` and attention maps
        `(B, maps, 1, S)`."""
        self.ids.copy_(ids)
        if mask is None:
            self.is_column.fill_(1)
        else:
            self.is_column.copy_(mask)
        if self.graph is not None:
            self.graph.replay()
        else:
            for buffer, value in zip(self.results, self._compute(model), strict=True):
                buffer.copy_(value)
        logits, attentions = (result.clone() for result in self.results)
        return logits, attentions

    def _compute(self, model: Any) -> tuple[torch.Tensor, ...]:
        cache, states, frame_index = self.cache, list(self.cache.states), self.cache.frame_index
        outputs = model(
            encoder_outputs=(cache.text_source,),
            attention_mask=self.is_text,
            decoder_input_ids=self.ids,
            decoder_attention_mask=self.is_column,
            past_key_values=cache,
            output_attentions=True,
            logits_to_keep=1,
        )
        for buffer, state in zip(states, cache.states, strict=True):
            if state is not buffer:  # where the model has not written over it already
                buffer.copy_(state)
        frame_index.copy_(cache.frame_index)
        cache.states, cache.frame_index = states, frame_index
        return outputs.logits, outputs.cross_attentions

    def _record(self, model: Any) -> torch.cuda.CUDAGraph:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream(self.ids.device)
        with torch.cuda.device(self.ids.device):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(WARM_UPS):
                    self._compute(model)
            torch.cuda.current_stream().wait_stream(stream)
            # Other threads may go on allocating memory.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                self.results = self._compute(model)
        return graph


class StepPool:
    """Steps that no generation is using at the moment. Copies of it, as of the model that has it, are empty."""

    def __init__(self) -> None:
        self._steps: list[tuple[Any, StaticStep]] = []
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._steps)

    def take(self, key: Any) -> StaticStep | None:
        """A step of that key, which is the caller's alone until it gives it back."""
        with self._lock:
            for index, (other, step) in enumerate(self._steps):
                if other == key:
                    del self._steps[index]
                    return step
        return None

    def give(self, key: Any, step: StaticStep) -> None:
        """Keeps a step, and drops those that were not used for longest."""
        with self._lock:
            self._steps = [*self._steps, (key, step)][-MAX_KEPT:]

    def __deepcopy__(self, memo: dict[int, Any]) -> "StepPool":
        return StepPool()

    def __reduce__(self) -> tuple[Any, ...]:
        return StepPool, ()


@contextmanager
def decoding_step(
    model: Any, model_kwargs: dict[str, Any], generation_config: GenerationConfig
) -> Iterator[Callable[..., Any]]:
    """What runs the columns of a generation behind the first ones: called like the model, in the fastest form.

    Args:
        model ([`SmallEForSpeechGeneration`]): The model.
        model_kwargs (`dict`): Its arguments in this generation; those that do not change from step to step are taken
            from the first call. The cache is up to date again when the context is left.
        generation_config (`GenerationConfig`): Gives `disable_compile` and `compile_config`.
    """
    cache: Any = model_kwargs.get("past_key_values")
    if not runs_static_steps(model, model_kwargs, generation_config):
        config = generation_config.compile_config
        is_wanted = config is not None or model.device.type != "cuda"
        is_compiled = model._valid_auto_compile_criteria(model_kwargs, generation_config) and is_wanted
        yield model.get_compiled_call(config) if is_compiled else model.__call__
        return
    pool: StepPool = model.__dict__.setdefault("_decoding_steps", StepPool())
    key: Any = None
    step: StaticStep | None = None

    def run(**inputs: Any) -> Any:
        nonlocal key, step
        if key is None:  # the first column: states and text are there by now
            key, step = _find_step(model, pool, cache)
            if step is not None:
                step.load(cache, inputs.get("attention_mask"))
        if step is None:
            return model(**inputs)
        logits, attentions = step.run(model, inputs["decoder_input_ids"], inputs["decoder_attention_mask"])
        num_tokens = cache.text_source.shape[1]
        return SmallEOutput(logits=logits, cross_attentions=attentions[..., :num_tokens], past_key_values=cache)

    try:
        yield run
    finally:
        if step is not None:
            step.save(cache)
            pool.give(key, step)


def runs_static_steps(model: Any, model_kwargs: dict[str, Any], generation_config: GenerationConfig) -> bool:
    """Whether a generation runs [`StaticStep`]s: on one GPU, where nothing else is asked for. Autocast would leave
    copies of the weights in a recording that do not follow them."""
    return (
        model.device.type == "cuda"
        and generation_config.compile_config is None
        and not model.training
        and not torch.is_autocast_enabled("cuda")
        and len(set(getattr(model, "hf_device_map", {}).values())) <= 1
        and model._valid_auto_compile_criteria(model_kwargs, generation_config)
    )


def _find_step(model: Any, pool: StepPool, cache: SmallECache) -> tuple[Any, StaticStep | None]:
    """The key of a generation and a step that fits it, `None` where that cannot be recorded. A step stays on its
    stream, whose order keeps one generation from writing over what another has yet to read."""
    num_tokens = cache.text_source.shape[1]  # type: ignore[union-attr]
    num_tokens = (num_tokens + TEXT_BLOCK - 1) // TEXT_BLOCK * TEXT_BLOCK
    # A recording has the addresses of the weights in it.
    weights = tuple((weight.data_ptr(), weight.dtype) for weight in (*model.parameters(), *model.buffers()))
    stream = torch.cuda.current_stream(cache.device) if cache.device.type == "cuda" else None
    key = (cache.batch_size, num_tokens, cache.device, stream, torch.is_inference_mode_enabled(), weights)
    step = pool.take(key)
    if step is None:
        try:
            step = StaticStep(model, cache, num_tokens)
        except RuntimeError as error:
            message = str(error).partition("\n")[0]
            logger.warning_once(
                f"The decoding step cannot be recorded as a CUDA graph ({message}): it runs without, which is slower. "
                "`disable_compile=True` leaves the attempt out."
            )
    return key, step


__all__ = ["StaticStep", "StepPool", "decoding_step", "runs_static_steps"]
