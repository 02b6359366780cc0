"""The way to flash-linear-attention's kernels, with a reference in their place; and the kernels, interpreted."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from core_models import lively_model, random_columns, random_text, small_config

from smalle_hf import fla_kernels
from smalle_hf.fla_kernels import Kernels, fla_gated_linear_attention
from smalle_hf.gated_linear_attention import (
    CHUNK_SIZE,
    MIN_LOG_DECAY,
    gated_linear_attention,
    recurrent_gated_linear_attention,
)

B, H, K, V = 2, 2, 8, 12
NAMES = ("out", "final_state", "grad_q", "grad_k", "grad_v", "grad_log_decay", "grad_initial_state")


class ReferenceKernels:
    """Functions with the signatures of the kernels, from the definition. Like these they want contiguous tensors of
    one dtype, float32 decays and states (or all float64), and know neither resets nor the clamp."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def kernels(self) -> Kernels:
        return Kernels(self.chunk_forward, self.chunk_backward, self.recurrent)

    def check(self, q: Any, k: Any, v: Any, g: Any, initial_state: Any) -> None:
        wide = torch.float64 if q.dtype == torch.float64 else torch.float32
        assert q.dtype == k.dtype == v.dtype
        assert g.dtype == initial_state.dtype == wide
        assert all(x.is_contiguous() for x in (q, k, v, g, initial_state))

    def compute(self, q: Any, k: Any, v: Any, g: Any, initial_state: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Frame by frame in the precision of the decays, without a clamp: a strong decay shall act."""
        state, outs = initial_state, []
        for t in range(q.shape[1]):
            q_t, k_t, v_t = (x[:, t].to(g.dtype) for x in (q, k, v))
            state = g[:, t].exp()[..., None] * state + k_t[..., None] * v_t[..., None, :]
            outs.append((q_t[..., None, :] @ state)[..., 0, :] * q.shape[-1] ** -0.5)
        return torch.stack(outs, dim=1), state

    def chunk_forward(self, q, k, v, g, g_cumsum, scale, initial_state, output_final_state, chunk_size):  # type: ignore[no-untyped-def]
        self.calls.append("chunk_forward")
        self.check(q, k, v, g, initial_state)
        assert g_cumsum is None
        assert output_final_state
        assert chunk_size == CHUNK_SIZE
        assert scale == q.shape[-1] ** -0.5
        out, state = self.compute(q, k, v, g, initial_state)
        return g.clone(), g.new_zeros(*q.shape[:3], chunk_size), None, state, out.to(v.dtype)

    def chunk_backward(self, q, k, v, g, g_cumsum, scale, initial_state, h, A, do, dht, chunk_size):  # type: ignore[no-untyped-def]
        self.calls.append("chunk_backward")
        self.check(q, k, v, g_cumsum, initial_state)
        assert g is None
        assert h is None
        assert A.shape == (*q.shape[:3], chunk_size)
        assert do.is_contiguous()
        assert dht.is_contiguous()
        assert do.dtype == v.dtype
        assert dht.dtype == initial_state.dtype
        wide = g_cumsum.dtype
        q, k, v, do = (x.to(wide) for x in (q, k, v, do))  # what comes out is wider than the inputs, as fla's
        states = [initial_state]
        for t in range(q.shape[1]):
            states.append(self.compute(*(x[:, t : t + 1] for x in (q, k, v, g_cumsum)), states[-1])[1])
        gradients, d_state = [], dht
        for t in reversed(range(q.shape[1])):
            decay = g_cumsum[:, t].exp()[..., None]
            d_state = d_state + q[:, t, ..., None] * do[:, t, :, None] * scale
            d_q = (states[t + 1] @ do[:, t, ..., None])[..., 0] * scale
            d_k, d_v = (d_state @ v[:, t, ..., None])[..., 0], (k[:, t, :, None] @ d_state)[..., 0, :]
            gradients.append((d_q, d_k, d_v, (d_state * states[t] * decay).sum(dim=-1)))
            d_state = decay * d_state
        return *(torch.stack(x[::-1], dim=1) for x in zip(*gradients, strict=True)), d_state

    def recurrent(self, q, k, v, gk, initial_state, output_final_state):  # type: ignore[no-untyped-def]
        self.calls.append("recurrent")
        self.check(q, k, v, gk, initial_state)
        assert output_final_state
        return self.compute(q, k, v, gk, initial_state)  # out is wider than the values, as fla's


@pytest.fixture
def reference(monkeypatch: pytest.MonkeyPatch) -> ReferenceKernels:
    """Reference kernels, which CPU tensors go to as well."""
    kernels = ReferenceKernels()
    monkeypatch.setattr(fla_kernels, "load_kernels", kernels.kernels)
    monkeypatch.setattr("smalle_hf.gated_linear_attention._has_kernels", lambda q: True)
    return kernels


def random_inputs(length: int, dtype: torch.dtype = torch.float64, strength: float = 1.0) -> list[torch.Tensor]:
    """q, k, v, log decay and state."""
    generator = torch.Generator().manual_seed(length)
    shapes = [(B, length, H, K), (B, length, H, K), (B, length, H, V), (B, length, H, K), (B, H, K, V)]
    q, k, v, gate, state = (torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    return [*(x.to(dtype) for x in (q, k, v)), (-strength * gate.abs()).to(wide), state.to(wide)]


def random_resets(length: int) -> torch.Tensor:
    """Frames that begin an utterance: some side by side, one at the very beginning of a row."""
    resets = torch.zeros(B, length, dtype=torch.bool)
    resets[0, [0, length // 3, length // 3 + 1]] = True
    resets[1, length - 1] = True
    return resets


def run(op: Callable[..., Any], inputs: list[torch.Tensor], resets: torch.Tensor | None) -> dict[str, torch.Tensor]:
    """Results, and the gradients of all inputs for random gradients of the results."""
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out, state = op(*leaves, resets)
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in (out, state)]
    torch.autograd.backward([out, state], weights)
    return dict(zip(NAMES, [out.detach(), state.detach(), *(x.grad for x in leaves)], strict=True))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("length", [3, 8, 9, 30])
def test_values_and_gradients(reference: ReferenceKernels, length: int, packed: bool) -> None:
    """Each row of a packed batch ends in the state of its last utterance; decays below the bound are clamped."""
    inputs, resets = random_inputs(length, strength=4.0), random_resets(length) if packed else None
    assert inputs[3].min() < MIN_LOG_DECAY
    found = run(gated_linear_attention, inputs, resets)
    assert reference.calls == ["chunk_forward", "chunk_backward"]
    for name, value in run(recurrent_gated_linear_attention, inputs, resets).items():
        torch.testing.assert_close(found[name], value, msg=name)


@pytest.mark.parametrize("packed", [False, True])
def test_gradients_are_the_slopes_of_the_results(reference: ReferenceKernels, packed: bool) -> None:
    inputs = [x[..., :3].clone().requires_grad_() for x in random_inputs(10)]
    inputs[4] = random_inputs(10)[4][:, :, :3, :3].clone().requires_grad_()
    resets = random_resets(10) if packed else None
    assert torch.autograd.gradcheck(lambda *x: gated_linear_attention(*x, resets), inputs, fast_mode=True)


@pytest.mark.parametrize("used", [0, 1])
def test_only_one_result_is_used(reference: ReferenceKernels, used: int) -> None:
    inputs = [x.requires_grad_() for x in random_inputs(12)]
    found = torch.autograd.grad(gated_linear_attention(*inputs)[used].square().sum(), inputs)
    expected = torch.autograd.grad(
        recurrent_gated_linear_attention(*inputs)[used].square().sum(), inputs, allow_unused=True
    )
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, torch.zeros_like(x) if y is None else y)


@pytest.mark.parametrize("length", [4, 40])
def test_without_gradients_short_inputs_go_frame_by_frame(reference: ReferenceKernels, length: int) -> None:
    inputs, resets = random_inputs(length), random_resets(length)
    with torch.no_grad():
        found = gated_linear_attention(*inputs, resets)
    assert reference.calls == ["recurrent" if length == 4 else "chunk_forward"]
    for x, y in zip(found, recurrent_gated_linear_attention(*inputs, resets), strict=True):
        torch.testing.assert_close(x, y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("gradients", [False, True])
@pytest.mark.parametrize("length", [1, 20])
def test_dtypes(reference: ReferenceKernels, dtype: torch.dtype, length: int, gradients: bool) -> None:
    """The state stays float32, results and gradients have the dtypes of what they belong to; layouts may be odd."""
    inputs = random_inputs(length, dtype)
    inputs[0] = inputs[0].float()  # as autocast leaves it where only some of the projections were run in it
    inputs[2] = inputs[2].transpose(1, 2).contiguous().transpose(1, 2)
    with torch.set_grad_enabled(gradients):
        out, state = gated_linear_attention(*inputs)
    assert out.dtype == dtype
    assert out.shape == inputs[2].shape
    assert state.dtype == torch.float32
    if gradients:
        for name, value in run(gated_linear_attention, inputs, None).items():
            expected = dict(zip(NAMES, [inputs[2], inputs[4], *inputs], strict=True))[name]
            assert value.dtype == expected.dtype, name


def test_no_initial_state_is_a_zero_state(reference: ReferenceKernels) -> None:
    *inputs, state = random_inputs(20)
    for x, y in zip(
        gated_linear_attention(*inputs), gated_linear_attention(*inputs, torch.zeros_like(state)), strict=True
    ):
        torch.testing.assert_close(x, y, rtol=0, atol=0)


def test_operators_are_well_formed(reference: ReferenceKernels) -> None:
    """PyTorch's own checks: schema, shapes of results, gradient, also with sizes that are not known beforehand."""
    inputs = [x.requires_grad_() for x in random_inputs(3)]
    torch.library.opcheck(fla_kernels._chunked, inputs)
    torch.library.opcheck(fla_kernels._recurrent, [x.detach() for x in inputs])
    out, state, totals, weights = fla_kernels._chunked(*inputs)
    q, k, v, _, initial_state = (x.detach() for x in inputs)
    others = [x.detach() for x in (totals, weights, out, state)]
    torch.library.opcheck(fla_kernels._chunked_backward, [q, k, v, initial_state, *others])


@pytest.mark.slow
def test_compiled_training_step_is_one_graph(reference: ReferenceKernels) -> None:
    """Of the whole model, packed, with the kernels in it, and with the gradients that it has uncompiled."""
    sizes = {"num_audio_encoder_layers": 1, "num_text_encoder_layers": 1}
    model = lively_model(small_config(**sizes)).train()
    columns, text = random_columns(model.config, 12, batch=2), random_text(model.config, 8, batch=2)
    batch = {
        "input_ids": text,
        "segment_ids": torch.tensor([[0] * 4 + [1] * 4, [0] * 3 + [1] * 5]),
        "decoder_input_ids": columns[:, :-1],
        "decoder_segment_ids": torch.tensor([[0] * 5 + [1] * 6, [0] * 2 + [1] * 9]),
        "labels": columns[:, 1:],
    }

    def gradients(step: Callable[..., Any]) -> list[torch.Tensor]:
        model.zero_grad()
        step(**batch).loss.backward()
        return [weight.grad.clone() for weight in model.parameters()]

    expected = gradients(model)
    assert "chunk_backward" in reference.calls
    reference.calls.clear()
    torch._dynamo.reset()
    found = gradients(torch.compile(model, backend="aot_eager", fullgraph=True))
    assert "chunk_backward" in reference.calls
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-3, atol=1e-5)


