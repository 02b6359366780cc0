"""The delay pattern in numpy: where the rows of a batch stand, and what comes next. As `delayed_rows.py`."""

import numpy as np

from .configuration import SmallEOnnxConfig

NEVER = np.iinfo(np.int64).max // 2


class OnnxRows:
    """Columns that were emitted for each row of a batch, and when each ends.

    Args:
        config ([`SmallEOnnxConfig`]): Delays and ids.
        first_frame (`np.ndarray` of shape `(B,)`): Frames of each row's voice prompt.
        limits (`np.ndarray` of shape `(B,)`): Frames that each row may return.
        prompt_ids (`np.ndarray` of shape `(B, max_delay, Q)`): Ids of the voice prompt's last frames, whose later
            codebooks fall into the first columns; -1 where the model decides.
    """

    def __init__(
        self, config: SmallEOnnxConfig, first_frame: np.ndarray, limits: np.ndarray, prompt_ids: np.ndarray
    ) -> None:
        self.config, self.first_frame, self.prompt_ids = config, first_frame, prompt_ids
        self.delays = np.array(config.delays)
        self.next_column = first_frame + 1
        self.last_column = self.next_column + limits + config.max_delay - 1
        self.end_frame = np.full(len(limits), NEVER)
        self.is_finished = np.zeros(len(limits), dtype=bool)
        self.is_done = limits <= 0
        self.columns: list[np.ndarray] = []

    def restrict(self, logits: np.ndarray) -> None:
        """Rules out, in place, ids that cannot come next in logits of shape `(B, Q, V)`: pad and start ids, and stop
        ids of all but the leading codebook, whose first frame is no stop."""
        config = self.config
        logits[..., [config.audio_pad_token_id, config.audio_bos_token_id]] = -np.inf
        stop = logits[..., config.audio_eos_token_id]
        may_stop = np.zeros(stop.shape, dtype=bool)
        may_stop[:, config.leader] = self.next_column - 1 > self.first_frame
        stop[~may_stop] = -np.inf

    def dictate(self, ids: np.ndarray) -> np.ndarray:
        """Replaces, in ids of shape `(B, Q)`, those that are not for the model to choose: the voice prompt's, start
        ids of codebooks that lag, stop ids behind the end."""
        if len(self.columns) < self.prompt_ids.shape[1]:
            prompt = self.prompt_ids[:, len(self.columns)]
            ids = np.where(prompt >= 0, prompt, ids)
        frame = self.next_column[:, None] - 1 - self.delays
        ids = np.where(frame < 0, self.config.audio_bos_token_id, ids)
        return np.where(frame >= self.end_frame[:, None], self.config.audio_eos_token_id, ids)

    def advance(self, ids: np.ndarray) -> None:
        """Takes note of an emitted column, `(B, Q)`, and of the rows that end with it."""
        stopped = ids[:, self.config.leader] == self.config.audio_eos_token_id
        self.end_frame = np.where(stopped, np.minimum(self.end_frame, self.next_column - 1), self.end_frame)
        ended = self.next_column >= self.end_frame + self.config.max_delay
        running = ~self.is_done
        self.is_finished |= running & ended
        self.is_done = self.is_done | ended | (self.next_column >= self.last_column)
        self.next_column = self.next_column + running
        self.columns.append(ids)

    def lengths(self) -> np.ndarray:
        """Frames of each row of which every codebook was emitted, those from the stop on not counted: `(B,)`."""
        complete = self.next_column - 1 - self.config.max_delay
        return np.maximum(np.minimum(complete, self.end_frame) - self.first_frame, 0)

    def codes(self, first: int = 0) -> np.ndarray:
        """Codes by frame from frame `first` on, `(B, T, Q)`; 0 where there is none."""
        lengths = self.lengths()
        count = max(int(lengths.max(initial=0)) - first, 0)
        if not count:
            return np.zeros((len(lengths), 0, len(self.delays)), dtype=np.int64)
        columns = np.stack(self.columns[first : first + count + self.config.max_delay], axis=1)
        ids = np.stack([columns[:, delay : delay + count, q] for q, delay in enumerate(self.config.delays)], axis=-1)
        is_frame = first + np.arange(count) < lengths[:, None]
        return np.maximum(ids - self.config.codebook_offset, 0) * is_frame[..., None]


__all__ = ["OnnxRows"]
