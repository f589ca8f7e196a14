"""Matrix-free linear algebra: Lanczos, stochastic Lanczos quadrature, Hutchinson, Hessians.

Operators are functions ``matvec`` that map a tensor of vectors (..., N) to one of the same shape,
every leading index a vector of its own (and, where the operator is batched, a matrix of its own).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from thermolearn.core.estimate import Estimate, mean_estimate

Matvec = Callable[[Tensor], Tensor]


def lanczos(matvec: Matvec, v0: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Batched Lanczos tridiagonalisation of symmetric operators, fully reorthogonalised.

    With Q = (q_1 ... q_k) orthonormal and q_1 = v0/|v0|,  Q^T A Q = T = tridiag(beta, alpha, beta).

    Parameters
    ----------
    matvec : callable
        A, real and symmetric, (..., N) -> (..., N).
    v0 : Tensor (..., N)
        Starting vectors, not zero.
    k : int
        Steps, 1 <= k <= N. The basis held is k times the size of v0.

    Returns
    -------
    alpha : Tensor (..., k)
        Diagonal of T.
    beta : Tensor (..., k - 1)
        Off-diagonal of T, >= 0. Where v0 lies in an invariant subspace of dimension r < k, T is
        exact after r steps: beta[r-1] = 0 and the diagonal is filled up with alpha[0], which lies
        inside the spectrum and carries no weight.

    Raises
    ------
    ValueError
        k out of range, a zero starting vector, or an operator that changes the shape or returns a
        non-finite number.

    Notes
    -----
    Full reorthogonalisation, by two passes of classical Gram-Schmidt, keeps Q orthonormal to
    rounding, so that no converged eigenvalue is duplicated (Golub & Van Loan, Matrix
    Computations, section 10.3).
    """
    n = v0.shape[-1]
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and the dimension {n}, got {k}")
    norm = torch.linalg.vector_norm(v0, dim=-1)
    if not bool((norm > 0).all()):
        raise ValueError("v0 holds a zero or non-finite starting vector")
    basis = v0.new_empty(*v0.shape[:-1], k, n)
    alpha = v0.new_empty(*v0.shape[:-1], k)
    beta = v0.new_empty(*v0.shape[:-1], k - 1)
    alive = torch.ones_like(norm, dtype=torch.bool)
    scale = torch.zeros_like(norm)
    tiny = 1e3 * torch.finfo(v0.dtype).eps
    q = v0.detach() / norm[..., None]
    for j in range(k):
        basis[..., j, :] = q
        w = matvec(q).detach()
        if w.shape != q.shape:
            raise ValueError(f"matvec maps shape {tuple(q.shape)} to {tuple(w.shape)}")
        diagonal = (q * w).sum(-1)
        alpha[..., j] = torch.where(alive, diagonal, alpha[..., 0])
        if j == k - 1:
            break
        seen = basis[..., : j + 1, :]
        for _ in range(2):
            overlap = seen @ w[..., None]
            w = w - (overlap.mT @ seen)[..., 0, :]
        residual = torch.linalg.vector_norm(w, dim=-1)
        # |A q|^2 = alpha^2 + beta_left^2 + beta_right^2: the running scale of A
        scale = torch.maximum(scale, torch.maximum(diagonal.abs(), residual))
        alive = alive & (residual > tiny * scale)
        beta[..., j] = torch.where(alive, residual, torch.zeros_like(residual))
        q = torch.where(alive[..., None], w / residual[..., None], torch.zeros_like(w))
    if not bool(torch.isfinite(alpha).all() and torch.isfinite(beta).all()):
        raise ValueError("matvec returned a non-finite number; check the operator's parameters")
    return alpha, beta


