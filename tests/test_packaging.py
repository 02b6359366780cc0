"""The distribution is complete and light, and the repository holds only what belongs there."""

import ast
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import metadata, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
# Not accelerate: Transformers itself imports it where it is installed.
HEAVY = ["datasets", "evaluate", "fla", "librosa", "matplotlib", "peft", "pocketsphinx", "resemblyzer"]
MAX_LINES = 500
MAX_FUNCTION_LINES = 60
MAX_BYTES = 2_000_000
MAX_CHECKPOINT_BYTES = 16_000_000

# Runs first in a fresh interpreter: any attempt to reach another machine ends it with an error.
NO_NETWORK = """
import socket, sys
def refuse(*args, **kwargs):
    raise AssertionError(f"network access: {args}")
socket.getaddrinfo = socket.create_connection = socket.socket.connect = refuse
"""


def run_python(code: str, folder: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    docstring = ast.get_docstring(function, clean=False)
    return function.end_lineno - function.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)


@pytest.fixture(scope="module")
def texts(repository_files: list[Path]) -> dict[str, str]:
    """Content of every text file of the repository by its name."""
    contents = {name.as_posix(): (REPOSITORY / name).read_bytes() for name in repository_files}
    return {name: content.decode("utf-8") for name, content in contents.items() if b"\0" not in content}


@pytest.fixture(scope="module")
def sources(texts: dict[str, str]) -> dict[str, str]:
    """The same for Python files."""
    return {name: text for name, text in texts.items() if name.endswith(".py")}


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(clone)]
    done = subprocess.run(build, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)
    if re.search("No matching distribution found for setuptools|Could not find a version.*setuptools", done.stderr):
        pytest.skip("building needs a setuptools from the package index, which cannot be reached")
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.mark.slow
def test_wheel_holds_every_module_and_the_type_marker(wheel: zipfile.ZipFile, repository_files: list[Path]) -> None:
    packed = {name for name in wheel.namelist() if name.startswith("smalle_hf/")}
    assert packed == {path.as_posix() for path in repository_files if path.parts[0] == "smalle_hf"}
    assert "smalle_hf/py.typed" in packed


@pytest.mark.slow
def test_wheel_holds_the_licence_and_nothing_beside_the_package(wheel: zipfile.ZipFile) -> None:
    assert any(name.endswith("/licenses/LICENSE") for name in wheel.namelist())
    assert {name.split("/")[0].partition("-")[0] for name in wheel.namelist()} == {"smalle_hf"}


