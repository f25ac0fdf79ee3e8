"""WithParameters: a model whose parameters are latents too, under a prior."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn
from torch.distributions import constraints, transform_to

from guides.bijections import bijection
from guides.errors import ModelError, OptionError
from guides.log_density import Feasible
from guides.plates import outside_plates

__all__ = ["Prior", "WithParameters"]

#: A law by the parameter's name, one for all, or a function from name and value to a law.
Prior = Mapping[str, Any] | Callable[[str, Tensor], Any] | TorchDistributionMixin

#: Where, in unconstrained space, the support of a prior is held against the values that the parameter may take.
PROBES = (-5.0, 0.0, 5.0)


@dataclass(frozen=True)
class Parameter:
    """What is learned: its value and the constraint on it, and where modules hold it (nowhere: ``pyro.param``)."""

    name: str
    value: Tensor
    constraint: Any
    places: tuple[tuple[nn.Module, str], ...] = ()


class WithParameters:
    r"""Run a model with its parameters drawn from a prior, in sample sites that are named as they are.

    .. math:: p(x, z, \theta) = p(\theta) \, p_\theta(x, z)

    Learned is what requires gradients: the parameters of a module, a ``PyroParam`` by its constrained value, and what
    the model gets from ``pyro.param``. After each run the modules hold their own parameters again.

    Args:
        model: A module, a method of one, or a function.
        prior: Laws of fewer dimensions than a parameter hold for each of its elements.
        args: Arguments of the model.
        kwargs: Its keyword arguments.

    Raises:
        ModelError: If the model has no such parameters, or one that has the name of a site or is ``pyro.module``'s.
        OptionError: If ``prior`` leaves one out, names another, or gives one a law that does not fit.

    Example:
        >>> import pyro.distributions as dist
        >>> from ppl_models import OffsetGaussian
        >>> x = torch.zeros(3, 2)
        >>> model = WithParameters(OffsetGaussian(2), dist.Normal(0.0, 1.0), (x,), {})
        >>> pyro.poutine.trace(model).get_trace(x).nodes["offset"]["value"].shape
        torch.Size([2])
    """

    def __init__(self, model: Callable[..., Any], prior: Prior, args: Any, kwargs: Any) -> None:
        self.model = model
        self.parameters = _find(model, args, kwargs)
        names = [each.name for each in self.parameters]
        if isinstance(prior, Mapping):
            for name in prior:
                if name not in names:
                    raise OptionError(f"prior must name parameters of the model ({', '.join(names)}); got {name!r}.")
            left = [name for name in names if name not in prior]
            if left:
                raise OptionError(
                    f"prior must give a law to each parameter; got none for {', '.join(left)}. Give one, or hold it at "
                    "its value by requires_grad_(False)."
                )
        self.laws = {each.name: _law(each, prior) for each in self.parameters}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        values = {name: pyro.sample(name, law) for name, law in self.laws.items()}
        stored = {each.name: values[each.name] for each in self.parameters if not each.places}
        with _in_place(self.parameters, values), _Stored(stored), pyro.settings.context(module_local_params=True):
            return self.model(*args, **kwargs)


def _find(model: Callable[..., Any], args: Any, kwargs: Any) -> list[Parameter]:
    """The model's parameters that require gradients, by one run; the parameter store stays as it is."""
    found: dict[int, Parameter] = {}
    for prefix, part in _modules(model):
        for key, value in part._parameters.items():
            if value is not None and value.requires_grad:
                first = found.get(id(value)) or _of_module(prefix, part, key, value)
                found[id(value)] = Parameter(first.name, first.value, first.constraint, (*first.places, (part, key)))
    store, quiet = pyro.get_param_store(), pyro.validation_enabled(False)
    with store.scope(store.get_state()), torch.random.fork_rng(), torch.no_grad(), outside_plates(), quiet:
        with poutine.block(), _Seen() as seen:
            Feasible()(model)(*args, **kwargs)
        for name, (value, constraint) in seen.parameters.items():
            leaf = value.unconstrained() if hasattr(value, "unconstrained") else value
            if not leaf.requires_grad or id(leaf) in found:  # a PyroModule shows its own, too
                continue
            if "$$$" in name:
                raise ModelError(
                    f"a module that the model only shows to pyro.module cannot be learned; got {name!r}. Let a "
                    "PyroModule hold it, or hold it at its value by requires_grad_(False)."
                )
            found[id(leaf)] = Parameter(name, value.detach().clone(), constraint)
    if not found:
        raise ModelError(
            "learn='parameters' needs parameters that require gradients, of the module that is the model or from "
            "pyro.param; got none. Give a module as the model, or leave learn out."
        )
    for each in found.values():
        if each.name in seen.sites:
            raise ModelError(f"a parameter must not be named as a sample site; got {each.name!r} twice. Rename one.")
    return list(found.values())


