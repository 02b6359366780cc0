"""What the benchmarks share: timing in alternation, ratios, targets, results as JSON and plots.

A benchmark consists of phases that can be run in several goes: each adds its part to the JSON file, and the plot is
drawn from the whole of it.
"""

import argparse
import json
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from tqdm import tqdm
from transformers.utils import logging as transformers_logging

from smalle_hf.file_replacement import replace_file

Results = dict[str, Any]


@dataclass(frozen=True)
class Target:
    """A number and what it shall be.

    Args:
        name (`str`): What is measured, with its unit.
        value (`float`): What was measured.
        limit (`float`): What is wanted.
        at_least (`bool`, defaults to `False`): Whether the limit is a lower one.
    """

    name: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the value is on the right side of the limit."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        verdict, side = "met" if self.is_met else "MISSED", ">=" if self.at_least else "<="
        return f"{self.name}: {self.value:.4g} (target {side} {self.limit:g}: {verdict})"


def machine() -> Results:
    """What the numbers depend on besides the code."""
    return {
        "processor": processor_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def processor_name() -> str:
    """The processor as the operating system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def forget_peak_memory() -> None:
    """Lets [`peak_memory`] count from now on. Only Linux can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak_memory() -> float:
    """The most memory that this process has had, in MiB."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:  # elsewhere it may hold the parent's peak, too
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10


def seconds(step: Callable[[], object]) -> float:
    """Wall time of one call."""
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def alternate(
    steps: Mapping[str, Callable[[], object]], repeats: int, warm_ups: int = 1, unit: str = "run"
) -> dict[str, list[float]]:
    """Times steps in turn, so that a busy or throttled machine moves all of them alike.

    Args:
        steps: What to time, by name.
        repeats (`int`): Measurements of each.
        warm_ups (`int`, defaults to 1): Calls of each that come first and are not measured: they allocate.
        unit (`str`): What the progress bar counts.

    Returns:
        Seconds of every measurement, by name, in the order of time.
    """
    times: dict[str, list[float]] = {name: [] for name in steps}
    rounds = [(index >= warm_ups, name) for index in range(warm_ups + repeats) for name in steps]
    for is_measured, name in tqdm(rounds, unit=unit, file=sys.stderr, disable=None, leave=False):
        elapsed = seconds(steps[name])
        if is_measured:
            times[name].append(elapsed)
    return times


def medians(times: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of the measurements of each step."""
    return {name: statistics.median(values) for name, values in times.items()}


def median_ratio(numerator: Iterable[float], denominator: Iterable[float]) -> float:
    """The median of the ratios, pair by pair."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=True))


def parse(
    description: str, phases: Sequence[str], arguments: Sequence[str] | None, *extra: tuple[str, dict[str, Any]]
) -> argparse.Namespace:
    """The options of every benchmark: `quick`, `phases`, `threads`, `repeats`, `output`.

    Args:
        description (`str`): The module's docstring; what follows its first paragraph stands below the options.
        phases: Names of the phases, the default of `--phases`.
        arguments (*optional*): Command line, without the program; that of the process by default.
        extra: Further options, as pairs of a flag and the keywords of `add_argument`.
    """
    head, _, details = description.partition("\n\n")
    parser = argparse.ArgumentParser(
        description=head, epilog=details, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="small sizes and one repeat, to see that it runs")
    if len(phases) > 1:
        parser.add_argument("--phases", nargs="+", choices=phases, default=list(phases), help="(default: %(default)s)")
    parser.add_argument("--threads", nargs="+", type=int, help="threads of torch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, help="measurements of everything")
    parser.set_defaults(threads=[torch.get_num_threads()])
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/benchmarks"), help="folder (default: %(default)s)"
    )
    for flag, keywords in extra:
        parser.add_argument(flag, **keywords)
    options = parser.parse_args(arguments)
    torch.manual_seed(0)
    transformers_logging.set_verbosity_error()  # about kernels that only GPUs have
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    return options


def report(
    folder: Path,
    name: str,
    phase: str,
    settings: Results,
    rows: Sequence[Results],
    judge: Callable[[Sequence[Results]], Sequence[Target]] | None = None,
    draw: Callable[[Any, Results], None] | None = None,
) -> None:
    """Writes `name`.json and `name`.png and prints how the measurements compare with the targets.

    What was measured before stays in the files: other phases, and of this one rows of other keys, as long as machine
    and settings are the same.

    Args:
        folder (`Path`): Made if it is missing.
        name (`str`): Of the benchmark.
        phase (`str`): Whose results these are.
        settings (`dict`): What all rows of the phase have in common.
        rows: Measurements; what is no `float` in them is their key.
        judge (*optional*): Holds rows, the earlier ones among them, against the targets.
        draw (*optional*): Draws all phases, a dictionary by name, into a matplotlib figure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    phases: Results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    settings = {"machine": machine(), **settings}
    earlier = phases.get(phase, {})
    if all(earlier.get(key) == value for key, value in settings.items()):
        rows = merged(earlier["rows"], rows)
    targets = judge(rows) if judge is not None else []
    for target in targets:
        print(target)
    held = [{**asdict(target), "is_met": target.is_met} for target in targets]
    phases[phase] = {**settings, "rows": list(rows), "targets": held}
    with replace_file(path) as temporary:
        temporary.write_text(json.dumps(phases, indent=1) + "\n", encoding="utf-8")
    if draw is None:
        return
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("matplotlib is not installed: no plot", file=sys.stderr)
        return
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    draw(figure, phases)
    with replace_file(path.with_suffix(".png")) as temporary:
        figure.savefig(temporary, dpi=100, format="png")


def merged(earlier: Sequence[Results], rows: Sequence[Results]) -> list[Results]:
    """Rows by key, the newer ones in place of the earlier ones."""

    def key(row: Results) -> tuple[Any, ...]:
        return tuple(value for value in row.values() if not isinstance(value, float))

    return list({key(row): row for row in (*earlier, *rows)}.values())


__all__ = [
    "Results",
    "Target",
    "alternate",
    "forget_peak_memory",
    "machine",
    "median_ratio",
    "medians",
    "parse",
    "peak_memory",
    "report",
    "seconds",
]
