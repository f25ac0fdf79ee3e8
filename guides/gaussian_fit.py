"""What the ways to a Gaussian approximation share: the density as they see it, its curvature, and the climb."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from guides.errors import ModelError

__all__ = ["Density", "NormalApproximation", "Path", "climb", "inverse_factor"]

ROWS = 128  # points per call of the log density at most: each brings a copy of the model's intermediate values
MAX_CLIMB = 100  # steps of L-BFGS; as the climb is whitened, tens are usual
PRECISE = 1e-8  # gain of a step, in nats, that is as good as none
LINE_SEARCH = 30  # evaluations per step; torch's own default leaves one, if asked for one step at a time
FLAT = 1e-4  # least curvature along a direction without any, in units of the curvature of single coordinates


@dataclass(frozen=True)
class NormalApproximation:
    r"""Hold a Gaussian :math:`\mathcal N(m, L L^\top)`.

    Args:
        loc: The mean :math:`m`, shape ``(D,)``.
        scale_tril: The factor :math:`L`, lower triangular with positive diagonal, shape ``(D, D)``.
    """

    loc: Tensor
    scale_tril: Tensor

    @classmethod
    def along(cls, loc: Tensor, directions: Tensor, dtype: torch.dtype) -> NormalApproximation:
        r"""Make the one with covariance :math:`W W^\top`.

        Args:
            loc: The mean, shape ``(D,)``.
            directions: Any square factor :math:`W`, shape ``(D, D)``.
            dtype: What the result is given in.

        Raises:
            ModelError: If that is not finite and positive definite in ``dtype``.

        Example:
            >>> W = torch.tensor([[0.0, 2.0], [3.0, 0.0]])
            >>> NormalApproximation.along(torch.zeros(2), W, torch.float32).scale_tril
            tensor([[2., 0.],
                    [0., 3.]])
        """
        # By QR and not by way of the covariance, whose condition number is the square of that of its factor.
        upper = torch.linalg.qr(directions.T).R
        lower = (upper.T * upper.diagonal().sign()).tril() + 0.0
        loc, lower = loc.to(dtype), lower.to(dtype)
        if not (loc.isfinite().all() and lower.isfinite().all() and (lower.diagonal() > 0).all()):
            raise ModelError(
                f"the Gaussian approximation of the posterior cannot be written in {dtype}: a location or scale in it "
                "is infinite, or zero. The log density is unbounded or flat; give the latents proper priors."
            )
        return cls(loc, lower)


class Density:
    """Evaluate a log density, its gradient and its curvature, in float64 to the outside and in its own dtype within.

    Values that are not finite read as minus infinity.

    Args:
        log_density: Maps ``(*S, D)`` to ``(*S,)``, each row by itself, twice differentiable.
        dtype: The dtype it takes.
    """

    def __init__(self, log_density: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
        self.log_density = log_density
        self.dtype = dtype

    def value(self, points: Tensor) -> Tensor:
        """Evaluate the log density at ``points``, ``(N, D)`` to ``(N,)``."""
        with torch.no_grad():
            values = torch.cat([self.log_density(rows.to(self.dtype)).double() for rows in points.split(ROWS)])
        return torch.where(values.isfinite(), values, -torch.inf)

    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate also its gradient, ``(N, D)`` to ``(N,)`` and ``(N, D)``."""
        values, gradients = [], []
        for rows in points.split(ROWS):
            _, value, gradient = self._graph(rows, create_graph=False)
            values.append(value.detach().double())
            gradients.append(gradient.double())
        value, gradient = torch.cat(values), torch.cat(gradients)
        finite = value.isfinite() & gradient.isfinite().all(-1)
        return torch.where(finite, value, -torch.inf), gradient

    def precision(self, point: Tensor) -> Tensor:
        """Evaluate minus its Hessian, ``(D,)`` to ``(D, D)``: copy i of the point carries row i."""
        hessian = []
        for coordinates in torch.arange(len(point), device=point.device).split(ROWS):
            inputs, _, gradient = self._graph(point.expand(len(coordinates), -1), create_graph=True)
            with torch.inference_mode(False), torch.enable_grad():
                own = gradient.gather(-1, coordinates[:, None]).sum() + 0.0 * inputs.sum()
            hessian.append(torch.autograd.grad(own, inputs)[0].double())
        rows = torch.cat(hessian)
        return -(rows + rows.T) / 2

    def _graph(self, points: Tensor, *, create_graph: bool) -> tuple[Tensor, Tensor, Tensor]:
        with torch.inference_mode(False), torch.enable_grad():
            inputs = points.detach().to(self.dtype).clone().requires_grad_()
            value = self.log_density(inputs)
            total = value.sum() + 0.0 * inputs.sum()  # a constant has a gradient too
            (gradient,) = torch.autograd.grad(total, inputs, create_graph=create_graph)
        return inputs, value, gradient


