"""The graphs in ONNX Runtime: one session each, and the state of a generation in buffers that are never copied."""

import os
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import numpy as np

from .configuration import SmallEOnnxConfig

MAX_DEFAULT_THREADS = 2
"""Two threads share the memory's bandwidth, which is what a step waits for. More have not been measured."""

SPIN_MICROSECONDS = 20
"""How long a thread stays awake for the next operator: within a step that is enough. Without a bound, each of two
processes would take the cores from the other."""

MAX_PROMPTS = 2
"""Voice prompts that are remembered: those of a dialogue."""

BOUNDED_SPINNING_VERSION = (1, 26)
"""Of ONNX Runtime. Earlier ones spin for as long as they like, or not at all; and several threads that fall asleep
between operators are slower than one."""


def can_bound_spinning(runtime_version: str) -> bool:
    """Whether a version of ONNX Runtime lets threads spin for a while and then sleep."""
    return tuple(int(number) for number in runtime_version.split(".")[:2]) >= BOUNDED_SPINNING_VERSION


def default_num_threads(runtime_version: str) -> int:
    """As many threads as are fastest with a version of ONNX Runtime on this machine."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MAX_DEFAULT_THREADS) if can_bound_spinning(runtime_version) else 1


class OnnxGraphs:
    """Sessions of an exported folder.

    Args:
        folder (`str` or `os.PathLike`): The folder.
        config ([`SmallEOnnxConfig`]): Its configuration.
        num_threads (`int`, *optional*): Threads of each session; by default as many as are fastest, at most two.

    Raises:
        ImportError: ONNX Runtime is not installed.
        FileNotFoundError: A graph is missing.
        ValueError: A graph is damaged.
    """

    def __init__(
        self, folder: str | os.PathLike[str], config: SmallEOnnxConfig, num_threads: int | None = None
    ) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError("Speaking with ONNX graphs needs ONNX Runtime: pip install onnxruntime.") from error
        self._runtime = onnxruntime
        self.folder, self.config = Path(folder), config
        default = default_num_threads(onnxruntime.__version__)
        self.num_threads = default if num_threads is None else num_threads
        names = ["text_encoder", "decoder_step", "prompt_encoder", "decoder_prefill"]
        names += ["codec_decoder"] * config.has_codec
        names += ["codec_encoder"] * config.has_codec_encoder
        missing = [name for name in names if not (self.folder / f"{name}.onnx").is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} lacks {', '.join(missing)}: export the model again.")
        # All at once, so that the first sentence does not wait for them.
        self.text_encoder, self.decoder_step, self.prompt_encoder, self.decoder_prefill = map(self._open, names[:4])
        self.codec_decoder: Any = self._open("codec_decoder") if config.has_codec else None
        self._prompts: OrderedDict[bytes, EncodedPrompt] = OrderedDict()
        self._lock = Lock()

    @cached_property
    def codec_encoder(self) -> Any:
        """Opened when there is a recording to encode, which most programs have once or never."""
        return self._open("codec_encoder")

    def _open(self, name: str) -> Any:
        options = self._runtime.SessionOptions()
        options.intra_op_num_threads = self.num_threads
        may_spin = can_bound_spinning(self._runtime.__version__)
        options.add_session_config_entry("session.intra_op.allow_spinning", str(int(may_spin)))
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
        options.log_severity_level = 3
        path = self.folder / f"{name}.onnx"
        try:
            return self._runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # of many kinds, none of which has a common base
            reason = str(error).splitlines()[0]
            raise ValueError(f"{path} is damaged, or ONNX Runtime is too old for it ({reason}).") from error

    def encode_text(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> dict[str, np.ndarray]:
        """What the decoder reads of a text: `text_0` and so on, and `attention_mask`."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
        outputs = self.text_encoder.run(None, inputs)
        return {f"text_{index}": tensor for index, tensor in enumerate(outputs)} | {"attention_mask": attention_mask}

    def encode_prompt(self, audio_ids: np.ndarray) -> "EncodedPrompt":
        """The blocks before the cross-attention over the columns of one voice prompt, which they begin with.

        They know nothing of the text, so that whoever speaks on in the same voice need not wait for them again: the
        last prompts are remembered. For three seconds and 64M parameters that is 7 MB each.

        Args:
            audio_ids (`np.ndarray` of shape `(T, Q)`): The columns.
        """
        key = audio_ids.tobytes()
        with self._lock:
            if key in self._prompts:
                self._prompts.move_to_end(key)
                return self._prompts[key]
        # Without the lock: two threads with a new voice both compute it, but none waits for another voice.
        prompt = self._encode_prompt(audio_ids)
        with self._lock:
            self._prompts[key] = prompt
            while len(self._prompts) > MAX_PROMPTS:
                self._prompts.popitem(last=False)
        return prompt

    def _encode_prompt(self, audio_ids: np.ndarray) -> "EncodedPrompt":
        num_states, chunk = self.config.num_audio_encoder_layers, self.config.prefill_columns
        states = [np.zeros((1, *shape), dtype=np.float32) for shape in self.config.state_shapes[:num_states]]
        pieces = []
        for start in range(0, len(audio_ids), chunk):
            ids = audio_ids[None, start : start + chunk]
            mask = np.ones_like(ids[..., 0])
            inputs = {"audio_ids": pad_columns(ids, chunk), "audio_mask": pad_columns(mask, chunk)}
            inputs |= {f"state_{index}": state for index, state in enumerate(states)}
            hidden_states, *states = self.prompt_encoder.run(None, inputs)
            pieces.append(hidden_states[0, : ids.shape[1]])
        return EncodedPrompt(np.concatenate(pieces), [state[0] for state in states])

    def start(self, text: dict[str, np.ndarray]) -> "OnnxState":
        """The state before the first column, of as many rows as there are texts."""
        return OnnxState(self, text)


