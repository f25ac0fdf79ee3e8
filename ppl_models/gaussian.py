"""OffsetGaussian: the conjugate model, with its exact posterior, evidence and maximum likelihood."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution, constraints
from pyro.nn import PyroModule
from pyro.poutine.runtime import get_plates
from torch import Tensor, nn

from guides.errors import DataError, OptionError, whole_number

__all__ = ["GaussianSummary", "OffsetGaussian"]


@dataclass(frozen=True)
class GaussianSummary:
    r"""Sufficient statistics of N independent observations under a diagonal Gaussian.

    Args:
        count: N, at least 1.
        mean: :math:`\bar x`, shape ``(d,)``.
        scatter: :math:`S_j = \sum_i (x_{ij} - \bar x_j)^2`, shape ``(d,)``, not negative.

    Raises:
        DataError: If a shape, a sign or a value is wrong.

    Example:
        >>> import torch
        >>> GaussianSummary.of(torch.tensor([[1.0], [3.0]]))
        GaussianSummary(count=2, dim=1)
    """

    count: int
    mean: Tensor
    scatter: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.count, int) or self.count < 1:
            raise DataError(f"count must be a whole number of at least 1; got {self.count}.")
        if self.mean.dim() != 1 or self.mean.shape != self.scatter.shape:
            raise DataError(
                f"mean and scatter must both have shape (d,); got {tuple(self.mean.shape)} and "
                f"{tuple(self.scatter.shape)}."
            )
        if not (torch.isfinite(self.mean).all() and torch.isfinite(self.scatter).all()):
            raise DataError("mean and scatter must be finite; got NaN or infinite values. Clean the data first.")
        if (self.scatter < 0).any():
            raise DataError(f"scatter must not be negative; got {self.scatter.min().item()}.")

    @classmethod
    def of(cls, x: Tensor) -> GaussianSummary:
        """Summarise data ``(N, d)``; sums are centred and taken in float64, the result has the data's dtype."""
        _check_floating(x)
        if x.dim() != 2 or x.numel() == 0:
            raise DataError(f"x must have shape (N, d) with N, d >= 1; got {tuple(x.shape)}.")
        wide = x.double()
        mean = wide.mean(0)
        return cls(len(x), mean.to(x.dtype), (wide - mean).square().sum(0).to(x.dtype))

    def __repr__(self) -> str:
        return f"GaussianSummary(count={self.count}, dim={len(self.mean)})"


# Three numbers and tensors: torch.load may make it from a file without further ado.
torch.serialization.add_safe_globals([GaussianSummary])


def _check_floating(x: object) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise DataError(f"x must be a floating-point tensor; got {got}. Write torch.as_tensor(x, dtype=torch.float32).")


