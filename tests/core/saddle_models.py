"""Free energies of textbook models for the tests of the saddle-point solver."""

import math

import torch

from thermolearn.core.saddle_point import SaddlePoint, gauss_average, log2cosh


def curie_weiss(**options):
    def f(m, *, T, h):
        return m**2 / 2 - T * log2cosh((m + h) / T)

    return SaddlePoint(f, {"m": (-1, 1)}, **options)


def sherrington_kirkpatrick():
    """Maximum over q, as the replica method has it; Sherrington, Kirkpatrick (1975)."""

    def f(q, *, T):
        entropy = gauss_average(lambda z: log2cosh(torch.sqrt(q) * z / T))
        return -((1 - q) ** 2) / (4 * T) - T * entropy

    def replicon(q, *, T):
        return 1 - gauss_average(lambda z: torch.cosh(torch.sqrt(q) * z / T) ** -4) / T**2

    return SaddlePoint(f, {"q": (0, 1)}, maximize=["q"], replicon=replicon)


def hopfield():
    """Amit, Gutfreund, Sompolinsky (1985) with r conjugate to q."""

    def f(m, q, r, *, alpha, T):
        C = (1 - q) / T
        noise = alpha / 2 * (r * (1 - q) / T + T * torch.log(1 - C) - q / (1 - C))
        field = gauss_average(lambda z: log2cosh((m + torch.sqrt(alpha * r) * z) / T))
        return m**2 / 2 + noise - T * field

    def replicon(m, q, r, *, alpha, T):
        field = gauss_average(lambda z: torch.cosh((m + torch.sqrt(alpha * r) * z) / T) ** -4)
        return 1 - alpha / (T - 1 + q) ** 2 * field

    domains = {"m": (-1, 1), "q": (0, 1), "r": (0, math.inf)}
    return SaddlePoint(f, domains, conjugate=[("q", "r")], replicon=replicon)


def hopfield_ground_state():
    """The same at T = 0, where C = beta (1 - q) stays finite."""

    def f(m, C, *, alpha):
        R = alpha / (1 - C) ** 2
        kinetic = m * torch.erf(m / torch.sqrt(2 * R)) + torch.sqrt(2 * R / math.pi) * torch.exp(
            -(m**2) / (2 * R)
        )
        return m**2 / 2 + R * C / 2 - alpha / (2 * (1 - C)) - kinetic

    return SaddlePoint(f, {"m": (-1, 1), "C": (0, 1)})


def binary_perceptron():
    """f = -entropy of the weights that store alpha N random labels; Krauth, Mezard (1989)."""

    def f(q, q_hat, *, alpha):
        weights = gauss_average(lambda z: log2cosh(torch.sqrt(q_hat) * z))
        labels = gauss_average(lambda z: torch.special.log_ndtr(torch.sqrt(q / (1 - q)) * z))
        return q_hat * (1 - q) / 2 - weights - alpha * labels

    return SaddlePoint(f, {"q": (0, 1), "q_hat": (0, math.inf)}, conjugate=[("q", "q_hat")])
