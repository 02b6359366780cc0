"""Codecs that come with the package, so that encoding, training and speaking need no download."""

from pathlib import Path

from ..shipped_files import shipped_folder


def codec_path(name: str = "small_codec_16khz") -> Path:
    """Folder of a shipped codec, for `--codec` and `AutoModel.from_pretrained`.

    Args:
        name (`str`, defaults to `"small_codec_16khz"`): Name of the codec.

    Raises:
        ValueError: There is no such codec; the message lists those that there are.

    Example:

    ```python
    >>> from smalle_hf.codecs import codec_path
    >>> codec_path().name
    'small_codec_16khz'
    ```
    """
    return shipped_folder(Path(__file__).parent, name, "codec")


__all__ = ["codec_path"]
