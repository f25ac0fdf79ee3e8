"""NormalSpace: the model's density over a normal law that has a guide's mean and covariance."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from guides.errors import DataError
from guides.latent_space import LatentSpace
from guides.target import log_standard_normal

__all__ = ["NormalSpace"]

#: A covariance is estimated in full from at least so many draws a dimension; below, only its diagonal.
DRAWS_PER_DIMENSION = 10

#: Added to each variance, in its own units, against rounding in the factorisation.
RIDGE = 1e-8


class NormalSpace:
    r"""Present the model's density over that of a normal law as a function of standardised latents.

    .. math::
        \log w(e) = \log p(x, T(m + L e)) + \log |\det \partial T / \partial u| - \log N(m + L e; m, L L^\top)

    with the mean m and covariance of a guide's draws over the unconstrained latents. It has what a guide need not have,
    and what a path *from* the posterior needs: the noise e that any given latents are made from.

    Args:
        model: Any Pyro model.
        args: Its arguments.
        latents: The guide's draws by site, ``(S, *batch, *event)``.
        amortised: Whether the data are independent, with a normal law for each.
        vectorize_particles: Whether the model can be run on a batch of particles.

    Raises:
        ModelError: If :class:`guides.LatentSpace` cannot present the model.
        DataError: If draws are not finite, or all the same.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        args: tuple[Any, ...],
        latents: Mapping[str, Tensor],
        *,
        amortised: bool,
        vectorize_particles: bool,
    ) -> None:
        self.args, self.vectorized = args, vectorize_particles
        self.space = LatentSpace(model, *args, amortised=amortised)
        vectors = self.space.unconstrain(latents).double()
        #: The sizes of the independent plates.
        self.plates_shape = vectors.shape[1:-1]
        self.device = vectors.device
        self.loc = vectors.mean(0)
        centred = (vectors - self.loc).movedim(0, -2)  # (*plates, S, D)
        scale = centred.square().mean(-2).sqrt()
        if not (scale.isfinite() & (scale > 0)).all():
            raise DataError("the guide's draws must be finite, and differ in every latent; got some that do not.")
        correlations = torch.diag_embed(torch.ones_like(scale))
        if len(vectors) >= DRAWS_PER_DIMENSION * self.dim:
            units = centred / scale[..., None, :]
            correlations = RIDGE * correlations + units.mT @ units / len(vectors)
        self.scale_tril = scale[..., None] * torch.linalg.cholesky(correlations)

    @property
    def dim(self) -> int:
        """D, the number of latent dimensions of one datum, or of all."""
        return self.space.dim

    def draw(self, num: int) -> Tensor:
        """Draw noise, ``(num, *plates, D)``."""
        return torch.randn(num, *self.plates_shape, self.dim, dtype=torch.float64, device=self.device)

    def noise_of(self, latents: Mapping[str, Tensor]) -> Tensor:
        """The noise ``(R, *plates, D)`` that values of the sites, ``(R, *batch, *event)`` each, are made from."""
        centred = self.space.unconstrain(latents).double() - self.loc
        return torch.linalg.solve_triangular(self.scale_tril, centred[..., None], upper=False)[..., 0]

    def vector_of(self, noise: Tensor) -> Tensor:
        """The unconstrained latents ``(*S, *plates, D)`` that are made from noise of the same shape."""
        return self.loc + (self.scale_tril @ noise[..., None])[..., 0]

    def log_weight(self, noise: Tensor) -> Tensor:
        """Compute the log-weights ``(S, *plates)`` at noise ``(S, *plates, D)``, with their graph."""
        vectors = self.vector_of(noise)
        log_q = log_standard_normal(noise) - self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        if self.vectorized:
            return self.space.log_joint(vectors, *self.args) - log_q
        return torch.stack([self.space.log_joint(each, *self.args) for each in vectors]) - log_q
