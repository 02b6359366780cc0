"""The op against the recurrence in float64: values, gradients, splits, resets, padding, extreme gates."""

import itertools
import warnings
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from smalle_hf.gated_linear_attention import (
    MIN_LOG_DECAY,
    chunked_gated_linear_attention,
    gated_linear_attention,
    recurrent_gated_linear_attention,
)

B, H, K, V = 2, 2, 16, 32
LENGTHS = [1, 8, 9, 31, 64, 65, 77]
FORMS = {
    "recurrent": recurrent_gated_linear_attention,
    "chunked": chunked_gated_linear_attention,
    "dispatched": gated_linear_attention,
}
NAMES = ("out", "final_state", "grad_q", "grad_k", "grad_v", "grad_log_decay", "grad_initial_state")

Op = Callable[..., tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> Op:
    """Every implementation that runs without a GPU, in turn."""
    return FORMS[request.param]


def random_inputs(length: int, decay: str = "uniform", seed: int = 0) -> list[torch.Tensor]:
    """q, k, v, log_decay and initial state in float64, with the decays asked for."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    q, k, v, state = normal(B, length, H, K), normal(B, length, H, K), normal(B, length, H, V), normal(B, H, K, V)
    uniform = torch.rand(B, length, H, K, generator=generator, dtype=torch.float64)
    log_decay = {
        "uniform": MIN_LOG_DECAY * uniform,
        "constant": torch.full_like(uniform, MIN_LOG_DECAY),
        "beyond": 3 * MIN_LOG_DECAY * uniform,
        "none": torch.zeros_like(uniform),
        "model": -0.1 * uniform,
        "mixed channels": torch.where(torch.arange(K) % 2 == 0, MIN_LOG_DECAY, -1e-4) * torch.ones_like(uniform),
    }[decay]
    return [q, k, v, log_decay, state]


def run(
    op: Op,
    inputs: list[torch.Tensor],
    dtype: torch.dtype,
    resets: torch.Tensor | None = None,
    gradient_scale: float = 1.0,
) -> dict[str, torch.Tensor]:
    """Outputs and the gradients of all inputs, given a random gradient at every output."""
    leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
    out, state = op(*leaves, resets)
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(x.shape, generator=generator, dtype=torch.float64) for x in (out, state)]
    torch.autograd.backward(
        [out, state], [gradient_scale * g.to(x) for g, x in zip(gradients, (out, state), strict=True)]
    )
    return dict(zip(NAMES, [out.detach(), state.detach(), *(x.grad for x in leaves)], strict=True))


def relative_errors(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    errors = {}
    for name, value in expected.items():
        norm = value.norm().item()
        difference = (found[name].double() - value).norm().item()
        errors[name] = difference / norm if norm else difference
    return errors


@pytest.mark.parametrize("decay", ["uniform", "constant", "beyond", "none", "model", "mixed channels"])
@pytest.mark.parametrize("length", LENGTHS)
def test_float32_matches_the_float64_recurrence(form: Op, length: int, decay: str) -> None:
    inputs = random_inputs(length, decay)
    expected = run(recurrent_gated_linear_attention, inputs, torch.float64)
    errors = relative_errors(run(form, inputs, torch.float32), expected)
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize("gradient_scale", [1e-6, 1e-9])
@pytest.mark.parametrize("decay", ["uniform", "constant"])
def test_gradients_keep_their_precision_when_they_are_small(form: Op, decay: str, gradient_scale: float) -> None:
    """A loss that is a mean over a batch sends gradients of this size."""
    inputs = random_inputs(77, decay)
    expected = run(recurrent_gated_linear_attention, inputs, torch.float64, gradient_scale=gradient_scale)
    errors = relative_errors(run(form, inputs, torch.float32, gradient_scale=gradient_scale), expected)
    assert max(errors.values()) <= 1e-5, errors


@pytest.mark.parametrize(("which", "scale"), [(0, 1e-4), (0, 1e4), (1, 1e-4), (1, 1e4)])
def test_size_of_queries_and_keys_does_not_cost_precision(form: Op, which: int, scale: float) -> None:
    inputs = random_inputs(77, "constant")
    inputs[which] = inputs[which] * scale
    expected = run(recurrent_gated_linear_attention, inputs, torch.float64)
    errors = relative_errors(run(form, inputs, torch.float32), expected)
    assert max(errors.values()) <= 1e-5, errors


def test_definition(form: Op) -> None:
    """Against the equations in plain loops: S_t = diag(a_t) S_{t-1} + k_t v_t^T, o_t = (q_t / sqrt(K))^T S_t."""
    q, k, v, log_decay, state = random_inputs(7, "uniform")
    out, final_state = form(q, k, v, log_decay, state)
    for b in range(B):
        for h in range(H):
            s = state[b, h]
            for t in range(7):
                s = log_decay[b, t, h].exp().diag() @ s + torch.outer(k[b, t, h], v[b, t, h])
                torch.testing.assert_close(out[b, t, h], s.T @ (q[b, t, h] / K**0.5))
            torch.testing.assert_close(final_state[b, h], s)


def test_no_initial_state_is_a_zero_state(form: Op) -> None:
    q, k, v, log_decay, state = random_inputs(37)
    expected = form(q, k, v, log_decay, torch.zeros_like(state))
    for found, wanted in zip(form(q, k, v, log_decay), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def test_empty_input_returns_the_state(form: Op) -> None:
    q, k, v, log_decay, state = random_inputs(0)
    out, final_state = form(q, k, v, log_decay, state)
    assert out.shape == (B, 0, H, V)
    torch.testing.assert_close(final_state, state)


@pytest.mark.parametrize("length", [3, 40])
def test_state_is_float32_and_output_has_the_dtype_of_the_values(form: Op, length: int) -> None:
    inputs = random_inputs(length)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        out, state = form(*(x.to(dtype) for x in inputs[:3]), inputs[3].float(), inputs[4].float())
        assert out.dtype == dtype
        assert state.dtype == torch.float32


@pytest.mark.parametrize("decay", ["uniform", "constant", "model"])
@pytest.mark.parametrize("length", [5, 33, 77])
def test_bfloat16_inputs_lose_no_more_than_their_rounding(form: Op, length: int, decay: str) -> None:
    """Rounded inputs in float64 are the reference: what is left is the rounding of the results, 2^-9 each."""
    inputs = [x.to(torch.bfloat16) for x in random_inputs(length, decay)]
    inputs[3:] = [x.float() for x in inputs[3:]]
    expected = run(recurrent_gated_linear_attention, [x.double() for x in inputs], torch.float64)
    leaves = [x.detach().requires_grad_() for x in inputs]
    out, state = form(*leaves)
    generator = torch.Generator().manual_seed(1)
    gradients = [torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x) for x in (out, state)]
    torch.autograd.backward([out, state], gradients)
    found = dict(zip(NAMES, [out.detach(), state.detach(), *(x.grad for x in leaves)], strict=True))
    assert all(torch.isfinite(x).all() for x in found.values())
    errors = relative_errors(found, expected)
    assert max(errors.values()) <= 2**-7, errors


def test_autocast_does_not_lower_the_precision(form: Op) -> None:
    inputs = random_inputs(40, "model")
    expected = run(recurrent_gated_linear_attention, inputs, torch.float64)

    def under_autocast(*arguments: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            return form(*arguments)

    found = run(under_autocast, inputs, torch.float32)
    assert max(relative_errors(found, expected).values()) <= 1e-5


def test_autocast_around_the_backward_pass_does_not_lower_the_precision() -> None:
    inputs = random_inputs(40, "model")
    expected = run(recurrent_gated_linear_attention, inputs, torch.float64)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(chunked_gated_linear_attention, inputs, torch.float32)
    assert max(relative_errors(found, expected).values()) <= 1e-5


@pytest.mark.parametrize("value", [-1e-8, MIN_LOG_DECAY, 100 * MIN_LOG_DECAY, -1e30, -float("inf")])
def test_extreme_gates_stay_finite(form: Op, value: float) -> None:
    inputs = random_inputs(77)
    inputs[3] = torch.full_like(inputs[3], value)
    for name, tensor in run(form, inputs, torch.float32).items():
        assert torch.isfinite(tensor).all(), name


@pytest.mark.parametrize("length", [3, 77])
def test_decays_are_clamped_at_the_documented_bound(form: Op, length: int) -> None:
    q, k, v, log_decay, state = random_inputs(length, "beyond")
    expected = form(q, k, v, log_decay.clamp(min=MIN_LOG_DECAY), state)
    for found, wanted in zip(form(q, k, v, log_decay, state), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=0, atol=0)


@settings(deadline=None, max_examples=30)
@given(
    length=st.integers(1, 100),
    cuts=st.lists(st.integers(0, 100), max_size=5),
    seed=st.integers(0, 1000),
    decay=st.sampled_from(["uniform", "constant", "model"]),
)
def test_any_split_gives_the_same_output_and_state(length: int, cuts: list[int], seed: int, decay: str) -> None:
    q, k, v, log_decay, state = (x.float() for x in random_inputs(length, decay, seed))
    whole, whole_state = gated_linear_attention(q, k, v, log_decay, state)
    edges = [0, *sorted(min(cut, length) for cut in cuts), length]
    pieces = []
    for begin, end in itertools.pairwise(edges):
        piece, state = gated_linear_attention(*(x[:, begin:end] for x in (q, k, v, log_decay)), state)
        pieces.append(piece)
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(state, whole_state, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(length=st.integers(1, 80), starts=st.sets(st.integers(0, 79), max_size=6), name=st.sampled_from(sorted(FORMS)))
def test_resets_equal_separate_runs(length: int, starts: set[int], name: str) -> None:
    """With gradients: a frame must not hear of the segment before it, nor teach it."""
    op = FORMS[name]
    inputs = random_inputs(length, "model")
    starts = {start for start in starts if start < length}
    resets = torch.zeros(B, length, dtype=torch.bool)
    resets[:, list(starts)] = True
    together = [x.clone().requires_grad_() for x in inputs]
    out, final_state = op(*together, resets)

    apart = [x.clone().requires_grad_() for x in inputs]
    edges = sorted({0, *starts, length})
    pieces, state = [], None
    for begin, end in itertools.pairwise(edges):
        initial_state = apart[4] if begin == 0 and 0 not in starts else None
        piece, state = op(*(x[:, begin:end] for x in apart[:4]), initial_state)
        pieces.append(piece)
    expected = torch.cat(pieces, dim=1)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(final_state, state)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype)
    ((out * weights).sum() + final_state.sum()).backward()
    ((expected * weights).sum() + state.sum()).backward()
    for found, wanted in zip(together, apart, strict=True):
        torch.testing.assert_close(found.grad, torch.zeros_like(found) if wanted.grad is None else wanted.grad)


def test_resets_differ_between_rows(form: Op) -> None:
    inputs = random_inputs(50, "model")
    resets = torch.zeros(B, 50, dtype=torch.bool)
    resets[0, [3, 40]] = True
    resets[1, 17] = True
    out, state = form(*inputs, resets)
    for b in range(B):
        row = [x[b : b + 1] for x in inputs]
        row_out, row_state = form(*row, resets[b : b + 1])
        torch.testing.assert_close(out[b : b + 1], row_out)
        torch.testing.assert_close(state[b : b + 1], row_state)


@pytest.mark.parametrize("side", ["left", "right", "middle"])
@pytest.mark.parametrize("length", [6, 45])
def test_padding_leaves_no_trace(form: Op, length: int, side: str) -> None:
    """Frames with k = 0 and log decay 0 are invisible, whatever their queries and values are."""
    inputs = random_inputs(length, "uniform")
    at = {"left": 0, "middle": length // 2, "right": length}[side]
    q, k, v, log_decay, _ = random_inputs(9, seed=5)
    padding = [q, torch.zeros_like(k), v, torch.zeros_like(log_decay)]
    padded = [torch.cat([x[:, :at], p, x[:, at:]], dim=1) for x, p in zip(inputs[:4], padding, strict=True)]
    out, state = form(*padded, inputs[4])
    expected, expected_state = form(*inputs)
    torch.testing.assert_close(torch.cat([out[:, :at], out[:, at + 9 :]], dim=1), expected)
    torch.testing.assert_close(state, expected_state)


@pytest.mark.parametrize("resets", [None, [3, 64, 150]])
@pytest.mark.parametrize("decay", ["uniform", "model"])
def test_pieces_give_what_the_whole_gives(
    decay: str, resets: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long inputs are computed piece by piece; their state and its gradient pass from one to the next."""
    inputs = random_inputs(200, decay)
    mask = None
    if resets is not None:
        mask = torch.zeros(B, 200, dtype=torch.bool)
        mask[0, resets] = True
    whole = run(chunked_gated_linear_attention, inputs, torch.float64, mask)
    monkeypatch.setattr("smalle_hf.chunked_recurrence.PIECE_SIZE", 1)
    pieces = run(chunked_gated_linear_attention, inputs, torch.float64, mask)
    expected = run(recurrent_gated_linear_attention, inputs, torch.float64, mask)
    for name, value in expected.items():
        torch.testing.assert_close(whole[name], value)
        torch.testing.assert_close(pieces[name], value)


@pytest.mark.parametrize("decay", ["uniform", "beyond", "model"])
@pytest.mark.parametrize("resets", [False, True])
def test_gradients_are_the_slopes_of_the_outputs(decay: str, resets: bool) -> None:
    """By finite differences: the gradient of the chunked form is written by hand."""
    q, k, v, log_decay, state = random_inputs(70, decay)
    inputs = [x[:1, :, :1, :3].clone().requires_grad_() for x in (q, k, v, log_decay)]
    inputs.append(state[:1, :1, :3, :3].clone().requires_grad_())
    mask = torch.arange(70)[None] % 30 == 9 if resets else None
    assert torch.autograd.gradcheck(lambda *x: chunked_gated_linear_attention(*x, mask), inputs, fast_mode=True)


@pytest.mark.parametrize("used", [0, 1])
def test_only_one_result_is_used(form: Op, used: int) -> None:
    inputs = [x.requires_grad_() for x in random_inputs(70)]
    found = torch.autograd.grad(form(*inputs)[used].square().sum(), inputs, allow_unused=True)
    expected = torch.autograd.grad(
        recurrent_gated_linear_attention(*inputs)[used].square().sum(), inputs, allow_unused=True
    )
    for x, y, leaf in zip(found, expected, inputs, strict=True):
        zeros = torch.zeros_like(leaf)
        torch.testing.assert_close(zeros if x is None else x, zeros if y is None else y)


def test_transforms_of_functions(form: Op) -> None:
    """`torch.func`: gradients, and those of each of several problems at once, one input being the same for all."""
    inputs = random_inputs(200)
    several = [torch.stack([x, 0.5 * x, 0.1 * x]) for x in inputs]
    several[2] = inputs[2]

    def loss(*arguments: torch.Tensor) -> torch.Tensor:
        out, state = form(*arguments)
        return out.square().sum() + state.square().sum()

    gradients = torch.func.grad(loss, argnums=(0, 1, 2, 3, 4))
    dims = (0, 0, None, 0, 0)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="There is a performance drop")
        found = torch.func.vmap(gradients, in_dims=dims)(*several)
    values = torch.func.vmap(loss, in_dims=dims)(*several)
    for i in range(3):
        leaves = [x[i] if dim == 0 else x for x, dim in zip(several, dims, strict=True)]
        leaves = [x.detach().clone().requires_grad_() for x in leaves]
        expected = loss(*leaves)
        expected.backward()
        torch.testing.assert_close(values[i], expected.detach())
        for x, leaf in zip(found, leaves, strict=True):
            torch.testing.assert_close(x[i], leaf.grad)


