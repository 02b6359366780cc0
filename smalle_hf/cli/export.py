"""`smalle export`: a checkpoint as ONNX graphs."""

import argparse
import sys
from pathlib import Path


def run(options: argparse.Namespace) -> int:
    """Exports what the command line names; returns the exit code.

    Raises:
        ImportError: A package is missing that exporting needs.
        OSError: The checkpoint cannot be found or read, or the folder cannot be written.
        ValueError: The checkpoint cannot be exported.
    """
    try:
        from ..onnx.export import export_model
    except ImportError as error:
        raise ImportError(f"Exporting needs more packages ({error}): pip install 'smalle-hf[onnx]'.") from error
    from .checkpoints import find_checkpoint, load_speaker

    checkpoint = find_checkpoint(options.model, "CHECKPOINT")
    model, processor = load_speaker(checkpoint, "cpu")
    folder = export_model(
        model, processor, options.output, options.quantize, checkpoint, with_encoder=not options.without_encoder
    )
    size = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    print(f"{folder}: {size / 1e6:.1f} MB", file=sys.stderr)
    return 0


__all__ = ["run"]
