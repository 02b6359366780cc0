"""Where the rows of a batch stand in their delayed sequences, and what the delay pattern dictates next."""

import math

import torch

from .cache_smalle import SmallECache
from .configuration_smalle import SmallEConfig


class DelayedRows:
    """Where every row of a batch stands in its delayed sequence, and which ids the pattern dictates.

    Args:
        config ([`SmallEConfig`]): Delays and ids.
        next_column (`torch.LongTensor` of shape `(B,)`): Index of the column that is emitted next.
        history (`torch.LongTensor` of shape `(B, max_delay + 1, Q)`): The columns before it.
        alignments (`torch.Tensor` of shape `(B, max_delay, S)`): Alignments of the frames that begin in these.
        first_frame (`torch.LongTensor` of shape `(B,)`): First frame that this generation returns.
        limits (`torch.LongTensor` of shape `(B,)`): Frames that each row may return.
        prompt_ids (`torch.LongTensor` of shape `(B, max_delay, Q)`, *optional*): Ids of the voice prompt's last
            frames, whose later codebooks fall into the first columns; -1 where the model decides.
        enforce_pattern (`bool`): Whether ids that contradict the delay pattern are ruled out.
        is_finished (`torch.BoolTensor` of shape `(B,)`): Rows that ended in an earlier generation.
    """

    def __init__(
        self,
        config: SmallEConfig,
        next_column: torch.Tensor,
        history: torch.Tensor,
        alignments: torch.Tensor,
        first_frame: torch.Tensor,
        limits: torch.Tensor,
        prompt_ids: torch.Tensor | None,
        enforce_pattern: bool,
        is_finished: torch.Tensor,
    ) -> None:
        self.config = config
        self.next_column, self.history, self.alignments = next_column, history, alignments
        self.first_frame, self.limits = first_frame, limits
        self.prompt_ids, self.enforce_pattern = prompt_ids, enforce_pattern
        self.delays = torch.tensor(config.delays, device=history.device)
        self.leader = config.delays.index(0)  # the codebook that ends the utterance
        self.never = self._ids_that_never_come()
        self.is_finished = is_finished.clone()
        self.is_done = self.is_finished | (limits <= 0)
        self.num_columns = 0
        self.end_frame = self._end_frame_in_history()

    def _ids_that_never_come(self) -> torch.Tensor:
        """Pad and start ids, and stop ids of all but the leading codebook. Shape `(Q, V)`."""
        never = torch.zeros(self.config.num_codebooks, self.config.audio_vocab_size, dtype=torch.bool)
        never[:, [self.config.audio_pad_token_id, self.config.audio_bos_token_id]] = True
        never[:, self.config.audio_eos_token_id] = True
        never[self.leader, self.config.audio_eos_token_id] = False
        return never.to(self.history.device)

    def _end_frame_in_history(self) -> torch.Tensor:
        """Frame at which the leading codebook has stopped, a very late one where it has not."""
        never = torch.iinfo(torch.long).max // 2
        stopped = self.history[..., self.leader] == self.config.audio_eos_token_id  # (B, max_delay + 1)
        first_stop = stopped.int().argmax(dim=-1)
        column = self.next_column - self.history.shape[1] + first_stop
        return torch.where(stopped.any(dim=-1), column - 1, never)

    def restrict(self, scores: torch.Tensor, min_frames: int) -> torch.Tensor:
        """Rules out ids that cannot come next: those that never come, and the stop before there is a frame."""
        if not self.enforce_pattern:
            return scores
        scores = scores.masked_fill(self.never, -math.inf)
        too_early = self.next_column - 1 < self.first_frame + max(min_frames, 1)
        scores[:, self.leader, self.config.audio_eos_token_id].masked_fill_(too_early, -math.inf)
        return scores

    def dictate(self, ids: torch.Tensor) -> torch.Tensor:
        """Replaces the ids that are not for the model to choose: the voice prompt's, and with the pattern enforced the
        start ids of codebooks that lag and the stop ids behind the end."""
        if self.prompt_ids is not None and self.num_columns < self.prompt_ids.shape[1]:
            prompt_ids = self.prompt_ids[:, self.num_columns]
            ids = torch.where(prompt_ids >= 0, prompt_ids, ids)
        if self.enforce_pattern:
            frame = self.next_column[:, None] - 1 - self.delays
            ids = torch.where(frame < 0, self.config.audio_bos_token_id, ids)
            ids = torch.where(frame >= self.end_frame[:, None], self.config.audio_eos_token_id, ids)
        return ids

    def advance(self, ids: torch.Tensor, alignment: torch.Tensor) -> None:
        """Takes note of an emitted column, ids `(B, Q)` and alignment `(B, S)`, and of the rows that end with it."""
        stopped = ids == self.config.audio_eos_token_id
        self.end_frame = torch.where(
            stopped[:, self.leader], torch.minimum(self.end_frame, self.next_column - 1), self.end_frame
        )
        running = ~self.is_done
        history = torch.cat([self.history[:, 1:], ids[:, None]], dim=1)
        self.history = torch.where(running[:, None, None], history, self.history)
        alignments = torch.cat([self.alignments, alignment[:, None]], dim=1)[:, 1:]
        self.alignments = torch.where(running[:, None, None], alignments, self.alignments)
        ended = self.next_column >= self.end_frame + self.config.max_delay if self.enforce_pattern else stopped.all(-1)
        met_limit = self.next_column >= self.first_frame + self.limits + self.config.max_delay
        self.next_column = self.next_column + running
        self.is_finished = self.is_finished | (running & ended)
        self.is_done = self.is_done | ended | met_limit
        self.num_columns += 1

    def lengths(self) -> torch.Tensor:
        """Frames of each row of which every codebook was emitted, those from the stop on not counted. Shape `(B,)`."""
        complete = self.next_column - 1 - self.config.max_delay - self.first_frame
        if self.enforce_pattern:
            complete = torch.minimum(complete, self.end_frame - self.first_frame)
        else:  # a row ends with the column in which every codebook stops
            complete = complete - self.is_finished.long()
        return complete.clamp(min=0)

    def save_to(self, cache: SmallECache | None) -> None:
        """Leaves in the cache what a later generation needs to go on."""
        if cache is not None:
            cache.last_ids, cache.last_alignments, cache.is_finished = self.history, self.alignments, self.is_finished


__all__ = ["DelayedRows"]