def test_packed_model_is_what_its_utterances_are_alone(reference: ReferenceKernels) -> None:
    model = lively_model(small_config())
    text, columns = random_text(model.config, 9), random_columns(model.config, 30)
    with torch.no_grad():
        packed = model(
            input_ids=torch.cat([text, text.flip(1)], dim=1),
            decoder_input_ids=torch.cat([columns, columns[:, :11]], dim=1),
            segment_ids=torch.tensor([[0] * 9 + [1] * 9]),
            decoder_segment_ids=torch.tensor([[0] * 30 + [1] * 11]),
        ).logits
        first = model(input_ids=text, decoder_input_ids=columns).logits
        second = model(input_ids=text.flip(1), decoder_input_ids=columns[:, :11]).logits
    torch.testing.assert_close(packed, torch.cat([first, second], dim=1), rtol=1e-4, atol=1e-5)


def test_cpu_tensors_never_reach_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where they are installed: without a GPU they fail."""

    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("called")

    monkeypatch.setattr(fla_kernels, "load_kernels", lambda: Kernels(fail, fail, fail))
    gated_linear_attention(*random_inputs(3))
    gated_linear_attention(*random_inputs(30, torch.float32), random_resets(30))


def test_missing_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fla_kernels, "load_kernels", lambda: None)
    assert not fla_kernels.kernels_are_installed()
    with pytest.raises(ImportError, match=r"smalle-hf\[gpu\]"):
        fla_gated_linear_attention(*random_inputs(20), None, False)


@pytest.mark.gpu
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("compiled", [False, True])
def test_kernels_on_a_gpu(compiled: bool, packed: bool) -> None:
    """Products are computed in TF32: 10 bits of mantissa."""
    pytest.importorskip("fla", reason="flash-linear-attention is not installed")
    inputs = [x.cuda() for x in random_inputs(200, torch.float32)]
    resets = random_resets(200).cuda() if packed else None
    expected = run(recurrent_gated_linear_attention, [x.double() for x in inputs], resets)
    op = torch.compile(gated_linear_attention, fullgraph=True) if compiled else gated_linear_attention
    for name, value in run(op, inputs, resets).items():
        assert ((value - expected[name]).norm() / expected[name].norm()).item() <= 2**-8, name


@pytest.mark.gpu
def test_step_on_a_gpu() -> None:
    q, k, v, log_decay, state = (x.cuda() for x in random_inputs(1, torch.float32))
    expected = recurrent_gated_linear_attention(q, k, v, log_decay, state.clone())
    with torch.no_grad():
        found = gated_linear_attention(q, k, v, log_decay, state, overwrite_state=True)
    assert found[1] is state
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y)


def test_a_single_frame_writes_over_its_state_where_it_may(
    reference: ReferenceKernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step(q: Any, k: Any, v: Any, log_decay: Any, state: torch.Tensor) -> torch.Tensor:
        out, new_state = recurrent_gated_linear_attention(q, k, v, log_decay, state)
        state.copy_(new_state)
        return out

    monkeypatch.setattr("smalle_hf.gated_linear_attention.step_in_place", step)
    *inputs, state = random_inputs(1, torch.float32)
    expected = recurrent_gated_linear_attention(*inputs, state)
    before = state.clone()
    with torch.no_grad():
        kept = gated_linear_attention(*inputs, state)  # not asked for
        packed = gated_linear_attention(*inputs, state, torch.ones(B, 1, dtype=torch.bool), overwrite_state=True)
    recorded = gated_linear_attention(*inputs, state, overwrite_state=True)  # a gradient may be wanted
    assert reference.calls == ["recurrent", "recurrent", "chunk_forward"]
    assert torch.equal(state, before)
    assert all(result[1] is not state for result in (kept, packed, recorded))
    with torch.no_grad():
        found = gated_linear_attention(*inputs, state, overwrite_state=True)
    assert found[1] is state
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y)


INTERPRETED = """
import builtins, importlib, json, sys
import torch
import triton.language as tl
from triton.runtime.autotuner import Autotuner

