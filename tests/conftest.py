"""Fixtures that every test may use, and the limits under which the suite runs: one thread, no network."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    # The test processes share the cores: with more threads they only wait for each other.
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Takes back the threads that a program under test has set: a later test may fork, which these do not survive."""
    yield
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    no_gpu = pytest.mark.skip(reason="needs a CUDA device, and there is none")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(no_gpu)


@pytest.fixture(scope="session")
def repository_files() -> list[Path]:
    """Files that belong to the repository, committed or about to be, relative to its root."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listed, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in names.split("\0") if name and (REPOSITORY / name).is_file()]


@pytest.fixture(scope="module")
def clone(repository_files: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy of the repository in which a test may write, with the test material beside it if there is any."""
    folder = tmp_path_factory.mktemp("clone") / "repository"
    for name in repository_files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(REPOSITORY / name, folder / name)
    if (REPOSITORY.parent / "shared").is_dir():
        (folder.parent / "shared").symlink_to(REPOSITORY.parent / "shared")
    return folder


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Test material that lies beside the repository, in `../shared`."""
    path = REPOSITORY.parent / "shared"
    if not path.is_dir():
        pytest.skip("test material is absent: there is no folder `shared` beside the repository")
    return path


@pytest.fixture(scope="session")
def data_dir(shared_dir: Path) -> Path:
    """Real speech, transcripts and codes; `README.md` and `manifest.jsonl` in it say what they are."""
    return shared_dir / "data"


@pytest.fixture(scope="session")
def golden_dir(shared_dir: Path) -> Path:
    """Weights of two small models with the authors' key names, and what they compute."""
    return shared_dir / "golden"


@pytest.fixture
def tiny_config():
    """Configuration of the `tiny` preset."""
    from smalle_hf import SmallEConfig

    return SmallEConfig.from_preset("tiny")


@pytest.fixture
def tiny_model(tiny_config):
    """Tiny model with random weights, the same ones in every test, in evaluation mode."""
    from smalle_hf import SmallEForSpeechGeneration

    torch.manual_seed(0)
    return SmallEForSpeechGeneration(tiny_config).eval()
