"""What a command line says to speak, and how."""

import argparse
import codecs
import sys
from collections.abc import Iterator
from typing import Any


def read_fragments() -> Iterator[str]:
    """Lines of standard input as they come.

    Raises:
        ValueError: They are not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        for line in sys.stdin.buffer:
            yield decoder.decode(line)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise ValueError(f"The text on standard input is not UTF-8 ({error.reason}): convert it.") from None


def read_text(argument: str) -> str:
    """The text of the command line, or that on standard input.

    Raises:
        ValueError: It is empty, or not UTF-8.
    """
    text = argument
    if argument == "-":
        try:
            text = sys.stdin.buffer.read().decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"The text on standard input is not UTF-8 ({error.reason}): convert it.") from None
    if not any(map(str.isalnum, text)):
        raise ValueError("There is nothing to say: pass at least one word.")
    return text


def sampling_options(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of `generate` that the command line sets."""
    if options.temperature == 0:
        return {"do_sample": False}
    sampling = {"temperature": options.temperature, "top_k": options.top_k}
    return {name: value for name, value in sampling.items() if value is not None}


__all__ = ["read_fragments", "read_text", "sampling_options"]