def probe_lanczos(
    matvec: Matvec,
    n: int,
    batch_shape: Sequence[int],
    k: int,
    n_probes: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Recursions of stochastic Lanczos quadrature, good for every function at once.

    With ``nodes, weights = gauss_rule(alpha, beta)``: tr f(A) = n E_z sum_i w_i f(theta_i), the
    expectation over Rademacher probes z; the spread of ``n * (weights * f(nodes)).sum(-1)`` over
    the probe axis gives the error bar. The quadrature itself is exact for polynomials of degree
    2k - 1, and for any f if k = n.

    Parameters
    ----------
    matvec : callable
        Symmetric operators, one per index of `batch_shape`, applied to tensors
        (*batch_shape, n_probes, n).
    n, k : int
        Dimension, and Lanczos steps (min(k, n) are made).
    batch_shape : sequence of int
        Shape of the batch of operators, ``()`` for one.
    n_probes : int
        Probes per operator; one alone gives no error bar.
    generator : torch.Generator
        Source of the probes; its device is where the work is done.

    Returns
    -------
    alpha, beta : Tensor (*batch_shape, n_probes, min(k, n)) and one shorter
        As of `lanczos`.

    Raises
    ------
    ValueError
        n, k or n_probes below 1, or as `lanczos`.

    References
    ----------
    Ubaru, Chen, Saad, Fast estimation of tr(f(A)) via stochastic Lanczos quadrature, SIAM J.
    Matrix Anal. Appl. 38 (2017) 1075.
    """
    if min(n, k, n_probes) < 1:
        raise ValueError(f"n, k and n_probes must be >= 1, got {n}, {k}, {n_probes}")
    z = _rademacher((*batch_shape, n_probes, n), generator, dtype)
    return lanczos(matvec, z, min(k, n))


def gauss_rule(alpha: Tensor, beta: Tensor, k: int | None = None) -> tuple[Tensor, Tensor]:
    """Nodes and weights (..., k) of the first k steps of a recursion (default: all).

    Nodes are Ritz values in ascending order; weights >= 0 with sum 1 (0 after an early breakdown).
    The change of a result between k/2 and k steps tells how far the recursion has converged.
    """
    k = alpha.shape[-1] if k is None else k
    tridiagonal = torch.diag_embed(alpha[..., :k])
    if k > 1:
        side = beta[..., : k - 1]
        tridiagonal = tridiagonal + torch.diag_embed(side, 1) + torch.diag_embed(side, -1)
    nodes, vectors = torch.linalg.eigh(tridiagonal)
    return nodes, vectors[..., 0, :] ** 2


def hutchinson(
    matvec: Matvec,
    n: int,
    n_probes: int,
    generator: torch.Generator,
    dtype: torch.dtype = torch.float64,
) -> Estimate:
    """tr A = E z^T A z over Rademacher probes z, with its standard error over the probes.

    Parameters
    ----------
    matvec : callable
        A, applied to a tensor (n_probes, n); it need not be symmetric.
    n, n_probes : int
        Dimension, and number of probes (one alone gives stderr NaN).
    generator : torch.Generator
        Source of the probes.

    Raises
    ------
    ValueError
        n or n_probes below 1, or a non-finite product.

    References
    ----------
    Hutchinson, Commun. Stat. Simul. Comput. 18 (1989) 1059. The variance per probe is
    2 (|A_s|_F^2 - sum_i A_ii^2), A_s the symmetric part: no error for a diagonal matrix.
    """
    if min(n, n_probes) < 1:
        raise ValueError(f"n and n_probes must be >= 1, got {n}, {n_probes}")
    z = _rademacher((n_probes, n), generator, dtype)
    samples = (z * matvec(z).detach()).sum(-1)
    if not bool(torch.isfinite(samples).all()):
        raise ValueError("matvec returned a non-finite number; check the operator's parameters")
    return mean_estimate(samples, note=f"Hutchinson trace, {n_probes} Rademacher probes")


def hvp_operator(loss: Callable[[], Tensor], parameters: Iterable[Tensor]) -> Matvec:
    """Products with the Hessian of a scalar loss, v -> H v, for the cost of about a gradient.

    The gradient is taken and its graph kept once; each product is one backward pass through it.

    Parameters
    ----------
    loss : callable
        Takes nothing, returns a scalar that depends on the parameters (twice differentiable; the
        second derivative of a piecewise-linear activation counts as zero).
    parameters : iterable of Tensor
        Tensors that require gradients, in the order of the flat vectors (as in
        ``torch.nn.utils.parameters_to_vector``). They must not be changed in place while the
        operator is in use.

    Returns
    -------
    matvec : callable
        (..., P) -> (..., P), P the number of parameters.

    Raises
    ------
    ValueError
        No parameters, a loss that is not scalar, or (by the product) a vector of another length.

    References
    ----------
    Pearlmutter, Fast exact multiplication by the Hessian, Neural Comput. 6 (1994) 147.
    """
    params = [p for p in parameters if p.requires_grad]
    if not params:
        raise ValueError("parameters holds no tensor that requires a gradient")
    with torch.enable_grad():
        value = loss()
        if value.numel() != 1:
            raise ValueError(f"loss must be a scalar, got shape {tuple(value.shape)}")
        gradient = torch.autograd.grad(
            value.reshape(()), params, create_graph=True, materialize_grads=True
        )
    sizes = [p.numel() for p in params]
    # a parameter that enters linearly has a constant gradient, without a graph
    curved = [i for i, g in enumerate(gradient) if g.requires_grad]

    def one(v: Tensor) -> Tensor:
        parts = [c.view_as(p) for c, p in zip(v.split(sizes), params, strict=True)]
        if not curved:
            return torch.zeros_like(v)
        product = torch.autograd.grad(
            [gradient[i] for i in curved],
            params,
            grad_outputs=[parts[i] for i in curved],
            retain_graph=True,
            materialize_grads=True,
        )
        return torch.cat([h.reshape(-1) for h in product])

    def matvec(v: Tensor) -> Tensor:
        if v.shape[-1] != sum(sizes):
            raise ValueError(f"the vector has {v.shape[-1]} entries, the Hessian {sum(sizes)}")
        flat = v.reshape(-1, v.shape[-1])
        return torch.stack([one(row) for row in flat]).reshape(v.shape)

    return matvec


def _rademacher(shape: tuple[int, ...], generator: torch.Generator, dtype: torch.dtype) -> Tensor:
    """Independent signs +-1."""
    bits = torch.randint(0, 2, shape, generator=generator, device=generator.device)
    return bits.to(dtype) * 2 - 1
