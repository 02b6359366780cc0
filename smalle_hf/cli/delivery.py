"""Where results go: files, standard output, a player."""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from ..audio_files import check_audio_path, write_audio

PLAYERS = {
    "aplay": ["-q"],
    "afplay": [],
    "ffplay": ["-nodisp", "-autoexit", "-loglevel", "error"],
    "paplay": [],
    "play": ["-q"],
}
"""Programs that play a wav file, in the order in which they are tried, and their options."""

STDOUT = "-"


def check_delivery(output: str | None, play: bool = False) -> list[str] | None:
    """Refuses a destination of audio that will not work, before there is any.

    Args:
        output (`str`, *optional*): A file, or `-` for standard output.
        play (`bool`, defaults to `False`): Whether it shall be played.

    Returns:
        The player's command, if it shall be played.

    Raises:
        ValueError: The suffix is unknown, standard output is a terminal, or no player is installed.
    """
    if output == STDOUT:
        refuse_terminal()
    elif output is not None:
        check_audio_path(output)
    return find_player() if play else None


def refuse_terminal() -> None:
    """Raises `ValueError` if standard output is a terminal."""
    if sys.stdout.isatty():
        raise ValueError("Standard output is a terminal, where bytes show as rubbish: pipe it on, or name a file.")


def find_player() -> list[str]:
    """Command that plays a wav file, its name left out.

    Raises:
        ValueError: No player is installed.
    """
    for name, arguments in PLAYERS.items():
        if path := shutil.which(name):
            return [path, *arguments]
    raise ValueError(f"Nothing can play the speech: install one of {', '.join(PLAYERS)}, or write a file with -o.")


def deliver_audio(
    waveform: np.ndarray, sampling_rate: int, output: str | None, player: list[str] | None = None
) -> None:
    """Writes a waveform, and plays it.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): Mono audio.
        sampling_rate (`int`): Rate in Hz.
        output (`str`, *optional*): A file, or `-` for wav on standard output.
        player (`list[str]`, *optional*): Command that plays a wav file whose name follows.

    Raises:
        OSError: The file cannot be written, or the player fails.
        ValueError: The audio is empty or not finite.
    """
    if output not in (None, STDOUT):
        write_audio(waveform, str(output), sampling_rate)
    if output != STDOUT and player is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = write_audio(waveform, Path(folder) / "speech.wav", sampling_rate)
        if output == STDOUT:
            sys.stdout.buffer.write(path.read_bytes())
            sys.stdout.buffer.flush()
        if player is not None:
            done = subprocess.run([*player, str(path)], stdin=subprocess.DEVNULL, capture_output=True, text=True)
            if done.returncode != 0:
                raise OSError(f"{Path(player[0]).name} could not play the speech: {done.stderr.strip()[-300:]}")


__all__ = ["STDOUT", "check_delivery", "deliver_audio", "find_player", "refuse_terminal"]
