"""Rung: one level of a ladder, from what is above or below it to the law of its latents."""

from __future__ import annotations

from torch import Tensor, nn

from guides.errors import choose, whole_number

__all__ = ["NORMALISATIONS", "Rung"]


class _BatchNorm(nn.BatchNorm1d):
    """Batch normalisation of rows ``(*, width)``, whatever their batch dimensions are."""

    def forward(self, rows: Tensor) -> Tensor:
        normalised: Tensor = super().forward(rows.reshape(-1, rows.shape[-1]))
        return normalised.reshape(rows.shape)


#: What may stand between a linear map and its activation, by name.
NORMALISATIONS: dict[str, type[nn.Module]] = {"layer": nn.LayerNorm, "batch": _BatchNorm, "none": nn.Identity}


class Rung(nn.Module):
    r"""Map numbers to features, and these to the mean and log-variance of a normal law.

    .. math::
        h = \mathrm{LeakyReLU}(\mathrm{normalise}(A x + a)), \qquad \mu = M h + m, \quad \log v = V h + w

    Args:
        input_dim: The number of inputs.
        hidden_dim: The number of features h.
        latent_dim: The number of latents.
        normalisation: ``"layer"``: each row by its own mean and variance. ``"batch"``: each feature over all rows, as
            in the ladder's study; what comes out for a row then depends on the other rows while training. ``"none"``.
            The first two have the same number of parameters.

    Raises:
        OptionError: If a number is less than 1, or the normalisation unknown.

    Example:
        >>> import torch
        >>> hidden, mean, log_variance = Rung(3, hidden_dim=8, latent_dim=2)(torch.zeros(5, 3))
        >>> hidden.shape, mean.shape, log_variance.shape
        (torch.Size([5, 8]), torch.Size([5, 2]), torch.Size([5, 2]))
    """

    #: The slope of LeakyReLU below zero, as in the study.
    slope = 0.1

    def __init__(self, input_dim: int, *, hidden_dim: int, latent_dim: int, normalisation: str = "layer") -> None:
        super().__init__()
        hidden_dim = whole_number("hidden_dim", hidden_dim, least=1)
        latent_dim = whole_number("latent_dim", latent_dim, least=1)
        normalise = NORMALISATIONS[choose("normalisation", normalisation, NORMALISATIONS)]
        self.features = nn.Sequential(
            nn.Linear(whole_number("input_dim", input_dim, least=1), hidden_dim),
            normalise(hidden_dim),
            nn.LeakyReLU(self.slope),
        )
        self.mean = nn.Linear(hidden_dim, latent_dim)
        self.log_variance = nn.Linear(hidden_dim, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return features, means and log-variances of rows ``(*, input_dim)``."""
        hidden = self.features(x)
        return hidden, self.mean(hidden), self.log_variance(hidden)
