"""The kernel of a torch model in the limit of wide layers: `reading` makes operations of the traced
model, `plan` decides what they need, `recursion` carries the covariances through them."""

from thermolearn.predict.kernels.of_module.kernel import ModuleKernel, kernel_of

__all__ = ["ModuleKernel", "kernel_of"]
