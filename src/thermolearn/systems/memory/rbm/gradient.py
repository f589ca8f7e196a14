"""Likelihood gradients: data minus model statistics, centered, from samples or exact.

d ln p(X) / dW = <v h^T>_data - <v h^T>_model, with the mean of h given v in both averages.
References: G. Hinton, Neural Comput. 14 (2002) 1771 (CD); T. Tieleman, ICML 2008 (PCD);
J. Melchior, A. Fischer, L. Wiskott, arXiv:1311.1354 (centering).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from thermolearn.systems.memory.rbm import enumeration, units
from thermolearn.systems.memory.rbm.noise import Noise
from thermolearn.systems.memory.rbm.sampling import Tempering
from thermolearn.systems.memory.rbm.units import Weights

METHODS = ("cd", "pcd", "pt", "exact")
# weight of the present batch in the running mean of the hidden layer
OFFSET_RATE = 0.05


@dataclass(eq=False)
class Gradient:
    """d mean ln p(X) / d(W, a, b); the tensors are buffers, overwritten by the next call."""

    W: Tensor
    a: Tensor
    b: Tensor


class GradientSampler:
    """Gradient of one machine, with its chains and work space; the weights are read in place.

    The chains hold (v, h), and h is drawn together with the statistics of a step, so that a
    PCD step of k sweeps costs k matrix products on the chains less than redrawing h would.

    Parameters
    ----------
    w : Weights
        The machine, updated in place by the caller.
    batch_size, n_chains : int
        Rows of data and of chains; with "cd" the chains are the batch.
    method : {"cd", "pcd", "pt", "exact"}
    k : int
        Sweeps per gradient.
    n_replicas : int
        Inverse temperatures of "pt".
    centered : bool
        Subtract `visible_offset` and the running mean of h from the units in the gradient.
    visible_offset : Tensor (n_visible,)
        Mean of the data.
    noise : Noise
    """

    def __init__(
        self,
        w: Weights,
        batch_size: int,
        n_chains: int,
        method: str,
        k: int,
        n_replicas: int,
        centered: bool,
        visible_offset: Tensor,
        noise: Noise,
    ):
        self.w, self.method, self.k, self.centered, self.noise = w, method, k, centered, noise
        self.visible_offset = visible_offset.to(w.W.dtype)
        self.hidden_offset = units.mean(w.hidden, w.b.clone())
        self.gradient = Gradient(*(torch.empty_like(x) for x in (w.W, w.a, w.b)))
        self.tempering: Tempering | None = None
        self._v = w.W.new_zeros(0, w.n_visible)
        self.batch_size, self.n_chains = 0, -1
        self.set_rows(batch_size, {"cd": batch_size, "exact": 0}.get(method, n_chains))
        if method == "pt":
            self.tempering = Tempering.start(w, n_replicas, n_chains, noise)
        elif method == "pcd":
            self.chain_v.copy_(self._draws_with_data_mean())
            self._draw_h(w.hidden_field(self.chain_v))

    def set_rows(self, batch_size: int, n_chains: int) -> None:
        """Make room for other numbers of rows; chains of an unchanged number are kept."""
        w, old = self.w, self.chain_v
        rows, like = batch_size + n_chains, w.W
        self._v, self._h = like.new_zeros(rows, w.n_visible), like.new_zeros(rows, w.n_hidden)
        self.batch_size = batch_size
        if n_chains == self.n_chains:
            self.chain_v.copy_(old)
            return
        self.n_chains = n_chains
        self._v_field = like.new_empty(n_chains, w.n_visible)
        self._h_field = like.new_empty(n_chains, w.n_hidden)
        self.chain_h = like.new_zeros(n_chains, w.n_hidden)

    @property
    def chain_v(self) -> Tensor:
        """Visible states of the chains, a view (n_chains, n_visible)."""
        return self._v[self.batch_size :]

    def _draws_with_data_mean(self) -> Tensor:
        """Independent visible units with the mean of the data."""
        field = units.field_of_mean(self.w.visible, self.visible_offset)
        field = field.expand(self.n_chains, -1).contiguous()
        return self.noise.units_(self.w.visible, field, torch.empty_like(field))

    def _draw_h(self, field: Tensor) -> None:
        self.noise.units_(self.w.hidden, field, self.chain_h)

    def __call__(self, batch: Tensor) -> Gradient:
        """The gradient on a batch (rows, n_visible) after k sweeps of the chains."""
        if len(batch) != self.batch_size:
            self.set_rows(len(batch), len(batch) if self.method == "cd" else self.n_chains)
        self._v[: self.batch_size] = batch
        if self.method == "exact":
            return self._exact()
        w = self.w
        if self.tempering is not None:
            for _ in range(self.k):
                self.tempering.sweep(w, self.noise)
            self.chain_v.copy_(self.tempering.v[-1])
        else:
            if self.method == "cd":
                self._draw_h(w.hidden_field(batch))
            self._sweeps()
        torch.addmm(w.b, self._v, w.W, out=self._h)
        self._keep_hidden_draw()
        return self._difference()

    def _sweeps(self) -> None:
        """v | h, then (h | v, v | h) k - 1 times; h | v comes with the statistics."""
        w = self.w
        for sweep in range(self.k):
            if sweep:
                self._draw_h(torch.addmm(w.b, self.chain_v, w.W, out=self._h_field))
            torch.addmm(w.a, self.chain_h, w.W.T, out=self._v_field)
            self.noise.units_(w.visible, self._v_field, self.chain_v)

    def _keep_hidden_draw(self) -> None:
        """Turn hidden fields into means, and draw the chains' next hidden states from them."""
        kind, chain = self.w.hidden, self._h[self.batch_size :]
        if self.method == "pcd" and kind == "gaussian":
            self._draw_h(self._h_field.copy_(chain))
        if kind == "ising":  # tanh x = 2 sigmoid(2 x) - 1: one transcendental pass
            torch.sigmoid(self._h.mul_(2), out=self._h)
        else:
            units.mean(kind, self._h, out=self._h)
        if self.method == "pcd" and kind != "gaussian":
            self.noise.from_probability_(kind, chain, self.chain_h)
        if kind == "ising":
            self._h.mul_(2).sub_(1)

    def _difference(self) -> Gradient:
        """Weighted sum over the rows: 1 / batch_size for data, -1 / n_chains for chains."""
        data, chain = self._h[: self.batch_size], self._h[self.batch_size :]
        mean_h = data.mean(0)
        data.mul_(1 / self.batch_size)
        chain.mul_(-1 / self.n_chains)
        g = self.gradient
        torch.mm(self._v.T, self._h, out=g.W)
        torch.sum(self._h, 0, out=g.b)
        torch.sub(self._v[: self.batch_size].mean(0), self.chain_v.mean(0), out=g.a)
        return self._center(mean_h)

    def _exact(self) -> Gradient:
        w, g = self.w, self.gradient
        h = units.mean(w.hidden, w.hidden_field(self._v))
        model = enumeration.moments(w)
        g.W.copy_(self._v.T @ h / len(h) - model.product)
        g.a.copy_(self._v.mean(0) - model.visible)
        mean_h = h.mean(0)
        g.b.copy_(mean_h - model.hidden)
        return self._center(mean_h)

    def _center(self, mean_h: Tensor) -> Gradient:
        """The gradient in the centered parameters, carried back to W, a and b."""
        g = self.gradient
        if not self.centered:
            return g
        self.hidden_offset.lerp_(mean_h, OFFSET_RATE)
        g.W.addr_(self.visible_offset, g.b, alpha=-1).addr_(g.a, self.hidden_offset, alpha=-1)
        g.a.addmv_(g.W, self.hidden_offset, alpha=-1)
        g.b.addmv_(g.W.T, self.visible_offset, alpha=-1)
        return g

    # -- the state, for a run that is continued bit for bit --------------------------------------
    def state(self) -> dict[str, Tensor]:
        """What the next call depends on, beside the weights; copies."""
        out = {
            "visible_offset": self.visible_offset,
            "hidden_offset": self.hidden_offset,
            "chain_v": self.chain_v,
            "chain_h": self.chain_h,
            "noise": torch.from_numpy(self.noise.state.view("int32")),
        }
        if self.tempering is not None:
            t = self.tempering
            out["replicas"] = t.v
            out["swaps"] = torch.tensor([t.swapped, t.tried, t.parity])
        return {name: x.clone() for name, x in out.items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`, for the same settings."""
        if len(state["chain_v"]) != self.n_chains:
            self.set_rows(self.batch_size, len(state["chain_v"]))
        self.chain_v.copy_(state["chain_v"])
        self.chain_h.copy_(state["chain_h"])
        self.visible_offset.copy_(state["visible_offset"])
        self.hidden_offset.copy_(state["hidden_offset"])
        self.noise.state[...] = state["noise"].numpy().view("uint32")
        if self.tempering is not None:
            self.tempering.v.copy_(state["replicas"])
            t = self.tempering
            t.swapped, t.tried, t.parity = (int(x) for x in state["swaps"])
