"""The tables of the image reproductions, from what their jobs found."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any

from ppl_models.reproductions.images.published import FLOWS, SAMPLING

__all__ = ["all_reached", "compared_flows", "compared_losses", "goals", "results", "trainings", "why_flow", "why_loss"]

#: What was found of a method: ``training`` and ``judgement`` by their jobs, ``weights`` image by image.
Found = Mapping[str, Any]


def results(found: Mapping[str, Found], mean_image: float, *, number: bool) -> list[dict[str, Any]]:
    """One row for each method, and one for what knows nothing of the images.

    Args:
        found: By method.
        mean_image: The score of that.
        number: Whether the study has a number of its own for Hamiltonian guides.
    """
    rows = []
    for name, each in found.items():
        training, weights = each["training"], each["weights"]
        nll, error = _mean([-value for value in weights["log evidence"]])
        k_hats = sorted(weights["k-hat"])
        rows.append(
            {
                "method": name,
                "NLL": nll,
                "standard error": error,
                "−ELBO": _mean([-value for value in weights["elbo"]])[0],
                "−bound": _mean([-value for value in weights["bound"]])[0],
                "k-hat, median": k_hats[len(k_hats) // 2],
                "k-hat > 0.7": sum(value > 0.7 for value in k_hats) / len(k_hats),
                "active units": str(each["judgement"]["active units"]),
                **({"study's number": each["judgement"].get("study's number")} if number else {}),
                "verdict": each["judgement"]["verdict"],
                "epochs": training["points"][-1]["epochs"],
                "minutes": training["points"][-1]["minutes"],
            }
        )
    return [*rows, {"method": "mean image", "NLL": mean_image}]


def trainings(found: Mapping[str, Found]) -> list[dict[str, Any]]:
    """One row for each method: what it maximised, and how much of it."""
    return [
        {
            "method": name,
            "maximised": each["training"]["bound"],
            "steps": str(each["training"]["points"][-1]["steps"]),
            "skipped": str(each["training"]["skipped"]),
            "parameters": f"{each['training']['parameters']:,}",
        }
        for name, each in found.items()
    ]


def goals(found: Mapping[str, Found], *, aims: Collection[str], more: bool) -> list[dict[str, Any]]:
    """Hold methods against the VAE, image by image: some are to be no worse, and the others are reported.

    It is no worse if the difference is not above zero, and worse if it is above two of its standard errors over the
    images. Between the two, ``reached`` is ``None``, and ``remark`` says so.

    Args:
        found: By method.
        aims: Those that are to be no worse.
        more: Whether there are more images to judge by.
    """
    if "VAE" not in found:
        return []
    base = found["VAE"]["weights"]["log evidence"]
    rows = []
    for name, each in found.items():
        if name == "VAE":
            continue
        own = each["weights"]["log evidence"]
        difference, error = _mean([one - other for one, other in zip(base, own, strict=True)])
        goal = name in aims
        reached: bool | None = None
        remark = ""
        if not goal:
            remark = "no goal"
        elif difference <= 0:
            reached = True
        elif difference <= 2 * error:
            remark = "undecided: more --images would tell" if more else "undecided"
        else:  # a difference that is infinite among them, whose error is NaN
            reached = False
        rows.append(
            {
                "NLL of": name,
                "less that of the VAE": difference,
                "standard error": error,
                "most": 0.0 if goal else None,
                "reached": reached,
                "remark": remark,
            }
        )
    return rows


def all_reached(rows: Sequence[Mapping[str, Any]]) -> bool | None:
    """Say whether all of the :func:`goals` are reached: ``None`` if some are undecided, or there are none."""
    told = [row["reached"] for row in rows if row["most"] is not None]
    if False in told:
        return False
    return True if told and None not in told else None


def compared_losses(found: Mapping[str, Found], grey: Mapping[str, float]) -> list[dict[str, Any]]:
    """Put the study's losses of HVAE and IWAE beside ours."""
    rows: list[dict[str, Any]] = []
    for printed in SAMPLING:
        points = found[printed.method]["training"]["points"] if printed.method in found else []
        last = printed.epoch == 40 and printed.method in found
        told = any(row["method"] == printed.method for row in rows)
        rows.append(
            {
                "method": printed.method,
                "epoch": str(printed.epoch),
                "published, training": printed.training,
                "published, validation": printed.validation,
                "from": "the figure" if printed.source == "figure" else "the log",
                "ours, −bound": _at(points, printed.epoch),
                "ours, NLL": _nll(found[printed.method]) if last else None,
                "why they differ": "the same" if told else why_loss(printed.method),
            }
        )
    last_row = {
        "method": "HVAE's encoder, 50 samples",
        "epoch": "40",
        "published, validation": 173.16,
        "from": "the log",
        "why they differ": why_loss("encoder"),
    }
    return [*rows, last_row]


def why_loss(method: str) -> str:
    """Say what a published loss of the study of HVAE and IWAE is.

    Example:
        >>> why_loss("IWAE")[:50]
        'a bound of 40 samples, with batch normalisation in'
    """
    return {
        "IWAE": "a bound of 40 samples, with batch normalisation in the decoder: in training it is that of no model of "
        "one image",
        "HVAE": "no bound: the momentum starts at zero and has no density, −l/2 is counted once a batch in place of "
        "once an image, and forces are detached; and not of 40 samples, as that beside it",
        "encoder": "a bound, but of the encoder alone, which the steps had left behind: 90 nats above the loss of "
        "the same model",
    }[method]


def compared_flows(found: Mapping[str, Found], grey: Mapping[str, float]) -> list[dict[str, Any]]:
    """Put the study's losses of HVAE and IAF beside ours."""
    rows = []
    for printed in FLOWS:
        ours = found.get(printed.method)
        rows.append(
            {
                "method": printed.method,
                "K": str(printed.steps),
                "largest step": printed.most_step,
                "learning rate": printed.rate,
                "epochs": str(printed.epochs),
                "published, first": printed.first,
                "published, last": printed.last,
                "published, −ELBO": printed.negative_elbo,
                "mean image": grey["mean image"],
                "floor": grey["floor"],
                "ours, −ELBO": None if ours is None else _mean([-value for value in ours["weights"]["elbo"]])[0],
                "ours, NLL": None if ours is None else _nll(ours),
                "why they differ": why_flow(printed.method),
            }
        )
    return rows


def why_flow(method: str) -> str:
    """Say why a published loss of the study of HVAE and IAF is not ours.

    Example:
        >>> why_flow("VAE + IAF")[:43]
        'rows were shuffled between layers, so that '
    """
    shuffled = "rows were shuffled between layers, so that each image was decoded from another's latent"
    pixels = "grey pixels of the test set, which it was trained on"
    sign = "the likelihood's force had the wrong sign"
    return {
        "HVAE": f"{pixels}, twice as many epochs as the flows; {sign}",
        "VAE + IAF": f"{shuffled}: no better than the mean image; {pixels}",
        "HVAE + IAF": f"{shuffled}; {sign}; a learning rate of a tenth; {pixels}",
    }[method]


def _at(points: Sequence[Mapping[str, float]], epoch: int) -> float | None:
    """The validation loss after so many epochs, on the line between two points of a curve."""
    for one, other in pairwise(points):
        if one["epochs"] <= epoch <= other["epochs"]:
            share = (epoch - one["epochs"]) / (other["epochs"] - one["epochs"])
            return one["validation"] + share * (other["validation"] - one["validation"])
    return None


def _nll(each: Found) -> float:
    return _mean([-value for value in each["weights"]["log evidence"]])[0]


def _mean(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and its standard error."""
    mean = sum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1) / len(values))
