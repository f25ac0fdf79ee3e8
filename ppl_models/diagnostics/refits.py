"""Refit: a guide fitted to each of many data sets, all at once where it can be."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.overrides import TorchFunctionMode

from guides.errors import DivergedError, ModelError, choose, positive, whole_number
from ppl_models.objectives import ELBO, Objective
from ppl_models.training import fit
from ppl_models.training.denormals import flushing_denormals
from ppl_models.training.schedules import SCHEDULES, LearningRate

__all__ = [
    "FAILURES",
    "PARTICLES",
    "Refit",
    "Refits",
    "guide_parameters",
    "holding",
    "in_words",
    "only",
    "refitted",
    "sharpest",
]

#: Of the objective where none is given.
PARTICLES = 10

#: What data may do to a fit: Pyro's checks of what is no parameter of a law are a ValueError.
FAILURES = (DivergedError, ValueError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Refit:
    """How a guide is fitted to each data set, from the parameters that it has; the model's are left as they are.

    Args:
        steps: Number of optimizer steps.
        lr: Learning rate of Adam.
        schedule: ``"constant"`` or ``"cosine"``.
        objective: What to maximise: by default the ELBO of ten particles, sticking the landing where the guide can
            score its draws.
        max_skipped: A fit with more non-finite steps than that has failed.
        batched: Whether to fit all at once; where the model or guide cannot be mapped over parameters and data
            (:func:`torch.vmap`), they are fitted one after the other all the same, and the result says so.

    Raises:
        OptionError: If an option breaks its rule.
        TypeError: If ``objective`` is none.
    """

    steps: int = 1000
    lr: float = 0.05
    schedule: str = "cosine"
    objective: Objective | None = None
    max_skipped: int = 20
    batched: bool = True

    def __post_init__(self) -> None:
        whole_number("steps", self.steps, least=1)
        positive("lr", self.lr)
        choose("schedule", self.schedule, SCHEDULES)
        whole_number("max_skipped", self.max_skipped, least=0)
        if self.objective is not None and not isinstance(self.objective, Objective):
            raise TypeError(f"objective must be an Objective; got {self.objective!r}. Write objective=ELBO().")


@dataclass(frozen=True)
class Refits:
    """What came of the fits.

    Args:
        parameters: The fitted values by name, one row for each fit.
        failed: The number of each fit that failed, and why.
        how: How they were made, in words.
    """

    parameters: dict[str, Tensor]
    failed: dict[int, str]
    how: str


def refitted(
    model: Callable[..., Any], guide: nn.Module, sets: Sequence[tuple[Any, ...]], how: Refit, *, most: int
) -> Refits:
    """Fit a guide to each of some data sets; its own parameters are left as they were.

    Args:
        model: Any Pyro model.
        guide: A guide that is a module, set up.
        sets: The arguments of each, alike but for the values in tensors.
        how: What to do.
        most: The most fits at once.
    """
    objective = sharpest(model, guide, sets[0]) if how.objective is None else how.objective
    parameters = guide_parameters(model, guide)
    with only(parameters.values(), model, guide), torch.enable_grad(), flushing_denormals():
        reason = "as asked for"
        if how.batched:
            try:
                parts = [
                    _batched(objective, model, guide, sets[start : start + most], how)
                    for start in range(0, len(sets), most)
                ]
            # Whatever stands in the way of the map: what is wrong with the model itself the loop will say.
            except Exception as error:
                reason = in_words(error)
                logger.warning("the fits cannot be made at once, and are made one after the other (%s)", reason)
            else:
                values = {name: torch.cat([part[0][name] for part in parts]) for name in parameters}
                skipped = torch.cat([part[1] for part in parts])
                too_many = (skipped > how.max_skipped).nonzero().flatten().tolist()
                failed = dict.fromkeys(too_many, f"more than {how.max_skipped} non-finite steps")
                return Refits(values, failed, "one batched fit" if len(parts) == 1 else f"{len(parts)} batched fits")
        return _one_by_one(objective, model, guide, sets, how, reason)


def _batched(
    objective: Objective, model: Callable[..., Any], guide: nn.Module, sets: Sequence[tuple[Any, ...]], how: Refit
) -> tuple[dict[str, Tensor], Tensor]:
    """Fit by steps of Adam on stacked parameters: it works number by number, so that no fit sees another."""
    program = objective(model, guide)
    objective.loss(model, guide, *sets[0])  # finds the plates, outside the map
    own = {id(p): name for name, p in guide_parameters(model, guide).items()}
    parameters = {name: p for name, p in program.named_parameters() if id(p) in own}
    stacked = {n: p.detach().expand(len(sets), *p.shape).clone().requires_grad_() for n, p in parameters.items()}
    differ = [i for i, arg in enumerate(sets[0]) if isinstance(arg, Tensor)]
    data = tuple(torch.stack([each[i] for each in sets]) for i in differ)

    def loss(values: dict[str, Tensor], tensors: tuple[Tensor, ...]) -> Tensor:
        args = list(sets[0])
        for i, tensor in zip(differ, tensors, strict=True):
            args[i] = tensor
        return functional_call(program, values, tuple(args))

    losses_of = vmap(loss, randomness="different")
    leaves = list(stacked.values())
    optimizer = torch.optim.Adam(leaves, lr=how.lr)
    rate = LearningRate(how.schedule, optimizer, how.steps)
    skipped = torch.zeros(len(sets), dtype=torch.long, device=leaves[0].device)
    with pyro.validation_enabled(False), _NoiseOutOfPlace():
        for step in range(how.steps):
            rate.begin(step=step, epoch=0)
            losses = losses_of(stacked, data)
            gradients = torch.autograd.grad(losses.sum(), leaves)
            finite = losses.detach().isfinite()
            for gradient in gradients:
                finite = finite & gradient.flatten(1).isfinite().all(1)
            before = None if finite.all() else [leaf.detach().clone() for leaf in leaves]
            for leaf, gradient in zip(leaves, gradients, strict=True):
                leaf.grad = torch.where(_aligned(finite, gradient), gradient, 0.0)
            optimizer.step()
            if before is not None:
                skipped += ~finite
                with torch.no_grad():
                    for leaf, old in zip(leaves, before, strict=True):
                        leaf.copy_(torch.where(_aligned(finite, leaf), leaf, old))
    return {own[id(parameters[name])]: value.detach() for name, value in stacked.items()}, skipped


def _one_by_one(
    objective: Objective,
    model: Callable[..., Any],
    guide: nn.Module,
    sets: Sequence[tuple[Any, ...]],
    how: Refit,
    reason: str,
) -> Refits:
    parameters, failed = guide_parameters(model, guide), {}
    start = {name: p.detach().clone() for name, p in parameters.items()}
    found: dict[str, list[Tensor]] = {name: [] for name in parameters}
    for i, args in enumerate(sets):
        with holding(parameters, start):
            try:
                fit(
                    model,
                    guide,
                    *args,
                    objective=objective,
                    steps=how.steps,
                    lr=how.lr,
                    schedule=how.schedule,
                    max_skipped=how.max_skipped,
                    progress=False,
                )
            except FAILURES as error:
                failed[i] = in_words(error)
            for name, p in parameters.items():
                found[name].append(p.detach().clone())
    return Refits({name: torch.stack(each) for name, each in found.items()}, failed, f"one by one ({reason})")


def in_words(error: Exception) -> str:
    """What went wrong, on one line."""
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:100]}"


def sharpest(model: Callable[..., Any], guide: Callable[..., Any], args: tuple[Any, ...]) -> Objective:
    """The ELBO of ten particles with the gradient that has the least noise at the optimum, of those a guide allows."""
    stuck = ELBO(num_particles=PARTICLES, gradient="stl")
    try:
        with torch.random.fork_rng(), torch.enable_grad():
            stuck.differentiable_loss(model, guide, *args)
    except ModelError:  # it cannot score its draws
        return ELBO(num_particles=PARTICLES)
    return stuck


def guide_parameters(model: Callable[..., Any], guide: nn.Module) -> dict[str, nn.Parameter]:
    """The guide's trainable parameters that are not the model's, by name.

    Raises:
        ModelError: If there are none.
    """
    shared = {id(p) for p in model.parameters()} if isinstance(model, nn.Module) else set()
    found = {name: p for name, p in guide.named_parameters() if p.requires_grad and id(p) not in shared}
    if not found:
        raise ModelError("to be refitted the guide must have parameters of its own; got none that requires a gradient.")
    return found


@contextmanager
def holding(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Give parameters other values for a while."""
    before = {name: p.detach().clone() for name, p in parameters.items()}
    try:
        _put(parameters, values)
        yield
    finally:
        _put(parameters, before)


@torch.no_grad()
def _put(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    for name, parameter in parameters.items():
        parameter.copy_(values[name])


@contextmanager
def only(parameters: Any, *modules: Any) -> Iterator[None]:
    """Let no other parameters of some modules require a gradient for a while."""
    kept = {id(p) for p in parameters}
    others = {p: None for m in modules if isinstance(m, nn.Module) for p in m.parameters() if p.requires_grad}
    frozen = [p for p in others if id(p) not in kept]
    try:
        for p in frozen:
            p.requires_grad_(False)
        yield
    finally:
        for p in frozen:
            p.requires_grad_()


class _NoiseOutOfPlace(TorchFunctionMode):
    """Draws normal noise as a new tensor: written into one that all share, it could not differ along a map."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.normal_ and len(args) == 1 and not kwargs:
            return torch.randn(args[0].shape, dtype=args[0].dtype, device=args[0].device)
        return func(*args, **(kwargs or {}))


def _aligned(chosen: Tensor, like: Tensor) -> Tensor:
    return chosen.reshape(len(chosen), *[1] * (like.dim() - 1))
