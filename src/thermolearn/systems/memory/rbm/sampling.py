"""Block Gibbs sampling and parallel tempering of a restricted Boltzmann machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thermolearn.systems.memory.rbm import units
from thermolearn.systems.memory.rbm.noise import Noise
from thermolearn.systems.memory.rbm.units import Weights


def random_visible(w: Weights, n: int, noise: Noise) -> Tensor:
    """n visible states of the machine without couplings."""
    field = w.a.expand(n, -1).contiguous()
    return noise.units_(w.visible, field, torch.empty_like(field))


def sample_hidden(w: Weights, v: Tensor, noise: Noise) -> Tensor:
    """One draw of the hidden layer given the visible one."""
    field = w.hidden_field(v)
    return noise.units_(w.hidden, field, torch.empty_like(field))


def sample_visible(w: Weights, h: Tensor, noise: Noise) -> Tensor:
    """One draw of the visible layer given the hidden one."""
    field = w.visible_field(h)
    return noise.units_(w.visible, field, torch.empty_like(field))


def gibbs(w: Weights, v: Tensor, k: int, noise: Noise) -> tuple[Tensor, Tensor]:
    """k sweeps h | v, v | h from the visible states v (n, n_visible); returns the last (v, h)."""
    h = sample_hidden(w, v, noise)
    for sweep in range(k):
        if sweep:
            h = sample_hidden(w, v, noise)
        v = sample_visible(w, h, noise)
    return v, h


@dataclass
class Tempering:
    """Chains at several inverse temperatures, with couplings beta W and hidden fields beta b.

    The visible field is not scaled: at beta = 0 the chains are independent draws. Replicas next to
    each other swap their states with probability min(1, exp(d)), d = G_r(v') + G_r'(v) - G_r(v) -
    G_r'(v'), G_beta(v) = sum_k ln Z_k(beta (b + v W)_k).

    Attributes
    ----------
    betas : Tensor (R,)
        From 0 to 1, ascending; the last is the machine itself.
    v : Tensor (R, chains, n_visible)
    swapped, tried : int
        Swaps accepted and tried so far.
    """

    betas: Tensor
    v: Tensor
    swapped: int = 0
    tried: int = 0
    parity: int = 0

    @classmethod
    def start(cls, w: Weights, n_replicas: int, n_chains: int, noise: Noise) -> Tempering:
        """Independent chains of the machine without couplings, betas evenly from 0 to 1."""
        if n_replicas < 2:
            raise ValueError(f"n_replicas must be at least 2, got {n_replicas}")
        betas = torch.linspace(0, 1, n_replicas, dtype=w.W.dtype)
        v = random_visible(w, n_replicas * n_chains, noise)
        return cls(betas, v.view(n_replicas, n_chains, -1))

    @property
    def swap_rate(self) -> float:
        """Share of the tried swaps that were accepted."""
        return self.swapped / max(1, self.tried)

    def sweep(self, w: Weights, noise: Noise) -> None:
        """One block Gibbs sweep of every replica, then swaps of alternate neighbors."""
        n_replicas, n_chains, n = self.v.shape
        beta = self.betas.repeat_interleave(n_chains)[:, None]
        field = w.hidden_field(self.v.reshape(-1, n)).mul_(beta)
        h = noise.units_(w.hidden, field, torch.empty_like(field)).mul_(beta)
        v = sample_visible(w, h, noise)
        field = w.hidden_field(v)
        self.v = v.view(n_replicas, n_chains, n)
        self._swap(w, field.view(n_replicas, n_chains, -1), noise)

    def _swap(self, w: Weights, field: Tensor, noise: Noise) -> None:
        low = torch.arange(self.parity, len(self.betas) - 1, 2)
        self.parity = 1 - self.parity
        if len(low) == 0:
            return

        def g(replica: Tensor, state: Tensor) -> Tensor:
            scaled = self.betas[replica][:, None, None] * field[state]
            return units.log_normalizer(w.hidden, scaled).sum(-1)

        high = low + 1
        gain = g(low, high) + g(high, low) - g(low, low) - g(high, high)
        u = noise.uniform_(torch.empty_like(gain))
        accept = (torch.log(u) < gain)[:, :, None]
        below, above = self.v[low], self.v[high]
        self.v[low] = torch.where(accept, above, below)
        self.v[high] = torch.where(accept, below, above)
        self.swapped += int(accept.sum())
        self.tried += accept.numel()
