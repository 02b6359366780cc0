"""Folder trees and paths: a walk that cannot run in circles, and paths that cannot leave the root."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

from .validation import BrokenInputError, BrokenReason


@dataclass(frozen=True)
class Folder:
    """One folder of a walk: its path relative to the root (`""` for the root) and its files, sorted by name."""

    path: str
    files: list[os.DirEntry[str]]


def walk_tree(root: str | os.PathLike[str], path: str = "") -> Iterator[Folder | BrokenInputError]:
    """Yields every folder below `root`, sorted by name; links are followed, since big corpora often span disks.

    Args:
        root (`str`): Where the walk starts.
        path (`str`, defaults to `""`): Folder below the root to start from.

    Yields:
        `Folder`, or a `BrokenInputError` in place of a link that leads back to a folder above it or to itself.

    Example:
        >>> from smalle_hf.data.tree import walk_tree
        >>> names = [entry.name for folder in walk_tree(".") for entry in folder.files]
    """
    yield from _walk(os.fspath(root), path, above=frozenset())


def _walk(root: str, path: str, above: frozenset[tuple[int, int]]) -> Iterator[Folder | BrokenInputError]:
    here = os.stat(os.path.join(root, path))
    above = above | {(here.st_dev, here.st_ino)}
    folders, files, loops = [], [], []
    with os.scandir(os.path.join(root, path)) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            try:
                # A link whose target is missing counts as a file: reading it reports the loss.
                is_folder = entry.is_dir()
                target = entry.stat() if is_folder else None
            except OSError as error:  # a link to itself
                loops.append(BrokenInputError(BrokenReason.SYMLINK_LOOP, entry.path, error.strerror or ""))
                continue
            if target is None:
                files.append(entry)
            elif (target.st_dev, target.st_ino) in above:
                loops.append(BrokenInputError(BrokenReason.SYMLINK_LOOP, entry.path, "leads to a folder above it"))
            else:
                folders.append(entry.name)
    yield Folder(path, files)
    yield from loops
    for name in folders:
        yield from _walk(root, os.path.join(path, name), above)


def path_inside(root: str | os.PathLike[str], path: str) -> str:
    """Joins a path from a manifest to the root and refuses one that leaves it.

    The check is by name, links in the tree are trusted: a manifest cannot make one.

    Args:
        root (`str`): Folder that all audio lies in.
        path (`str`): Relative to the root, or absolute.

    Returns:
        `str`: Absolute path.

    Raises:
        BrokenInputError: The path lies outside the root.

    Example:
        >>> from smalle_hf.data.tree import path_inside
        >>> path_inside("/corpus", "wavs/a.wav")
        '/corpus/wavs/a.wav'
    """
    base = os.path.abspath(root)
    joined = os.path.normpath(os.path.join(base, path))
    for allowed in (base, os.path.realpath(base)):
        if joined.startswith(os.path.join(allowed, "")):
            return joined
    raise BrokenInputError(
        BrokenReason.PATH_OUTSIDE_ROOT, path, f"not below {base}; if it is meant, pass another root"
    )


def fingerprint(paths: list[str]) -> str:
    """Returns a hash of the names, sizes and times of files, and of all files below folders."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        if not os.path.isdir(path):
            _update(digest, os.path.abspath(path), os.stat(path))
            continue
        for folder in walk_tree(path):
            if isinstance(folder, BrokenInputError):
                continue
            for entry in folder.files:
                _update(digest, os.path.abspath(entry.path), entry.stat(follow_symlinks=os.path.exists(entry.path)))
    return digest.hexdigest()


def _update(digest: "hashlib.blake2b", path: str, status: os.stat_result) -> None:
    digest.update(f"{path}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
