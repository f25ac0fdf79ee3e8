"""Converged: when a noisy loss has stopped falling."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from guides.errors import OptionError, positive, whole_number

__all__ = ["Converged", "Monitor"]

#: Number of batch means in each half of the window: enough for a variance with 18 degrees of freedom, and few enough
#: for a batch to be longer than the noise's memory.
NUM_BATCHES = 10

#: How much longer a run is at each test than at the one before.
GROWTH = 1.05


@dataclass(frozen=True)
class Converged:
    r"""Stop a fit when its loss is flat: when it is sure that what it still falls by is small beside its noise.

    The window is the last half of the steps done; it grows with the run, so that it becomes long enough for any noise,
    and forgets any start. Let :math:`\bar a, \bar b` be the mean losses of its two halves, :math:`s_a^2, s_b^2` the
    variances of their m = 10 batch means, which feel the noise's memory, and :math:`\sigma` the standard deviation of
    the losses in the second half. The loss is flat if

    .. math::
        |\bar a - \bar b| + t_{2 m - 2} \sqrt{(s_a^2 + s_b^2) / m} < \max(\text{tolerance} \cdot \sigma, \text{nats})

    with Student's quantile :math:`t` at ``confidence``. That no fall is *seen* is not enough: a short or noisy window
    must show that there is none. The test is made whenever the run is 5 % longer than at the last one. It is meant
    for a constant learning rate: under a falling one, every loss becomes flat.

    On losses whose trend is known (``python -m benchmarks convergence``) at most 6 % of runs stopped while the window
    fell by more than the tolerance. After a fall by 100 standard deviations that is within the tolerance from step 1023
    on, the median stop is at step 1270 with independent noise, 1980 with noise correlated by 0.5 from step to step, and
    12,100 with 0.9. A fall that slows down without end, and is the same in every window, is taken for the end in up to
    20 % of runs of 20,000 steps where it is 1.25 tolerances, and in up to 1 % where it is two. A plateau about as long
    as all that went before it is taken for the end, whatever comes after.

    Args:
        tolerance: What the loss may still fall by, from one half of the window to the other, in standard deviations of
            one step's loss.
        nats: What it may fall by whatever its noise: for losses that have hardly any.
        confidence: How sure each test must be, above a half and below 1.
        patience: How many tests in a row must find the loss flat.
        min_steps: The first test is made after so many steps, at least 80.

    Raises:
        OptionError: If a number is outside its range.

    Example:
        >>> losses = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
        >>> monitor = Converged().monitor()
        >>> next(step for step, loss in enumerate(losses.tolist()) if monitor.update(loss))
        741

    References:
        Akash Kumar Dhaka et al., Robust, Accurate Stochastic Optimization for Variational Inference, 2020,
        https://arxiv.org/abs/2009.00666, section 3, for stopping by the noise of the iterates, and averaging them then.
        Manushi Welandawe et al., Robust, Automated, and Accurate Black-box Variational Inference, 2022,
        https://arxiv.org/abs/2203.15945, section 4, for windows that grow with the run. Departures: we look at the
        loss, not at each parameter, by its batch means and not by R-hat; and ask for evidence that it is flat.
    """

    tolerance: float = 0.2
    nats: float = 0.01
    confidence: float = 0.9
    patience: int = 2
    min_steps: int = 500

    def __post_init__(self) -> None:
        positive("tolerance", self.tolerance)
        positive("nats", self.nats)
        if positive("confidence", self.confidence, below=1) <= 0.5:
            raise OptionError(f"confidence must be above 0.5; got {self.confidence!r}. Write confidence=0.95.")
        whole_number("patience", self.patience, least=1)
        whole_number("min_steps", self.min_steps, least=8 * NUM_BATCHES)

    def monitor(self) -> Monitor:
        """Begin to watch one run."""
        return Monitor(self)


class Monitor:
    """Watches the losses of one run by a rule."""

    def __init__(self, rule: Converged) -> None:
        from scipy.stats import t

        self.rule = rule
        self.losses: list[float] = []
        self._quantile = float(t.ppf(rule.confidence, 2 * NUM_BATCHES - 2))
        self._next, self._flat = rule.min_steps, 0

    def update(self, loss: float) -> bool:
        """Take in one more loss, and say whether the run has converged."""
        self.losses.append(loss)
        if len(self.losses) < self._next:
            return False
        self._next = math.ceil(GROWTH * len(self.losses))
        window = torch.tensor(self.losses[-(len(self.losses) // 2) :], dtype=torch.float64)
        self._flat = self._flat + 1 if self._is_flat(window) else 0
        return self._flat >= self.rule.patience

    def _is_flat(self, window: Tensor) -> bool:
        size = len(window) // (2 * NUM_BATCHES)
        halves = window[-2 * NUM_BATCHES * size :].reshape(2, NUM_BATCHES, size)
        means = halves.mean(-1)
        fall = (means[0].mean() - means[1].mean()).abs()
        error = (means.var(-1).sum() / NUM_BATCHES).sqrt()
        limit = (self.rule.tolerance * halves[1].std()).clamp(min=self.rule.nats)
        return bool(fall + self._quantile * error < limit)
