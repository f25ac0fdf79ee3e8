"""The numbers that the seeds study published, as data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["PUBLISHED", "PUBLISHED_RUNS", "PublishedRow", "published_row"]

#: Runs of each model on each dataset.
PUBLISHED_RUNS = 10


@dataclass(frozen=True)
class PublishedRow:
    """What was published of a model on a dataset.

    Args:
        dataset: By its name here.
        model: Likewise.
        metrics: By metric, the mean and the standard deviation (ddof 0) over the runs that were used.
        used: Over how many of the ten runs. The others had no finite loss, of which the table says nothing.
        diverged: How many of the ten ended without a finite loss. Those that had one before are among the used.
        epochs: How many there were.
    """

    dataset: str
    model: str
    metrics: dict[str, tuple[float, float]]
    used: int = PUBLISHED_RUNS
    diverged: int = 0
    epochs: int = 500


#: Means and standard deviations of min, max, last, first and exceeds, as printed.
_PRINTED = """\
8gaussians    flow  2.911 .021       3.356 .341       2.948 .063      3.065 .095       9.9 12.1
8gaussians    lvae  5.822 .000      11.035 .440       5.824 .001      9.295 .120       0 0
8gaussians    vae   5.817 .000      16.105 1.368      5.819 .000     10.300 .283       0 0
checkerboard  flow  3.580 .033       4.231 .269       3.628 .075      3.786 .069       9.5 17.3
checkerboard  lvae  6.918 .000      12.421 .270       6.920 .001     10.481 .113       0 0
checkerboard  vae   6.910 .000      16.862 2.356      6.912 .001     11.521 .619       0 0
mnist         flow  162.189 44.703  4.647e18 1.394e19 176.544 43.211 267.039 158.939   2.2 2.6
mnist         lvae  125.873 .177   306.506 3.913    126.107 .172    252.481 1.852      0 0
mnist         vae   124.654 .302   283.036 17.251   125.067 .347    243.925 3.588      .1 .3
mnist         draw  86.335 .054    373.108 9.029     86.518 .094    221.093 2.938      0 0
mnist         draw2 86.024 .078    328.895 3.598     86.198 .111    207.489 .605       0 0
mnist         draw3 85.847 .070    271.922 4.471     85.993 .149    200.604 2.137      0 0
mnist         draw4 85.665 .044    262.816 3.137     85.787 .089    193.823 1.576      0 0
omniglot      draw  114.747 .256   242.020 8.654    117.420 .284    211.927 3.714      0 0
omniglot      draw2 113.667 .218   283.267 7.989    117.618 .373    223.963 1.171      0 0
omniglot      draw3 109.562 .147   213.010 7.089    114.962 .259    180.191 1.663      0 0
omniglot      draw4 108.323 .219   199.679 3.060    115.278 .408    177.384 .756       0 0
"""

#: Runs used and runs that ended without a finite loss, where these are not ten and none; from the losses that were
#: published with the tables.
_RUNS = {
    ("8gaussians", "flow"): (10, 1),
    ("8gaussians", "lvae"): (8, 2),
    ("checkerboard", "flow"): (10, 5),
    ("checkerboard", "lvae"): (5, 5),
    ("mnist", "flow"): (10, 7),
}

_METRICS = ("min", "max", "last", "first", "exceeds")


def _parse(line: str) -> PublishedRow:
    dataset, model, *numbers = line.split()
    values = [float(each) for each in numbers]
    metrics = dict(zip(_METRICS, zip(values[::2], values[1::2], strict=True), strict=True))
    used, diverged = _RUNS.get((dataset, model), (PUBLISHED_RUNS, 0))
    epochs = 40 if (dataset, model) == ("mnist", "flow") else 500
    return PublishedRow(dataset, model, metrics, used, diverged, epochs)


#: All that was published, in the order of the datasets.
PUBLISHED: tuple[PublishedRow, ...] = tuple(map(_parse, _PRINTED.splitlines()))


def published_row(dataset: str, model: str) -> PublishedRow | None:
    """Look up what was published of a model on a dataset; ``None`` if nothing was.

    Example:
        >>> published_row("8gaussians", "lvae").metrics["last"], published_row("8gaussians", "lvae").used
        ((5.824, 0.001), 8)
    """
    return next((row for row in PUBLISHED if (row.dataset, row.model) == (dataset, model)), None)
