"""The mistakes of the published study, as parts that put them back."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.nn import functional as F

from guides import LadderGuide
from guides.ladder import merged
from guides.latent_space import LatentSpace
from guides.sequential import SequentialGuide, Steps
from ppl_models.ladder_vae import LadderVAE
from ppl_models.networks import Rung
from ppl_models.rows import num_rows

__all__ = ["PublishedEncoder", "PublishedLadder", "PublishedLadderGuide", "PublishedPointHead", "published_ladder"]


class PublishedPointHead(nn.Module):
    """The study's last layer for points: a sigmoid on all numbers, so that means and scales lie between 0 and 1."""

    def __init__(self, decoder: nn.Module) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, z: Tensor) -> Tensor:
        mean, scale = self.decoder(z).chunk(2, -1)
        return torch.cat([mean.sigmoid(), F.logsigmoid(scale)], -1)


class PublishedEncoder(nn.Module):
    """The study's last layer of an encoder: a softplus on log-variances, so that no variance is less than 1."""

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor) -> Tensor:
        loc, log_variance = self.encoder(x).chunk(2, -1)
        return torch.cat([loc, 0.5 * F.softplus(log_variance)], -1)


class PublishedLadder(PyroModule):
    r"""A ladder down which the prior's draws flow, and the latents are drawn beside them.

    .. math::
        w_n = z_n \sim N(0, I), \qquad z_i, w_i \mid w_{i+1} \sim N\big(\mu_i(w_{i+1}), v_i(w_{i+1})\big), \qquad
        x \mid w_1 \sim p(\cdot \mid \mathrm{decoder}(w_1))

    Nothing reads :math:`z_{n-1}, \dots, z_1`. Data have the law that they have under the ladder itself.

    Args:
        ladder: What gives the rungs and the decoder.
    """

    def __init__(self, ladder: LadderVAE) -> None:
        super().__init__()
        self.ladder = ladder

    def forward(self, x: Tensor | None = None, *, num: int | None = None) -> Tensor:
        ladder = self.ladder
        top = ladder.latent_dims[-1]
        with pyro.plate("data", num_rows(x, num, ladder.event_shape)):
            weight = next(ladder.parameters())
            passed = pyro.sample(ladder.sites[-1], dist.Normal(weight.new_zeros(top), 1.0).to_event(1))
            for level in reversed(range(len(ladder.latent_dims) - 1)):
                mean, log_variance = ladder.prior(level, passed)
                law = dist.Normal(mean, (0.5 * log_variance).exp()).to_event(1)
                pyro.sample(ladder.sites[level], law)
                passed = pyro.sample(f"passed_{level + 1}", law)
            value: Tensor = pyro.sample("x", ladder.decode(passed), obs=x)
        return value


class PublishedLadderGuide(SequentialGuide):
    r"""The study's guide of a ladder: merged latents have their KL, and the prior's draws flow down.

    .. math::
        \mathrm{ELBO} = E[\log p(x \mid w_1)] - \mathrm{KL}\big(q(z_n \mid x) \,\|\, N(0, I)\big)
        - \sum_{i < n} E\big[\mathrm{KL}\big(q(z_i \mid w_{i+1}, x) \,\|\, p(z_i \mid w_{i+1})\big)\big],
        \qquad w_i \sim p(w_i \mid w_{i+1})

    Only :math:`w_n = z_n` knows of the datum: every KL below it is a penalty for nothing.

    Args:
        model: The ladder.
        own: A guide of the ladder inside it, whose networks this one has.
    """

    def __init__(self, model: PublishedLadder, *, own: LadderGuide) -> None:
        super().__init__(model, encoder=own.encoder)
        self.latent_dims, self.rungs = own.latent_dims, own.rungs

    def context_dim(self, space: LatentSpace) -> int:
        return 2 * sum(self.latent_dims)

    @property
    def parts(self) -> list[nn.Module]:
        return [self.rungs, self.model.ladder]  # type: ignore[attr-defined]

    def steps(self, context: Tensor) -> Steps:
        numbers = context[..., : 2 * sum(self.latent_dims)].split([2 * size for size in self.latent_dims], -1)
        bottom = [level.chunk(2, -1) for level in numbers]
        rungs, ladder = self.parts
        mean, log_variance = bottom[-1]
        passed = yield mean, 0.5 * log_variance
        for level in reversed(range(len(bottom) - 1)):
            _, *top = rungs[level](passed)  # type: ignore[index]
            mean, log_variance = merged(bottom[level], top)
            yield mean, 0.5 * log_variance
            mean, log_variance = ladder.prior(level, passed)  # type: ignore[operator]
            passed = yield mean, 0.5 * log_variance


def published_ladder(ladder: LadderVAE) -> tuple[PublishedLadder, PublishedLadderGuide]:
    """Put the study's mistakes into a ladder: log-variances through a softplus, and the prior's draws flow down."""
    guide = LadderGuide(ladder)
    for part in (ladder, guide.encoder, guide.rungs):
        for rung in part.modules():  # type: ignore[union-attr]
            if isinstance(rung, Rung):
                rung.log_variance = nn.Sequential(rung.log_variance, nn.Softplus())  # type: ignore[assignment]
    model = PublishedLadder(ladder)
    return model, PublishedLadderGuide(model, own=guide)