def inverse_factor(precision: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    r"""Factor the inverse of a symmetric matrix, made positive definite where it is not.

    .. math::
        P = U A U, \quad A = Q \operatorname{diag}(\lambda) Q^\top, \quad
        W = U^{-1} Q \operatorname{diag}(|\lambda|^{-1/2}), \quad W W^\top = |P|^{-1}

    The diagonal :math:`U` takes the units out: the largest entry in each row of :math:`A` is 1 in size, and for a
    positive definite :math:`P` its diagonal is 1. Eigenvalues above rounding stay; of the others, those below ``FLAT``
    in size are raised to it.

    Args:
        precision: :math:`P`, shape ``(D, D)``.
        dtype: The dtype it was computed in, for the size of its rounding.

    Returns:
        :math:`W`, ``(D, D)``, and :math:`\lambda`, ``(D,)``, ascending; the identity and ones if :math:`P` is not
        finite.

    Example:
        >>> W, eigenvalues = inverse_factor(torch.tensor([[4e8, 0.0], [0.0, -1e-4]]), torch.float32)
        >>> W
        tensor([[0.0000e+00, 5.0000e-05],
                [1.0000e+02, 0.0000e+00]])

    References:
        Michael Betancourt, A general metric for Riemannian manifold Hamiltonian Monte Carlo, 2013,
        https://arxiv.org/abs/1212.4693, section 2 (SoftAbs; ours has a corner where that is smooth). Daniel Ruiz,
        A scaling algorithm to equilibrate both rows and columns norms in matrices, 2001, RAL-TR-2001-034.
    """
    if not precision.isfinite().all():
        return torch.eye(len(precision)).to(precision), torch.ones(len(precision)).to(precision)
    units = _or_one(precision.diagonal().abs().sqrt())
    for _ in range(20):  # the error of Ruiz's scaling halves its exponent each time
        scaled = precision / units[:, None] / units
        units = units * _or_one(scaled.abs().amax(-1).sqrt())
    eigenvalues, vectors = torch.linalg.eigh(precision / units[:, None] / units)
    rounding = len(units) * torch.finfo(dtype).eps * eigenvalues.abs().max()
    sizes = torch.where(eigenvalues > rounding, eigenvalues, eigenvalues.abs().clamp(min=FLAT))
    return vectors / sizes.sqrt() / units[:, None], eigenvalues


def _or_one(sizes: Tensor) -> Tensor:
    return torch.where(sizes > 0, sizes, 1.0)


@dataclass(frozen=True)
class Path:
    r"""The points of a climb, in the coordinates :math:`v` of :math:`u = u_0 + W v`.

    Args:
        start: :math:`u_0`, shape ``(D,)``.
        directions: :math:`W`, shape ``(D, D)``.
        whitened: The points :math:`v`, shape ``(L, D)``, the first of them 0.
        gradients: The gradients of the log density in :math:`v`, shape ``(L, D)``.
        values: The log density, shape ``(L,)``.
    """

    start: Tensor
    directions: Tensor
    whitened: Tensor
    gradients: Tensor
    values: Tensor

    @property
    def arrived(self) -> bool:
        """Whether the climb ended by itself; else it was still rising when its steps were used up."""
        return len(self.values) <= MAX_CLIMB

    def points(self, whitened: Tensor) -> Tensor:
        """Map coordinates :math:`v` to :math:`u`, ``(*, D)`` to ``(*, D)``."""
        return self.start + whitened @ self.directions.T


def climb(density: Density, starts: Tensor, *, history: int) -> Iterator[Path]:
    """Climb a log density by L-BFGS from every start at which it and its gradient are finite, one after the other.

    Each climb is whitened by the curvature at its start, so that units and correlations do not slow it.

    Args:
        density: The log density.
        starts: Where to start, shape ``(num_starts, D)``.
        history: How many steps L-BFGS remembers.

    Raises:
        ModelError: If the log density or its gradient is finite at no start.
    """
    starts = starts.detach().double()
    usable = starts[starts.isfinite().all(-1)]
    if len(usable):
        usable = usable[density.value_and_gradient(usable)[0].isfinite()]
    if not len(usable):
        raise ModelError(
            f"the log density or its gradient is not finite at any of the {len(starts)} starts. Check that the priors "
            "allow the data, and that no scale, rate or probability overflows at moderate values of the latents; or "
            "start elsewhere."
        )
    return (_climb_from(density, start, history) for start in usable)


def _climb_from(density: Density, start: Tensor, history: int) -> Path:
    directions, _ = inverse_factor(density.precision(start), density.dtype)
    whitened = torch.zeros_like(start, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [whitened], max_iter=1, max_eval=LINE_SEARCH, history_size=history, line_search_fn="strong_wolfe"
    )
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    before: list[tuple[Tensor, Tensor, Tensor]] = []

    def evaluate(at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for known in before:  # a step begins where the line search before it ended
            if torch.equal(known[0], at):
                return known
        value, gradient = density.value_and_gradient((start + directions @ at)[None])
        return at, gradient[0] @ directions, value[0]

    def loss() -> Tensor:
        seen.append(evaluate(whitened.detach().clone()))
        _, gradient, value = seen[-1]
        # torch's line search halves the step where the loss is infinite and the slope is not a number.
        whitened.grad = -gradient if value.isfinite() else torch.full_like(gradient, torch.nan)
        return -value

    path: list[tuple[Tensor, Tensor, Tensor]] = []
    rounding = torch.finfo(density.dtype).eps
    while len(path) <= MAX_CLIMB:
        optimiser.step(loss)
        path.append(seen[0])
        before[:] = seen
        seen.clear()
        if not whitened.isfinite().all() or torch.equal(path[-1][0], whitened):
            break
        if len(path) > 1 and path[-1][2] - path[-2][2] <= PRECISE + rounding * path[-1][2].abs():
            break
    return Path(start, directions, *(torch.stack(parts) for parts in zip(*path, strict=True)))
