"""LCLM blocks in as few and as large operators as the runtime has: a step is short, and every node costs.

Queries, keys, values and output gates are one product, and a step of the recurrence is one operator of ONNX Runtime,
which updates the state where it lies. What is computed stays the same.
"""

import copy

import onnx
import torch
from torch import nn
from torch.nn import functional as F

from ..chunked_recurrence import BLOCK_SIZE, MIN_LOG_DECAY, _decays, _running_sums, _to_chunks, _weigh
from ..layers_smalle import SmallELCLMBlock, SmallELinearAttention
from ..modeling_smalle import SmallEModel

RUNTIME_DOMAIN = "com.microsoft"

LINEAR_ATTENTION = """
<domain: "com.microsoft", opset_import: ["": 20]>
LinearAttention <q_num_heads, kv_num_heads, update_rule, scale> (query, key, value, state, log_decay)
    => (out, new_state)
{
    state_shape = Shape (state)
    batch_heads_keys = Shape <end = 3> (state)
    one = Constant <value_ints = [1]> ()
    column_shape = Concat <axis = 0> (batch_heads_keys, one)
    batch_heads = Shape <end = 2> (state)
    any = Constant <value_ints = [-1]> ()
    row_shape = Concat <axis = 0> (batch_heads, one, any)
    decay_logs = Reshape (log_decay, column_shape)
    decay = Exp (decay_logs)
    keys = Reshape (key, column_shape)
    values = Reshape (value, row_shape)
    queries = Reshape (query, row_shape)
    decayed = Mul (state, decay)
    added = Mul (keys, values)
    new_state = Add (decayed, added)
    factor = Constant <value_float: float = @scale> ()
    scaled = Mul (queries, factor)
    read = MatMul (scaled, new_state)
    batch = Shape <end = 1> (state)
    out_shape = Concat <axis = 0> (batch, one, any)
    out = Reshape (read, out_shape)
}
"""
"""One step of the operator as plain ones, for runtimes before 1.26, which lack it. Later ones have their own."""


class FusedLinearAttention(nn.Module):
    """[`SmallELinearAttention`] of a step or a chunk without `resets`, for export only: in eager mode, a step gives
    zeros."""

    def __init__(self, attention: SmallELinearAttention) -> None:
        super().__init__()
        self.attention = attention
        projections = (attention.q_proj, attention.k_proj, attention.v_proj, attention.g_proj)
        self.sizes = [projection.out_features for projection in projections]
        self.in_proj = nn.Linear(attention.q_proj.in_features, sum(self.sizes), bias=False)
        self.in_proj.weight = nn.Parameter(torch.cat([projection.weight.detach() for projection in projections]))

    def forward(
        self,
        hidden_states: torch.Tensor,
        state: torch.Tensor,
        mask: torch.Tensor | None,
        resets: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        heads = self.attention.num_heads
        q, k, v, gate = self.in_proj(hidden_states).split(self.sizes, dim=-1)
        decay_logits = self.attention.decay_up_proj(self.attention.decay_down_proj(hidden_states))
        log_decay = F.logsigmoid(decay_logits) / self.attention.gate_logit_normalizer
        if mask is not None:
            k, log_decay = k * mask[..., None].to(k.dtype), log_decay * mask[..., None]
        if hidden_states.shape[1] == 1:
            out, state = recurrent_step(q, k, v, log_decay.clamp(min=MIN_LOG_DECAY), state)
        else:
            q, k, v, log_decay = (x.unflatten(-1, (heads, -1)) for x in (q, k, v, log_decay))
            out, state = chunk_recurrence(q, k, v, log_decay, state)
            out = out.flatten(-2)
        norm = self.attention.norm
        out = rms_norm(out.unflatten(-1, (heads, -1)), norm.weight, norm.eps or 0.0).flatten(-2)
        return self.attention.o_proj(out * F.silu(gate)), state


def recurrent_step(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, log_decay: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One frame of [`recurrent_gated_linear_attention`] as one operator.

    Args:
        query, key, log_decay (`torch.Tensor` of shape `(B, 1, H * K)`): Heads side by side.
        value (`torch.Tensor` of shape `(B, 1, H * V)`): The same.
        state (`torch.Tensor` of shape `(B, H, K, V)`): State before the frame.

    Returns:
        Outputs `(B, 1, H * V)` and the state after the frame.
    """
    heads, key_size = state.shape[1:3]
    out, new_state = torch.onnx.ops.symbolic_multi_out(
        f"{RUNTIME_DOMAIN}::LinearAttention",
        (query, key, value, state, log_decay),
        {"q_num_heads": heads, "kv_num_heads": heads, "update_rule": "gated", "scale": key_size**-0.5},
        dtypes=(value.dtype, state.dtype),
        shapes=(value.shape, state.shape),
        version=1,
    )
    return out, new_state


def chunk_recurrence(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, log_decay: torch.Tensor, state: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """[`chunked_gated_linear_attention`] of at most one chunk. Nothing is written in place: the exporter would make of
    it an index for every number of the state, which takes the runtime longer than all products together.

    Args:
        query, key, log_decay (`torch.Tensor` of shape `(B, T, H, K)`): T at most 64.
        value (`torch.Tensor` of shape `(B, T, H, V)`): The same.
        state (`torch.Tensor` of shape `(B, H, K, V)`): State before the first frame.

    Returns:
        Outputs `(B, T, H, V)` and the state after the last frame.
    """
    length, decays = query.shape[1], _decays(_running_sums(log_decay, BLOCK_SIZE), None)
    query, key, value = _to_chunks(query * query.shape[-1] ** -0.5), _to_chunks(key), _to_chunks(value)
    out = _weigh(query, key, decays.readings) @ value + (decays.from_begin * query) @ state
    new_state = decays.chunk * state + (decays.to_end * key).transpose(-1, -2) @ value
    return out[0].transpose(1, 2)[:, -length:], new_state[0]


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """`nn.RMSNorm` over the last dimension as one operator."""
    return torch.onnx.ops.symbolic(
        "SimplifiedLayerNormalization", (x, weight), {"axis": -1, "epsilon": eps}, dtype=x.dtype, shape=x.shape
    )


def fuse_layers(model: SmallEModel) -> SmallEModel:
    """A model of the same weights with fused LCLM blocks, to be exported. The given one is left as it is."""
    fused = copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    for block in fused.modules():
        if isinstance(block, SmallELCLMBlock):
            block.attention = FusedLinearAttention(block.attention)  # type: ignore[assignment]
    return fused


def add_definitions(graph: onnx.ModelProto) -> onnx.ModelProto:
    """Adds, in place, the definition of the fused operator to a graph that uses it."""
    if any(node.op_type == "LinearAttention" for node in graph.graph.node):
        graph.functions.append(onnx.parser.parse_function(LINEAR_ATTENTION))
    return graph


__all__ = ["FusedLinearAttention", "add_definitions", "fuse_layers", "recurrent_step", "rms_norm"]
