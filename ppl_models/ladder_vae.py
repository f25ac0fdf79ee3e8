"""LadderVAE: a ladder of latent vectors per datum, each given the one above it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pyro
import pyro.distributions as dist
from pyro.distributions import TorchDistribution
from pyro.nn import PyroModule
from torch import Tensor, nn

from guides.errors import OptionError, choose, whole_number
from ppl_models.likelihoods import Likelihood
from ppl_models.networks.mlp import MLPDecoder
from ppl_models.networks.rung import NORMALISATIONS, Rung
from ppl_models.rows import num_rows

__all__ = ["LadderVAE"]


class LadderVAE(PyroModule):
    r"""Generate each datum from a ladder of latent vectors of its own.

    .. math::
        z_n \sim N(0, I), \qquad z_i \mid z_{i+1} \sim N\big(\mu_i(z_{i+1}), v_i(z_{i+1})\big), \quad i = n-1, \dots, 1,
        \qquad x \mid z_1 \sim p(\cdot \mid \mathrm{decoder}(z_1))

    Sites ``z_n``, ..., ``z_1`` and ``x``, all in the plate ``"data"``. Called with data ``(B, *event_shape)`` the
    model scores them; called with ``None`` and ``num=B`` it generates. :class:`guides.LadderGuide` is made for it; any
    guide with an encoder fits it.

    Each :math:`\mu_i` and :math:`\log v_i` comes from a :class:`~ppl_models.networks.Rung`, and log-variances may be
    any numbers. The rungs normalise each row by itself. With ``normalisation="batch"``, as the study had it, a row's
    :math:`p(z_i \mid z_{i+1})` depends on all rows of its batch while training (and is another model when evaluated):
    the likelihood is no longer one of single data, and bounds on it are not bounds.

    Args:
        event_shape: The shape of one datum.
        latent_dims: The sizes of :math:`z_1, \dots, z_n`, at least two of them.
        hidden: The widths of the rungs' features, one per level.
        likelihood: A name; see :class:`~ppl_models.VAE`.
        levels: The number of grey levels, for likelihoods of them.
        normalisation: ``"layer"``, ``"batch"`` or ``"none"``.
        decoder: Module from ``(*, latent_dims[0])`` to the likelihood's parameters; by default
            :class:`~ppl_models.networks.MLPDecoder` through the widths of ``hidden``, in this order.

    Raises:
        OptionError: If there are fewer than two levels, a number is less than 1, or a name unknown.
        TypeError: If ``decoder`` is not a module.
        DataError: When called with data of another shape.

    Example:
        >>> ladder = LadderVAE((2,), latent_dims=(4, 4), hidden=(8, 8), likelihood="normal")
        >>> ladder(None, num=3).shape
        torch.Size([3, 2])

    References:
        Casper Kaae Sønderby et al., Ladder Variational Autoencoders, 2016, https://arxiv.org/abs/1602.02282, eqs. 1-3.
        Departure: layer normalisation in place of batch normalisation.
    """

    def __init__(
        self,
        event_shape: Sequence[int],
        *,
        latent_dims: Sequence[int] = (64, 64, 64),
        hidden: Sequence[int] = (512, 256, 256),
        likelihood: str = "bernoulli",
        levels: int | None = None,
        normalisation: str = "layer",
        decoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.event_shape = tuple(whole_number("event_shape", size, least=1) for size in event_shape)
        self.latent_dims = tuple(whole_number("latent_dims", size, least=1) for size in latent_dims)
        self.hidden = tuple(whole_number("hidden", size, least=1) for size in hidden)
        if len(self.latent_dims) < 2:
            raise OptionError(
                f"latent_dims must have at least two levels; got {self.latent_dims}. With one, write VAE."
            )
        if len(self.hidden) != len(self.latent_dims):
            raise OptionError(f"hidden must have one width per level, {len(self.latent_dims)}; got {self.hidden}.")
        self.normalisation = choose("normalisation", normalisation, NORMALISATIONS)
        self.likelihood = Likelihood(likelihood, levels=levels)
        if decoder is not None and not isinstance(decoder, nn.Module):
            raise TypeError(f"decoder must be a torch.nn.Module; got {type(decoder).__name__}.")
        output_shape = self.likelihood.output_shape(self.event_shape)
        self.rungs = nn.ModuleList(self.new_rung(i, above) for i, above in enumerate(self.latent_dims[1:]))
        self.decoder = decoder or MLPDecoder(self.latent_dims[0], event_shape=output_shape, hidden=self.hidden)

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of the latents, from the bottom up."""
        return tuple(f"z_{i + 1}" for i in range(len(self.latent_dims)))

    def new_rung(self, level: int, input_dim: int) -> Rung:
        """Make another network of the kind that the ladder is made of, to the latents of a level, counted from 0."""
        return Rung(
            input_dim,
            hidden_dim=self.hidden[level],
            latent_dim=self.latent_dims[level],
            normalisation=self.normalisation,
        )

    def prior(self, level: int, above: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of the latents of a level, counted from 0, given those above it, ``(*, L)``."""
        _, mean, log_variance = self.rungs[level](above)
        return mean, log_variance

    def decode(self, z: Tensor) -> TorchDistribution:
        """Give the distribution of data at latents of the lowest level ``(*, latent_dims[0])``."""
        return self.likelihood(self.decoder(z), z.dim() - 1)

    def forward(self, x: Tensor | None = None, *, num: int | None = None) -> Tensor:
        """Score data ``(B, *event_shape)``, or generate ``num`` of them; return the value of ``x``."""
        size = num_rows(x, num, self.event_shape)
        top = self.rungs[-1].features[0].weight.new_zeros(self.latent_dims[-1])  # type: ignore[union-attr, index]
        with pyro.plate("data", size):
            z = pyro.sample(self.sites[-1], dist.Normal(top, 1.0).to_event(1))
            for level in reversed(range(len(self.latent_dims) - 1)):
                mean, log_variance = self.prior(level, z)
                z = pyro.sample(self.sites[level], dist.Normal(mean, (0.5 * log_variance).exp()).to_event(1))
            value: Tensor = pyro.sample("x", self.decode(z), obs=x)
        return value

    def reconstruct(self, latents: Mapping[str, Tensor]) -> Tensor:
        """Give the mean of the data at latents by site, as a guide draws them: ``(*, *event_shape)``."""
        return self.decode(latents[self.sites[0]]).mean
