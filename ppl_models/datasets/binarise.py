"""Binary images from grey ones."""

from __future__ import annotations

import torch
from torch import Tensor

from guides.errors import DataError

__all__ = ["binarise"]


def binarise(images: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Draw each pixel as 0 or 1, with its grey value as the probability of 1.

        b ~ Bernoulli(x)

    Drawn anew for every batch this is dynamic binarisation; drawn once with a seeded generator it fixes a test set.

    Shapes: ``images`` ``(*)`` with values x in [0, 1]; the result has the same shape, dtype and device.

    Args:
        images: The grey values x, floating point.
        generator: Where the randomness comes from, on the device of ``images``; torch's global generator if None.

    Raises:
        DataError: If ``images`` are not floating point, not finite, or outside [0, 1].

    Example:
        >>> binarise(torch.tensor([0.0, 1.0, 0.0, 1.0])).tolist()
        [0.0, 1.0, 0.0, 1.0]

    References:
        Salakhutdinov and Murray, "On the quantitative analysis of deep belief networks", 2008,
        https://doi.org/10.1145/1390156.1390177, section 4 (pixels are sampled in proportion to their intensities).
    """
    if not images.is_floating_point():
        raise DataError(
            f"images must be floating point in [0, 1]; got {images.dtype}. For bytes write images.float() / 255."
        )
    if images.numel():
        low, high = torch.stack(torch.aminmax(images)).tolist()
        if not (low >= 0 and high <= 1):  # written so that NaN, which aminmax passes on, fails as well
            raise DataError(f"images must be finite and in [0, 1]; got values from {low:g} to {high:g}.")
    # A third of torch.bernoulli's time on a CPU, and the same draw whatever library torch was built with.
    uniform = torch.rand(images.shape, generator=generator, dtype=images.dtype, device=images.device)
    return (uniform < images).to(images.dtype)
