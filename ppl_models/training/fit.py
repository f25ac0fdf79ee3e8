"""fit: train a model and a guide on data in memory."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyro
import torch
from pyro import poutine
from pyro.optim import PyroOptim
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler

from guides import Guide
from guides.errors import DivergedError, ModelError, OptionError, choose, whole_number
from guides.plates import Minibatch
from ppl_models.objectives import ELBO, Objective
from ppl_models.training.batches import Transform, check_finite, minibatches, num_rows
from ppl_models.training.guard import describe_divergence
from ppl_models.training.modes import evaluating

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["FitResult", "fit"]

log = logging.getLogger(__name__)

#: Learning-rate schedules by name: the factor on the initial rate as a function of the fraction of steps done.
LEARNING_RATES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "cosine": lambda done: 0.5 * (1 + math.cos(math.pi * min(done, 1.0))),
}


@dataclass
class FitResult:
    """What a fit did.

    Args:
        steps: Number of optimizer steps asked for.
        skipped: How many of them were skipped because the loss or gradient was not finite.
        seconds: Wall-clock time.
        num_parameters: Number of trained numbers, model and guide together.
        records: One dictionary per step; see :attr:`history`.
    """

    steps: int
    skipped: int = 0
    seconds: float = 0.0
    num_parameters: int = 0
    records: list[dict[str, Any]] = field(default_factory=list, repr=False)

    @property
    def history(self) -> pd.DataFrame:
        """A tidy table, one row per step.

        Columns: ``step``, ``epoch``, ``loss`` (minus the bound in nats, for all data), ``validation_loss`` (NaN where
        it was not evaluated), ``gradient_norm`` (before clipping), ``learning_rate``, ``skipped``, ``seconds`` (since
        the start).
        """
        import pandas as pd

        return pd.DataFrame.from_records(self.records)


def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    objective: Objective | None = None,
    optim: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    lr: float = 1e-3,
    schedule: str | Callable[[torch.optim.Optimizer], LRScheduler] = "constant",
    steps: int = 1000,
    batch_size: int | None = None,
    transform: Transform | None = None,
    max_grad_norm: float | None = None,
    validation: Tensor | tuple[Any, ...] | None = None,
    validate_every: int | None = None,
    max_skipped: int = 20,
    seed: int | None = None,
    progress: bool = True,
    description: str = "fit",
) -> FitResult:
    r"""Maximise a bound on the evidence over the parameters of a model and a guide, in place.

    A model with a method ``summarise`` is given the summary of its data instead, made once, so that the cost of a step
    does not grow with their number (full data only). A minibatch's bound is scaled by N / B: either through the
    model's own ``plate(subsample_size=...)``, or, with ``batch_size``, through the plate ``"data"``.

    Args:
        model: Any Pyro model.
        guide: Any Pyro guide of it. Ours are set up here if they are not yet.
        *args: Arguments of both; tensors among them are what minibatches are cut from, by their first dimension.
        objective: What to maximise; ``ELBO()`` by default.
        optim: Optimizer class or factory, called as ``optim(parameters, lr=lr)``.
        lr: Learning rate.
        schedule: ``"constant"``, ``"cosine"`` (to zero at the last step), or a function from the optimizer to a torch
            scheduler, which is stepped after every step that is not skipped.
        steps: Number of optimizer steps.
        batch_size: B; all data at every step if not given. Each epoch is shuffled anew; its last batch may be smaller.
        transform: Function from a batch of the first argument, and a generator, to what the model sees, for example
            :func:`ppl_models.datasets.binarise`.
        max_grad_norm: Upper limit of the gradient's norm, enforced before the step.
        validation: Arguments on which to evaluate the loss from time to time, in evaluation mode.
        validate_every: How often, in steps; every epoch by default, or 20 times in all without minibatches.
        max_skipped: How many steps with a non-finite loss or gradient are skipped, counted and logged before
            the fit stops. Parameters are never changed by such a step.
        seed: Fixes the noise, the order of the data and ``transform``; the global generator is left as it was.
        progress: Whether to show a progress bar.
        description: What stands beside the bar.

    Returns:
        The history, and what was skipped.

    Raises:
        OptionError: If a number is out of range, a schedule unknown, or there is nothing to train.
        DataError: If data are not finite, or cannot be cut into batches.
        ModelError: If ``batch_size`` is given and the model has no plate ``"data"``.
        DivergedError: After more than ``max_skipped`` skipped steps, with the site, the parameters and the step.

    Example:
        >>> import torch
        >>> from guides import MeanFieldGuide
        >>> from ppl_models import OffsetGaussian
        >>> gaussian = OffsetGaussian(2)
        >>> guide = MeanFieldGuide(gaussian)
        >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> result = fit(gaussian, guide, x, steps=5, seed=0, progress=False)
        >>> result.history.shape, result.skipped
        ((5, 8), 0)
    """
    steps, max_skipped = whole_number("steps", steps, least=1), whole_number("max_skipped", max_skipped, least=0)
    batch_size = None if batch_size is None else whole_number("batch_size", batch_size, least=1)
    _check_positive(lr=lr, max_grad_norm=max_grad_norm)
    _check_pair(model, guide, objective)
    if not callable(optim) or isinstance(optim, PyroOptim):
        raise TypeError(
            f"optim must be a torch optimizer class or a function of parameters and lr; got {type(optim).__name__}. "
            "Write optim=torch.optim.Adam, or functools.partial of one."
        )
    if validation is not None and not isinstance(validation, tuple):
        validation = (validation,)
    check_finite(args)
    check_finite(validation or (), name="validation argument")
    if hasattr(model, "summarise") and batch_size is None and transform is None:
        args = (model.summarise(*args),)
        validation = None if validation is None else (model.summarise(*validation),)
    order = torch.Generator().manual_seed(int(torch.randint(2**31, ())) if seed is None else seed)
    batches = minibatches(args, batch_size, transform, order)
    objective = ELBO() if objective is None else objective
    if validate_every is None:
        validate_every = math.ceil(num_rows(args) / batch_size) if batch_size else math.ceil(steps / 20)
    validate_every = whole_number("validate_every", validate_every, least=1)

    result = FitResult(steps)
    with ExitStack() as stack:
        if seed is not None:
            stack.enter_context(torch.random.fork_rng())
            torch.manual_seed(seed)
        minibatch = None if batch_size is None else Minibatch(num_rows(args))
        scaled: AbstractContextManager[Any] = nullcontext() if minibatch is None else minibatch
        epoch, batch = next(batches)
        with scaled:
            parameters = _parameters(objective, model, guide, batch)
        if minibatch is not None and not minibatch.seen:
            raise ModelError(
                "with batch_size, the model must hold its data in the plate 'data', so that a minibatch can be scaled; "
                "got a model without it. Write pyro.plate('data', len(x))."
            )
        result.num_parameters = sum(p.numel() for p in parameters.values())
        optimizer = optim(list(parameters.values()), lr=lr)
        scheduler = _scheduler(schedule, optimizer, steps)
        stack.enter_context(pyro.validation_enabled(False))
        advance = stack.enter_context(_progress_bar(description, steps) if progress else nullcontext(lambda loss: None))

        start = time.perf_counter()
        for step in range(steps):
            optimizer.zero_grad(set_to_none=True)
            state = torch.random.get_rng_state()
            with scaled:
                loss = objective.differentiable_loss(model, guide, *batch)
                loss.backward()
            gradients = [p.grad for p in parameters.values() if p.grad is not None]
            norm = nn.utils.get_total_norm(gradients)
            loss_value, norm_value = torch.stack([loss.detach(), norm.to(loss)]).tolist()
            skipped = not (math.isfinite(loss_value) and math.isfinite(norm_value))
            rate = scheduler.get_last_lr()[0]
            if skipped:
                result.skipped += 1
                with scaled:
                    found = describe_divergence(objective, model, guide, batch, parameters, state)
                found = f"step {step}: loss {loss_value:g}; {found}"
                log.warning("skipped %s", found)
                if result.skipped > max_skipped:
                    raise DivergedError(
                        f"training stopped at {found}. {result.skipped} steps were skipped, max_skipped={max_skipped}. "
                        "Lower lr, give max_grad_norm, or look at the site named."
                    )
            else:
                if max_grad_norm is not None:
                    nn.utils.clip_grads_with_norm_(list(parameters.values()), max_grad_norm, norm)
                optimizer.step()
                scheduler.step()
            validation_loss = math.nan
            if validation is not None and ((step + 1) % validate_every == 0 or step + 1 == steps):
                validation_loss = _validate(objective, model, guide, validation)
            result.seconds = time.perf_counter() - start
            result.records.append(
                {
                    "step": step,
                    "epoch": epoch,
                    "loss": loss_value,
                    "validation_loss": validation_loss,
                    "gradient_norm": norm_value,
                    "learning_rate": rate,
                    "skipped": skipped,
                    "seconds": result.seconds,
                }
            )
            advance(loss_value)
            if step + 1 < steps:
                epoch, batch = next(batches)
    return result


def _check_positive(**numbers: float | None) -> None:
    for name, value in numbers.items():
        if value is not None and not 0 < value < math.inf:
            raise OptionError(f"{name} must be positive and finite; got {value}.")


def _check_pair(model: object, guide: object, objective: object) -> None:
    for name, part in (("model", model), ("guide", guide)):
        if not callable(part) or isinstance(part, type):
            raise TypeError(f"{name} must be a function or an object that can be called; got {part!r}.")
    if isinstance(model, Guide):
        raise TypeError("model must not be a guide: were model and guide exchanged? Write fit(model, guide, x).")
    if objective is not None and not isinstance(objective, Objective):
        raise TypeError(f"objective must be an Objective; got {objective!r}. Write objective=ELBO().")
    modules = isinstance(guide, Guide) and isinstance(model, nn.Module) and isinstance(guide.model, nn.Module)
    if modules and guide.model is not model:  # type: ignore[attr-defined]
        raise ModelError("guide must be a guide of this model; got one of another, or of a copy of it.")


def _parameters(
    objective: Objective, model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...]
) -> dict[str, Tensor]:
    """All trainable parameters by name, found by one validated run of the objective."""
    with pyro.validation_enabled(True), torch.no_grad(), poutine.trace(param_only=True) as captured:
        objective.loss(model, guide, *args)
    parameters: dict[str, Tensor] = {}
    for prefix, part in (("model", model), ("guide", guide)):
        if isinstance(part, nn.Module):
            parameters |= {f"{prefix}.{name}": p for name, p in part.named_parameters()}
    known = {id(p) for p in parameters.values()}
    nodes: dict[str, Any] = captured.trace.nodes
    for name, node in nodes.items():
        leaf = node["value"].unconstrained()
        if id(leaf) not in known:
            parameters[name] = leaf
    parameters = {name: p for name, p in parameters.items() if p.requires_grad}
    if not parameters:
        raise OptionError("nothing to train: neither the model nor the guide has a parameter that requires a gradient.")
    return parameters


def _scheduler(
    schedule: str | Callable[[torch.optim.Optimizer], LRScheduler], optimizer: torch.optim.Optimizer, steps: int
) -> LRScheduler:
    if callable(schedule):
        return schedule(optimizer)
    factor = LEARNING_RATES[choose("schedule", schedule, LEARNING_RATES)]
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step / steps))


def _validate(
    objective: Objective, model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...]
) -> float:
    """The loss on validation data, with its own noise, the same every time, so that training does not depend on it."""
    with torch.random.fork_rng(), poutine.block(), evaluating(model, guide):
        torch.manual_seed(0)
        return objective.loss(model, guide, *args)


@contextmanager
def _progress_bar(description: str, steps: int) -> Iterator[Callable[[float], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("loss {task.fields[loss]:.6g}"),
    ]
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(description, total=steps, loss=math.nan)
        yield lambda loss: bar.update(task, advance=1, loss=loss)
