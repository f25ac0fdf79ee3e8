"""The numbers that the image studies published, as data, and what each of them stands for."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FLOWS", "MEAN_GREY_IMAGE", "SAMPLING", "PrintedFlow", "PrintedLoss"]


@dataclass(frozen=True)
class PrintedLoss:
    """A point of the learning curves of HVAE and IWAE, in nats per image.

    Args:
        method: ``"IWAE"`` or ``"HVAE"``.
        epoch: After how many epochs; the last of 40 unless the best was another.
        training: Mean over the epoch.
        validation: After the epoch.
        source: ``"printed"``, or ``"figure"``: read off it, to half a nat.
    """

    method: str
    epoch: int
    training: float | None
    validation: float | None
    source: str = "printed"


#: HVAE's numbers were not printed.
SAMPLING = (
    PrintedLoss("IWAE", 1, 209.12, 156.92),
    PrintedLoss("IWAE", 2, 145.31, 134.86),
    PrintedLoss("IWAE", 5, 112.23, 108.11),
    PrintedLoss("IWAE", 10, 96.01, 93.88),
    PrintedLoss("IWAE", 20, 83.90, 82.91),
    PrintedLoss("IWAE", 30, 78.94, 78.62),
    PrintedLoss("IWAE", 39, 76.51, 76.70),
    PrintedLoss("IWAE", 40, 77.57, 76.80),
    PrintedLoss("HVAE", 1, 229.0, 174.0, "figure"),
    PrintedLoss("HVAE", 2, 159.0, 152.5, "figure"),
    PrintedLoss("HVAE", 38, None, 79.0, "figure"),
    PrintedLoss("HVAE", 40, 75.4, 84.1, "figure"),
)


@dataclass(frozen=True)
class PrintedFlow:
    """A run of the study of HVAE and IAF.

    Args:
        method: As this package calls it.
        steps: K.
        most_step: The upper limit of the step size.
        rate: The learning rate.
        epochs: How many.
        first: The first loss printed, in nats per image.
        last: The last.
    """

    method: str
    steps: int
    most_step: float
    rate: float
    epochs: int
    first: float
    last: float

    @property
    def negative_elbo(self) -> float:
        """What the last loss would be with the constant that was left out: one nat for each of 64 momenta."""
        return self.last - 64


#: Losses per epoch, first and last, without a constant.
FLOWS = (
    PrintedFlow("HVAE", 20, 0.01, 1e-3, 30, 291.62, 172.40),
    PrintedFlow("VAE + IAF", 0, 0.01, 1e-3, 15, 326.15, 271.50),
    PrintedFlow("HVAE + IAF", 20, 0.1, 1e-4, 15, 453.50, 285.15),
)

#: What the mean of MNIST's 10,000 grey test images scores on them, in nats per image.
MEAN_GREY_IMAGE = 205.65