def _modules(model: Any) -> list[tuple[str, nn.Module]]:
    """The parts of the module that a model is, or is a method of."""
    while isinstance(model, partial):
        model = model.func
    owner = getattr(model, "__self__", model)
    return list(owner.named_modules()) if isinstance(owner, nn.Module) else []


def _of_module(prefix: str, part: nn.Module, key: str, value: Tensor) -> Parameter:
    own = key.removesuffix("_unconstrained")
    ours: Any = part._pyro_params if isinstance(part, PyroModule) else {}
    constrained = own != key and own in ours
    constraint: Any = ours[own][0] if constrained else constraints.real
    name = f"{prefix}.{own if constrained else key}".removeprefix(".")
    return Parameter(name, transform_to(constraint)(value.detach()), constraint)


def _law(parameter: Parameter, prior: Prior) -> Any:
    """The law of a parameter as one event of the parameter's shape."""
    name, shape = parameter.name, parameter.value.shape
    if isinstance(prior, Mapping):
        law = prior[name]
    else:
        law = prior if isinstance(prior, TorchDistributionMixin) else prior(name, parameter.value)
    if not isinstance(law, TorchDistributionMixin):
        raise OptionError(f"prior of {name!r} must be one of pyro.distributions; got {law!r}.")
    try:
        batch = shape[: max(0, len(shape) - len(law.event_shape))]
        expanded = law.expand(batch).to_event(len(batch))
    except (RuntimeError, ValueError):  # it has more elements than that
        expanded = None
    if expanded is None or expanded.event_shape != shape:
        raise OptionError(
            f"prior of {name!r} must have the parameter's shape {tuple(shape)}, or one that is repeated to it; got "
            f"{tuple(law.batch_shape + law.event_shape)}."
        )
    if law.support.is_discrete or not _is_within(law, parameter.constraint):
        raise OptionError(
            f"prior of {name!r} must be continuous and give values that the parameter may take, {parameter.constraint};"
            f" got {type(law).__name__}, whose support is {law.support}."
        )
    return expanded


def _is_within(law: Any, constraint: Any) -> bool:
    to_support = bijection(law.support)
    shape = to_support.inverse_shape(law.batch_shape + law.event_shape)
    return all(bool(constraint.check(to_support(torch.full(shape, probe))).all()) for probe in PROBES)


@contextmanager
def _in_place(parameters: list[Parameter], values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let modules hold values in place of their parameters."""
    before = [(part, key, part._parameters[key]) for each in parameters for part, key in each.places]
    try:
        for each in parameters:
            for part, key in each.places:
                value: Any = transform_to(each.constraint).inv(values[each.name])
                part._parameters[key] = value
                _tell(part)
        yield
    finally:
        for part, key, parameter in before:
            part._parameters[key] = parameter
            _tell(part)


def _tell(part: nn.Module) -> None:
    """A recurrent layer keeps a list of its parameters."""
    if isinstance(part, nn.RNNBase):
        part._flat_weights = [part._parameters[name] for name in part._flat_weights_names]


class _Seen(Messenger):
    """Notes the names of sample sites, and of each parameter the value and its constraint."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: set[str] = set()
        self.parameters: dict[str, tuple[Any, Any]] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        self.sites.add(msg["name"])

    def _pyro_post_param(self, msg: Any) -> None:
        self.parameters[msg["name"]] = msg["value"], msg["kwargs"]["constraint"]


class _Stored(Messenger):
    """Gives values in place of what is in the parameter store; nobody else sees of a parameter but its site."""

    def __init__(self, values: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_param(self, msg: Any) -> None:
        msg["stop"] = True
        if msg["name"] in self.values:
            msg["value"], msg["done"] = self.values[msg["name"]], True
