"""FullRankGuide: one normal over all unconstrained latents, with their correlations."""

from __future__ import annotations

from collections.abc import Collection

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from guides.base import Guide
from guides.errors import OptionError, positive, whole_number
from guides.latent_space import LatentSpace, Model
from guides.target import Proposal, Target, log_standard_normal

__all__ = ["FullRankGuide"]


class FullRankGuide(Guide):
    r"""Approximate the posterior by a normal with correlations over the unconstrained latents.

    .. math::
        u = \mu + \mathrm{diag}(\sigma) (I + R) \epsilon, \quad \epsilon \sim N(0, I_D), \qquad
        \log q(u) = \log N(\epsilon; 0, I) - \sum_j \log \sigma_j

    with R strictly lower triangular (``lower``, its :math:`D (D - 1) / 2` entries by rows). With ``rank=r``, a low-rank
    part takes the place of the triangle:

    .. math::
        u = \mu + \mathrm{diag}(\sigma) (\epsilon + F \eta), \quad \epsilon \sim N(0, I_D), \ \eta \sim N(0, I_r)

    with F of shape ``(D, r)`` (``factor``), at a cost that grows with :math:`D r^2`.

    Args:
        model: Any Pyro model.
        encoder: Module from the model's arguments to one row per datum: D locations, D log-scales, then the entries of
            R or F by rows.
        hide: Names of latents that other guides of a :class:`~guides.GuideList` draw.
        expose: Names of the only latents that this guide draws.
        rank: r, at least 1; full by default.
        init_scale: Initial :math:`\sigma` of a guide without encoder; 0.1 by default, and 1 where the posterior was
            whitened on setup. It starts without correlations (F: with slight ones, to have a direction to grow in).

    Raises:
        OptionError: If a number is outside its range, or ``init_scale`` given together with an encoder.
        DataError: On setup, if the encoder's output does not fit.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model():
        ...     pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        >>> guide = FullRankGuide(model).setup()
        >>> sorted((name, p.numel()) for name, p in guide.named_parameters())
        [('loc', 3), ('log_scale', 3), ('lower', 3)]

    References:
        Michalis K. Titsias, Miguel Lazaro-Gredilla, Doubly Stochastic Variational Bayes for non-Conjugate Inference,
        2014, https://proceedings.mlr.press/v32/titsias14.html, section 3; scales by row are ours.
        Victor M.-H. Ong, David J. Nott, Michael S. Smith, Gaussian variational approximation with a factor covariance
        structure, 2018, https://arxiv.org/abs/1701.03208, eq. 4.
    """

    loc: Tensor
    log_scale: Tensor

    def __init__(
        self,
        model: Model,
        *,
        encoder: nn.Module | None = None,
        hide: Collection[str] | None = None,
        expose: Collection[str] | None = None,
        rank: int | None = None,
        init_scale: float | None = None,
    ) -> None:
        super().__init__(model, encoder=encoder, hide=hide, expose=expose)
        if init_scale is not None and encoder is not None:
            raise OptionError("init_scale and encoder must not be given together: the encoder sets the scales.")
        self.rank = None if rank is None else whole_number("rank", rank, least=1, instead="Use MeanFieldGuide for 0.")
        self.init_scale = None if init_scale is None else positive("init_scale", init_scale)

    def build(self, space: LatentSpace) -> None:
        if self.rank is not None and self.rank > space.dim:
            raise OptionError(f"rank must be at most the number of latent dimensions, {space.dim}; got {self.rank}.")
        if self.encoder is not None:
            return
        like = {"dtype": space.dtype, "device": space.device}
        self.loc = nn.Parameter(torch.zeros(space.dim, **like))
        self.log_scale = nn.Parameter(torch.full_like(self.loc, self.init_scale or self.whitening.unit).log())
        if self.rank is not None:
            self.factor = nn.Parameter(0.1 * torch.randn(space.dim, self.rank, **like))
        elif space.dim > 1:
            self.lower = nn.Parameter(torch.zeros(space.dim * (space.dim - 1) // 2, **like))

    def context_dim(self, space: LatentSpace) -> int:
        pairs = space.dim * (space.dim - 1) // 2
        return 2 * space.dim + (pairs if self.rank is None else space.dim * self.rank)

    @property
    def noise_dim(self) -> int:
        return self.space.dim + (self.rank or 0)

    def _read(self, target: Target) -> tuple[Tensor, Tensor, Tensor]:
        r"""Location and log-scale, ``(*, D)``, and :math:`I + R` ``(*, D, D)`` or F ``(*, D, r)``."""
        dim = self.space.dim
        if target.context is not None:
            loc, log_scale, entries = target.context[:, : self.context_dim(self.space)].tensor_split((dim, 2 * dim), -1)
        else:
            loc, log_scale = self.loc, self.log_scale
            entries = loc[:0] if self.rank is None and dim == 1 else self.lower if self.rank is None else self.factor
        if self.rank is not None:
            return loc, log_scale, entries.reshape(*loc.shape, self.rank)
        rows, columns = torch.tril_indices(dim, dim, -1, device=loc.device)
        identity = torch.eye(dim, dtype=loc.dtype, device=loc.device).flatten().expand(*loc.shape[:-1], -1)
        return loc, log_scale, identity.index_copy(-1, rows * dim + columns, entries).unflatten(-1, (dim, dim))

    def propose(self, target: Target, noise: Tensor) -> Proposal:
        loc, log_scale, mixing = self._read(target)
        if self.rank is None:
            latent = loc + log_scale.exp() * _times(mixing, noise)
            return Proposal(latent, log_standard_normal(noise) - log_scale.sum(-1))
        own, shared = noise.tensor_split((self.space.dim,), dim=-1)
        whitened = own + _times(mixing, shared)
        law = dist.LowRankMultivariateNormal(torch.zeros_like(loc), mixing, torch.ones_like(loc), validate_args=False)
        return Proposal(loc + log_scale.exp() * whitened, law.log_prob(whitened) - log_scale.sum(-1))

    def law(self, target: Target) -> dist.MultivariateNormal | dist.LowRankMultivariateNormal:
        loc, log_scale, mixing = self._read(target)
        scaled = log_scale.exp()[..., None] * mixing
        if self.rank is None:
            return dist.MultivariateNormal(loc, scale_tril=scaled)
        return dist.LowRankMultivariateNormal(loc, scaled, (2 * log_scale).exp())

    def describe(self) -> str:
        return "" if self.rank is None else f"rank={self.rank}"


def _times(matrix: Tensor, vectors: Tensor) -> Tensor:
    """One matrix for all vectors ``(*, n)``, or one for each datum."""
    if matrix.dim() == 2:
        return vectors @ matrix.mT
    return (matrix @ vectors[..., None])[..., 0]
