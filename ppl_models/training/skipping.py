"""What is done about steps whose loss or gradient is not finite."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from guides.errors import DivergedError
from guides.noise import Share
from guides.plates import Minibatch
from ppl_models.objectives import Objective
from ppl_models.training.guard import describe_divergence
from ppl_models.training.replay import write_bundle

__all__ = ["Skipping"]

log = logging.getLogger(__name__)


class Skipping:
    """Skip such steps, count them, say why, and stop when there are too many.

    Args:
        objective: What is trained.
        model: The model.
        guide: The guide.
        parameters: What is trained, by name.
        max_skipped: How many steps may be skipped.
        bundle: Folder for all that each such step was made from, if they are to be kept.
    """

    def __init__(
        self,
        objective: Objective,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        parameters: Mapping[str, Tensor],
        *,
        max_skipped: int,
        bundle: str | os.PathLike[str] | None,
    ) -> None:
        self.objective, self.model, self.guide, self.parameters = objective, model, guide, parameters
        self.max_skipped, self.bundle = max_skipped, bundle
        self.count = 0

    def skip(
        self,
        batch: tuple[Any, ...],
        random_state: Mapping[str, Tensor],
        *,
        loss: float,
        step: int,
        epoch: int,
        minibatch: Minibatch | None = None,
        share: Share | None = None,
        name: str = "",
    ) -> None:
        """Say what was not finite in a step, inside the handlers that it ran in, its gradient in the parameters.

        Args:
            batch: The arguments of model and guide.
            random_state: The generators' states before the step.
            loss: Its loss.
            step: Its number.
            epoch: The epoch's.
            minibatch: The handler that scaled the batch, if one did.
            share: The handler that shared out the noise, if one did.
            name: What tells this process's bundles from others'.

        Raises:
            DivergedError: If more steps than allowed were skipped.
        """
        self.count += 1
        found = describe_divergence(self.objective, self.model, self.guide, batch, self.parameters, random_state)
        found = f"step {step}: loss {loss:g}; {found}"
        if self.bundle is not None:
            path = Path(self.bundle, f"step-{step}{name}.pt")
            write_bundle(
                path,
                self.model,
                self.guide,
                batch,
                random_state,
                step=step,
                epoch=epoch,
                message=found,
                minibatch=minibatch,
                share=share,
            )
            found += f"; written to {path}"
        log.warning("skipped %s", found)
        if self.count > self.max_skipped:
            raise DivergedError(
                f"training stopped at {found}. {self.count} steps were skipped, max_skipped={self.max_skipped}. "
                "Lower lr, give max_grad_norm, or look at the site named."
            )