Autotuner._bench = lambda self, *arguments, **options: [0.0, 0.0, 0.0]  # there is nothing to time

def interpreted_range(*bounds):
    for i in builtins.range(*map(int, bounds)):
        yield tl.full((), i, tl.int32)  # compiled code has tensors where the interpreter has integers

importlib.import_module("fla.ops.common.chunk_h").range = interpreted_range
from smalle_hf import fla_kernels, gated_linear_attention as op
op._has_kernels = lambda q: True

def run(function, inputs, resets, dtype):
    leaves = [x.to(dtype).requires_grad_() for x in inputs]
    generator = torch.Generator().manual_seed(1)
    out, state = function(*leaves, resets)
    weights = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in (out, state)]
    torch.autograd.backward([out, state], weights)
    return [out.detach(), state.detach(), *(x.grad for x in leaves)]

errors = {}
for name, (length, keys, strength, starts) in json.loads(sys.argv[1]).items():
    torch.manual_seed(0)
    shapes = [(2, length, 1, keys)] * 2 + [(2, length, 1, 24), (2, length, 1, keys), (2, 1, keys, 24)]
    q, k, v, gate, state = (torch.randn(*shape, dtype=torch.float64) for shape in shapes)
    inputs = [q, k, v, -strength * gate.abs(), state]
    resets = None
    if starts:
        resets = torch.zeros(2, length, dtype=torch.bool)
        resets[0, starts] = True
    found = run(op.gated_linear_attention, inputs, resets, torch.float32)
    expected = run(op.recurrent_gated_linear_attention, inputs, resets, torch.float64)
    errors[name] = max(((x - y).norm() / y.norm()).item() for x, y in zip(found, expected))
    if length <= 8:
        with torch.no_grad():
            results = op.gated_linear_attention(*(x.float() for x in inputs), resets)
        errors[name + ", without gradients"] = max(
            ((x - y).norm() / y.norm()).item() for x, y in zip(results, expected)
        )
