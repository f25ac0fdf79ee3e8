"""The force on a particle: the gradient of a log density, with clear words where it is lost."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pyro.poutine.util import is_validation_enabled
from torch import Tensor

from guides.base import Guide
from guides.errors import DivergedError, PplError
from guides.recomputing import recomputed

__all__ = ["Force"]


class Force:
    r"""The function :math:`z \mapsto \nabla \log p(z)` along one trajectory, which it is evaluated on once per step.

    While Pyro's validation is on, each value is looked at: a trajectory that has left the region where the density can
    be computed ends with an error that says where.

    Args:
        guide: The guide whose trajectory it is, for the error.
        log_density: What to differentiate: a function from ``(*batch, D)`` to ``(*batch,)``, for each row by itself.
        step_sizes: The trajectory's step sizes, ``(K, D)``.
        detach: Whether the force is a constant for the gradients of whatever is made of it.
        from_start: Whether the first evaluation is at the start, and not in the first step.
        checkpoint: Whether what the gradient needs of an evaluation is computed again for it, and not kept.
    """

    def __init__(
        self,
        guide: Guide,
        log_density: Callable[[Tensor], Tensor],
        step_sizes: Tensor,
        *,
        detach: bool,
        from_start: bool,
        checkpoint: bool,
    ) -> None:
        self.guide, self.log_density, self.step_sizes = guide, log_density, step_sizes
        self.keep_graph = torch.is_grad_enabled() and not detach
        self.checkpoint = checkpoint and self.keep_graph
        self.step = -1 if from_start else 0

    def __call__(self, position: Tensor) -> Tensor:
        self.step += 1
        try:
            force = recomputed(self._gradient, position) if self.checkpoint else self._gradient(position)
        except ValueError as error:
            # Torch's validation, of a distribution whose parameters overflowed. Any other error is the model's own.
            if isinstance(error, PplError) or not str(error).startswith("Expected ") or self.step == 0:
                raise
            raise self._lost(position, position) from error
        if is_validation_enabled() and not torch.isfinite(force).all():
            raise self._lost(position, force)
        return force

    def _gradient(self, position: Tensor) -> Tensor:
        # Inference mode would record nothing to differentiate, and its tensors can never be differentiated.
        with torch.inference_mode(False), torch.enable_grad():
            position = position.clone() if position.is_inference() else position
            point = position if self.keep_graph and position.requires_grad else position.detach().requires_grad_()
            (force,) = torch.autograd.grad(self.log_density(point).sum(), point, create_graph=self.keep_graph)
        return force

    def _lost(self, position: Tensor, force: Tensor) -> DivergedError:
        """Say at which step and site: of the latents whose force is lost, the one farthest out."""
        guide, num_steps = self.guide, len(self.step_sizes)
        position = position.detach().reshape(-1, position.shape[-1])
        bad = ~torch.isfinite(force.detach()).reshape(position.shape)
        bad = bad | ~bad.any()
        far = position.abs().nan_to_num(torch.inf).where(bad, -1.0)
        row = far.amax(-1).argmax()
        where = f"in step {self.step} of {num_steps}, with step size {self.step_sizes[self.step - 1].max().item():.3g}"
        if self.step == 0:
            where = f"at the start of its {num_steps} steps"
        site = ""
        if position.shape[-1] == guide.space.dim:
            latent = guide.whitening(position[row])
            worst = int(latent.abs().nan_to_num(torch.inf).where(bad[row], -1.0).argmax())
            site = f" The latent farthest out is {guide.space.site_at(worst).name!r}, at {latent[worst].item():.3g}"
            site += " (unconstrained)."
        smaller = "Lower init_step_size and max_step_size, take fewer steps, or start" if self.step else "Start"
        return DivergedError(
            f"the force of {type(guide).__name__} must be finite; it is not {where}.{site} {smaller} nearer to the "
            "posterior: guide.setup(..., init='laplace')."
        )
