"""Where speech goes while it is spoken: a file, standard output, a player."""

import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from ..audio_files import FORMATS
from ..file_replacement import replace_file
from .delivery import STDOUT

STREAM_PLAYERS = {
    "aplay": "-q -t raw -f S16_LE -c 1 -r {rate}",
    "ffplay": "-nodisp -autoexit -loglevel error -f s16le -ar {rate} -ch_layout mono -i -",
    "paplay": "--raw --format=s16le --channels=1 --rate={rate}",
    "play": "-q -t raw -e signed -b 16 -c 1 -r {rate} -",
}
"""Programs that play 16-bit samples from their standard input, in the order in which they are tried, and how."""


def find_stream_player() -> list[str]:
    """Command that plays raw samples, with `{rate}` where their rate in Hz belongs.

    Raises:
        ValueError: No player is installed.
    """
    for name, arguments in STREAM_PLAYERS.items():
        if path := shutil.which(name):
            return [path, *arguments.split()]
    raise ValueError(
        f"Nothing can play the speech as it comes: install one of {', '.join(STREAM_PLAYERS)}, or leave out --stream."
    )


class AudioSinks:
    """Takes speech bit by bit; use it in a `with` block, behind which a file is complete and a player has played.

    Args:
        output (`str`, *optional*): A file, or `-` for raw samples on standard output: 16 bit, little-endian, mono.
        player (`list[str]`, *optional*): Command from [`find_stream_player`].
        sampling_rate (`int`): Rate in Hz.

    Raises:
        OSError: The file cannot be written, or the player fails.
    """

    def __init__(self, output: str | None, player: list[str] | None, sampling_rate: int) -> None:
        self.rate = sampling_rate
        self.path = None if output in (None, STDOUT) else Path(str(output))
        self.to_stdout = output == STDOUT
        self.command = None if player is None else [part.format(rate=sampling_rate) for part in player]
        self.player: subprocess.Popen | None = None
        self.file: soundfile.SoundFile | None = None
        self.files = ExitStack()

    def __enter__(self) -> "AudioSinks":
        if self.path is not None:
            container, encoding = FORMATS[self.path.suffix.lower()]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            temporary = self.files.enter_context(replace_file(self.path))
            self.file = self.files.enter_context(
                soundfile.SoundFile(temporary, "w", self.rate, 1, encoding, format=container)
            )
        if self.command is not None:
            self.player = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            )
        return self

    def write(self, samples: np.ndarray) -> None:
        """Gives samples of shape `(n,)` to all sinks; what is above full scale (1.0) is clipped."""
        clipped = np.clip(samples, -1.0, 1.0)
        content = np.round(clipped * 32767).astype("<i2").tobytes()
        if self.file is not None:
            # libsndfile's Vorbis encoder overflows its stack on a long block.
            for start in range(0, len(clipped), self.rate):
                self.file.write(clipped[start : start + self.rate])
        if self.to_stdout:
            sys.stdout.buffer.write(content)
            sys.stdout.buffer.flush()
        if self.player is not None and self.player.stdin is not None:
            try:
                self.player.stdin.write(content)
                self.player.stdin.flush()
            except BrokenPipeError:
                self._end_player()
                raise OSError(f"{self._player_name()} ended before the speech did.") from None

    def __exit__(self, error_type: type[BaseException] | None, *error: Any) -> None:
        try:
            if self.player is not None and error_type is None:
                self._end_player()
        finally:
            if self.player is not None:
                self.player.kill()
                self.player.wait()
            self.files.__exit__(error_type, *error)

    def _end_player(self) -> None:
        """Waits until everything is played.

        Raises:
            OSError: The player fails.
        """
        assert self.player is not None
        _, complaint = self.player.communicate()
        if self.player.returncode != 0:
            reason = complaint.decode(errors="replace").strip()[-300:]
            raise OSError(f"{self._player_name()} could not play the speech: {reason}")

    def _player_name(self) -> str:
        return Path((self.command or ["the player"])[0]).name


__all__ = ["AudioSinks", "find_stream_player"]
