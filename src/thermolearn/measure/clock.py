"""What a measurement costs the training loop, at a cost that does not matter itself."""

from __future__ import annotations

from time import perf_counter

# Booking a step costs more than the step's own work: of quick steps one in CLOCKED is timed (a
# prime, so that it does not keep pace with the snapshots).
CLOCKED, QUICK = 61, 1e-3


class Clock:
    """Books seconds of training, and those of them that the Probe took.

    Snapshots are timed one by one. Of steps shorter than `QUICK` seconds one in `CLOCKED` is, and
    it stands for the others. On an accelerator the times are those of the host.

    The clock does not see what the Probe's code and copies evict from the processor's caches. Where
    a step takes a quarter of a millisecond, the training is slowed down by two to three times what
    is booked (``benchmarks/bench_probe.py`` gives both); on longer steps neither matters.

    Attributes
    ----------
    in_loop_s, training_s : float
        Booked so far; training includes the cost in the loop, and excludes pauses.
    rest : int
        Steps until the next one that is timed; it is timed now if 0.
    """

    __slots__ = (
        "_each", "_last", "_pause", "_stands_for", "_timed_at", "hook_s", "in_loop_s", "rest",
        "training_s",
    )  # fmt: skip

    def __init__(self) -> None:
        self.in_loop_s = self.training_s = 0.0
        self.rest = 0
        self.hook_s = 0.0  # the optimizer hook's part of a timed step
        self._stands_for = 1
        self._each = 0.0  # cost of the last timed step
        self._pause = 0.0
        self._last = self._timed_at = -1.0  # not yet

    def book(self, start: float) -> None:
        """The time since `start` is in-loop cost."""
        now = perf_counter()
        self.in_loop_s += now - start
        self._go_on(start, now)

    def book_step(self, start: float) -> None:
        """A timed step has been logged since `start`: book it, and choose which one is next."""
        now = perf_counter()
        self._each = now - start + self.hook_s
        self.in_loop_s += self._each * self._stands_for
        self._go_on(start, now)
        if self._timed_at >= 0:
            quick = now - self._timed_at < QUICK * self._stands_for
            self._stands_for = CLOCKED if quick else 1
        self.rest = self._stands_for - 1
        self._timed_at, self.hook_s = now, 0.0

    def _go_on(self, start: float, now: float) -> None:
        if self._last >= 0:
            start = self._last
        self.training_s += now - start - self._pause
        self._last, self._pause = now, 0.0

    def pause(self, seconds: float) -> None:
        """Time spent on measuring, not to be counted as training."""
        self._pause += seconds

    @property
    def cost_s(self) -> float:
        """In-loop cost so far, with that of the steps since the last timed one."""
        return self.in_loop_s + self._each * (self._stands_for - 1 - self.rest)
