"""Texts to ids for training: normalisation costs about a millisecond per text, so ids are remembered."""

import numpy as np
from numpy.typing import NDArray

from ..processing_smalle import SmallEProcessor

CAPACITY = 200_000
"""Most texts that are remembered, at about half a kilobyte each."""


class TextIds:
    """Turns a text into ids as the processor does, for [`SmallECollator`].

    Args:
        processor ([`SmallEProcessor`]): Normalisation and vocabulary.
    """

    def __init__(self, processor: SmallEProcessor) -> None:
        self._processor = processor
        self._known: dict[str, NDArray[np.int32]] = {}

    def __call__(self, text: str) -> NDArray[np.int32]:
        """Returns ids of shape `(S,)`, begin and end included."""
        ids = self._known.get(text)
        if ids is None:
            normalized = self._processor.normalize(text)
            ids = np.asarray(self._processor.tokenizer(normalized)["input_ids"], dtype=np.int32)
            if len(self._known) < CAPACITY:
                self._known[text] = ids
        return ids


__all__ = ["TextIds"]
