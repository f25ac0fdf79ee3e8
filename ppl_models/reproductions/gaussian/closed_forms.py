r"""What the study's objectives have their optimum at, in closed form: the published errors without a single fit.

All are squared errors of the scales, :math:`\sum_j (\hat\sigma_j - \sigma_j)^2`, or of the offsets.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from ppl_models.gaussian import GaussianSummary
from ppl_models.reproductions.gaussian.data import model_at

__all__ = [
    "doubled_iaf_error",
    "mean_field_scale",
    "planar_error",
    "planar_gap",
    "volume_error",
    "volume_gap",
    "volume_limit",
]


def doubled_iaf_error(scale: Tensor) -> float:
    r"""The scales' error of an exact guide under an ELBO whose :math:`\sum (x - \Delta)^2 / \sigma^2` lacks its half.

    The posterior is narrow beside :math:`\sigma`, so the optimum is :math:`\hat\sigma^2 = 2 S / N`, and the error
    :math:`(\sqrt 2 - 1)^2 \sum_j \sigma_j^2`.

    Args:
        scale: The true scales, ``(d,)``.

    Example:
        >>> from ppl_models.reproductions.gaussian.data import truth
        >>> round(doubled_iaf_error(truth(25)[1]), 3)  # published: 1.142
        1.135
    """
    return ((math.sqrt(2) - 1) ** 2 * scale.square().sum()).item()


def mean_field_scale(scale: Tensor, count: int, *, batch_size: int | None) -> Tensor:
    r"""The scales at the optimum of an exact guide, shared by minibatches that each count the whole divergence.

    Of M minibatches the prior has M times its weight, so that the guide's variance is

    .. math:: v = \Big(1 + \frac N{M \hat\sigma^2}\Big)^{-1}, \qquad \hat\sigma^2 = S / N + v

    Args:
        scale: The square root of S / N, ``(d,)``.
        count: N.
        batch_size: Of a minibatch; the last is what is left. All data at once if ``None``.

    Example:
        >>> import torch
        >>> found = mean_field_scale(torch.ones(1), 100, batch_size=None)
        >>> bool(torch.isclose(found**2, 1 + 1 / (1 + 100 / found**2)))
        True
    """
    batches = 1 if batch_size is None else math.ceil(count / batch_size)
    return _widened(scale, lambda variance: 1 / (1 + count / batches / variance))


def planar_error(scale: Tensor, *, factor: float = 1.0, layers: int = 1) -> float:
    r"""The scales' error of planar layers over N(0, I), which leave a variance of 1 in d - K directions.

    A direction with variance 1 makes :math:`\hat\sigma^2 = c \, S / N + 1`, with c = 2 where the ELBO lacks its half.
    Which directions are the K others is the fit's affair; with all alike,

    .. math:: \frac{d - K}d \sum_j \big(\sqrt{c \, \sigma_j^2 + 1} - \sigma_j\big)^2

    Args:
        scale: The true scales, ``(d,)``.
        factor: c.
        layers: K, with parameters of their own; those that share theirs, as the study's did, count as one; 0 for a
            guide that leaves N(0, I) as it is.

    Example:
        >>> from ppl_models.reproductions.gaussian.data import truth
        >>> round(planar_error(truth(25)[1], factor=2.0), 1)  # published: 14.97
        15.1
    """
    each = ((factor * scale.square() + 1).sqrt() - scale).square()
    return (max(len(scale) - layers, 0) / len(scale) * each.sum()).item()


def volume_gap(scale: Tensor, count: int, *, blocks: int = 2) -> float:
    r"""The least gap, in nats, of a guide over N(0, I) that keeps volume, whatever else it does.

    .. math:: \tfrac12 \sum_j n a_j^{1/n} - n - \log a_j, \qquad a_j = 1 + N / \sigma_j^2

    The posterior is independent normals with precisions :math:`a_j`. A volume-preserving map on n standard normal
    blocks per coordinate, of which one becomes the latent, has at the end a covariance S with :math:`\det S \ge 1`, and
    this is the least of :math:`\tfrac12 (\mathrm{tr}(A S) - n - \log \det A)` with A = diag(a, 1, ..., 1).

    Args:
        scale: The model's scales, ``(d,)``.
        count: N.
        blocks: n: 2 for Hamiltonian guides, position and momentum, whatever K and tempering; K + 1 for annealed ones,
            with their K - 1 refreshments.
    """
    a = 1 + count / scale.square()
    return 0.5 * (blocks * (a ** (1 / blocks) - 1) - a.log()).sum().item()


def planar_gap(scale: Tensor, count: int, *, layers: int) -> float:
    """The least gap, in nats, of planar layers over N(0, I).

    They leave N(0, 1) in d - K directions, whose posterior variances are no larger than the d - K largest
    (interlacing).

    Args:
        scale: The model's scales, ``(d,)``.
        count: N.
        layers: K.
    """
    a = 1 + count / scale.square()
    return 0.5 * (a - 1 - a.log()).sort().values[: max(len(scale) - layers, 0)].sum().item()


def volume_error(scale: Tensor, count: int) -> float:
    r"""The scales' error at the optimum of that limit: :math:`\hat\sigma^2 = S / N + (1 + n / \hat\sigma^2)^{-1/2}`.

    Args:
        scale: The true scales, ``(d,)``; S / N is taken as their square.
        count: n, how many data the objective takes for the whole: N, or those of a minibatch that is not scaled up.

    Example:
        >>> from ppl_models.reproductions.gaussian.data import truth
        >>> round(volume_error(truth(25)[1], 256), 4), round(volume_error(truth(25)[1], 10_000), 5)
        (0.0276, 0.00064)
    """
    return (_volume_scale(scale, count) - scale).square().sum().item()


def volume_limit(data: GaussianSummary) -> float:
    r"""The least that a guide over N(0, I) that keeps volume lacks of the log evidence at maximum likelihood, in nats.

    The model has its own scales, whose log evidence less :func:`volume_gap` is the most that the ELBO can be: with
    :math:`\Delta = \bar x`, the best of all, and :math:`v = \sigma^2`,

    .. math:: \sum_j -\tfrac N2 \log 2 \pi v_j - \frac{S_j}{2 v_j} - \sqrt{1 + N / v_j} + 1

    Its slope has the sign of :math:`S_j / N + (1 + N / v_j)^{-1/2} - v_j`, which is concave in :math:`v_j` and positive
    at 0, so that it changes once: the scales of :func:`volume_error` are the best, and no fit is above them.

    Args:
        data: The data.

    Example:
        >>> from ppl_models.reproductions.gaussian.data import data_sets, truth
        >>> round(volume_limit(data_sets(25, sets=1)[0])), round(volume_gap(truth(25)[1], 10_000))  # at the true scales
        (9754, 9922)
    """
    offset, scale = model_at(data.mean, data.mean.new_ones(len(data.mean))).maximum_likelihood(data)
    widest = _volume_scale((data.scatter / data.count).sqrt(), data.count)
    highest, own = (model_at(offset, each).log_evidence(data).item() for each in (scale, widest))
    return highest - own + volume_gap(widest, data.count)


def _volume_scale(scale: Tensor, count: int) -> Tensor:
    """The scales that are best for guides over N(0, I) that keep volume."""
    return _widened(scale, lambda variance: (1 + count / variance).rsqrt())


def _widened(scale: Tensor, spread: Callable[[Tensor], Tensor]) -> Tensor:
    """Solve for the scales whose variance is that of the data and the guide's, which depends on it."""
    variance = scale.square()
    for _ in range(200):  # a contraction: the derivatives of the guides' variances are below 1 / 2 where it is iterated
        variance = scale.square() + spread(variance)
    return variance.sqrt()
