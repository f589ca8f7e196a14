"""Kernels of infinitely wide networks, and the empirical tangent kernel of a finite one."""
