"""A file that is replaced is the old one or the new one at any time, and nothing is left beside it."""

import os
import stat
from pathlib import Path

import pytest

from smalle_hf.file_replacement import replace_file


@pytest.mark.parametrize("before", [None, "old"])
@pytest.mark.parametrize("as_type", [str, Path])
def test_file_is_there_when_the_block_ends(tmp_path: Path, before: str | None, as_type: type) -> None:
    path = tmp_path / "notes.txt"
    if before is not None:
        path.write_text(before)
    with replace_file(as_type(path)) as temporary:
        temporary.write_text("new")
        assert (path.read_text() if path.exists() else None) == before
        assert temporary.parent == path.parent
        assert temporary.suffix == path.suffix
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("before", [None, "old"])
def test_failure_leaves_what_was_there(tmp_path: Path, before: str | None, error: type[BaseException]) -> None:
    path = tmp_path / "notes.txt"
    if before is not None:
        path.write_text(before)

    def write_half() -> None:
        with replace_file(path) as temporary:
            temporary.write_text("half of")
            raise error

    with pytest.raises(error):
        write_half()
    assert [entry.read_text() for entry in tmp_path.iterdir()] == ([] if before is None else [before])


def test_bad_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), replace_file(tmp_path / "nowhere" / "notes.txt"):
        pytest.fail("the block was entered")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError), replace_file(tmp_path / "file" / "notes.txt"):
        pytest.fail("the block was entered")


def test_several_writers_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    with replace_file(path) as first, replace_file(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert path.read_text() == "first"  # its block ended last
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
def test_permissions_are_those_of_a_new_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with replace_file(tmp_path / "notes.txt"):
        pass
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1


def test_a_name_without_suffix_and_a_hidden_one(tmp_path: Path) -> None:
    for name in ("README", ".hidden"):
        with replace_file(tmp_path / name) as temporary:
            temporary.write_text(name)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"README": "README", ".hidden": ".hidden"}
