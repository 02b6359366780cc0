"""Fetches the common model tests of Transformers: its wheel leaves them out, its source distribution has them.

Only `tests/*.py` of the installed release is unpacked, as the package `transformers_tests` in
`.cache/transformers-tests-<version>` of this repository.

Example:
    python tests/common/fetch_transformers_tests.py
    python tests/common/fetch_transformers_tests.py --sdist transformers-5.23.0.tar.gz
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path

CACHE = Path(__file__).resolve().parents[2] / ".cache"


def tests_folder() -> Path:
    """Folder of the package `transformers_tests` for the installed release; it exists once that was fetched."""
    return CACHE / f"transformers-tests-{version('transformers')}"


def download(release: str, folder: Path) -> Path:
    """Downloads the source distribution of a release of Transformers through pip.

    Args:
        release (`str`): Version number.
        folder (`Path`): Where the archive goes.

    Returns:
        `Path`: The archive.

    Raises:
        OSError: pip cannot get it, for example without a network.
    """
    # pip asks the archive for its metadata before it keeps it, which takes seconds and compiles nothing.
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
    command += ["--dest", str(folder), f"transformers=={release}"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    archives = list(folder.glob("transformers-*.tar.gz"))
    if not archives:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip gave no archive"]
        raise OSError(errors[-1])
    return archives[0]


def unpack(archive: Path, target: Path) -> None:
    """Unpacks `tests/*.py` of a source distribution as a package.

    Args:
        archive (`Path`): The `.tar.gz`.
        target (`Path`): Folder that will hold the package; it appears complete or not at all.

    Raises:
        OSError: The archive is not readable, or holds no common model tests.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        unfinished = Path(folder) / target.name
        tests = unfinished / "transformers_tests"
        tests.mkdir(parents=True)
        with tarfile.open(archive) as tar:
            for member in tar:
                path = Path(member.name)
                if member.isfile() and len(path.parts) == 3 and path.match("transformers-*/tests/*.py"):
                    (tests / path.name).write_bytes(tar.extractfile(member).read())
        if not (tests / "test_modeling_common.py").is_file():
            raise OSError(f"{archive.name} holds no tests/test_modeling_common.py")
        (tests / "__init__.py").touch()
        unfinished.rename(target)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdist", type=Path, help="an archive that is already here, instead of a download")
    arguments = parser.parse_args()
    target = tests_folder()
    if target.is_dir():
        return 0
    release = version("transformers")
    with tempfile.TemporaryDirectory() as folder:
        try:
            unpack(arguments.sdist or download(release, Path(folder)), target)
        except (OSError, tarfile.TarError) as error:
            print(f"The common model tests of Transformers {release} will be skipped: {error}", file=sys.stderr)
            return 1
    print(f"Fetched the common model tests of Transformers {release}.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
