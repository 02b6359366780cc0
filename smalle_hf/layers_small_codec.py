"""Layers of the small codec: log-mel spectrogram, ConvNeXt blocks over frames, residual quantiser, inverse STFT.

Shapes: B batch, Q codebooks, T frames, C channels, D `codebook_dim`, N samples. Frame t is the samples t * hop_length
to (t + 1) * hop_length; every window is centred on its frame. One forward serves whole utterances and chunks: state
in, state out.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from .configuration_small_codec import SmallCodecConfig

MAX_MAGNITUDE = 100.0  # of a spectral bin: keeps an untrained or broken decoder from overflowing


@dataclass
class SmallCodecDecoderState:
    """What the decoder carries from one chunk of frames to the next. Of fixed size once `kernel_size` frames have
    passed.

    Args:
        contexts (`list[torch.Tensor]` of shape `(B, C, <kernel_size)`): Last inputs of each convolution.
        overlap (`torch.Tensor` of shape `(B, istft_size - hop_length)`): Samples that later windows still add to.
        weight (`torch.Tensor` of shape `(B, istft_size - hop_length)`): Sum of the squared windows on these samples.
        trim (`int`): Samples before the first frame that are still to be dropped.
    """

    contexts: list[torch.Tensor]
    overlap: torch.Tensor
    weight: torch.Tensor
    trim: int


class LogMelSpectrogram(nn.Module):
    """Natural log of the mel-band magnitudes, one column per frame."""

    filters: torch.Tensor

    def __init__(self, config: SmallCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("filters", self.make_filters(), persistent=False)

    def make_filters(self) -> torch.Tensor:
        """Triangular filters of shape `(mel_fft_size / 2 + 1, num_mel_bins)`."""
        filters = mel_filter_bank(
            num_frequency_bins=self.config.mel_fft_size // 2 + 1,
            num_mel_filters=self.config.num_mel_bins,
            min_frequency=0.0,
            max_frequency=self.config.sampling_rate / 2,
            sampling_rate=self.config.sampling_rate,
            norm="slaney",
            mel_scale="slaney",
        )
        return torch.from_numpy(filters).float()

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """
        Args:
            waveform (`torch.Tensor` of shape `(B, N)`): Audio.

        Returns:
            `torch.Tensor` of shape `(B, num_mel_bins, ceil(N / hop_length))`.
        """
        size, hop = self.config.mel_fft_size, self.config.hop_length
        margin = (size - hop) // 2
        surplus = -waveform.shape[-1] % hop
        padded = F.pad(waveform.float(), (margin, margin + surplus))
        window = torch.hann_window(size, device=padded.device)
        spectrum = torch.stft(padded, size, hop, window=window, center=False, return_complex=True)
        mel = self.filters.float().T @ spectrum.abs()
        return mel.clamp(min=1e-5).log()


class FrameConvolution(nn.Conv1d):
    """Convolution over frames that sees `lookahead` future ones; state in, state out."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, lookahead: int, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, groups=groups)
        self.lookahead = lookahead
        self.lookback = kernel_size - 1 - lookahead

    def initial_context(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Silence before the first frame, of shape `(B, C, lookback)`."""
        return hidden_states.new_zeros(hidden_states.shape[0], self.in_channels, self.lookback)

    def forward(  # type: ignore[override]
        self, hidden_states: torch.Tensor, context: torch.Tensor | None = None, is_last: bool = True
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(B, C, T)`): New frames.
            context (`torch.Tensor` of shape `(B, C, <kernel_size)`, *optional*): Frames before them.
            is_last (`bool`): No frames follow, so silence stands in for those that the look-ahead needs.

        Returns:
            `tuple` of the output of shape `(B, C', T')`, for every frame whose future is known, the inputs of the same
            frames, of shape `(B, C, T')`, and the context for the next call.
        """
        context = self.initial_context(hidden_states) if context is None else context
        frames = torch.cat([context, hidden_states], dim=-1)
        if is_last:
            frames = F.pad(frames, (0, self.lookahead))
        num_outputs = max(frames.shape[-1] - self.kernel_size[0] + 1, 0)
        aligned = frames[..., self.lookback : self.lookback + num_outputs]
        output = super().forward(frames) if num_outputs else frames.new_zeros(frames.shape[0], self.out_channels, 0)
        return output, aligned, frames[..., num_outputs:]


class ConditionalLayerNorm(nn.Module):
    """LayerNorm with one scale and shift per condition (AdaLN of Vocos); with one condition, a plain LayerNorm."""

    def __init__(self, size: int, num_conditions: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_conditions, size))
        self.bias = nn.Parameter(torch.zeros(num_conditions, size))

    def forward(self, hidden_states: torch.Tensor, condition: int = 0) -> torch.Tensor:
        return F.layer_norm(
            hidden_states, hidden_states.shape[-1:], self.weight[condition], self.bias[condition], self.eps
        )


