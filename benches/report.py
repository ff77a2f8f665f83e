"""What a bench found: figures, as a line of JSON for programs and a row of a table for people."""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NANOSECONDS = 1_000_000_000


@dataclass(frozen=True)
class Figure:
    """Ours and a baseline's, measured in one run."""

    name: str
    unit: str  # of both: "us", "1/s"
    ours: float
    baseline: str  # its name
    baseline_value: float
    better: str = "lower"  # or "higher"
    more: dict[str, Any] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        return self.ours / self.baseline_value

    def record(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": rounded(self.ours),
            "baseline": self.baseline,
            "baseline_value": rounded(self.baseline_value),
            "ratio": rounded(self.ratio),
            "better": self.better,
            **{key: rounded(value) for key, value in self.more.items()},
        }


@dataclass(frozen=True)
class Times:
    """Durations of one thing done many times, in microseconds."""

    p50: float
    p99: float
    least: float

    @property
    def named(self) -> dict[str, float]:
        return {"p50_us": self.p50, "p99_us": self.p99}


def times_of(taken_ns: Sequence[int]) -> Times:
    ordered = sorted(taken_ns)
    at = [ordered[int(share * (len(ordered) - 1))] / 1000 for share in (0.5, 0.99)]
    return Times(at[0], at[1], ordered[0] / 1000)


def timed(work: Callable[[], object], times: int) -> list[int]:
    """Nanoseconds of each."""
    clock = time.perf_counter_ns
    taken = []
    for _ in range(times):
        began = clock()
        work()
        taken.append(clock() - began)
    return taken


def rounded(value: Any) -> Any:
    """Three digits that count, and no more than the clock gives."""
    if not isinstance(value, float):
        return value
    return float(f"{value:.3g}") if abs(value) < 100 else round(value)


def machine() -> dict[str, Any]:
    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": cpu_model(Path("/proc/cpuinfo").read_text()),
        "python": platform.python_version(),
        "load_before": round(os.getloadavg()[0], 1),
    }


def cpu_model(cpuinfo: str) -> str:
    """Of Linux's /proc/cpuinfo."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def line_of(figure: Figure, on: dict[str, Any]) -> str:
    return json.dumps({**figure.record(), "machine": on})


def shown(value: float, unit: str) -> str:
    number = rounded(value)
    return f"{number:,.0f} {unit}" if abs(number) >= 100 else f"{number:g} {unit}"


def table(figures: Sequence[Figure], on: dict[str, Any]) -> str:
    """Markdown, readable as it is."""
    rows = [("what", "ours", "baseline", "ours / baseline")]
    rows += [
        (
            figure.name,
            shown(figure.ours, figure.unit) + _latency(figure),
            f"{shown(figure.baseline_value, figure.unit)} ({figure.baseline})",
            f"{rounded(figure.ratio):g} ({figure.better} is better)",
        )
        for figure in figures
    ]
    widths = [max(len(row[at]) for row in rows) for at in range(4)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    where = (
        f"Measured in one run on {on['cores']} cores of {on['cpu']}, Python {on['python']}; the "
        f"load average was {on['load_before']} before it began, from other work on the machine."
    )
    return "\n".join([*lines, "", where])


BEGIN, END = "<!-- benches: begin -->", "<!-- benches: end -->"


def placed(page: str, found: str) -> str:
    """A page with the table between its marks."""
    front, begin, rest = page.partition(BEGIN)
    _, end, back = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the page has no {BEGIN} with {END} behind it")
    return f"{front}{BEGIN}\n\n{found}\n\n{END}{back}"


def _latency(figure: Figure) -> str:
    found = [
        f"{share} {rounded(figure.more[share + unit])} {unit[1:]}"
        for share in ("p50", "p99")
        for unit in ("_us", "_ms")
        if share + unit in figure.more
    ]
    return f" ({', '.join(found)})" if found else ""