def test_second_derivatives_are_refused() -> None:
    """Rather than wrong: the recurrent form has them."""
    inputs = [x.requires_grad_() for x in random_inputs(20)]
    out, _ = chunked_gated_linear_attention(*inputs)
    (gradient,) = torch.autograd.grad(out.square().sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_inputs_are_not_changed(form: Op) -> None:
    inputs = random_inputs(40)
    before = [x.clone() for x in inputs]
    form(*inputs)
    assert all(torch.equal(x, y) for x, y in zip(inputs, before, strict=True))


@pytest.mark.parametrize("length", [1, 3])
def test_state_is_written_over_where_that_is_allowed(length: int) -> None:
    *inputs, state = random_inputs(length)
    expected = gated_linear_attention(*inputs, state)
    with torch.no_grad():
        given = state.clone()
        found = gated_linear_attention(*inputs, given, overwrite_state=True)
    assert found[1].data_ptr() == given.data_ptr()
    for result, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("why", ["gradients", "needs gradients", "inference", "compiling"])
def test_state_is_not_written_over_where_somebody_needs_it(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    *inputs, state = random_inputs(1)
    expected, before = gated_linear_attention(*inputs, state), state.clone()
    if why == "inference":
        with torch.inference_mode():
            state = state.clone()
    if why == "compiling":
        monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    state = state.requires_grad_() if why == "needs gradients" else state
    with torch.set_grad_enabled(why == "gradients"):
        found = gated_linear_attention(*inputs, state, overwrite_state=True)
    for result, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(result, wanted, rtol=0, atol=0)
    assert torch.equal(state, before)


@pytest.mark.gpu
@pytest.mark.parametrize("length", [*LENGTHS, 200])
@pytest.mark.parametrize("decay", ["uniform", "model"])
def test_kernel_matches_the_float64_recurrence(length: int, decay: str) -> None:
    """The kernels compute products in TF32: 10 bits of mantissa."""
    pytest.importorskip("fla.ops.gla", reason="flash-linear-attention is not installed")
    inputs = [x.cuda() for x in random_inputs(length, decay)]
    expected = run(recurrent_gated_linear_attention, inputs, torch.float64)
    found = run(lambda *arguments: gated_linear_attention(*arguments), inputs, torch.float32)
    assert all(torch.isfinite(x).all() for x in found.values())
    errors = relative_errors(found, expected)
    assert max(errors.values()) <= 2**-8, errors
