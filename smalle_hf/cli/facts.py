"""What `smalle info` says of any folder, and how. Needs no torch."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard


def show_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Prints facts by their names, for readers or for programs."""
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        print(f"{name.replace('_', ' '):24}{_in_words(value)}")


def describe_files(folder: Path) -> dict[str, Any]:
    """Licence, bytes and files of a folder."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        "licence": read_licence(folder),
        "bytes": sum(file.stat().st_size for file in files),
        "files": len(files),
    }


def read_licence(folder: Path) -> str | None:
    """Licence that the model card states, if there is a card and it does."""
    path = folder / "README.md"
    try:
        return ModelCard.load(path, ignore_metadata_errors=True).data.license if path.is_file() else None
    except ValueError:  # metadata that are no mapping
        return None


def _in_words(value: Any) -> str:
    if isinstance(value, dict):
        return (
            ", ".join(
                f"{name} ({value[name]:,} bytes)" if isinstance(value[name], int) else f"{name} ({value[name]} s)"
                for name in value
            )
            or "none"
        )
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value}"


__all__ = ["describe_files", "read_licence", "show_facts"]
