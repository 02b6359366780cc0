"""The command line of Small-E: `smalle speak`, `info`, `export`, `convert`, `encode` and `decode`.

It imports nothing that imports torch, which takes seconds, before the command line is known to make sense: the modules
beside it, one for each sub-command, do.
"""

import argparse
import importlib
import math
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any, TextIO

EXIT_ERROR, EXIT_INTERRUPTED = 1, 130

DESCRIPTION = "Speak text with Small-E, and look after its checkpoints and codes."
EPILOG = """examples:
  smalle speak "The quick brown fox jumps over the lazy dog." -o fox.wav --model outputs/demo
  smalle info outputs/demo
  smalle SUBCOMMAND --help

Exit codes: 0 done, 1 an error that one line on stderr explains, 2 a wrong command line, 130 interrupted."""

SPEAK_EPILOG = """examples:
  smalle speak "Hello world." -o hello.wav
  smalle speak - -o book.flac --voice slt < book.txt
  smalle speak "In my voice." -o me.ogg --voice me.wav --voice-text "What I say in the recording."
  smalle speak "Say it well." -o - --num-candidates 8 | aplay
  smalle speak - --stream --play < book.txt
  smalle speak "Now." --stream -o - | aplay -t raw -f S16_LE -r 16000
  smalle speak "Without torch." -o small.wav --model voice-onnx

Long text is cut into sentences, which are spoken one after the other and joined with short pauses."""

EXPORT_EPILOG = """examples:
  smalle export outputs/demo voice-onnx
  smalle export outputs/demo voice-onnx --quantize none
  smalle export outputs/demo voice-onnx --without-encoder
  smalle speak "Hello world." -o hello.wav --model voice-onnx

What is written speaks with ONNX Runtime alone. In 8 bits it is faster and smaller, and speaks a little differently;
without, it says what the checkpoint says."""

INFO_EPILOG = """example:
  smalle info outputs/demo
  smalle info outputs/demo --json"""

ENCODE_EPILOG = """examples:
  smalle encode speech.flac -o speech.safetensors --codec facebook/encodec_24khz
  smalle encode me.wav --text "What I say in it." -o outputs/demo/voices/me.safetensors --codec outputs/demo

The second one adds a voice to a checkpoint: `smalle speak --model outputs/demo --voice me`."""

DECODE_EPILOG = """examples:
  smalle decode speech.safetensors -o speech.wav --codec facebook/encodec_24khz
  smalle encode a.wav -o - --codec outputs/demo | smalle decode - -o b.wav --codec outputs/demo"""


