"""FilterBank: a grid of Gaussian filters that reads a patch of an image, or writes one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from guides.errors import whole_number

__all__ = ["FilterBank"]


class FilterBank:
    r"""Read patches from images and write patches to them, through a grid of Gaussian filters.

    With the five numbers :math:`(\tilde g_X, \tilde g_Y, \log \sigma^2, \log \tilde\delta, \log \gamma)` of each image,
    and pixels counted from 0,

    .. math::
        g_X &= \tfrac{W - 1}{2} + \tfrac{W + 1}{2} \tilde g_X, \qquad
        \delta = \frac{\max(W, H) - 1}{N - 1} \tilde\delta, \\
        \mu_i &= g_X + \big(i - \tfrac{N - 1}{2}\big) \delta, \qquad
        F_X[i, a] = \frac{\exp(-(a - \mu_i)^2 / 2 \sigma^2)}{\sum_b \exp(-(b - \mu_i)^2 / 2 \sigma^2)}

    and likewise for rows of pixels: the grid is centred on :math:`(g_X, g_Y)`, and each row of a filter matrix sums to
    1. Reading gives :math:`\gamma F_Y x F_X^\top`, writing :math:`F_Y^\top w F_X / \gamma`.

    Args:
        image_size: H and W.
        patch_size: N, at least 2.

    Raises:
        OptionError: If a number is too small.

    Example:
        >>> bank = FilterBank((28, 28), patch_size=5)
        >>> bank.read(torch.rand(3, 1, 28, 28), torch.zeros(3, 5)).shape
        torch.Size([3, 1, 5, 5])

    References:
        Karol Gregor et al., DRAW: A Recurrent Neural Network For Image Generation, 2015,
        https://arxiv.org/abs/1502.04623, eqs. 19-29. Departure: rows are normalised exactly, so that a filter that
        looks beyond the image takes the pixels at its edge.
    """

    #: How many numbers place the grid of one image.
    num_parameters = 5

    def __init__(self, image_size: Sequence[int], *, patch_size: int) -> None:
        self.image_size = tuple(whole_number("image_size", size, least=1) for size in image_size)
        self.patch_size = whole_number("patch_size", patch_size, least=2)

    def filters(self, parameters: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Give the matrices for rows and columns of pixels, and the intensity.

        Args:
            parameters: Five numbers for each image, ``(*, 5)``.

        Returns:
            ``(*, N, H)``, ``(*, N, W)`` and ``(*, 1, 1, 1)``.
        """
        x, y, log_variance, log_stride, log_intensity = parameters.unbind(-1)
        steps = torch.arange(self.patch_size).to(parameters) - (self.patch_size - 1) / 2
        stride = (max(self.image_size) - 1) / (self.patch_size - 1) * log_stride.exp()
        matrices = []
        for size, place in zip(self.image_size, (y, x), strict=True):
            centre = (size - 1) / 2 + (size + 1) / 2 * place
            means = centre[..., None] + steps * stride[..., None]
            pixels = torch.arange(size).to(parameters)
            squares = (pixels - means[..., None]).square()
            matrices.append((-0.5 * squares * (-log_variance[..., None, None]).exp()).softmax(-1))
        return matrices[0], matrices[1], log_intensity.exp()[..., None, None, None]

    def read(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Cut patches ``(*, C, N, N)`` out of images ``(*, C, H, W)``."""
        rows, columns, intensity = self.filters(parameters)
        return intensity * (rows[..., None, :, :] @ images @ columns[..., None, :, :].mT)

    def write(self, patches: Tensor, parameters: Tensor) -> Tensor:
        """Put patches ``(*, C, N, N)`` onto empty images ``(*, C, H, W)``."""
        rows, columns, intensity = self.filters(parameters)
        return rows[..., None, :, :].mT @ patches @ columns[..., None, :, :] / intensity

    def __repr__(self) -> str:
        return f"FilterBank({self.image_size}, patch_size={self.patch_size})"
