"""What the Metropolis operator says of the chains."""

from __future__ import annotations

from dataclasses import replace

from thermolearn.core.estimate import Estimate
from thermolearn.systems.sampling.metropolis.jumps import ExponentialJump, GaussianJump, UniformJump
from thermolearn.systems.sampling.metropolis.operator import MetropolisOperator
from thermolearn.systems.sampling.metropolis.params import Params
from thermolearn.systems.sampling.metropolis.potentials import Potential, box, harmonic, power
from thermolearn.systems.sampling.metropolis.radial import RadialMetropolisOperator

LAWS = {"uniform": UniformJump, "gaussian": GaussianJump, "exponential": ExponentialJump}


def theory(p: Params) -> dict[str, Estimate]:
    """Stationary averages by quadrature, eigenvalues of the operator on a grid.

    Parameters
    ----------
    p : Params

    Returns
    -------
    dict of Estimate
        acceptance : stationary mean of the acceptance probability.
        mean_square_jump : <|x_{n+1} - x_n|^2>, rejected jumps counting 0.
        odd_eigenvalue, even_eigenvalue : Lambda of both parity sectors; in d > 1 of the vector
            sector (l = 1) and the isotropic one (l = 0). Status ``"localised"`` or
            ``"continuum"`` where the sector has no isolated mode above the continuum.
    """
    jump, potential = LAWS[p.jump](p.length), potential_of(p)
    if p.dimension == 1:
        operator = MetropolisOperator(potential, jump, p.beta)
        odd, even = (operator.relaxation_eigenvalue(parity) for parity in ("odd", "even"))
    else:
        assert isinstance(jump, GaussianJump)
        operator = RadialMetropolisOperator(p.dimension, potential, jump, p.beta)
        odd, even = (operator.relaxation_eigenvalue(sector) for sector in (1, 0))
    return {
        "acceptance": operator.acceptance(),
        "mean_square_jump": operator.esjd(),
        "odd_eigenvalue": _usable(odd),
        "even_eigenvalue": _usable(even),
    }


def potential_of(p: Params) -> Potential:
    """U of the parameters."""
    if p.potential == "box":
        return box()
    return {"harmonic": harmonic(), "quartic": power(4), "absolute": power(1)}[p.potential]


def _usable(found: Estimate) -> Estimate:
    return replace(found, status="ok") if found.status == "isolated" else found
