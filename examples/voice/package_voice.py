"""Makes a folder to ship out of a trained model: half precision, no copies of the package's code, named voices.

    python examples/voice/package_voice.py runs/voice/model smalle_hf/voices/demo --codes codes/train \\
        --voice slt=slt-train-000123 --voice rms=rms-train-000456 --generate temperature=0.6 --card card.md

A voice is an utterance of a token cache by its id; the first one speaks where none is named. Weights are stored in
half precision and computed in single precision. Exit codes: 0 done; 1 a file cannot be read or written; 2 wrong
arguments.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from smalle_hf import SmallEForSpeechGeneration, SmallEProcessor
from smalle_hf.data.token_cache import TokenCache, TokenCacheError
from smalle_hf.voice_files import save_voice

MAX_SHARD_SIZE = "15MB"
"""What hosts of source code take as one file."""


def package(
    source: Path, out: Path, voices: Mapping[str, Mapping[str, Any]], generation: Mapping[str, Any], card: Path
) -> None:
    """Writes the folder, whole or not at all.

    Args:
        source (`Path`): Folder that examples/train.py exported.
        out (`Path`): Folder to write; an earlier one is replaced.
        voices: By name, rows of a token cache with `codes`, `num_codebooks`, `text` and `speaker`.
        generation: Sampling options that become the checkpoint's defaults.
        card (`Path`): The model card.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary)
        model = SmallEForSpeechGeneration.from_pretrained(source, dtype=torch.float16)
        for name, value in generation.items():  # `update` would leave out the options that are ours
            setattr(model.generation_config, name, value)
        model.save_pretrained(folder, max_shard_size=MAX_SHARD_SIZE)
        SmallEProcessor.from_pretrained(source).save_pretrained(folder)
        for code in folder.glob("*.py"):
            code.unlink()
        for path in folder.glob("*.json"):
            clean(path)
        shutil.copy2(card, folder / "README.md")
        for number, (name, row) in enumerate(voices.items()):
            codes = torch.as_tensor(row["codes"].reshape(-1, row["num_codebooks"]).astype("int64"))
            metadata = {"speaker": row["speaker"] or "unknown"} | ({} if number else {"default": "yes"})
            save_voice(folder, name, codes, row["text"], metadata)
        for path in folder.rglob("*.safetensors"):
            path.chmod(0o644)
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(folder, out)
        out.chmod(0o755)


def clean(path: Path) -> None:
    """Takes out of a JSON file what points to code or to another folder; weights are computed in single precision."""
    content = json.loads(path.read_text(encoding="utf-8"))
    for part in (content, content.get("codec_config") or {}):
        for name in ("auto_map", "_name_or_path"):
            part.pop(name, None)
        if "dtype" in part:
            part["dtype"] = "float32"
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def find_voices(codes: Path, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Rows of a token cache for `NAME=ID`.

    Raises:
        ValueError: An entry is not written so, or the cache has no such utterance.
    """
    cache = TokenCache(codes)
    rows = {row["id"]: row for row in cache.__getitems__(range(len(cache)))}
    found = {}
    for entry in names:
        name, _, id_ = entry.partition("=")
        if id_ not in rows:
            raise ValueError(f"{codes} has no utterance {id_!r} for --voice {entry}: write it as NAME=ID.")
        found[name] = rows[id_]
    return found


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line."""
    description = __doc__ or ""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="folder that examples/train.py exported")
    parser.add_argument("out", type=Path, help="folder to write; an earlier one is replaced")
    parser.add_argument("--codes", type=Path, required=True, help="token cache with the utterances of the voices")
    parser.add_argument("--voice", action="append", default=[], metavar="NAME=ID", help="a voice and its utterance")
    parser.add_argument(
        "--generate",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="default of generate(), such as temperature=0.7",
    )
    parser.add_argument("--card", type=Path, help="model card (default: the one of the training run)")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    options = parse(arguments)
    try:
        voices = find_voices(options.codes, options.voice)
        generation = {name: json.loads(value) for name, _, value in (item.partition("=") for item in options.generate)}
        package(options.source, options.out, voices, generation, options.card or options.source / "README.md")
    except (OSError, ValueError, TokenCacheError) as error:
        print(f"package_voice.py: error: {error}", file=sys.stderr)
        return 1
    size = sum(path.stat().st_size for path in options.out.rglob("*") if path.is_file())
    print(f"{options.out}: {size / 2**20:.1f} MB, voices {', '.join(sorted(voices)) or 'none'}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
