"""KLWeights: how much each latent's Kullback-Leibler term counts in training."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from guides.errors import ModelError, OptionError, choose, whole_number
from ppl_models.objectives.log_weights import RECONSTRUCTION, LogWeights

__all__ = ["KLWeights"]

SHAPES = {"linear": lambda done: done, "cosine": lambda done: 0.5 * (1 - math.cos(math.pi * done))}


class KLWeights(nn.Module):
    r"""Weigh the terms :math:`\log p(z) - \log q(z)` of the latents in training: warm-up, layers, free bits.

    .. math::
        \log w_{\text{trained}} = \log p(x \mid z)
        + \sum_s \beta_t \, \lambda_s \, 1[\mathrm{KL}_s > b] \, \big(\log p(z_s) - \log q(z_s)\big)

    The gradient is that of these log-weights; what is recorded stays the unweighted bound. ``fit`` and ``train`` say
    how far they are; steps of ``SVI`` are counted here, so that each needs an objective of its own. How many are done
    is in the state dict.

    Args:
        warmup: Over how many steps or epochs :math:`\beta_t` rises from ``start`` to ``end``; none by default.
        shape: ``"linear"`` or ``"cosine"``.
        per: ``"step"`` or ``"epoch"``.
        start: :math:`\beta` before the warm-up, not negative.
        end: :math:`\beta` after it, not negative. 1 trains the bound itself; other values a :math:`\beta`-VAE.
        sites: :math:`\lambda_s` by site, for models with several layers of latents; 1 for those not named.
        free_bits: b, in nats per latent site and datum (the mean over the batch, and over the members of the site's
            plates; of several latents drawn as one vector, of the largest): a KL below it has no gradient.

    Raises:
        OptionError: If a number is out of range, or an option unknown.
        ModelError: On use, if ``sites`` names no latent, or gives latents that are drawn as one vector different
            weights.

    Example:
        >>> weights = KLWeights(warmup=10, shape="linear", per="epoch")
        >>> weights.set_progress(step=700, epoch=5)
        >>> weights.beta
        tensor(0.5000)

    References:
        Casper Kaae Sønderby et al., Ladder Variational Autoencoders, 2016, https://arxiv.org/abs/1602.02282, section
        2.3 (warm-up).
        Diederik P. Kingma et al., Improving Variational Inference with Inverse Autoregressive Flow, 2016,
        https://arxiv.org/abs/1606.04934, appendix C.8 (free bits; a group is a site).
    """

    beta: Tensor
    next_step: Tensor

    def __init__(
        self,
        *,
        warmup: int = 0,
        shape: str = "linear",
        per: str = "step",
        start: float = 0.0,
        end: float = 1.0,
        sites: Mapping[str, float] | None = None,
        free_bits: float = 0.0,
    ) -> None:
        super().__init__()
        self.warmup = whole_number("warmup", warmup, least=0)
        self.shape = choose("shape", shape, SHAPES)
        self.per = choose("per", per, ("step", "epoch"))
        numbers = {"start": start, "end": end, "free_bits": free_bits}
        numbers |= {f"sites[{name!r}]": value for name, value in (sites or {}).items()}
        for name, value in numbers.items():
            if not 0 <= value < math.inf:
                raise OptionError(f"{name} must be finite and not negative; got {value}.")
        self.start, self.end, self.free_bits, self.sites = start, end, free_bits, dict(sites or {})
        self.register_buffer("beta", torch.tensor(0.0))
        self.register_buffer("next_step", torch.tensor(0))
        self.set_progress(step=0, epoch=0)
        self.next_step.zero_()

    def set_progress(self, *, step: int, epoch: int) -> None:
        """Say how many steps and epochs are done."""
        at = step if self.per == "step" else epoch
        done = min(at / self.warmup, 1.0) if self.warmup else 1.0
        self.next_step.fill_(step + 1)
        self.beta.fill_(self.start + (self.end - self.start) * SHAPES[self.shape](done))

    def forward(self, weights: LogWeights) -> dict[str, Tensor]:
        """The weight of each term of log-weights, without a graph."""
        latents = [name for term in weights.terms if term != RECONSTRUCTION for name in term.split(", ")]
        for name in self.sites:
            if name not in latents:
                raise ModelError(f"sites must name latents of the model ({', '.join(latents)}); got {name!r}.")
        chosen = {}
        for name, values in weights.terms.items():
            beta = self.beta.to(values)
            if name == RECONSTRUCTION:
                chosen[name] = torch.ones_like(beta)
                continue
            beta = beta * self._of_site(name)
            if self.free_bits:
                beta = beta * (-values.detach().mean() / weights.members[name] > self.free_bits)
            chosen[name] = beta
        return chosen

    def _of_site(self, term: str) -> float:
        factors = {self.sites.get(name, 1.0) for name in term.split(", ")}
        if len(factors) > 1:
            raise ModelError(
                f"sites must give the same weight to {term}, which the guide draws as one vector; got "
                f"{sorted(factors)}. Use a GuideList, in which each latent has a guide of its own."
            )
        return factors.pop()

    def extra_repr(self) -> str:
        shown = {"warmup": self.warmup, "end": self.end, "sites": self.sites, "free_bits": self.free_bits}
        return ", ".join(f"{name}={value!r}" for name, value in shown.items())
