"""The convolutional encoder and decoder of the HVAE study, for 28 x 28 images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from guides.errors import DataError, whole_number

__all__ = ["ConvDecoder", "ConvEncoder"]

_HIDDEN = 450
_CHANNELS, _SIDE = 32, 4


def _layers(*layers: nn.Module, batch_norm: bool) -> nn.Sequential:
    """A chain without its batch normalisations, unless they are asked for."""
    return nn.Sequential(*[m for m in layers if batch_norm or not isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)])


class _Images(nn.Module):
    """Lay vectors out as images with the channels last in memory, in which convolving and up-sampling are faster."""

    def forward(self, vectors: Tensor) -> Tensor:
        images = vectors.unflatten(-1, (_CHANNELS, _SIDE, _SIDE))
        return images.contiguous(memory_format=torch.channels_last)


class ConvEncoder(nn.Module):
    """Map images ``(B, 1, 28, 28)`` to ``(B, 2 latent_dim)`` through three strided convolutions.

    Args:
        latent_dim: L; the output holds L locations and L log-scales.
        batch_norm: Whether to normalise batches as the study did (328,520 parameters at L = 64); without, every datum
            is encoded independently of the others.

    Raises:
        OptionError: If ``latent_dim`` is less than 1.
        DataError: When called with images of another shape.

    Example:
        >>> sum(p.numel() for p in ConvEncoder(64, batch_norm=True).parameters())
        328520

    References:
        Anthony L. Caterini, Arnaud Doucet, Dino Sejdinovic, Hamiltonian Variational Auto-Encoder, 2018,
        https://arxiv.org/abs/1805.11328, appendix; architecture after Tim Salimans et al., 2015,
        https://arxiv.org/abs/1410.6460.
    """

    def __init__(self, latent_dim: int = 64, *, batch_norm: bool = False) -> None:
        super().__init__()
        latent_dim = whole_number("latent_dim", latent_dim, least=1)
        self.layers = _layers(
            nn.BatchNorm2d(1),
            nn.Conv2d(1, 16, 5, stride=2, padding=2),
            nn.Softplus(),
            nn.BatchNorm2d(16),
            nn.Conv2d(16, 32, 5, stride=2, padding=2),
            nn.Softplus(),
            nn.BatchNorm2d(32),
            nn.Conv2d(32, _CHANNELS, 5, stride=2, padding=2),
            nn.BatchNorm2d(_CHANNELS),
            nn.Flatten(),
            nn.Linear(_CHANNELS * _SIDE**2, _HIDDEN),
            nn.Softplus(),
            nn.BatchNorm1d(_HIDDEN),
            nn.Linear(_HIDDEN, 2 * latent_dim),
            batch_norm=batch_norm,
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] != (1, 28, 28):
            raise DataError(f"x must have shape (B, 1, 28, 28); got {tuple(x.shape)}.")
        output: Tensor = self.layers(x)
        return output


class ConvDecoder(nn.Module):
    """Map latents ``(*, latent_dim)`` to logits of images ``(*, 1, 28, 28)``.

    Args:
        latent_dim: L.
        batch_norm: Whether to normalise batches as the study did (306,615 parameters at L = 64). The likelihood of
            one image then depends on the others in its batch while training: p(x | z) is no longer a model of one
            image, and bounds on it are not bounds. Off by default for that reason.

    Raises:
        OptionError: If ``latent_dim`` is less than 1.

    Example:
        >>> sum(p.numel() for p in ConvDecoder(64, batch_norm=True).parameters())
        306615

    References:
        See :class:`ConvEncoder`.
    """

    def __init__(self, latent_dim: int = 64, *, batch_norm: bool = False) -> None:
        super().__init__()
        latent_dim = whole_number("latent_dim", latent_dim, least=1)
        self.layers = _layers(
            nn.BatchNorm1d(latent_dim),
            nn.Linear(latent_dim, _HIDDEN),
            nn.Softplus(),
            nn.BatchNorm1d(_HIDDEN),
            nn.Linear(_HIDDEN, _CHANNELS * _SIDE**2),
            nn.Softplus(),
            _Images(),
            nn.BatchNorm2d(_CHANNELS),
            nn.Conv2d(_CHANNELS, 32, 5, padding=2),
            nn.Softplus(),
            nn.Upsample(size=7),
            nn.BatchNorm2d(32),
            nn.Conv2d(32, 16, 5, padding=2),
            nn.Softplus(),
            nn.Upsample(size=14),
            nn.BatchNorm2d(16),
            nn.Conv2d(16, 16, 5, padding=2),
            nn.Softplus(),
            nn.Upsample(size=28),
            nn.Conv2d(16, 1, 5, padding=2),
            batch_norm=batch_norm,
        )

    def forward(self, z: Tensor) -> Tensor:
        batch = z.shape[:-1]
        images: Tensor = self.layers(z.reshape(-1, z.shape[-1]))
        return images.reshape(*batch, *images.shape[1:])
