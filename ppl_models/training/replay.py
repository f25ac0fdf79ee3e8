"""Bundles: everything that a step was made from which was not finite, in one file, to run it again."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import pyro
from torch import Tensor, nn

from guides.noise import Share
from guides.plates import Minibatch
from ppl_models.objectives import Objective
from ppl_models.training.gradient import loss_and_gradient
from ppl_models.training.guard import describe_divergence
from ppl_models.training.pairs import check_pair, find_parameters
from ppl_models.training.random_state import restored
from ppl_models.training.saving import read_file, restore, state_of, write_file

__all__ = ["Replay", "replay", "write_bundle"]


@dataclass(frozen=True)
class Replay:
    """A step that was run again.

    Args:
        step: Its number, from 0.
        loss: Its loss now.
        gradient_norm: Its gradient's norm now.
        message: What is not finite now: the first site, and the parameters.
        recorded: What was said of it when it was first run.
    """

    step: int
    loss: float
    gradient_norm: float
    message: str
    recorded: str


def write_bundle(
    path: str | os.PathLike[str],
    model: Callable[..., Any],
    guide: Callable[..., Any],
    batch: tuple[Any, ...],
    random_state: Mapping[str, Tensor],
    *,
    step: int,
    epoch: int,
    message: str,
    minibatch: Minibatch | None = None,
    share: Share | None = None,
) -> None:
    """Write what a step was made from.

    Args:
        path: The file. Its folder is made if it is missing.
        model: The model, its parameters as they were in that step.
        guide: The guide, likewise.
        batch: The arguments of both.
        random_state: The generators' states before the step, from
            :func:`ppl_models.training.random_state.random_state`.
        step: The step's number.
        epoch: The epoch's.
        message: What was found.
        minibatch: The handler that scaled the batch, if one did.
        share: The handler that shared out the noise, if one did.
    """
    content = {
        "pair": state_of(model, guide),
        "modes": [_modes(part) for part in (model, guide)],
        "batch": list(batch),
        "random_state": dict(random_state),
        "minibatch": None if minibatch is None else {"size": minibatch.size, "plate": minibatch.plate},
        "share": None if share is None else {"size": share.size, "plate": share.plate, "start": share.start},
        "progress": {"step": step, "epoch": epoch},
        "message": message,
    }
    write_file(path, "bundle", content)


def replay(
    path: str | os.PathLike[str], model: Callable[..., Any], guide: Callable[..., Any], objective: Objective
) -> Replay:
    """Run a step again that was not finite, from a file that ``fit`` or ``train`` wrote into its folder ``bundle``.

    Model and guide get the parameters they had in that step, and keep them, with the gradients, to be looked into; the
    generators go on where they were.

    Args:
        path: The bundle.
        model: The same model, made anew.
        guide: The same guide of it, made anew.
        objective: The same objective.

    Returns:
        The loss and gradient it has now, and the first site that is not finite, found with Pyro's validation on.

    Raises:
        FileNotFoundError: If there is no such file.
        DataError: If it is no whole bundle, or holds arguments that are neither tensors nor plain data.
        ModelError: If it is of another model or guide.
    """
    check_pair(model, guide, objective)
    content = read_file(path, "bundle", near=model)
    restore(content["pair"], model, guide)
    for part, modes in zip((model, guide), content["modes"], strict=True):
        for name, module in part.named_modules() if isinstance(part, nn.Module) else []:
            module.training = modes.get(name, module.training)
    batch, states = tuple(content["batch"]), content["random_state"]
    objective.set_progress(**content["progress"])
    scaled = Minibatch(content["minibatch"].pop("size"), **content["minibatch"]) if content["minibatch"] else None
    shared = Share(content["share"].pop("plate"), **content["share"]) if content["share"] else None
    with scaled or nullcontext(), shared or nullcontext():
        with restored(states):
            parameters = find_parameters(objective, model, guide, batch, validate=False)
        with restored(states), pyro.validation_enabled(False):
            now = loss_and_gradient(objective(model, guide), batch, parameters)
        message = describe_divergence(objective, model, guide, batch, parameters, states)
    return Replay(content["progress"]["step"], now.loss, now.norm, message, content["message"])


def _modes(part: Callable[..., Any]) -> dict[str, bool]:
    return {name: m.training for name, m in part.named_modules()} if isinstance(part, nn.Module) else {}
