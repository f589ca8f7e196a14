"""The recursion itself: covariance K and tangent kernel T of every signal, layer by layer.

Over one axis of samples (every input with itself) or two (a block of a Gram matrix); behind these
the positions, and the positions again where all pairs of them count (`Layout`).
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from thermolearn.core.activation import Activation
from thermolearn.core.errors import NotApplicableError
from thermolearn.predict.kernels.dual import Dual, dual
from thermolearn.predict.kernels.of_module.convolutional import window_mean
from thermolearn.predict.kernels.of_module.layout import Layout, average_positions, equal_positions
from thermolearn.predict.kernels.of_module.normalization import normalized, statistics, with_gains
from thermolearn.predict.kernels.of_module.operations import Act, Op
from thermolearn.predict.kernels.of_module.plan import Plan
from thermolearn.predict.kernels.of_module.shapes import linear_on
from thermolearn.predict.kernels.of_module.signals import (
    Profile,
    Sides,
    Signal,
    equal_only,
    folded,
    scaled,
    summed,
)

NOTHING = 1e-100  # E phi(u)^2 of u = 0, by a quadrature that has no variance 0


class Recursion:
    """One pass over a plan.

    Parameters
    ----------
    plan : Plan
    tangent : bool
        Whether the tangent kernel is wanted beside the covariance.
    standard : bool
        Gradients with respect to the weights themselves, not to weights of unit variance.
    """

    def __init__(self, plan: Plan, tangent: bool, standard: bool):
        self.plan, self.tangent, self.standard = plan, tangent, standard
        self.means = any(
            o.norm is not None and o.norm.centered and plan.ops[o.inputs[0]].roots is None
            for o in plan.ops
        )

    def own(self, data: dict[int, Tensor]) -> tuple[Signal, Profile]:
        """Every input with itself."""
        profile = Profile()
        return self._run(data, data, profile, profile, None), profile

    def prepare(self, profile: Profile) -> None:
        """Averages without a closed form: one table for all the variances of a layer, before the
        blocks ask for one each."""
        for k, q in profile.variance.items():
            act = self.plan.ops[k].act
            if act is not None and not act.dual.closed_form:
                refuse_silent(self.plan.ops[k], q)
                act.dual.pair(q.min(), q.max(), torch.zeros_like(q.max()), slope=self.tangent)

    def cross(
        self,
        one: dict[int, Tensor],
        other: dict[int, Tensor],
        profile_one: Profile,
        profile_other: Profile,
        same: Tensor,
    ) -> Signal:
        """Every input with every other; `same` (n1, n2) marks pairs of equal inputs."""
        where = torch.nonzero(same, as_tuple=True) if bool(same.any()) else None
        return self._run(one, other, profile_one, profile_other, where or (same[:0, 0],) * 2)

    # -- the pass ------------------------------------------------------------------------------
    def _run(
        self,
        one: dict[int, Tensor],
        other: dict[int, Tensor],
        profile_one: Profile,
        profile_other: Profile,
        same: tuple[Tensor, ...] | None,
    ) -> Signal:
        plan, signals = self.plan, {}
        lead = 1 if same is None else 2
        for k, op in enumerate(plan.ops):
            at = plan.layouts[k]
            if at is None:
                continue
            full = plan.full[k] or op.kind == "pool"
            inputs = []
            for i in op.inputs:
                layout = plan.layouts[i]
                if layout is None:
                    layout = plan.data_layout(i, k)
                    signal = self._data(one[i], other[i], layout, lead, full)
                else:
                    signal = signals[i]
                    if plan.full[i] and not full:
                        signal = equal_only(signal, layout)
                inputs.append((signal, layout))
            sides = Sides(lead, len(inputs[0][1].positions), full, same)
            signals[k] = self._step(k, inputs, at, (profile_one, profile_other), sides)
            for i in set(op.inputs):
                if plan.ops[i].readers[-1] == k:
                    signals.pop(i, None)
        return self._output(signals[plan.result], lead)

    def _step(
        self,
        k: int,
        inputs: list[tuple[Signal, Layout]],
        at: Layout,
        profiles: tuple[Profile, Profile],
        sides: Sides,
    ) -> Signal:
        """What operation k puts out."""
        op, (signal, layout) = self.plan.ops[k], inputs[0]
        if op.layer is not None:
            return self._affine(op, signal, layout, sides.lead, sides.full)
        if op.act is not None:
            return self._activation(k, op, signal, *profiles, sides)
        if op.norm is not None:
            return self._norm(k, op, inputs[0], *profiles, sides)
        if op.kind == "sum":
            return summed(op, inputs, at, sides.lead, sides.full)
        if op.kind == "pool":
            return self._pool(k, signal, layout, sides.lead)
        return scaled(signal, op.factors[0]) if op.kind == "scale" else signal

    def _output(self, found: Signal, lead: int) -> Signal:
        """Without the one position that is left."""
        last = self.plan.result
        layout = self.plan.layouts[last]
        assert layout is not None
        if self.plan.full[last]:
            found = equal_only(found, layout)
        if found.own is not None or found.mixed:
            raise NotApplicableError(
                f"the output neurons read {found.gain} without a "
                "Linear or Conv layer between: the tangent kernel of its trained scale stays "
                "random from neuron to neuron; freeze it, or pass the model with its readout"
            )
        shape = found.k.shape[:lead]
        theta = None if found.theta is None else found.theta.expand_as(found.k).reshape(shape)
        return Signal(found.k.reshape(shape), theta)

    def _data(self, x: Tensor, y: Tensor, layout: Layout, lead: int, full: bool) -> Signal:
        """K = x x' / width over the axis that the first layer sums, for given inputs."""
        axis = layout.neuron_axis + 1
        x, y = (t.movedim(axis, -1).flatten(1, -2) if t.dim() > 2 else t[:, None] for t in (x, y))
        if lead == 1:
            k = x @ y.transpose(1, 2) if full else (x * y).sum(-1)
            n = (len(x),)
        else:
            n = (len(x), len(y))
            if full:
                k = x.flatten(0, 1) @ y.flatten(0, 1).T
                k = k.reshape(len(x), x.shape[1], len(y), y.shape[1]).transpose(1, 2)
            else:
                k = (x.transpose(0, 1) @ y.permute(1, 2, 0)).permute(1, 2, 0)
        positions = layout.positions * 2 if full else layout.positions
        mean = x.mean(-1).reshape(len(x), *layout.positions) if lead == 1 else None
        return Signal((k / layout.width).reshape(*n, *positions), mean=mean)

    def _affine(self, op: Op, signal: Signal, layout: Layout, lead: int, full: bool) -> Signal:
        """K' = sigma_w2 <K> + sigma_b2; T' = sigma_w2 <T> + [weights] <K> + [biases]."""
        layer, window = op.layer, op.window
        assert layer is not None
        axis = layout.neuron_axis
        sizes = tuple(s for i, s in enumerate(layout.sizes()) if i != axis)

        def mean(k: Tensor) -> Tensor:
            k = average_positions(k.expand_as(signal.k), layout, axis, full)
            if window is None:
                return k
            k = k.reshape(*k.shape[:lead], *(sizes * 2 if full else sizes))
            return window_mean(k, window, lead, full)

        k = mean(signal.k)
        out = layer.sigma_w2 * k + layer.sigma_b2
        if not self.tangent:
            return Signal(out)
        weights = (layer.fan_in if self.standard else layer.sigma_w2) * layer.trained[0]
        biases = (1.0 if self.standard else layer.sigma_b2) * layer.trained[1]
        theta = folded(signal).theta
        if theta is not None:
            theta = layer.sigma_w2 * mean(theta)
            theta = theta.add_(k, alpha=weights).add_(biases)
        elif weights or biases:
            theta = weights * k + biases
        return Signal(out, theta)

    def _activation(
        self, k: int, op: Op, signal: Signal, one: Profile, other: Profile, sides: Sides
    ) -> Signal:
        """K' = E phi(u) phi(v), T' = T E phi'(u) phi'(v) + own E phi'(u) phi'(v) u v."""
        assert op.act is not None
        if signal.mixed:
            raise NotApplicableError(
                f"{op.name} reads {signal.gain} through a sum or an average: the tangent kernel "
                "of its trained scale stays random from neuron to neuron; freeze that scale, or "
                "put a Linear or Conv layer between"
            )
        own = signal.own if self.tangent else None
        wanted = signal.theta is not None
        mean = None
        if sides.same is None:
            q = equal_positions(signal.k, sides.rank) if sides.full else signal.k
            one.variance[k] = q
            if sides.full:
                refuse_silent(op, q)
            mean = op.act.dual.mean(q) if self.means else None
        average = sides.averages(signal.k, one.variance[k], other.variance[k])
        value, slope = average(op.act.dual, wanted)
        theta = slope * signal.theta if slope is not None and signal.theta is not None else None
        if own is not None:
            part = own * average(_steep(op.act), False)[0]
            theta = part if theta is None else theta + part
        return Signal(value, theta, mean=mean)

    def _norm(
        self,
        k: int,
        op: Op,
        given: tuple[Signal, Layout],
        one: Profile,
        other: Profile,
        sides: Sides,
    ) -> Signal:
        signal, layout = given
        assert op.norm is not None
        if sides.same is None:
            one.norm[k] = statistics(op.name, op.norm, signal, layout, sides)
        found = normalized(op.norm, signal, layout, one.norm[k], other.norm[k], sides)
        return with_gains(op, found, layout, sides) if self.tangent else found

    def _pool(self, k: int, signal: Signal, layout: Layout, lead: int) -> Signal:
        rank, axis = len(layout.positions), layout.neuron_axis
        full = self.plan.full[k]
        signal = folded(signal)
        pool = self.plan.pools[k]
        apply = lambda t: linear_on(pool, t, lead, rank, full, axis)  # noqa: E731
        mean = signal.mean
        if mean is not None:
            one = mean.unsqueeze(1 + axis)
            mean = pool(one).squeeze(1 + axis)
        theta = None if signal.theta is None else apply(signal.theta.expand_as(signal.k))
        return Signal(apply(signal.k), theta, None, mean, signal.gain, signal.mixed)


