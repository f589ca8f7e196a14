"""One run: the causal march of N samples of the single site and their order parameters."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from thermolearn.core.dmft.gaussian import GaussianFields
from thermolearn.core.dmft.interface import Averages, Closure, SingleSite, SiteStep, enlarged
from thermolearn.core.dmft.response import ResponseTensor
from thermolearn.core.errors import DivergedError

SYMMETRIC = 1e-9  # relative: rounding of a closure
MakeSite = Callable[[int, np.random.Generator], SingleSite]
MakeClosure = Callable[[], Closure]


class March:
    """The state of one run, moved on by `step`.

    Parameters
    ----------
    single_site, closure : callable
        As of `solve`.
    samples, fields : int
    pivot : float
    dtype : numpy dtype
        Of the response tensor.
    seed : (int, int, int)
        Seed of the problem, number of the run, stream.

    Attributes
    ----------
    run : int
        Its number.
    steps : int
        Finished.
    broken : bool
        A step was left in the middle: the run cannot be continued.
    """

    def __init__(
        self,
        single_site: MakeSite,
        closure: MakeClosure,
        samples: int,
        fields: int,
        pivot: float,
        dtype: np.dtype,
        seed: tuple[int, int, int],
    ):
        # fields and site draw from streams of their own, so that neither shifts the other
        streams = np.random.SeedSequence(seed).spawn(2)
        gaussian, self._rng = (np.random.default_rng(stream) for stream in streams)
        if not callable(single_site) or not callable(closure):
            raise TypeError(
                "single_site and closure must be callables that make a new one for every run, "
                "(n_mc, rng) -> site and () -> closure: give the class, or a lambda"
            )
        self.site = single_site(samples, self._rng)
        self.closure = closure()
        self._matched = np.asarray(getattr(self.site, "matched", np.zeros((0, samples))), float)
        self.samples, self.fields, self.dtype = samples, fields, dtype
        self.gaussian = GaussianFields(samples, fields, pivot, self._matched, gaussian)
        self.run, self.steps, self.broken = seed[1], 0, False
        self._state: Any = None
        self._signals = np.zeros((0, 8, samples))  # (K, t, N)
        self._responses: list[ResponseTensor] | None = None
        self._M = np.zeros((0, 0, 8, 8))
        self._G = np.zeros((0, 8, 8))
        self._covariance = np.zeros((fields, fields, 8, 8))
        self._observables: dict[str, np.ndarray] = {}

    def step(self) -> None:
        """One step of the march.

        Raises
        ------
        DivergedError
            A field, signal, observable or order parameter is not finite.
        ValueError
            An array of the system has the wrong shape.
        """
        self.broken = True
        with np.errstate(over="ignore", invalid="ignore"):  # DivergedError says it
            self._step(self.steps)
        self.steps, self.broken = self.steps + 1, False

    def _step(self, t: int) -> None:
        covariance = self._checked("covariance", self.closure.covariance(t), self._field_shape(t))
        now = covariance[:, :, t]
        if np.abs(now - now.T).max() > SYMMETRIC * np.abs(now).max():
            raise ValueError(
                f"covariance of step {t} is not symmetric at equal times: <field_a(t) field_b(t)> "
                "is the same for (a, b) and (b, a)"
            )
        self._covariance = enlarged(self._covariance, t + 1, (2, 3))
        self._covariance[:, :, t, : t + 1] = covariance
        self._covariance[:, :, :t, t] = covariance[:, :, :t].transpose(1, 0, 2)
        field = self.gaussian.draw(t, covariance) + self._mean(t)
        kernel = self.closure.kernel(t)
        memory = self._memory(t, kernel)
        out = self.site.step(t, field, memory, self._state, self._rng)
        if not isinstance(out, SiteStep):
            raise TypeError(
                f"step of the single site must return dmft.SiteStep(signal, ...), got "
                f"{type(out).__name__}"
            )
        signal = np.asarray(out.signal, dtype=np.float64)
        self._keep_signal(t, signal)
        averages = Averages(
            self._correlations(t, signal),
            self._response(t, kernel, out.gain),
            self._averaged(t, out.observables),
        )
        self.closure.advance(t, averages)
        self._state = out.state

    def order_parameters(self) -> dict[str, np.ndarray]:
        """Those of the closure after the finished steps."""
        found = self.closure.order_parameters()
        for name, array in found.items():
            self._finite(f"the order parameter {name}", array)
        return {name: np.array(array, dtype=np.float64) for name, array in found.items()}

    def averages(self) -> dict[str, np.ndarray]:
        """Observables, M, G (with a response) and covariance of the finished steps."""
        T = self.steps
        out = {name: x[:T].copy() for name, x in self._observables.items()}
        out["M"] = self._M[..., :T, :T].copy()
        out["covariance"] = self._covariance[..., :T, :T].copy()
        if self._responses:
            out["G"] = self._G[..., :T, :T].copy()
        return out

    # -- the pieces of a step ------------------------------------------------------------------
    def _field_shape(self, t: int) -> tuple[int, ...]:
        return (self.fields, self.fields, t + 1)

    def _checked(self, name: str, array: Any, shape: tuple[int, ...]) -> np.ndarray:
        array = np.asarray(array, dtype=np.float64)
        if array.shape != shape:
            raise ValueError(
                f"{name} of step {self.steps} has shape {array.shape}, expected {shape}"
            )
        self._finite(name, array)
        return array

    def _finite(self, name: str, array: np.ndarray | float) -> None:
        if not np.isfinite(array).all():
            raise DivergedError(
                self.steps,
                f"diverged at step {self.steps}: {name} is no longer finite; lower the step "
                "size, or use more samples or a larger pivot if pivots were dropped",
            )

    def _mean(self, t: int) -> np.ndarray | float:
        given = getattr(self.closure, "mean", None)
        mean = None if given is None else given(t)
        if mean is None:
            return 0.0
        return self._checked("mean", mean, (self.fields, len(self._matched))) @ self._matched

    def _memory(self, t: int, kernel: np.ndarray | None) -> np.ndarray:
        n_signals = len(self._signals)
        if kernel is None:
            return np.zeros((max(n_signals, 1), self.samples))
        kernel = np.asarray(kernel, dtype=np.float64)
        if kernel.ndim != 2 or kernel.shape[1] != t:
            raise ValueError(f"kernel of step {t} has shape {kernel.shape}, expected (K, {t})")
        self._finite("kernel", kernel)
        if not t:
            return np.zeros((len(kernel), self.samples))
        if len(kernel) not in (1, n_signals):
            raise ValueError(
                f"kernel of step {t} has {len(kernel)} rows: one for each of the {n_signals} "
                "signals, or one for all"
            )
        rows = np.broadcast_to(kernel, (n_signals, t))
        return np.stack([k @ past[:t] for k, past in zip(rows, self._signals, strict=True)])

    def _keep_signal(self, t: int, signal: np.ndarray) -> None:
        if signal.ndim != 2 or signal.shape[1] != self.samples:
            raise ValueError(f"signal has shape {signal.shape}, expected (K, {self.samples})")
        if not t:
            n = len(signal)
            self._signals = np.zeros((n, 8, self.samples))
            self._M = np.zeros((n, n, 8, 8))
        self._finite("the signal", signal)
        self._signals = enlarged(self._signals, t + 1, (1,))
        self._signals[:, t] = signal

    def _correlations(self, t: int, signal: np.ndarray) -> np.ndarray:
        """<g_a(t) g_b(s)>, s <= t."""
        now = [past[: t + 1] @ signal.T / self.samples for past in self._signals]  # b: (s, a)
        M = np.stack(now).transpose(2, 0, 1)
        self._M = enlarged(self._M, t + 1, (2, 3))
        self._M[:, :, t, : t + 1] = M
        self._M[:, :, :t, t] = M[:, :, :t].transpose(1, 0, 2)
        return M

    def _response(self, t: int, kernel: np.ndarray | None, gain: Any) -> np.ndarray | None:
        if self._responses is None:
            n = 0 if gain is None else len(gain)
            parts = (self.samples, float(self.site.leak), self.dtype, kernel is not None)
            self._responses = [ResponseTensor(*parts) for _ in range(n)]
            self._G = np.zeros((n, 8, 8))
        if not self._responses:
            return None
        gain = self._checked("gain", gain, (len(self._responses), self.samples))
        rows = None if kernel is None else np.broadcast_to(kernel, (max(len(kernel), len(gain)), t))
        G = np.stack(
            [
                tensor.step(t, None if rows is None else rows[k], gain[k])
                for k, tensor in enumerate(self._responses)
            ]
        )
        self._finite("the response", G)
        self._G = enlarged(self._G, t + 1, (1, 2))
        self._G[:, t, : t + 1] = G
        return G

    def _averaged(self, t: int, observables: Mapping[str, np.ndarray]) -> dict[str, float]:
        for name, x in observables.items():
            if np.shape(x) != (self.samples,):
                raise ValueError(
                    f"observable {name!r} of step {t} has shape {np.shape(x)}, expected "
                    f"({self.samples},): one number per sample"
                )
        means = {name: float(np.mean(x)) for name, x in observables.items()}
        for name, value in means.items():
            self._finite(name, value)
            if not t:
                self._observables[name] = np.zeros(8)
            self._observables[name] = enlarged(self._observables[name], t + 1, (0,))
            self._observables[name][t] = value
        return means
