"""What a benchmark reports, and the clock all of them use."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class Result:
    """One figure: `value` in `unit`, against the issue's target if it has one.

    `detail` keeps what the figure was made of (rows, CPU seconds, versions of rivals).
    """

    name: str
    value: float
    unit: str
    target: float | None = None
    detail: dict[str, object] = field(default_factory=dict)
    better: Literal["higher", "lower"] = "higher"

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without one."""
        if self.target is None:
            return None
        return self.value >= self.target if self.better == "higher" else self.value <= self.target


@dataclass(slots=True)
class CpuTime:
    """CPU seconds of all the process's threads inside the block: what "a core" means here."""

    seconds: float = 0.0


@contextmanager
def cpu_time() -> Iterator[CpuTime]:
    """Measure a block: `with cpu_time() as cpu: …`, then `rows / cpu.seconds`."""
    measured = CpuTime()
    start = time.process_time()
    yield measured
    measured.seconds = time.process_time() - start