class EncodedPrompt(NamedTuple):
    """What is remembered of a voice prompt, for reading only.

    hidden_states: `(T, D)`.
    states: Behind its last column, of the blocks before the cross-attention, `(H, K, V)` each.
    """

    hidden_states: np.ndarray
    states: list[np.ndarray]


def pad_columns(x: np.ndarray, size: int) -> np.ndarray:
    """(B, T, ...) -> (B, size, ...), with zeros on the right."""
    padded = np.zeros((len(x), size, *x.shape[2:]), dtype=x.dtype)
    padded[:, : x.shape[1]] = x
    return padded


class OnnxState:
    """The recurrent state of one generation. A step writes the new state over the old one, which every operator reads
    before, or while, it writes: for large states and several rows, moving them is most of the work.

    Args:
        graphs ([`OnnxGraphs`]): The model.
        text (`dict[str, np.ndarray]`): From [`OnnxGraphs.encode_text`].
    """

    def __init__(self, graphs: OnnxGraphs, text: dict[str, np.ndarray]) -> None:
        config, rows = graphs.config, len(text["attention_mask"])
        self.graphs, self.text = graphs, text
        self.frame_index = np.zeros(rows, dtype=np.int64)
        self.audio_ids = np.zeros((rows, config.num_codebooks), dtype=np.int64)
        self.logits = np.zeros((rows, config.num_codebooks, config.audio_vocab_size), dtype=np.float32)
        self.alignment = np.zeros(text["attention_mask"].shape, dtype=np.float32)
        self.states = [np.zeros((rows, *shape), dtype=np.float32) for shape in config.state_shapes]
        self._binding = self._bind()

    def _bind(self) -> Any:
        """Inputs and outputs of a step, whose memory stays the same."""
        wrap: Callable[[np.ndarray], Any] = self.graphs._runtime.OrtValue.ortvalue_from_numpy  # shares the memory
        binding = self.graphs.decoder_step.io_binding()
        inputs = {**self.text, "frame_index": self.frame_index, "audio_ids": self.audio_ids}
        outputs = {"logits": self.logits, "alignment": self.alignment}
        for name, array in inputs.items():
            binding.bind_ortvalue_input(name, wrap(array))
        for name, array in outputs.items():
            binding.bind_ortvalue_output(name, wrap(array))
        for index, state in enumerate(map(wrap, self.states)):
            binding.bind_ortvalue_input(f"state_{index}", state)
            binding.bind_ortvalue_output(f"new_state_{index}", state)
        return binding

    def prefill(self, audio_ids: np.ndarray, audio_mask: np.ndarray) -> None:
        """Runs known columns before any other, ids `(B, T, Q)` with mask `(B, T)`, padded on the right; at least one.

        Raises:
            RuntimeError: There have been columns already.
        """
        if self.frame_index.any():
            raise RuntimeError("Known columns come first: start another state for them.")
        config = self.graphs.config
        num_known, chunk = config.num_audio_encoder_layers, config.prefill_columns
        hidden_states = self._encode_prompts(audio_ids, audio_mask)
        states = self.states[num_known:]
        for start in range(0, audio_ids.shape[1], chunk):
            hidden, mask = (pad_columns(x[:, start : start + chunk], chunk) for x in (hidden_states, audio_mask))
            inputs = {"hidden_states": hidden, "audio_mask": mask, "frame_index": self.frame_index, **self.text}
            inputs |= {f"state_{index}": state for index, state in enumerate(states, num_known)}
            states = self.graphs.decoder_prefill.run(None, inputs)
            self.frame_index += mask.sum(axis=1)
        for buffer, state in zip(self.states[num_known:], states, strict=True):
            buffer[:] = state

    def _encode_prompts(self, audio_ids: np.ndarray, audio_mask: np.ndarray) -> np.ndarray:
        """Hidden states (B, T, D) before the cross-attention; the states of the blocks there are brought up to date.
        Row by row, so that rows in the same voice share the work, and what is remembered does not depend on others."""
        lengths = audio_mask.sum(axis=1)
        prompts = {
            row: self.graphs.encode_prompt(audio_ids[row, :length]) for row, length in enumerate(lengths) if length
        }
        width = next(iter(prompts.values())).hidden_states.shape[-1]
        hidden_states = np.zeros((*audio_mask.shape, width), dtype=np.float32)
        for row, (hidden, states) in prompts.items():
            hidden_states[row, : lengths[row]] = hidden
            for buffer, state in zip(self.states[: len(states)], states, strict=True):
                buffer[row] = state  # a copy: steps write into the buffer
        return hidden_states

    def step(self, audio_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Runs one column, `(B, Q)`.

        Returns:
            Logits `(B, Q, V)` and alignment `(B, S)`: the same memory at every step, which the next one overwrites.
        """
        self.audio_ids[:] = audio_ids
        self.graphs.decoder_step.run_with_iobinding(self._binding)
        self.frame_index += 1
        return self.logits, self.alignment


__all__ = ["OnnxGraphs", "OnnxState", "default_num_threads"]