@pytest.mark.slow
def test_source_distribution_is_complete(clone: Path, repository_files: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("setuptools", minversion="77", reason="needs the setuptools that pyproject.toml asks for")
    build = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", build, str(tmp_path)], cwd=clone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        packed = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    needed = {path for path in repository_files if path.parts[0] == "smalle_hf"}
    needed |= {Path(name) for name in ("LICENSE", "README.md", "pyproject.toml")}
    assert needed <= packed


def test_versions_agree() -> None:
    import smalle_hf

    stated = {
        "pyproject.toml": re.search(r'^version = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE),
        "CITATION.cff": re.search(r"^version: (.+)$", (REPOSITORY / "CITATION.cff").read_text(), re.MULTILINE),
        "CHANGELOG.md": re.search(r"^## \[(\d.*?)\]", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE),
    }
    versions = {name: match[1] if match else None for name, match in stated.items()}
    versions |= {"installed": version("smalle-hf"), "smalle_hf.__version__": smalle_hf.__version__}
    assert len(set(versions.values())) == 1, versions


def test_extras_are_those_that_are_documented() -> None:
    package = metadata("smalle-hf")
    assert set(package.get_all("Provides-Extra")) == {"train", "eval", "gpu", "encodec", "onnx", "phonemes", "dev"}


def test_every_core_requirement_has_a_lower_bound() -> None:
    core = [req for req in map(Requirement, metadata("smalle-hf").get_all("Requires-Dist")) if req.marker is None]
    assert core
    assert [str(req) for req in core if ">=" not in str(req.specifier)] == []


def test_no_extra_pulls_torchaudio_into_the_core_or_the_tests() -> None:
    # A torchaudio that does not match the build of torch breaks `import transformers`.
    unwanted = {"torchaudio", "torchvision", "encodec"}
    for requirement in map(Requirement, metadata("smalle-hf").get_all("Requires-Dist")):
        in_encodec = requirement.marker is not None and requirement.marker.evaluate({"extra": "encodec"})
        assert requirement.name not in unwanted or in_encodec


@pytest.mark.skipif(sys.platform != "linux", reason="only the Linux wheels of torch carry CUDA")
def test_environment_of_the_makefile_has_no_cuda_build_of_torch() -> None:
    constraint = Path(sys.prefix) / "torch.txt"
    if not constraint.is_file():
        pytest.skip("this environment was not made by the Makefile")
    assert constraint.read_text().strip() == f"torch=={version('torch')}"
    has_driver = subprocess.run(["sh", "-c", "command -v nvidia-smi"], capture_output=True).returncode == 0
    assert has_driver or version("torch").endswith("+cpu")


def test_import_is_light_and_needs_no_network(tmp_path: Path) -> None:
    code = NO_NETWORK + f"import smalle_hf; print(sorted(set({HEAVY}) & set(sys.modules)))"
    assert run_python(code, tmp_path) == "[]"


def test_every_module_imports_without_network(tmp_path: Path) -> None:
    files = sorted(path.relative_to(REPOSITORY) for path in REPOSITORY.glob("smalle_hf/**/*.py"))
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in files]
    code = NO_NETWORK + f"import importlib\nfor name in {names}: importlib.import_module(name)\nprint('all')"
    assert run_python(code, tmp_path) == "all"


def test_public_names_exist() -> None:
    import smalle_hf

    assert smalle_hf.__all__
    assert [name for name in smalle_hf.__all__ if not hasattr(smalle_hf, name)] == []


def test_files_have_a_readable_size(sources: dict[str, str]) -> None:
    sizes = {name: text.count("\n") for name, text in sources.items()}
    long = {name: lines for name, lines in sizes.items() if lines > MAX_LINES}
    assert not long, f"over {MAX_LINES} lines: {long}"


def test_functions_fit_on_a_screen(sources: dict[str, str]) -> None:
    long = [
        f"{name}:{node.lineno} {node.name}"
        for name, text in sources.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and code_lines(node) > MAX_FUNCTION_LINES
    ]
    assert not long, f"over {MAX_FUNCTION_LINES} lines, docstring not counted: {long}"


def test_files_are_small(repository_files: list[Path]) -> None:
    def limit(path: Path) -> int:
        return MAX_CHECKPOINT_BYTES if path.suffix == ".safetensors" else MAX_BYTES

    sizes = {path: (REPOSITORY / path).stat().st_size for path in repository_files}
    big = {str(path): size for path, size in sizes.items() if size > limit(path)}
    assert not big, f"too many bytes: {big}"


def test_no_pickle_is_read(sources: dict[str, str]) -> None:
    load = re.compile(r"torch\.load\((?:[^()]|\([^()]*\))*\)")
    library = re.compile(r"\b(?:pickle|dill|joblib|cloudpickle)\.(?:loads?|dumps?|Unpickler)\b|allow_pickle=True")
    for name, text in sources.items():
        assert not [call for call in load.findall(text) if "weights_only=True" not in call], name
        assert name.startswith("tests/") or not library.search(text), name


def test_no_pickle_is_kept(repository_files: list[Path]) -> None:
    pickles = {".bin", ".ckpt", ".pickle", ".pkl", ".pt", ".pth"}
    assert [str(path) for path in repository_files if path.suffix in pickles] == []


def test_no_paths_of_a_machine(texts: dict[str, str]) -> None:
    absolute = re.compile(r"(?<![\w.:/}])/(?:work|root|farm|opt|home|Users|mnt)/\w")
    found = [
        f"{name}: {line.strip()[:100]}"
        for name, text in texts.items()
        for line in text.splitlines()
        if absolute.search(line)
    ]
    assert not found, found
