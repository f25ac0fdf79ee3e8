"""Averages of the parameters over the last steps of a fit."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["TailAverage"]


class TailAverage:
    r"""Average parameters over steps: :math:`\bar \theta_n = \bar \theta_{n-1} + (\theta_n - \bar \theta_{n-1}) / n`.

    At a constant learning rate the iterates wander about the optimum; their mean does so much less.

    Args:
        parameters: What to average; each is read whenever :meth:`update` is called.

    Example:
        >>> parameter = torch.tensor([0.0])
        >>> average = TailAverage([parameter])
        >>> for value in (1.0, 2.0, 6.0):
        ...     _ = parameter.fill_(value)
        ...     average.update()
        >>> average.install()
        >>> parameter
        tensor([3.])

    References:
        Boris Polyak, Anatoli Juditsky, Acceleration of Stochastic Approximation by Averaging, 1992,
        https://doi.org/10.1137/0330046. Akash Kumar Dhaka et al., Robust, Accurate Stochastic Optimization for
        Variational Inference, 2020, https://arxiv.org/abs/2009.00666, section 3.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        self.count = 0
        self._means: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present values."""
        self.count += 1
        if self.count == 1:
            self._means = [parameter.clone() for parameter in self.parameters]
        else:
            torch._foreach_lerp_(self._means, self.parameters, 1 / self.count)

    @torch.no_grad()
    def install(self) -> None:
        """Give the parameters their means, if there are any yet."""
        for parameter, mean in zip(self.parameters, self._means, strict=self.count > 0):
            parameter.copy_(mean)
