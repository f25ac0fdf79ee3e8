"""fit: train a model and a guide on data in memory."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn

from guides.errors import ModelError, positive, whole_number
from guides.plates import Minibatch
from ppl_models.objectives import ELBO, Objective
from ppl_models.seeds import derived_seed, seeded_generator
from ppl_models.training.averaging import TailAverage
from ppl_models.training.batches import Transform, check_batch_size, check_finite, minibatches, num_rows
from ppl_models.training.compile import Compile, CompiledObjective
from ppl_models.training.compiled_adam import CompiledAdam
from ppl_models.training.convergence import Converged
from ppl_models.training.denormals import flushing_denormals
from ppl_models.training.gradient import loss_and_gradient
from ppl_models.training.modes import evaluating
from ppl_models.training.options import Optimizer, check_options, make_optimizer
from ppl_models.training.pairs import check_pair, find_parameters, start
from ppl_models.training.progress_bar import progress_bar
from ppl_models.training.random_state import random_state, restored
from ppl_models.training.result import FitResult
from ppl_models.training.schedules import LearningRate, Schedule
from ppl_models.training.skipping import Skipping

__all__ = ["fit"]


def fit(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    objective: Objective | None = None,
    optim: Optimizer = torch.optim.Adam,
    lr: float = 1e-3,
    schedule: Schedule = "constant",
    steps: int = 1000,
    stop: Converged | None = None,
    average: float | None = None,
    batch_size: int | None = None,
    transform: Transform | None = None,
    max_grad_norm: float | None = None,
    validation: Tensor | tuple[Any, ...] | None = None,
    validate_every: int | None = None,
    max_skipped: int = 20,
    bundle: str | os.PathLike[str] | None = None,
    compile: Compile = False,
    seed: int | None = None,
    progress: bool = True,
    description: str = "fit",
) -> FitResult:
    r"""Maximise a bound on the evidence over the parameters of a model and a guide, in place.

    A model with a method ``summarise`` is given the summary of its data instead, made once, so that the cost of a step
    does not grow with their number (full data only). A model with an attribute ``started`` that is false is started:
    ``model.start(*batch)`` is called with the first batch, as :class:`~ppl_models.FlowDensity` needs it. A minibatch's
    bound is scaled by N / B: either through the model's own ``plate(subsample_size=...)``, or, with ``batch_size``,
    through the plate ``"data"``.

    Args:
        model: Any Pyro model.
        guide: Any Pyro guide of it. Ours are set up here if they are not yet.
        *args: Arguments of both; tensors among them are what minibatches are cut from, by their first dimension.
        objective: What to maximise; ``ELBO()`` by default.
        optim: Optimizer class or factory, called as ``optim(parameters, lr=lr)``; ``torch.optim.Adam`` is made fused.
        lr: Learning rate.
        schedule: ``"constant"``, ``"cosine"`` (to zero at the last step), ``"study"`` (constant for 150 epochs, then
            linearly to zero at the 1000th), or a function from the optimizer to a torch scheduler, which is stepped
            after every step that is not skipped.
        steps: Number of optimizer steps; with ``stop``, at most.
        stop: When to stop before that, for example ``Converged()``; see :class:`~ppl_models.training.Converged`.
        average: Which share of the steps, at the end, to average the parameters over, between 0 and 1: with a constant
            learning rate the mean is nearer to the optimum than any of them. Buffers are not averaged. With ``stop``,
            the fit goes on for that share from where the loss is found flat.
        batch_size: B; all data at every step if not given. Each epoch is shuffled anew; its last batch may be smaller.
        transform: Function from a batch of the first argument, and a generator, to what the model sees, for example
            :func:`ppl_models.datasets.binarise`.
        max_grad_norm: Upper limit of the gradient's norm, enforced before the step.
        validation: Arguments on which to evaluate the loss from time to time, in evaluation mode.
        validate_every: How often, in steps; every epoch by default, or 20 times in all without minibatches.
        max_skipped: How many steps with a non-finite loss or gradient are skipped, counted and logged before
            the fit stops; with 0 it stops at the first. Parameters are never changed by such a step.
        bundle: Folder for all that each such step was made from, as ``step-<number>.pt``, to run it again by
            :func:`~ppl_models.training.replay`.
        compile: Whether to compile the step into one graph (see :class:`~ppl_models.training.CompiledObjective`), the
            update too if ``optim`` is ``torch.optim.Adam``. It takes seconds to minutes, and pays where steps are many
            and small. ``"auto"``: where the model can be traced; it runs eagerly, with a warning, where it cannot.
        seed: Fixes the noise, the order of the data and ``transform``; the global generator is left as it was. What is
            drawn elsewhere by the same seed, to judge the fit for example, is unrelated.
        progress: Whether to show a progress bar.
        description: What stands beside the bar.

    Returns:
        The history, what was skipped, and whether the fit converged.

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
        >>> len(result.history), result.skipped
        (5, 0)
    """
    steps, max_skipped = whole_number("steps", steps, least=1), whole_number("max_skipped", max_skipped, least=0)
    batch_size = None if batch_size is None else whole_number("batch_size", batch_size, least=1)
    check_options(optim=optim, lr=lr, max_grad_norm=max_grad_norm, compile=compile)
    share = 0.0 if average is None else positive("average", average, below=1, instead="Write average=0.2.")
    check_pair(model, guide, objective)
    if stop is not None and not isinstance(stop, Converged):
        raise TypeError(f"stop must be a rule; got {stop!r}. Write stop=Converged().")
    if validation is not None and not isinstance(validation, tuple):
        validation = (validation,)
    check_finite(args)
    check_finite(validation or (), name="validation argument")
    if hasattr(model, "summarise") and batch_size is None and transform is None:
        args = (model.summarise(*args),)
        validation = None if validation is None else (model.summarise(*validation),)
    if batch_size is not None:
        check_batch_size(args, batch_size)
    order = seeded_generator(int(torch.randint(2**31, ())) if seed is None else derived_seed(seed, "order"))
    batches = minibatches(args, batch_size, transform, order)
    objective = ELBO() if objective is None else objective
    if validate_every is None:
        validate_every = math.ceil(num_rows(args) / batch_size) if batch_size else math.ceil(steps / 20)
    validate_every = whole_number("validate_every", validate_every, least=1)
    monitor = None if stop is None else stop.monitor()

    result = FitResult()
    with ExitStack() as stack:
        if seed is not None:
            stack.enter_context(torch.random.fork_rng())
            torch.manual_seed(derived_seed(seed, "training"))
        minibatch = None if batch_size is None else Minibatch(num_rows(args))
        scaled: AbstractContextManager[Any] = nullcontext() if minibatch is None else minibatch
        objective.set_progress(step=0, epoch=0)
        epoch, batch = next(batches)
        start(model, batch)
        with scaled:
            parameters = find_parameters(objective, model, guide, batch)
        if minibatch is not None and not minibatch.seen:
            raise ModelError(
                "with batch_size, the model must hold its data in the plate 'data', so that a minibatch can be scaled; "
                "got a model without it. Write pyro.plate('data', len(x))."
            )
        result.num_parameters = sum(p.numel() for p in parameters.values())
        # A compiled step makes Adam's update itself.
        optimizer = make_optimizer(optim, parameters.values(), lr=lr, fused=not compile)
        eager, whole_step = objective(model, guide), None
        compiled = CompiledObjective(eager, fallback=compile == "auto") if compile else None
        if compiled is not None and CompiledAdam.takes(optimizer):
            whole_step = CompiledAdam(compiled, optimizer, max_grad_norm=max_grad_norm)
        learning_rate = LearningRate(schedule, optimizer, steps)
        skipping = Skipping(objective, model, guide, parameters, max_skipped=max_skipped, bundle=bundle)
        tail = TailAverage(parameters.values())
        tail_start = math.ceil((1 - share) * steps) if share else steps
        stack.enter_context(pyro.validation_enabled(False))
        stack.enter_context(flushing_denormals())
        advance = stack.enter_context(progress_bar(description, steps) if progress else nullcontext(lambda loss: None))

        began = time.perf_counter()
        while result.steps < steps:
            step, result.steps = result.steps, result.steps + 1
            objective.set_progress(step=step, epoch=epoch)
            rate = learning_rate.begin(step=step, epoch=epoch)
            state = random_state()
            with scaled:
                updated = None if whole_step is None else whole_step.step(*batch)
                gradient = updated or loss_and_gradient(compiled or eager, batch, parameters)
            if not gradient.is_finite:
                result.skipped += 1
                with scaled:
                    if updated is not None:  # the gradient stayed in the graph
                        with restored(state):
                            loss_and_gradient(eager, batch, parameters)
                    skipping.skip(batch, state, loss=gradient.loss, step=step, epoch=epoch, minibatch=minibatch)
            else:
                if updated is None:
                    if max_grad_norm is not None:
                        nn.utils.clip_grads_with_norm_(list(parameters.values()), max_grad_norm, gradient.total_norm)
                    optimizer.step()
                learning_rate.end()
                if monitor is not None and not result.converged and monitor.update(gradient.loss):
                    result.converged = True
                    tail_start = min(tail_start, result.steps)
                    steps = min(steps, math.ceil(result.steps / (1 - share)))
                if step >= tail_start:
                    tail.update()
            if result.steps == steps:
                tail.install()
                result.averaged = tail.count
            validation_loss = math.nan
            if validation is not None and (result.steps % validate_every == 0 or result.steps == steps):
                validation_loss = _validate(objective, model, guide, validation)
            result.seconds = time.perf_counter() - began
            result.compile_seconds = 0.0 if compiled is None else compiled.seconds
            result.records.append(
                {
                    "step": step,
                    "epoch": epoch,
                    "loss": gradient.loss,
                    "validation_loss": validation_loss,
                    "gradient_norm": gradient.norm,
                    "learning_rate": rate,
                    "skipped": not gradient.is_finite,
                    "seconds": result.seconds,
                    **gradient.parts,
                }
            )
            advance(gradient.loss)
            if result.steps < steps:
                epoch, batch = next(batches)
    return result


def _validate(
    objective: Objective, model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...]
) -> float:
    """The loss on validation data, with its own noise, the same every time, so that training does not depend on it."""
    with torch.random.fork_rng(), poutine.block(), evaluating(model, guide):
        torch.manual_seed(0)
        return objective.loss(model, guide, *args)
