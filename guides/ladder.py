"""LadderGuide: the posterior of a ladder of latents, merged from what comes up from the data and down from above."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from guides.errors import OptionError, choose
from guides.latent_space import LatentSpace
from guides.sequential import SequentialGuide, Steps

if TYPE_CHECKING:
    from ppl_models import LadderVAE

__all__ = ["LadderGuide", "merged"]


def merged(bottom: tuple[Tensor, Tensor], top: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    r"""Multiply two normal densities: :math:`1/v = 1/v_1 + 1/v_2` and :math:`m = v (m_1 / v_1 + m_2 / v_2)`.

    Args:
        bottom: Mean and log-variance of the one.
        top: Mean and log-variance of the other.

    Returns:
        Mean and log-variance of their normalised product.

    Example:
        >>> mean, log_variance = merged((torch.tensor(1.0), torch.tensor(0.0)), (torch.tensor(4.0), torch.tensor(0.0)))
        >>> mean, log_variance.exp()
        (tensor(2.5000), tensor(0.5000))
    """
    (mean, log_variance), (other, log_other) = bottom, top
    share = (log_other - log_variance).sigmoid()  # the precision of the first as a share of both
    return share * mean + (1 - share) * other, log_variance + F.logsigmoid(log_other - log_variance)


class LadderGuide(SequentialGuide):
    r"""Draw the latents of a :class:`~ppl_models.LadderVAE` from the top down, each given the datum and the one above.

    .. math::
        q(z_n \mid x) = N(\hat\mu_n, \hat v_n), \qquad
        q(z_i \mid z_{i+1}, x) \propto N\big(z_i; \hat\mu_i(x), \hat v_i(x)\big) \,
        N\big(z_i; \tilde\mu_i(z_{i+1}), \tilde v_i(z_{i+1})\big)

    What comes up, :math:`\hat\mu_i` and :math:`\log \hat v_i`, is the encoder's output; what comes down is a network's
    at the draw of *this guide* on the level above. That draw is also what the model's next rung and the decoder see,
    so that every level can carry information about the datum.

    Args:
        model: A :class:`~ppl_models.LadderVAE`.
        encoder: Module from data to ``(B, 2 (L_1 + ... + L_n))``: for each level, from the bottom up, L means and L
            log-variances. By default a chain of rungs like the model's, one on the features of the other.
        features: ``"own"``: each level is read from the features of its own rung of that chain, as in the paper.
            ``"last"``: all are read from the last, so that the whole chain speaks of the lowest latents too; the widths
            in ``hidden`` must be equal, and the number of parameters stays the same.
        merge: ``"separate"``: what comes down has rungs of its own, as in the study. ``"prior"``: it is the model's
            :math:`p(z_i \mid z_{i+1})`, as in the paper.

    Raises:
        OptionError: If ``features`` or ``merge`` is unknown, or ``"last"`` given with widths that differ or an encoder.
        TypeError: If the model is no ladder.
        DataError: On setup, if the encoder's output has another width.

    Example:
        >>> from ppl_models import LadderVAE
        >>> ladder = LadderVAE((1, 28, 28))
        >>> guide = LadderGuide(ladder).setup(ladder(None, num=2))
        >>> sum(p.numel() for part in (ladder, guide) for p in part.parameters())
        1464464
        >>> {name: tuple(z.shape) for name, z in guide(ladder(None, num=5)).items()}
        {'z_3': (5, 64), 'z_2': (5, 64), 'z_1': (5, 64)}

    References:
        Casper Kaae Sønderby et al., Ladder Variational Autoencoders, 2016, https://arxiv.org/abs/1602.02282,
        eqs. 4-6 and 12-14. Departures: see :class:`~ppl_models.LadderVAE`.
    """

    def __init__(
        self, model: LadderVAE, *, encoder: nn.Module | None = None, features: str = "own", merge: str = "separate"
    ) -> None:
        if not hasattr(model, "new_rung"):
            raise TypeError(
                f"model must be a LadderVAE; got {type(model).__name__}. For other models write MeanFieldGuide(model, "
                "encoder=...)."
            )
        self.features = choose("features", features, ["own", "last"])
        if encoder is not None and features == "last":
            raise OptionError("features must be 'own' with an encoder, which decides what each level is read from.")
        super().__init__(model, encoder=_BottomUp(model, features) if encoder is None else encoder)
        self.merge = choose("merge", merge, ["separate", "prior"])
        self.latent_dims = model.latent_dims
        separate = enumerate(self.latent_dims[1:]) if merge == "separate" else ()
        self.rungs = nn.ModuleList(model.new_rung(level, above) for level, above in separate)

    def context_dim(self, space: LatentSpace) -> int:
        return 2 * space.dim

    @property
    def parts(self) -> list[nn.Module]:
        return [self.rungs if self.merge == "separate" else self.model.rungs]  # type: ignore[attr-defined]

    def steps(self, context: Tensor) -> Steps:
        numbers = context[..., : 2 * sum(self.latent_dims)].split([2 * size for size in self.latent_dims], -1)
        bottom = [level.chunk(2, -1) for level in numbers]
        (rungs,) = self.parts
        mean, log_variance = bottom[-1]
        z = yield mean, 0.5 * log_variance
        for level in reversed(range(len(bottom) - 1)):
            _, *top = rungs[level](z)  # type: ignore[index]
            mean, log_variance = merged(bottom[level], top)
            z = yield mean, 0.5 * log_variance

    def describe(self) -> str:
        return f"features={self.features!r}, merge={self.merge!r}"


class _BottomUp(nn.Module):
    """A chain of rungs from a datum upwards, and what each says of the latents of its level."""

    def __init__(self, model: LadderVAE, features: str) -> None:
        super().__init__()
        self.last = features == "last"
        if self.last and len(set(model.hidden)) > 1:
            raise OptionError(f"features must be 'own' with widths that differ; got 'last' and hidden={model.hidden}.")
        inputs = [torch.Size(model.event_shape).numel(), *model.hidden[:-1]]
        self.rungs = nn.ModuleList(model.new_rung(level, size) for level, size in enumerate(inputs))

    def forward(self, x: Tensor) -> Tensor:
        hidden = [x.flatten(1)]
        for rung in self.rungs:
            hidden.append(rung.features(hidden[-1]))  # type: ignore[operator]
        seen = [hidden[-1]] * len(self.rungs) if self.last else hidden[1:]
        numbers = []
        for rung, each in zip(self.rungs, seen, strict=True):
            numbers += [rung.mean(each), rung.log_variance(each)]  # type: ignore[operator]
        return torch.cat(numbers, -1)