class OffsetGaussian(PyroModule):
    r"""Observe one latent vector, shifted by an unknown offset, N times under Gaussian noise.

    .. math::
        z \sim N(0, I_d), \qquad x_i \mid z \sim N(z + \Delta, \mathrm{diag}(\sigma^2)), \quad i = 1, \dots, N

    The offset :math:`\Delta` and the scales :math:`\sigma` are parameters. Everything is known in closed form, which
    makes the model a judge of guides. Only :math:`z + \Delta` is identified by data.

    Called with data ``(N, d)``, the model has the sites ``z`` and ``x``, the latter inside the plate ``"data"``. Called
    with a :class:`GaussianSummary` of them, it has the same density at a cost that does not depend on N, and the value
    of ``x`` is the summary. Called with ``None`` and ``num=N``, it generates.

    A fit of :math:`\Delta` and of a guide of z has to move both in opposite directions, along a ridge that is
    :math:`N / \sigma^2` times as flat as it is steep across. Centred, the latent is the site ``location``,
    :math:`z + \Delta`, which the data speak of directly, and ``z`` is computed from it: the same law of data and z.

    Args:
        dim: d.
        offset: Initial :math:`\Delta`, a number or ``(d,)``; 0 by default.
        scale: Initial :math:`\sigma`, a positive number or ``(d,)``; 1 by default.
        centred: Whether guides see ``location`` in place of ``z``.

    Raises:
        OptionError: If ``dim`` is less than 1, or the initial values are not finite or of the wrong shape or sign.
        DataError: When called with data that do not have shape ``(N, d)``.

    Example:
        >>> import torch
        >>> gaussian = OffsetGaussian(2)
        >>> x = torch.tensor([[1.0, 0.0], [2.0, 1.0]])
        >>> gaussian.log_evidence(x).detach()
        tensor(-6.1077)
        >>> gaussian.exact_posterior(x).mean.detach()
        tensor([1.0000, 0.3333])

    References:
        Anthony L. Caterini, Arnaud Doucet, Dino Sejdinovic, Hamiltonian Variational Auto-Encoder, 2018,
        https://arxiv.org/abs/1805.11328, section 4.1.
        Omiros Papaspiliopoulos, Gareth O. Roberts, Martin Sköld, A General Framework for the Parametrization of
        Hierarchical Models, 2007, https://arxiv.org/abs/0708.3797, for centring.
    """

    offset: Tensor
    log_scale: Tensor

    def __init__(
        self, dim: int, *, offset: float | Tensor = 0.0, scale: float | Tensor = 1.0, centred: bool = False
    ) -> None:
        super().__init__()
        self.centred = centred
        self.dim = whole_number("dim", dim, least=1)
        self.offset = nn.Parameter(self._initial("offset", offset))
        scale = self._initial("scale", scale)
        if (scale <= 0).any():
            raise OptionError(f"scale must be positive; got {scale.min().item()}. It is a standard deviation.")
        self.log_scale = nn.Parameter(scale.log())

    def _initial(self, name: str, value: float | Tensor) -> Tensor:
        tensor = torch.as_tensor(value, dtype=torch.get_default_dtype())
        if tensor.shape not in (torch.Size([]), torch.Size([self.dim])):
            raise OptionError(f"{name} must be a number or have shape ({self.dim},); got {tuple(tensor.shape)}.")
        if not torch.isfinite(tensor).all():
            raise OptionError(f"{name} must be finite; got {value}.")
        return tensor.detach().expand(self.dim).clone()

    @property
    def scale(self) -> Tensor:
        r""":math:`\sigma`, the standard deviations of one observation, ``(d,)``."""
        return self.log_scale.exp()

    def forward(self, x: Tensor | GaussianSummary | None = None, *, num: int | None = None) -> Tensor:
        """Score data, or generate ``num`` of them; return the value of ``x``."""
        offset, scale = self.offset, self.scale
        if isinstance(x, GaussianSummary):
            self._check_width(len(x.mean), "a summary of dimension")
        elif x is not None:
            _check_floating(x)
            if x.dim() != 2 or len(x) == 0:
                raise DataError(f"x must have shape (N, {self.dim}) with N >= 1; got {tuple(x.shape)}.")
            self._check_width(x.shape[1], "x of width")
        else:
            num = whole_number("num", num, least=1, instead="To generate without data, write model(None, num=100).")

        if self.centred:
            location = pyro.sample("location", dist.Normal(offset, 1.0).to_event(1))
            pyro.deterministic("z", location - offset, event_dim=1)
        else:
            location = pyro.sample("z", dist.Normal(torch.zeros_like(offset), 1.0).to_event(1)) + offset
        if isinstance(x, GaussianSummary):
            value: Tensor = pyro.sample(
                "x", _SummarisedNormal(location, scale, x.count), obs=torch.stack([x.mean, x.scatter])
            )
            return value
        with pyro.plate("data", num if x is None else len(x)):
            # It is (d,) alone, and (S, 1, d) among S particles: the plate fills the dimension in between. Predictive in
            # parallel, and ArviZ through it, hands over draws of a vector as (S, d).
            if location.dim() == 2 and max(-(frame.dim or 0) for frame in get_plates()) == 2:
                location = location.unsqueeze(-2)
            value = pyro.sample("x", dist.Normal(location, scale).to_event(1), obs=x)
        return value

    def _check_width(self, width: int, what: str) -> None:
        if width != self.dim:
            raise DataError(f"data must have dimension {self.dim}, as the model; got {what} {width}.")

    def summarise(self, x: Tensor | GaussianSummary) -> GaussianSummary:
        """Reduce data to what the model needs of them; :func:`ppl_models.training.fit` calls it once."""
        summary = x if isinstance(x, GaussianSummary) else GaussianSummary.of(x)
        self._check_width(len(summary.mean), "dimension")
        return summary

    def log_evidence(self, x: Tensor | GaussianSummary) -> Tensor:
        r"""Compute :math:`\log p(x \mid \Delta, \sigma)` in closed form.

        .. math::
            \sum_j -\tfrac N2 \log 2\pi - N \log \sigma_j - \frac{S_j}{2 \sigma_j^2}
            - \tfrac12 \log\Big(1 + \frac{N}{\sigma_j^2}\Big) - \frac{N (\bar x_j - \Delta_j)^2}{2 (\sigma_j^2 + N)}

        Args:
            x: Data ``(N, d)`` or their summary.

        Returns:
            A scalar, in nats, with its graph.
        """
        data, variance = self.summarise(x), self.scale.square()
        n = data.count
        return (
            -0.5 * n * (math.log(2 * math.pi) + variance.log())
            - data.scatter / (2 * variance)
            - 0.5 * torch.log1p(n / variance)
            - n * (data.mean - self.offset).square() / (2 * (variance + n))
        ).sum()

    def exact_posterior(self, x: Tensor | GaussianSummary) -> dist.Normal:
        r"""Compute :math:`p(z \mid x) = N\big(N (\bar x - \Delta) / (N + \sigma^2), \sigma^2 / (N + \sigma^2)\big)`.

        Returns:
            Independent normals with batch shape ``(d,)``.
        """
        data, variance = self.summarise(x), self.scale.square()
        precision = data.count + variance
        return dist.Normal(data.count * (data.mean - self.offset) / precision, (variance / precision).sqrt())

    @torch.no_grad()
    def maximum_likelihood(self, x: Tensor | GaussianSummary) -> tuple[Tensor, Tensor]:
        r"""Compute the offset and scales that maximise the evidence, each ``(d,)``.

        :math:`\hat\Delta = \bar x`, and :math:`\hat\sigma^2 = v` solves :math:`v = \frac SN \frac{N + v}{N + v - 1}`,
        a quadratic equation in v.

        Raises:
            DataError: If N is 1: the likelihood then grows without bound as :math:`\sigma` shrinks.
        """
        data = self.summarise(x)
        if data.count < 2:
            raise DataError("maximum_likelihood needs at least 2 observations; got 1.")
        n, variance = data.count, data.scatter / data.count
        # v^2 + (N - 1 - S/N) v - S = 0, its positive root written without cancellation for either sign of the middle.
        half = 0.5 * (n - 1 - variance)
        root = (half.square() + data.scatter).sqrt()
        best = torch.where(half > 0, data.scatter / (half.abs() + root), half.abs() + root)
        return data.mean.clone(), best.sqrt()


