"""Whitening: the affine map between the vector that guides work on and the unconstrained latents."""

from __future__ import annotations

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn

__all__ = ["Law", "Whitening"]

#: Normal laws of a vector: independent coordinates, a full covariance, a low-rank one plus a diagonal.
Law = dist.Normal | dist.MultivariateNormal | dist.LowRankMultivariateNormal


class Whitening(nn.Module):
    r"""Map a whitened vector to the unconstrained latents: :math:`u = m + L v`.

    The identity until it is given a location m, ``(D,)``, and a scale: ``(D,)`` for a diagonal L, or ``(D, D)`` for a
    lower triangular one. Both are buffers: they are kept in state dicts, and not trained.

    Example:
        >>> import torch
        >>> whitening = Whitening()
        >>> whitening.start(torch.tensor([1.0, 2.0]), torch.tensor([10.0, 0.1]), unit=1.0)
        >>> whitening(torch.ones(3, 2))[0]
        tensor([11.0000,  2.1000])
        >>> whitening.log_det
        tensor(0.)
    """

    loc: Tensor | None
    scale: Tensor | None

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("loc", None)
        self.register_buffer("scale", None)
        #: The standard deviation, in whitened units, at which a base guide starts.
        self.unit = 0.1

    def start(self, loc: Tensor, scale: Tensor, *, unit: float) -> None:
        """Set the map, and the scale at which a guide starts in its units."""
        self.loc, self.scale, self.unit = loc, scale, unit

    @property
    def log_det(self) -> Tensor | float:
        r""":math:`\log |\det L|`."""
        if self.scale is None:
            return 0.0
        return (self.scale if self.scale.dim() == 1 else self.scale.diagonal()).log().sum()

    def forward(self, vectors: Tensor) -> Tensor:
        """Map whitened vectors ``(*, D)`` to unconstrained ones."""
        if self.loc is None or self.scale is None:
            return vectors
        return self.loc + (vectors * self.scale if self.scale.dim() == 1 else vectors @ self.scale.mT)

    def inverse(self, vectors: Tensor) -> Tensor:
        """Map unconstrained vectors ``(*, D)`` back, for a diagonal map."""
        if self.loc is None or self.scale is None:
            return vectors
        return (vectors - self.loc) / self.scale

    @property
    def is_diagonal(self) -> bool:
        """Whether independent coordinates stay independent."""
        return self.scale is None or self.scale.dim() == 1

    def normal(self, law: dist.Normal) -> dist.Normal:
        """Map independent normal coordinates ``(*, D)`` by a diagonal map."""
        return law if self.scale is None else dist.Normal(self(law.loc), law.scale * self.scale)

    def marginals(self, law: Law) -> dist.Normal:
        """The law of each unconstrained coordinate, where that of the whitened vector is normal."""
        if self.is_diagonal:
            return self.normal(dist.Normal(law.mean, law.stddev))
        assert self.scale is not None
        covariance = torch.diag_embed(law.variance) if isinstance(law, dist.Normal) else law.covariance_matrix
        variance = (self.scale @ covariance @ self.scale.mT).diagonal(dim1=-2, dim2=-1)
        return dist.Normal(self(law.mean), variance.sqrt())

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # A guide that was set up in another way takes the map over with its shape.
        for name in ("loc", "scale"):
            value = state_dict.get(prefix + name)
            setattr(self, name, None if value is None else value.detach().clone())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def extra_repr(self) -> str:
        return "" if self.scale is None else "diagonal" if self.scale.dim() == 1 else "full"
