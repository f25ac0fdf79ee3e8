"""Why a published number of the seeds study is not ours."""

from __future__ import annotations

from ppl_models.reproductions.convergence.contenders import AS_PUBLISHED, own_name
from ppl_models.reproductions.convergence.published import PUBLISHED_RUNS, published_row

__all__ = ["why"]

_HEAD = "means and scales of points go through a sigmoid: no mean lies outside the unit square, and no scale is above 1"
_VARIANCES = (
    "log-variances go through a softplus, so that no variance is below 1 and the guide never narrower than N(0, I)"
)
_PRIOR_DRAW = "what flows down the ladder is the prior's draw, so that only the top latent knows of the datum"
_UNBOUNDED = "log-scales of couplings have no bound, and steps that are not finite end a run"

_WARMED_UP = "the first five epochs have KL weights of at most 0.05: this holds a warm-up against what comes after"
_FIRST_BEST = "the least of 500 losses on images drawn anew in each epoch: biased down"


def why(dataset: str, model: str, metric: str = "last") -> str:
    """Say in a sentence why a published number differs from what is right.

    Args:
        dataset: By its name.
        model: By its name here.
        metric: Of :func:`~ppl_models.study.convergence_metrics`.

    Example:
        >>> why("8gaussians", "vae_published")
        'the same mistakes, put back'
    """
    row = published_row(dataset, own_name(model))
    if row is None:
        return "nothing was published"
    if model == AS_PUBLISHED:
        return "the same mistakes, put back"
    causes = [_cause(dataset, model)]
    lost = PUBLISHED_RUNS - row.used
    if lost:
        causes.append(f"of {PUBLISHED_RUNS} runs, {lost} were NaN from the first epoch, and left out without a word")
    elif row.diverged:
        causes.append(f"of {PUBLISHED_RUNS} runs, {row.diverged} ended in NaN, and stand with the epochs before")
    return "; ".join([*causes, *_of_metric(dataset, model, metric)])


def _cause(dataset: str, model: str) -> str:
    points = dataset in ("8gaussians", "checkerboard")
    if model == "flow":
        return (
            _UNBOUNDED if points else f"{_UNBOUNDED}; 40 epochs, not 500, and by code that has another dequantisation"
        )
    if model == "vae":
        return f"{_HEAD}; {_VARIANCES}" if points else _VARIANCES
    if model == "lvae":
        return f"as the VAE's; and {_PRIOR_DRAW}"
    if dataset == "omniglot":
        return "images made black and white before they were made small are grey: their loss is no likelihood"
    return "no mistake is known; more epochs, and other images"


def _of_metric(dataset: str, model: str, metric: str) -> list[str]:
    if metric in ("first", "max", "exceeds") and model != "flow":
        return [_WARMED_UP]
    if (dataset, model, metric) == ("mnist", "flow", "max"):
        return ["one epoch of one run"]
    return [_FIRST_BEST] if metric == "min" and dataset in ("mnist", "omniglot") else []
