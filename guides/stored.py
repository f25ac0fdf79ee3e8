"""A guide's state dict: its parameters, and what it must know of the model's latents to have them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from guides.errors import ModelError
from guides.latent_space import LatentSpace
from guides.step_size import StepSize

__all__ = ["Stored"]

_KEY = "_extra_state"  # torch's own name for what get_extra_state returns


class Stored(nn.Module):
    """The part of a guide that writes its state, and takes over another's without a run of the model."""

    if TYPE_CHECKING:
        base: Any
        model: Any
        build: Any
        context_width: int | None
        _ready: bool
        _space: LatentSpace | None
        _check_set_up: Any
        _unset: Any

    def get_extra_state(self) -> dict[str, Any]:
        """What a guide of the same model needs, beside the parameters, to be this one."""
        return {
            "kind": type(self).__name__,
            "options": _options(self),
            "is_set_up": self._ready,
            "context_width": self.context_width,
            "space": None if self._space is None else self._space.description(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Nothing: it was looked at before the parameters were."""

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        """Take over the state of a guide of the same kind and model, which sets this one up if it is not yet.

        Raises:
            ModelError: If the state is of a guide of another kind, with other options or of other latents, or if
                neither guide was set up.
            RuntimeError: If the parameters have other shapes.
        """
        if not state_dict.get(_KEY, {}).get("is_set_up"):
            self._check_set_up()
        with self._unset():
            return super().load_state_dict(state_dict, *args, **kwargs)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        # Called by torch for every module in turn, so that guides inside other modules are set up too.
        if prefix + _KEY in state_dict:
            if self._ready:
                _check(self, state_dict[prefix + _KEY])
            elif state_dict[prefix + _KEY]["is_set_up"]:
                self._set_up_from(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _set_up_from(self, state_dict: dict[str, Any], prefix: str) -> None:
        """Create the parameters, as :meth:`guides.Guide.setup` does, for the latents that the state describes."""
        state = state_dict.get(prefix + _KEY)
        _check(self, state)
        assert state is not None
        for name, part in self.named_modules():
            if isinstance(part, Stored) and part is not self and not part._ready:
                part._set_up_from(state_dict, f"{prefix}{name}.")
        if self.base is not None:
            space = self.base._space
        elif state["space"] is not None:
            own = (value for name, value in state_dict.items() if name.startswith(prefix))
            like = next((v for v in own if isinstance(v, Tensor) and v.is_floating_point()), None)
            space = LatentSpace.from_description(self.model, state["space"], like)
        else:
            space = None
        self.context_width, self._space = state["context_width"], space
        with torch.random.fork_rng():  # where parameters start does not matter here
            self.build(space)
        self._ready = True


def _options(guide: Stored) -> dict[str, Any]:
    """The options that the guide's law depends on, by name: all but those that say where it starts."""
    options = {
        name: value
        for name, value in vars(guide).items()
        if isinstance(value, bool | int | float | str | tuple)
        and not name.startswith(("_", "init"))
        and name not in ("training", "context_width", "checkpoint")
    }
    for part in guide.children():
        if isinstance(part, StepSize):
            options |= {"max_step_size": part.limit, "step_size_per_step": part.num_steps is not None}
    return options


def _check(guide: Stored, state: dict[str, Any] | None) -> None:
    """See that a state is one that a guide can take over."""
    kind = type(guide).__name__
    if state is None or state["kind"] != kind:
        got = "nothing for it" if state is None else f"that of a {state['kind']}"
        raise ModelError(f"the state for a {kind} must be that of a {kind}; got {got}. Make the same guide again.")
    own = _options(guide)
    for name, value in state["options"].items():
        if name in own and own[name] != value:
            raise ModelError(f"{name} of a {kind} must be {value!r}, as in the state given; got {own[name]!r}.")
    if guide._space is not None and state["space"] is not None:
        theirs, ours = (_latents(space) for space in (state["space"], guide._space.description()))
        if theirs != ours:
            raise ModelError(f"the latents of a {kind} must be {theirs}, as in the state given; got {ours}.")


def _latents(description: dict[str, Any]) -> str:
    return ", ".join(f"{s['name']} {tuple(s['batch_shape'] + s['unconstrained_shape'])}" for s in description["sites"])