def refuse_silent(op: Op, q: Tensor) -> None:
    """Variances of which some are exactly 0, for a table of averages that are 0 there."""
    assert op.act is not None
    dual = op.act.dual
    if dual.closed_form or not bool((q == 0).any()) or not bool((q > 0).any()):
        return
    if bool(dual.diagonal(torch.zeros_like(q.flatten()[:1]))[0] < NOTHING):
        raise NotApplicableError(
            f"{op.name} reads exactly 0 for some input or position (zeros or padding alone, and no "
            f"bias in front): the averages of {dual.name}, which are tabulated relative to their "
            "own size, are not known there; give the layer in front a bias (sigma_b2 > 0), pad "
            "less, leave such inputs out, or use ReLU or GELU"
        )


def _steep(act: Act) -> Dual:
    """The dual activation of z phi'(z)."""
    if act.dual.slope is not None:  # phi is positively homogeneous: z phi' = phi
        return act.dual
    return _steep_dual(act.activation)


@lru_cache(maxsize=32)
def _steep_dual(activation: Activation) -> Dual:
    function = activation.function

    def steep(z: Tensor) -> Tensor:
        with torch.enable_grad():
            z = z if z.requires_grad else z.detach().requires_grad_()
            f = function(z)
            (slope,) = torch.autograd.grad(f.sum(), z, create_graph=True)
            return z * slope

    return dual(Activation(f"z {activation.name}'", steep, activation.kinks))
