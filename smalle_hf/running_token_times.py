"""When each text token is spoken, told while the speech is being generated, with a state of constant size."""

import torch

from .alignment import median_path

MEDIAN_WINDOW = 5
"""Frames; as [`analyze_alignment`] has it by default."""


class RunningTokenTimes:
    """[`token_times`] of the path of [`analyze_alignment`], frame by frame: what is told once stays, and at the end
    all is as if the whole alignment had been there.

    A frame's place in the path is settled when the two frames behind it are there, or when the row ends.

    Args:
        frame_rate (`float`): Frames per second.
    """

    def __init__(self, frame_rate: float) -> None:
        self.frame_rate = frame_rate
        self.waiting: list[torch.Tensor] = []  # most attended tokens (B,) of the frames from `first` on
        self.first = 0
        self.num_settled: torch.Tensor | None = None  # (B,)
        self.furthest: torch.Tensor | None = None  # (B,)
        self.reached_at: torch.Tensor | None = None  # (B, S + 1)

    def push(self, alignment: torch.Tensor) -> None:
        """Takes the alignment of the next frame, of shape `(B, S)`."""
        if self.reached_at is None:
            batch, num_tokens = alignment.shape
            never = torch.iinfo(torch.long).max
            self.reached_at = torch.full((batch, num_tokens + 1), never, device=alignment.device)
            self.num_settled = torch.zeros(batch, dtype=torch.long, device=alignment.device)
            self.furthest = torch.full_like(self.num_settled, -1)
        self.waiting.append(alignment.argmax(dim=-1))

    def settle(self, lengths: torch.Tensor, is_ended: torch.Tensor) -> None:
        """Follows the path as far as it is certain.

        Args:
            lengths (`torch.LongTensor` of shape `(B,)`): Frames of each row that are there for good.
            is_ended (`torch.BoolTensor` of shape `(B,)`): Rows that no frames are added to.
        """
        if self.num_settled is None or self.furthest is None or self.reached_at is None or not self.waiting:
            return
        raw = torch.stack(self.waiting, dim=1)  # (B, T)
        frame = self.first + torch.arange(raw.shape[1], device=raw.device)
        path = median_path(raw, frame < lengths[:, None], MEDIAN_WINDOW)
        settled = torch.where(is_ended, lengths, lengths - MEDIAN_WINDOW // 2).maximum(self.num_settled)
        is_new = (frame >= self.num_settled[:, None]) & (frame < settled[:, None])
        furthest = torch.where(is_new, path, -1).maximum(self.furthest[:, None]).cummax(dim=1).values
        tokens = torch.arange(self.reached_at.shape[1], device=raw.device).expand_as(self.reached_at).contiguous()
        index = torch.searchsorted(furthest.contiguous(), tokens)
        is_newly_reached = (tokens > self.furthest[:, None]) & (index < raw.shape[1])
        self.reached_at = torch.where(is_newly_reached, self.first + index, self.reached_at)
        self.furthest, self.num_settled = furthest[:, -1], settled
        # The median needs the frames before the next one that is settled; rows that ended need none.
        still = settled.masked_fill(is_ended, self.first + raw.shape[1])
        num_done = max(int(still.min()) - MEDIAN_WINDOW // 2 - self.first, 0)
        del self.waiting[:num_done]
        self.first += num_done

    def times(self) -> torch.Tensor:
        """Start and end of every token in seconds, `(B, S, 2)`; NaN for tokens that are not reached so far. The token
        reached last ends where the path does."""
        if self.num_settled is None or self.furthest is None or self.reached_at is None:
            return torch.zeros(0, 0, 2)
        frames = self.reached_at.minimum(self.num_settled[:, None])
        spans = torch.stack([frames[:, :-1], frames[:, 1:]], dim=-1) / self.frame_rate
        index = torch.arange(spans.shape[1], device=spans.device)
        return spans.masked_fill((index > self.furthest[:, None])[..., None], float("nan"))


__all__ = ["RunningTokenTimes"]
