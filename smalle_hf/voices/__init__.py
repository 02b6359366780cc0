"""Checkpoints that come with the package, so that a fresh machine can speak without any download."""

from pathlib import Path

from ..shipped_files import shipped_folder


def voice_path(name: str = "demo") -> Path:
    """Folder of a shipped checkpoint, for `from_pretrained`, `pipeline` and `--model`.

    Args:
        name (`str`, defaults to `"demo"`): Name of the checkpoint.

    Raises:
        ValueError: There is no such checkpoint; the message lists those that there are.

    Example:

    ```python
    >>> from smalle_hf.voices import voice_path
    >>> voice_path().name
    'demo'
    ```
    """
    return shipped_folder(Path(__file__).parent, name, "voice")


__all__ = ["voice_path"]
