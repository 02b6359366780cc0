"""What the documentation tells readers to type works: its snippets and commands run, its links and targets exist.

A block that cannot run here (it needs the network, or hours) has `<!-- not run: reason -->` on the line above it.
"""

import ast
import builtins
import doctest
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

REPOSITORY = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(path for path in [REPOSITORY / "README.md", *REPOSITORY.glob("docs/**/*.md")] if path.is_file())
FENCE = re.compile(r"(?ms)^(?P<indent> *)```(?P<language>[^`\n]*)\n(?P<code>.*?)^(?P=indent)``` *$")
NOT_RUN = re.compile(r"not run:(?P<reason>.*?)(?:-->)?\s*$")
SHOWN_LANGUAGES = {"text", "json", "yaml", "toml", "bibtex", "diff", "mermaid"}
SECONDS_PER_BLOCK = 300


@dataclass
class Block:
    """One fenced block: where it stands, what it says, and the reason why it is left out, if it is."""

    path: Path
    line: int
    section: str
    language: str
    code: str
    not_run: str | None

    @property
    def place(self) -> str:
        return f"{self.path.relative_to(REPOSITORY)}:{self.line}"


def blocks_of(path: Path, text: str, first_line: int = 1) -> Iterator[Block]:
    for fence in FENCE.finditer(text):
        before = text[: fence.start()]
        headings = re.findall(r"^## +(.+)$", before, re.MULTILINE)
        marker = NOT_RUN.search(before.rstrip().rpartition("\n")[2])
        indent = len(fence["indent"])
        code = "".join(line[indent:] or "\n" for line in fence["code"].splitlines(keepends=True))
        yield Block(
            path=path,
            line=first_line + before.count("\n"),
            section=headings[-1] if headings else "introduction",
            language=fence["language"].strip(),
            code=code,
            not_run=marker["reason"].strip() if marker else None,
        )


def document_blocks() -> list[Block]:
    return [block for path in DOCUMENTS for block in blocks_of(path, path.read_text(encoding="utf-8"))]


def docstring_blocks() -> list[Block]:
    blocks = []
    for path in sorted(REPOSITORY.glob("smalle_hf/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                first_line = node.body[0].lineno if node.body else 1
                found = blocks_of(path, ast.get_docstring(node) or "", first_line)
                blocks += [block for block in found if block.language == "python"]
    return blocks


def sections() -> list[tuple[Path, str]]:
    return list(dict.fromkeys((block.path, block.section) for block in document_blocks()))


def shell_commands(code: str) -> list[str]:
    return [
        line for line in code.replace("\\\n", " ").splitlines() if line.strip() and not line.lstrip().startswith("#")
    ]


def check_make(words: list[str]) -> None:
    goals = {word for word in words if "=" not in word}
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert goals <= set(targets), f"the Makefile has no target {sorted(goals - set(targets))}"


def check_pip(words: list[str]) -> None:
    package = metadata("smalle-hf")
    for word in words:
        if word.startswith("-") or "://" in word:
            continue
        requirement = Requirement(re.sub(r"^\.(?=\[|$)", package["Name"], word))
        if requirement.name == package["Name"]:
            unknown = requirement.extras - set(package.get_all("Provides-Extra"))
            assert not unknown, f"there is no extra {sorted(unknown)}"


def is_set_up(command: str) -> bool:
    """Checks the commands that this test suite itself was started by, instead of running them once more."""
    words = shlex.split(command, comments=True)
    while "=" in words[0]:
        words.pop(0)
    if words[0] == "make":
        check_make(words[1:])
    elif "pip" in words and "install" in words:
        check_pip(words[words.index("install") + 1 :])
    elif words[0] == "cd":
        return not (REPOSITORY / words[1]).is_dir()  # into the clone
    else:
        return words[:2] == ["git", "clone"] or words[1:3] == ["-m", "venv"] or words[0] == "source"
    return True


def environment() -> dict[str, str]:
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, "PATH": search_path, "OMP_NUM_THREADS": "1"}


def run_shell(block: Block, folder: Path) -> None:
    commands = [command for command in shell_commands(block.code) if not is_set_up(command)]
    if not commands:
        return
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(commands)],
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS_PER_BLOCK,
    )
    assert done.returncode == 0, f"{block.place}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def run_python(block: Block, namespace: dict) -> None:
    # Leading newlines make tracebacks name the line of the document.
    exec(compile("\n" * block.line + block.code, str(block.path), "exec"), namespace)


def run_examples(block: Block) -> None:
    examples = doctest.DocTestParser().get_doctest(block.code, {}, block.place, str(block.path), block.line)
    report: list[str] = []
    options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    doctest.DocTestRunner(optionflags=options).run(examples, out=report.append)
    assert not report, "".join(report)


def undefined_names(code: str) -> set[str]:
    nodes = list(ast.walk(ast.parse(code)))
    imported = {alias.asname or alias.name for node in nodes for alias in getattr(node, "names", [])}
    names = [node for node in nodes if isinstance(node, ast.Name)]
    stored = {node.id for node in names if not isinstance(node.ctx, ast.Load)}
    return {node.id for node in names} - stored - imported - set(dir(builtins))


@pytest.mark.slow
@pytest.mark.parametrize(("path", "section"), sections(), ids=lambda value: getattr(value, "name", value))
def test_section_runs(path: Path, section: str, clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clone)
    namespace = {"__name__": "__main__"}
    for block in document_blocks():
        if (block.path, block.section) != (path, section) or block.not_run:
            continue
        if block.language == "bash":
            run_shell(block, clone)
        elif block.language == "python":
            run_python(block, namespace)


@pytest.mark.parametrize("block", docstring_blocks(), ids=lambda block: block.place)
def test_docstring_snippet_runs(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if block.not_run:
        pytest.skip(f"not run: {block.not_run}")
    monkeypatch.chdir(tmp_path)
    if ">>>" in block.code:
        run_examples(block)
    elif missing := undefined_names(block.code):
        pytest.skip(f"only compiled: part of a program that has {', '.join(sorted(missing))}")
    else:
        run_python(block, {"__name__": "__main__"})


def test_readme_gives_the_two_commands() -> None:
    commands = [
        command
        for block in document_blocks()
        if block.path.name == "README.md" and block.language == "bash"
        for command in shell_commands(block.code)
    ]
    assert any(command.startswith("make speak TEXT=") for command in commands)
    assert "make test" in commands


def test_blocks_have_a_language_that_is_run_or_shown() -> None:
    known = SHOWN_LANGUAGES | {"bash", "python"}
    unclear = [block.place for block in document_blocks() if block.language not in known]
    assert not unclear, f"tag them as one of {sorted(known)}: {unclear}"


def test_blocks_that_are_left_out_say_why() -> None:
    silent = [block.place for block in document_blocks() + docstring_blocks() if block.not_run == ""]
    assert not silent, f"give a reason after `not run:`: {silent}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_relative_links_lead_somewhere(path: Path) -> None:
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
    broken = [link for link in links if not (path.parent / link).exists()]
    assert not broken, f"{path.name} links to what is not there: {broken}"
