"""The force on a particle: the gradient of a log density, with clear words where it is not finite."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from guides.base import Guide
from guides.errors import DivergedError

__all__ = ["check_force", "force_of"]


def force_of(log_density: Callable[[Tensor], Tensor], *, detach: bool = False) -> Callable[[Tensor], Tensor]:
    r"""Make the function :math:`z \mapsto \nabla \log p(z)` from one of shapes ``(*batch, D)`` to ``(*batch,)``.

    Args:
        log_density: The function to differentiate, for each row of its argument by itself.
        detach: Whether the force is a constant for the gradients of whatever is made of it.
    """
    keep_graph = torch.is_grad_enabled() and not detach

    def force_at(position: Tensor) -> Tensor:
        # Inference mode would record nothing to differentiate, and its tensors can never be differentiated.
        with torch.inference_mode(False), torch.enable_grad():
            position = position.clone() if position.is_inference() else position
            point = position if keep_graph and position.requires_grad else position.detach().requires_grad_()
            (force,) = torch.autograd.grad(log_density(point).sum(), point, create_graph=keep_graph)
        return force

    return force_at


def check_force(guide: Guide, force: Tensor, position: Tensor, *, step: int, num_steps: int, step_size: Tensor) -> None:
    """See that a force is finite, while Pyro's validation is on.

    Raises:
        DivergedError: If it is not, with the step, the step size and the site.
    """
    if is_validation_enabled() and not torch.isfinite(force).all():
        raise diverged(guide, force, position, step=step, num_steps=num_steps, step_size=step_size)


def diverged(
    guide: Guide, force: Tensor, position: Tensor, *, step: int, num_steps: int, step_size: Tensor
) -> DivergedError:
    """Say where a trajectory was lost, and what to do."""
    bad = ~(torch.isfinite(force) & torch.isfinite(position))
    rows = bad.any(-1)
    if not rows.any():
        rows = position.abs().amax(-1) == position.abs().max()
    row = rows.flatten().nonzero()[0, 0]
    lost = position.reshape(-1, position.shape[-1])[row].detach()
    site, value = "", lost
    if len(lost) == guide.space.dim:
        value = guide.whitening(lost)
    # The latent farthest out among those whose force is bad: one bad term makes all forces bad.
    far = torch.where(bad.reshape(-1, len(lost))[row] | ~bad.any(), value.abs().nan_to_num(torch.inf), -1).argmax()
    if len(lost) == guide.space.dim:
        site = f" at site {guide.space.site_at(int(far)).name!r} (unconstrained value {value[far].item():.3g})"
    return DivergedError(
        f"the force of {type(guide).__name__} must be finite; it is not in step {step} of {num_steps}, with step size "
        f"{step_size.max().item():.3g},{site} for {int(rows.sum())} of {rows.numel()} particles. Lower init_step_size "
        "and max_step_size, take fewer steps, or start nearer to the posterior: guide.setup(..., init='laplace')."
    )
