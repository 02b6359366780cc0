"""Building blocks of Small-E: rotary embeddings, text encoder block, LCLM block, cross-attentions.

Every block is a function of its arguments: recurrent state comes in and goes out, none is kept. Symbols as in the
glossary of `modeling_smalle.py`.
"""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_layers import GradientCheckpointingLayer

from .chunked_recurrence import full_precision
from .configuration_smalle import SmallEConfig
from .gated_linear_attention import gated_linear_attention


def sinusoids(positions: torch.Tensor, size: int, theta: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Sines and cosines of `positions * theta^(-2i / size)`, i = 0..size/2-1.

    Args:
        positions (`torch.LongTensor` of shape `(...)`): Positions.
        size (`int`): Twice the number of frequencies.
        theta (`float`): Base of the frequencies.

    Returns:
        Two float32 `torch.Tensor` of shape `(..., size / 2)`.
    """
    exponents = torch.arange(0, size, 2, device=positions.device, dtype=torch.float32) / size
    angles = positions[..., None].float() * theta**-exponents
    return angles.sin(), angles.cos()


def rotate_first_half(x: torch.Tensor, positions: torch.Tensor, theta: float) -> torch.Tensor:
    """Rotary embedding of the first half of the channels, in interleaved pairs (2i, 2i + 1). The rest passes.

    Args:
        x (`torch.Tensor` of shape `(B, T, ..., d)`): Queries or keys; d a multiple of 4.
        positions (`torch.LongTensor` of shape `(B, T)`): Position of each row.
        theta (`float`): Base of the frequencies.
    """
    rotated, passed = x.float().chunk(2, dim=-1)
    sin, cos = sinusoids(positions, rotated.shape[-1], theta)
    while sin.ndim < x.ndim:
        sin, cos = sin.unsqueeze(2), cos.unsqueeze(2)
    even, odd = rotated[..., 0::2], rotated[..., 1::2]
    rotated = torch.stack([even * cos - odd * sin, odd * cos + even * sin], dim=-1).flatten(-2)
    return torch.cat([rotated, passed], dim=-1).to(x.dtype)


def masked_softmax(scores: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Softmax over the last dimension in float32 of what `mask` keeps; uniform where it keeps nothing."""
    scores = scores.float()
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    return scores.softmax(dim=-1)


def positions_in_segments(mask: torch.Tensor, segment_ids: torch.Tensor | None) -> torch.Tensor:
    """Position of every element among those that `mask` keeps, counted from 0 within its segment. Shape `(B, L)`."""
    num_before = mask.long().cumsum(dim=-1) - mask.long()
    if segment_ids is None:
        return num_before
    return num_before - torch.where(segment_starts(segment_ids), num_before, 0).cummax(dim=-1).values


def segment_starts(segment_ids: torch.Tensor) -> torch.Tensor:
    """Elements that differ from the one before them, and the first. Shape `(B, L)`."""
    return F.pad(segment_ids[:, 1:] != segment_ids[:, :-1], (1, 0), value=True)


class SmallEMLP(nn.Module):
    """SwiGLU with biases: silu(gate) * value, of inner width floor(4/3 D)."""

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        inner_size = 4 * hidden_size // 3
        self.in_proj = nn.Linear(hidden_size, 2 * inner_size)
        self.out_proj = nn.Linear(inner_size, hidden_size)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate, value = self.in_proj(hidden_states).chunk(2, dim=-1)
        return self.out_proj(F.silu(gate) * value)


class SmallETextAttention(nn.Module):
    """Non-causal self-attention over the text, rotary on the first half of each head, no output projection."""

    def __init__(self, config: SmallEConfig) -> None:
        super().__init__()
        self.num_heads = config.num_text_encoder_attention_heads
        self.rope_theta = config.rope_theta
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)

    def forward(self, hidden_states: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        q, k, v = self.qkv_proj(hidden_states).unflatten(-1, (3, self.num_heads, -1)).unbind(dim=2)  # (B, S, H, d)
        q, k = (rotate_first_half(x, positions, self.rope_theta) for x in (q, k))
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=None if mask is None else mask[:, None])
        return out.transpose(1, 2).flatten(2)


