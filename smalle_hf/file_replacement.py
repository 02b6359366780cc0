"""Files that are there whole or not at all."""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replace_file(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lets a file be written beside its place, and puts it there when the block ends: nobody sees half of it.

        with replace_file("notes.txt") as temporary:
            temporary.write_text("All of it.")

    If the block fails or is interrupted, the file keeps its old content, if it had any, and nothing else is left
    behind. What was written is not forced to the disk: a loss of power may take it.

    Args:
        path (`str` or `os.PathLike`): The file. Its folder must exist.

    Returns:
        Context manager that gives the path of an empty file in the same folder, with the same suffix.

    Raises:
        OSError: The folder is missing or cannot be written to. Raised before the block begins.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    temporary.touch(exist_ok=False)  # libraries that write files report a bad folder each in its own way
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


__all__ = ["replace_file"]