def build_parser() -> argparse.ArgumentParser:
    """The parser of all sub-commands but `convert`, which has its own."""
    parser = argparse.ArgumentParser(
        prog="smalle", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"smalle-hf {version('smalle-hf')}")
    commands = parser.add_subparsers(dest="command", metavar="SUBCOMMAND", required=True)

    def add(name: str, summary: str, epilog: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=summary,
            description=summary[0].upper() + summary[1:] + ".",
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _add_speak_options(add("speak", "speak a text into a file, to a player or down a pipe", SPEAK_EPILOG))
    info = add("info", "say what a checkpoint or codec is: sizes, rates, voices, licence", INFO_EPILOG)
    info.add_argument("folder", metavar="DIR", help="folder of a checkpoint or codec")
    info.add_argument("--json", action="store_true", help="write it as JSON")
    export = add("export", "write a checkpoint as ONNX graphs, which speak without torch", EXPORT_EPILOG)
    export.add_argument("model", metavar="CHECKPOINT", help="checkpoint, a folder or Hub name")
    export.add_argument("output", metavar="OUT", help="folder to write, which must not be there yet")
    export.add_argument(
        "--quantize",
        choices=["int8", "int4", "none"],
        default="int8",
        help="keep weights in 8 bits, those of the decoder in 4, or everything in float32 (default: %(default)s)",
    )
    export.add_argument(
        "--without-encoder",
        action="store_true",
        help="leave out the codec's encoder, which makes voices of recordings: a smaller folder, voices only by name",
    )
    commands.add_parser("convert", help="convert a checkpoint of the paper's authors", add_help=False)
    encode = add("encode", "encode a recording into a file of codec codes, or a voice", ENCODE_EPILOG)
    encode.add_argument("audio", metavar="AUDIO", help="recording (wav, flac, ogg, mp3), or - for stdin")
    _add_codec_options(encode, "safetensors file to write, or - for stdout")
    encode.add_argument("--text", help="what is said in the recording: makes the file a voice")
    encode.add_argument(
        "--num-codebooks", type=_whole, metavar="Q", help="codebooks to keep (default: all that the codec has)"
    )
    decode = add("decode", "decode a file of codec codes into a recording", DECODE_EPILOG)
    decode.add_argument("codes", metavar="CODES", help="safetensors file of codes or a voice, or - for stdin")
    _add_codec_options(decode, "wav, flac or ogg file to write, or - for wav on stdout")
    return parser


def _add_speak_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", help="what to say, or - to read it from stdin")
    parser.add_argument("-o", "--output", metavar="FILE", help="wav, flac or ogg file, or - for wav on stdout")
    parser.add_argument("--play", action="store_true", help="play the speech with a player that is installed")
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="checkpoint, a folder or Hub name, or a folder of `smalle export` (default: the one in the package)",
    )
    parser.add_argument(
        "--voice",
        metavar="NAME|FILE",
        help="a voice of the checkpoint, or a recording to go on from (default: the checkpoint's own choice)",
    )
    parser.add_argument("--voice-text", metavar="TEXT", help="what is said in the recording")
    parser.add_argument("--seed", type=int, default=0, help="the same seed speaks the same (default: %(default)s)")
    parser.add_argument(
        "--temperature",
        type=_number_from_zero,
        metavar="X",
        help="of sampling; 0 takes the best (default: the model's)",
    )
    parser.add_argument("--top-k", type=_whole, metavar="K", help="sample from the K best (default: the model's)")
    parser.add_argument(
        "--num-candidates",
        type=_whole,
        default=1,
        metavar="N",
        help="speak every sentence N times and keep the one that reads it best (default: %(default)s)",
    )
    parser.add_argument(
        "--stream",
        action="store_true",
        help="give the speech out while it is spoken; -o - writes raw samples then, 16-bit little-endian mono",
    )
    parser.add_argument(
        "--chunk-ms",
        type=_positive,
        default=100.0,
        metavar="MS",
        help="milliseconds of speech that --stream gives out at a time (default: %(default)g)",
    )
    parser.add_argument("--max-seconds", type=_positive, metavar="S", help="seconds of speech at most, in all")
    parser.add_argument("--device", help="where to compute, such as cpu or cuda (default: a GPU if there is one)")
    parser.add_argument(
        "--threads",
        type=_whole,
        default=1,
        metavar="N",
        help="threads of the CPU; more of them are of use to large models, if nothing else computes (default: "
        "%(default)s)",
    )


def _add_codec_options(parser: argparse.ArgumentParser, output_help: str) -> None:
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help=output_help)
    parser.add_argument(
        "--codec",
        metavar="DIR",
        help="codec, or checkpoint with one inside, a folder or Hub name (default: the one in the package)",
    )


def _whole(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return int(text)


def _number_from_zero(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 0")
    return number


def _positive(text: str) -> float:
    number = _number_from_zero(text)
    if number == 0:
        raise argparse.ArgumentTypeError("0 is no positive number")
    return number


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line of every sub-command but `convert`; exits with 2 if it makes no sense."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.command == "speak":
        if options.output is None and not options.play:
            parser.error("speak needs -o/--output FILE, --play, or both")
        if options.voice_text is not None and options.voice is None:
            parser.error("--voice-text needs the recording that says it: --voice FILE")
        if options.num_candidates > 1 and options.temperature == 0:
            parser.error("--num-candidates needs sampling: give a --temperature above 0")
        if options.num_candidates > 1 and options.stream:
            parser.error("--num-candidates chooses among complete sentences: leave out --stream")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a sub-command and returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        if arguments[:1] == ["convert"]:
            return _guard(lambda: _module("smalle_hf.convert_lina_checkpoint").main(arguments[1:], "smalle convert"))
        options = parse_arguments(arguments)
        module = "codec" if options.command in ("encode", "decode") else options.command
        named = {"speak": "model", "info": "folder"}.get(options.command)
        if named and _is_exported(getattr(options, named)):
            module += "_onnx"
        return _guard(lambda: _module(f"smalle_hf.cli.{module}").run(options))


def _is_exported(folder: str | None) -> bool:
    """Whether `smalle export` wrote a folder."""
    return os.path.isfile(os.path.join(os.path.expanduser(folder or ""), "onnx_config.json"))


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _guard(command: Callable[[], int]) -> int:
    """Turns what may go wrong into one line and an exit code. A mistake in the program keeps its traceback."""
    try:
        code = command()
        sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The interpreter would try to write the rest when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        message = "the program that reads the output ended before it was written"
    except (OSError, ValueError, TypeError, ImportError, RuntimeError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
    print(f"smalle: error: {message}", file=sys.stderr)
    return EXIT_ERROR


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    # Those for programmers come from libraries and say nothing to who calls a command.
    if issubclass(category, UserWarning):
        print(f"smalle: warning: {' '.join(str(message).split())}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