class SmallETextEncoderLayer(GradientCheckpointingLayer):
    """Pre-LayerNorm block of the text encoder."""

    def __init__(self, config: SmallEConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SmallETextAttention(config)
        self.mlp_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = SmallEMLP(config.hidden_size)
        self.dropout = nn.Dropout(config.text_encoder_dropout)

    def forward(self, hidden_states: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        hidden_states = hidden_states + self.attention(self.attention_norm(hidden_states), positions, mask)
        hidden_states = hidden_states + self.mlp(self.mlp_norm(hidden_states))
        return self.dropout(hidden_states)


class SmallELinearAttention(nn.Module):
    """Gated linear attention layer (paper section 2.2): projections around [`gated_linear_attention`]."""

    def __init__(self, config: SmallEConfig, hidden_size: int) -> None:
        super().__init__()
        key_size, value_size = int(hidden_size * config.key_expand), int(hidden_size * config.value_expand)
        self.num_heads = config.num_attention_heads
        self.gate_logit_normalizer = config.gate_logit_normalizer
        self.q_proj = nn.Linear(hidden_size, key_size, bias=False)
        self.k_proj = nn.Linear(hidden_size, key_size, bias=False)
        self.v_proj = nn.Linear(hidden_size, value_size, bias=False)
        self.g_proj = nn.Linear(hidden_size, value_size, bias=False)
        self.decay_down_proj = nn.Linear(hidden_size, config.gate_low_rank_size, bias=False)
        self.decay_up_proj = nn.Linear(config.gate_low_rank_size, key_size)
        self.norm = nn.RMSNorm(value_size // self.num_heads, eps=config.rms_norm_eps)
        self.o_proj = nn.Linear(value_size, hidden_size, bias=False)

    def forward(
        self,
        hidden_states: torch.Tensor,
        state: torch.Tensor | None,
        mask: torch.Tensor | None,
        resets: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        decay_logits = self.decay_up_proj(self.decay_down_proj(hidden_states))
        log_decay = F.logsigmoid(decay_logits.float()) / self.gate_logit_normalizer
        k = self.k_proj(hidden_states)
        if mask is not None:  # a column that is padding neither decays the state nor enters it
            k, log_decay = k * mask[..., None].to(k.dtype), log_decay * mask[..., None]
        q, k, v, log_decay = (
            x.unflatten(-1, (self.num_heads, -1))
            for x in (self.q_proj(hidden_states), k, self.v_proj(hidden_states), log_decay)
        )
        # In training, checkpointing may run this again from the same state.
        out, state = gated_linear_attention(q, k, v, log_decay, state, resets, overwrite_state=not self.training)
        out = self.norm(out).flatten(-2) * F.silu(self.g_proj(hidden_states))
        return self.o_proj(out), state


class SmallELCLMBlock(GradientCheckpointingLayer):
    """Linear causal language model block: gated linear attention, then SwiGLU, each behind a LayerNorm.

    `forward(hidden_states (B, T, width), state, mask (B, T), resets (B, T))` returns the hidden states and the state
    after the last column, which outside training may take the place of the given one in memory.
    """

    def __init__(self, config: SmallEConfig, hidden_size: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.attention = SmallELinearAttention(config, hidden_size)
        self.mlp_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.mlp = SmallEMLP(hidden_size)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        hidden_states: torch.Tensor,
        state: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        resets: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        attended, state = self.attention(self.attention_norm(hidden_states), state, mask, resets)
        hidden_states = hidden_states + attended
        hidden_states = hidden_states + self.mlp(self.mlp_norm(hidden_states))
        return self.dropout(hidden_states), state


class SmallECrossAttention(nn.Module):
    """What both cross-attentions share: normalised projections of audio and text.

    The text side is computed once per text by `project_text` and handed to `forward`.
    """

    def __init__(self, config: SmallEConfig) -> None:
        super().__init__()
        self.rope_theta = config.rope_theta
        size, eps = config.hidden_size, config.layer_norm_eps
        self.q_proj, self.q_norm = nn.Linear(size, size), nn.LayerNorm(size, eps=eps)
        self.k_proj, self.k_norm = nn.Linear(size, size), nn.LayerNorm(size, eps=eps)
        self.v_proj, self.v_norm = nn.Linear(size, size), nn.LayerNorm(size, eps=eps)


class SmallEPositionAwareCrossAttention(SmallECrossAttention):
    """PACA (paper section 2.3): content finds the position, the position finds the content.

    a1 = softmax(q k^T / sqrt(D)) weights text *positions* E; an LCLM block smooths the result over time; a2 compares
    it with E again and only then fetches content. Two identical words cannot be confused: a2 never sees them.
    """

    def __init__(self, config: SmallEConfig) -> None:
        super().__init__(config)
        self.position_size = config.position_size
        self.position_net = SmallELCLMBlock(config, config.position_size)

    def project_text(self, encoder_hidden_states: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Keys (B, S, D), values (B, S, D) and sinusoids E (B, S, P) of a text."""
        keys = rotate_first_half(self.k_norm(self.k_proj(encoder_hidden_states)), positions, self.rope_theta)
        values = self.v_norm(self.v_proj(encoder_hidden_states))
        # E stays in float32: bfloat16 cannot tell neighbouring positions apart.
        return keys, values, torch.cat(sinusoids(positions, self.position_size, self.rope_theta), dim=-1)

    def forward(
        self,
        hidden_states: torch.Tensor,
        text: tuple[torch.Tensor, ...],
        positions: torch.Tensor,
        text_mask: torch.Tensor | None,
        state: torch.Tensor | None,
        mask: torch.Tensor | None,
        resets: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        keys, values, text_positions = text
        queries = rotate_first_half(self.q_norm(self.q_proj(hidden_states)), positions, self.rope_theta)
        with full_precision(hidden_states.device.type):
            scores = queries.float() @ keys.float().transpose(1, 2) * queries.shape[-1] ** -0.5
            where = masked_softmax(scores, text_mask)
            position = where @ text_positions
        position, state = self.position_net(position.to(hidden_states.dtype), state, mask, resets)
        with full_precision(hidden_states.device.type):
            scores = position.float() @ text_positions.transpose(1, 2) * self.position_size**-0.5
            alignment = masked_softmax(scores, text_mask)
        out = alignment.to(values.dtype) @ values
        return out, torch.stack([where, alignment], dim=1), state


class SmallEStandardCrossAttention(SmallECrossAttention):
    """The paper's ablation: multi-head cross-attention over the same projections, without a position stream."""

    def __init__(self, config: SmallEConfig) -> None:
        super().__init__(config)
        self.num_heads = config.num_attention_heads

    def project_text(self, encoder_hidden_states: torch.Tensor, positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Keys and values of a text, (B, S, H, d) each."""
        keys = self.k_norm(self.k_proj(encoder_hidden_states)).unflatten(-1, (self.num_heads, -1))
        values = self.v_norm(self.v_proj(encoder_hidden_states)).unflatten(-1, (self.num_heads, -1))
        return rotate_first_half(keys, positions, self.rope_theta), values

    def forward(
        self,
        hidden_states: torch.Tensor,
        text: tuple[torch.Tensor, ...],
        positions: torch.Tensor,
        text_mask: torch.Tensor | None,
        state: torch.Tensor | None,
        mask: torch.Tensor | None,
        resets: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        keys, values = (x.transpose(1, 2) for x in text)
        queries = self.q_norm(self.q_proj(hidden_states)).unflatten(-1, (self.num_heads, -1))
        queries = rotate_first_half(queries, positions, self.rope_theta).transpose(1, 2)
        with full_precision(hidden_states.device.type):
            scores = queries.float() @ keys.float().transpose(2, 3) * queries.shape[-1] ** -0.5
            weights = masked_softmax(scores, None if text_mask is None else text_mask[:, None])
        out = (weights.to(values.dtype) @ values).transpose(1, 2).flatten(2)
        return out, weights, state
