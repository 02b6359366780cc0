"""Codecs that come with the package, so that encoding, training and speaking need no download."""

from pathlib import Path


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
    root = Path(__file__).parent
    if not (root / name / "config.json").is_file():
        names = sorted(path.parent.name for path in root.glob("*/config.json"))
        raise ValueError(f"There is no codec {name!r}: choose one of {', '.join(names)}.")
    return root / name


__all__ = ["codec_path"]