class ConvNextBlock(nn.Module):
    """Depthwise convolution over frames, then a two-layer perceptron, scaled, added to the input."""

    def __init__(
        self, config: SmallCodecConfig, size: int, lookahead: int, num_layers: int, num_conditions: int
    ) -> None:
        super().__init__()
        self.num_layers = num_layers
        self.depthwise = FrameConvolution(size, size, config.kernel_size, lookahead, groups=size)
        self.norm = ConditionalLayerNorm(size, num_conditions, config.layer_norm_eps)
        self.up_proj = nn.Linear(size, size * config.expansion)
        self.down_proj = nn.Linear(size * config.expansion, size)
        self.scale = nn.Parameter(torch.full((size,), 1 / num_layers))

    def forward(
        self, hidden_states: torch.Tensor, condition: int, context: torch.Tensor | None, is_last: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        mixed, residual, context = self.depthwise(hidden_states, context, is_last)
        mixed = self.norm(mixed.transpose(1, 2), condition)
        mixed = self.scale * self.down_proj(F.gelu(self.up_proj(mixed)))
        return residual + mixed.transpose(1, 2), context


class ConvNextStack(nn.Module):
    """Input convolution, ConvNeXt blocks, final norm."""

    def __init__(
        self,
        config: SmallCodecConfig,
        in_channels: int,
        size: int,
        num_layers: int,
        lookaheads: tuple[int, int],
        num_conditions: int = 1,
    ) -> None:
        super().__init__()
        self.embed = FrameConvolution(in_channels, size, config.kernel_size, lookaheads[0])
        self.norm = ConditionalLayerNorm(size, num_conditions, config.layer_norm_eps)
        self.layers = nn.ModuleList(
            ConvNextBlock(config, size, lookaheads[1], num_layers, num_conditions) for _ in range(num_layers)
        )
        self.final_norm = nn.LayerNorm(size, eps=config.layer_norm_eps)

    def forward(
        self,
        features: torch.Tensor,
        mask: torch.Tensor | None = None,
        condition: int = 0,
        contexts: list[torch.Tensor] | None = None,
        is_last: bool = True,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """
        Args:
            features (`torch.Tensor` of shape `(B, C, T)`): One column per frame.
            mask (`torch.Tensor` of shape `(B, 1, T)`, *optional*): 1 on frames, 0 on padding, which then changes
                nothing. Only for whole utterances.
            condition (`int`): Which scale and shift the norms use.
            contexts (`list[torch.Tensor]`, *optional*): From the call on the frames before.
            is_last (`bool`): No frames follow.

        Returns:
            `tuple` of hidden states of shape `(B, T', C')` and the contexts for the next call.
        """
        previous: Sequence[torch.Tensor | None] = contexts or [None] * (1 + len(self.layers))
        features = features if mask is None else features * mask
        hidden_states, _, context = self.embed(features, previous[0], is_last)
        following = [context]
        hidden_states = self.norm(hidden_states.transpose(1, 2), condition).transpose(1, 2)
        for layer, context in zip(self.layers, previous[1:], strict=True):
            hidden_states = hidden_states if mask is None else hidden_states * mask
            hidden_states, context = layer(hidden_states, condition, context, is_last)
            following.append(context)
        return self.final_norm(hidden_states.transpose(1, 2)), following


class ResidualVectorQuantizer(nn.Module):
    """Q codebooks, each for what the ones before it left over. Nearest neighbour in; sum of entries out."""

    def __init__(self, config: SmallCodecConfig) -> None:
        super().__init__()
        self.codebooks = nn.Parameter(torch.empty(config.num_codebooks, config.codebook_size, config.codebook_dim))

    def nearest(self, residual: torch.Tensor, codebook: int) -> torch.Tensor:
        """Index of the entry nearest to each vector: `(..., D)` to `(...)`."""
        entries = self.codebooks[codebook].float()
        # |r - e|^2 = |r|^2 - 2 r.e + |e|^2, of which the first term is the same for all entries.
        distance = (entries**2).sum(-1) - 2 * residual.float() @ entries.T
        return distance.argmin(dim=-1)

    def encode(self, latents: torch.Tensor, num_codebooks: int | None = None) -> torch.Tensor:
        """
        Args:
            latents (`torch.Tensor` of shape `(B, T, D)`): What to quantise.
            num_codebooks (`int`, *optional*): Stop after that many.

        Returns:
            `torch.LongTensor` of shape `(B, Q, T)`.
        """
        codes: list[torch.Tensor] = []
        for codebook in range(num_codebooks or len(self.codebooks)):
            codes.append(self.nearest(latents, codebook))
            latents = latents - F.embedding(codes[-1], self.codebooks[codebook])
        return torch.stack(codes, dim=1)

    def decode(self, codes: torch.Tensor) -> torch.Tensor:
        """Sums the entries: codes of shape `(B, Q, T)` to `(B, T, D)`."""
        entries = [F.embedding(codes[:, index], self.codebooks[index]) for index in range(codes.shape[1])]
        return torch.stack(entries).sum(dim=0)


class InverseStft(nn.Module):
    """Linear layer to log-magnitude and phase, then windowed overlap-add."""

    def __init__(self, config: SmallCodecConfig) -> None:
        super().__init__()
        self.config = config
        self.out_proj = nn.Linear(config.decoder_hidden_size, config.istft_size + 2)

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        state: SmallCodecDecoderState | None = None,
        is_last: bool = True,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(B, T, C)`): One vector per frame.
            mask (`torch.Tensor` of shape `(B, 1, T)`, *optional*): 0 on frames that do not exist.
            state ([`SmallCodecDecoderState`], *optional*): Overlap of the frames before.
            is_last (`bool`): No frames follow.

        Returns:
            `tuple` of audio of shape `(B, N)`, and overlap, weight and trim of the next state.
        """
        size, hop = self.config.istft_size, self.config.hop_length
        window = torch.hann_window(size, device=hidden_states.device)
        frames = self._frames(hidden_states) * window
        weights = (window**2).expand_as(frames)
        if mask is not None:
            frames, weights = frames * mask.transpose(1, 2), weights * mask.transpose(1, 2)
        audio, weight = self._overlap_add(frames), self._overlap_add(weights)
        trim = (size - hop) // 2
        if state is not None:
            audio = torch.cat([audio[:, : size - hop] + state.overlap, audio[:, size - hop :]], dim=1)
            weight = torch.cat([weight[:, : size - hop] + state.weight, weight[:, size - hop :]], dim=1)
            trim = state.trim
        num_done = audio.shape[1] - ((size - hop) // 2 if is_last else size - hop)
        skipped = min(trim, num_done)
        done = audio[:, skipped:num_done] / weight[:, skipped:num_done].clamp(min=1e-11)
        return done, audio[:, num_done:], weight[:, num_done:], trim - skipped

    def _frames(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Waveform of every frame, of shape `(B, T, istft_size)`."""
        log_magnitude, phase = self.out_proj(hidden_states).float().chunk(2, dim=-1)
        spectrum = torch.polar(log_magnitude.exp().clamp(max=MAX_MAGNITUDE), phase)
        if not spectrum.shape[1]:  # the FFT refuses an empty batch
            return log_magnitude.new_zeros(*spectrum.shape[:2], self.config.istft_size)
        return torch.fft.irfft(spectrum, n=self.config.istft_size)

    def _overlap_add(self, frames: torch.Tensor) -> torch.Tensor:
        """Adds frames of shape `(B, T, size)` at every hop: `(B, T * hop + size - hop)`."""
        size, hop = self.config.istft_size, self.config.hop_length
        num_samples = frames.shape[1] * hop + size - hop
        if not frames.shape[1]:
            return frames.new_zeros(frames.shape[0], num_samples)
        added = F.fold(frames.transpose(1, 2), (1, num_samples), kernel_size=(1, size), stride=(1, hop))
        return added[:, 0, 0]


__all__ = [
    "ConditionalLayerNorm",
    "ConvNextBlock",
    "ConvNextStack",
    "FrameConvolution",
    "InverseStft",
    "LogMelSpectrogram",
    "ResidualVectorQuantizer",
    "SmallCodecDecoderState",
]