class _SummarisedNormal(TorchDistribution):
    """The law of the mean and scatter of N normal observations; events have shape (2, d).

    ``log_prob`` is the log density of the observations themselves, so that it equals that of the plate it stands for.
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "scale": constraints.positive}
    support = constraints.independent(constraints.real, 2)
    has_rsample = False

    def __init__(self, loc: Tensor, scale: Tensor, count: int, validate_args: bool | None = None) -> None:
        self.count = count
        self.loc, self.scale = torch.broadcast_tensors(loc, scale)
        shape = self.loc.shape
        super().__init__(shape[:-1], torch.Size([2, *shape[-1:]]), validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> _SummarisedNormal:
        shape = torch.Size(batch_shape) + self.loc.shape[-1:]
        return _SummarisedNormal(self.loc.expand(shape), self.scale.expand(shape), self.count, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        mean, scatter = value.unbind(-2)
        square = scatter + self.count * (mean - self.loc).square()
        constant = math.log(2 * math.pi) + 2 * self.scale.log()
        return (-0.5 * (square / self.scale.square() + self.count * constant)).sum(-1)

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = torch.Size(sample_shape) + self.loc.shape
        mean = self.loc + self.scale / math.sqrt(self.count) * torch.randn(
            shape, dtype=self.loc.dtype, device=self.loc.device
        )
        if self.count == 1:
            return torch.stack([mean, torch.zeros_like(mean)], -2)
        chi2 = dist.Chi2(self.loc.new_full(shape, self.count - 1.0)).sample()
        return torch.stack([mean, self.scale.square() * chi2], -2)
