"""The empirical tangent kernel of a finite network: by products of layers where that is exact, by
Jacobians elsewhere."""

from thermolearn.predict.kernels.empirical.tangent_kernel import empirical_ntk

__all__ = ["empirical_ntk"]