for shape, dtype in (((3, 2, 16, 24), torch.float32), ((1, 2, 80, 100), torch.bfloat16)):
    B, H, K, V = shape
    q, k, gate = (torch.randn(B, 1, H, K).to(dtype) for _ in range(3))
    v, state = torch.randn(B, H, 1, V).to(dtype).transpose(1, 2), torch.randn(B, H, K, V)
    gate = 4 * -gate.float().abs()
    gate[..., 0] = -torch.inf
    wide = (x.float() for x in (q, k, v))
    expected_out, expected = op.recurrent_gated_linear_attention(*wide, gate, state.clone())
    with torch.no_grad():
        out, found = op.gated_linear_attention(q, k, v, gate, state, overwrite_state=True)
    assert found is state and out.dtype == dtype and out.shape == v.shape
    errors[f"one frame in place, {dtype}"] = ((found - expected).norm() / expected.norm()).item()
    difference = ((out - expected_out).norm() / expected_out.norm()).item()
    errors[f"output of one frame, {dtype}"] = difference if dtype == torch.float32 else difference / 2**9
print(json.dumps(errors))
"""


@pytest.mark.slow
def test_kernels_in_the_interpreter() -> None:
    """The real kernels, in Triton's interpreter on the CPU, against float64: what they are given and what becomes of
    it are right, decays of resets included. Without resets they are as exact as float32; see `RESET_LOG_DECAY`."""
    for package in ("triton", "fla"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: `pip install triton fla-core`")
    cases = {
        "mild decays": (70, 16, 0.1, []),
        "decays beyond the bound": (70, 16, 4.0, []),
        "short": (5, 16, 0.1, [2]),
        "wide keys": (20, 320, 0.1, []),
        "packed": (150, 16, 0.1, [0, 1, 90]),
        "all packed into one chunk": (40, 16, 0.1, list(range(3, 40, 3))),
    }
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", INTERPRETED, json.dumps(cases)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    errors = json.loads(result.stdout)
    assert len(errors) == len(cases) + 1 + 4
    for name, error in errors.items():
        assert error <= (1e-4 if "packed" in name else 1e-5), errors
