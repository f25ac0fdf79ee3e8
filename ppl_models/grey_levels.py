"""Laws of grey levels: a probability for each, or a logistic law cut into them."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions.constraints import Constraint
from torch.nn import functional as F

from guides.errors import whole_number

__all__ = ["CategoricalLevels", "Levels", "LogisticLevels"]

#: How far from a level a value may be, in steps between levels: float32 keeps k / 255 to a thousandth of this.
TOLERANCE = 1e-3


class Levels(Constraint):
    """The numbers 0, 1 / (K - 1), ..., 1."""

    is_discrete = True
    event_dim = 0

    def __init__(self, levels: int) -> None:
        self.levels = levels
        super().__init__()

    def check(self, value: Tensor) -> Tensor:
        steps = value * (self.levels - 1)
        return ((steps - steps.round()).abs() < TOLERANCE) & (value > -TOLERANCE) & (value < 1 + TOLERANCE)

    def __repr__(self) -> str:
        return f"the {self.levels} levels k / {self.levels - 1}, k = 0, ..., {self.levels - 1}"


class CategoricalLevels(TorchDistribution):
    r"""Give each of K grey levels :math:`0, 1/(K-1), \dots, 1` a probability of its own.

    Args:
        logits: Unnormalised log probabilities, ``(*, K)``.

    Raises:
        OptionError: If K is less than 2.

    Example:
        >>> law = CategoricalLevels(torch.zeros(3, 5))
        >>> law.log_prob(torch.tensor([0.0, 0.25, 1.0]))
        tensor([-1.6094, -1.6094, -1.6094])
    """

    arg_constraints: ClassVar = {"logits": constraints.real_vector}
    has_rsample = False

    def __init__(self, logits: Tensor, validate_args: bool | None = None) -> None:
        self.levels = whole_number("levels", logits.shape[-1], least=2)
        self.logits = logits
        super().__init__(logits.shape[:-1], validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return Levels(self.levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> CategoricalLevels:
        return CategoricalLevels(self.logits.expand(*batch_shape, self.levels), validate_args=False)

    @property
    def mean(self) -> Tensor:
        return self.logits.softmax(-1) @ torch.linspace(0, 1, self.levels).to(self.logits)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        level = (value * (self.levels - 1)).round().long()
        log_prob, level = torch.broadcast_tensors(self.logits.log_softmax(-1), level[..., None])
        return log_prob.gather(-1, level[..., :1])[..., 0]

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        drawn = torch.distributions.Categorical(logits=self.logits, validate_args=False).sample(sample_shape)
        return drawn.to(self.logits) / (self.levels - 1)


class LogisticLevels(TorchDistribution):
    r"""Round a logistic variable to the nearest of K grey levels :math:`0, 1/(K-1), \dots, 1`.

    .. math::
        P(x) = \mathrm{sigmoid}\big((x + h - \mu) / s\big) - \mathrm{sigmoid}\big((x - h - \mu) / s\big),
        \qquad h = \frac{1}{2 (K - 1)}

    where all that is below the first level or above the last belongs to it. Neighbouring levels have similar
    probabilities from the start, with two numbers per pixel in place of K.

    Args:
        loc: :math:`\mu`, in units in which white is 1.
        log_scale: :math:`\log s`, of the same shape.
        levels: K.

    Raises:
        OptionError: If K is less than 2.

    Example:
        >>> law = LogisticLevels(torch.tensor(0.5), torch.tensor(-1.0), levels=3)
        >>> law.log_prob(torch.tensor([0.0, 0.5, 1.0])).exp()
        tensor([0.3364, 0.3273, 0.3364])

    References:
        Tim Salimans et al., PixelCNN++, 2017, https://arxiv.org/abs/1701.05517, eq. 2; one component, and values from
        0 to 1.
    """

    arg_constraints: ClassVar = {"loc": constraints.real, "log_scale": constraints.real}
    has_rsample = False

    def __init__(self, loc: Tensor, log_scale: Tensor, *, levels: int, validate_args: bool | None = None) -> None:
        self.levels = whole_number("levels", levels, least=2)
        self.loc, self.log_scale = torch.broadcast_tensors(loc, log_scale)
        super().__init__(self.loc.shape, validate_args=validate_args)

    @property
    def support(self) -> Constraint:
        return Levels(self.levels)

    def expand(self, batch_shape: Any, _instance: Any = None) -> LogisticLevels:
        loc, log_scale = self.loc.expand(batch_shape), self.log_scale.expand(batch_shape)
        return LogisticLevels(loc, log_scale, levels=self.levels, validate_args=False)

    @property
    def mean(self) -> Tensor:
        # The expected level is the sum over k > 0 of the probability of level k or above.
        limits = (torch.arange(1, self.levels).to(self.loc) - 0.5) / (self.levels - 1)
        above = ((self.loc[..., None] - limits) * (-self.log_scale[..., None]).exp()).sigmoid()
        return above.sum(-1) / (self.levels - 1)

    def log_prob(self, value: Tensor) -> Tensor:
        if self._validate_args:
            self._validate_sample(value)
        half, precision = 0.5 / (self.levels - 1), (-self.log_scale).exp()
        centre = value - self.loc
        upper, lower = (centre + half) * precision, (centre - half) * precision
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), without cancellation.
        below, above, width = F.logsigmoid(upper), F.logsigmoid(-lower), -torch.expm1(-2 * half * precision)
        inside = below + above + width.log()
        return torch.where(value < half, below, torch.where(value > 1 - half, above, inside))

    @torch.no_grad()
    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:
        shape = torch.Size(sample_shape) + self.loc.shape
        uniform = torch.rand(shape, dtype=self.loc.dtype, device=self.loc.device)
        drawn = self.loc + self.log_scale.exp() * torch.logit(uniform, eps=torch.finfo(uniform.dtype).tiny)
        return (drawn.clamp(0, 1) * (self.levels - 1)).round() / (self.levels - 1)
