"""Folders with weights that come with the package."""

from pathlib import Path


def shipped_folder(root: Path, name: str, kind: str) -> Path:
    """Folder of a codec or voice below `root`.

    Raises:
        ValueError: There is none of that name; the message lists those that there are.
    """
    if not (root / name / "config.json").is_file():
        names = sorted(path.parent.name for path in root.glob("*/config.json"))
        raise ValueError(f"There is no {kind} {name!r}: choose one of {', '.join(names)}.")
    return root / name


__all__ = ["shipped_folder"]
