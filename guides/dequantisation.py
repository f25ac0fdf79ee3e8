"""UniformDequantisation: the noise that turns grey levels into real numbers, drawn without looking at the image."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.special import log_ndtr

from guides.base import Guide
from guides.latent_space import LatentSpace
from guides.target import Proposal, Target, log_standard_normal

if TYPE_CHECKING:
    from ppl_models import FlowDensity

__all__ = ["UniformDequantisation"]


class UniformDequantisation(Guide):
    r"""Draw the noise of a :class:`~ppl_models.FlowDensity` of images from fixed laws.

    .. math::
        u \sim U(0, 1)^D, \qquad e \sim N(0, I)

    The guide has no parameters. For noise that depends on the image, the model takes any guide with an encoder:
    ``MeanFieldGuide(model, encoder=...)`` is a learned dequantisation.

    Args:
        model: A :class:`~ppl_models.FlowDensity` made by ``images``.

    Raises:
        TypeError: If the model has no such noise.

    Example:
        >>> from ppl_models import FlowDensity
        >>> flow = FlowDensity.images((1, 4, 4), num_scales=2, num_couplings=1, hidden=4, growth=2, depth=1)
        >>> {name: tuple(value.shape) for name, value in UniformDequantisation(flow)(flow(None, num=3)).items()}
        {'dequantisation': (3, 1, 4, 4), 'augmentation': (3, 1, 4, 4)}

    References:
        Lucas Theis, Aäron van den Oord, Matthias Bethge, A Note on the Evaluation of Generative Models, 2016,
        https://arxiv.org/abs/1511.01844, section 3.1.
    """

    def __init__(self, model: FlowDensity) -> None:
        if getattr(model, "levels", None) is None or not hasattr(model, "continuous"):
            raise TypeError(
                f"model must be a FlowDensity made by FlowDensity.images; got {type(model).__name__}. Points have no "
                "noise to draw."
            )
        super().__init__(model, encoder=nn.Flatten())  # not read; that there is one says there is noise per datum

    def build(self, space: LatentSpace) -> None:
        """Nothing: the laws are fixed."""

    @property
    def noise_dim(self) -> int:
        return self.space.dim

    def propose(self, target: Target, noise: Tensor) -> Proposal:
        latent, log_q = [], []
        for site in self.space.sites:
            own = noise[..., site.coordinates]
            if site.is_real:
                latent.append(own)
                log_q.append(log_standard_normal(own))
            else:  # u = Phi(noise), as its logit
                latent.append(log_ndtr(own) - log_ndtr(-own))
                log_q.append((log_ndtr(own) + log_ndtr(-own)).sum(-1))
        return self._by_site(self.whitening.inverse(torch.cat(latent, -1)), torch.stack(log_q, -1))

    def rescore(self, target: Target, latent: Tensor) -> Proposal:
        vectors, log_q = self.whitening(latent), []
        for site in self.space.sites:
            own = vectors[..., site.coordinates]
            log_q.append(log_standard_normal(own) if site.is_real else (F.logsigmoid(own) + F.logsigmoid(-own)).sum(-1))
        return self._by_site(latent, torch.stack(log_q, -1))
