"""CompiledAdam: a whole training step, Adam's update included, as one compiled graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from ppl_models.training.compile import CompiledObjective
from ppl_models.training.gradient import Gradient

__all__ = ["CompiledAdam"]


class CompiledAdam:
    """Do the update of a ``torch.optim.Adam`` in the graph that finds the gradient.

    The optimizer keeps its state and learning rate, so that schedulers and checkpoints work as ever. Its own step costs
    more than a small model's whole gradient.

    Args:
        objective: The compiled objective.
        optimizer: An Adam that :meth:`takes` accepts.
        max_grad_norm: Upper limit of the gradient's norm, enforced before the update.
    """

    def __init__(
        self, objective: CompiledObjective, optimizer: torch.optim.Adam, *, max_grad_norm: float | None = None
    ) -> None:
        self.objective, self.optimizer, self.max_grad_norm = objective, optimizer, max_grad_norm
        self._rate = torch.zeros((), dtype=torch.float64)

    @staticmethod
    def takes(optimizer: torch.optim.Optimizer) -> TypeGuard[torch.optim.Adam]:
        """Whether an optimizer is Adam as it comes, with one group of parameters and nobody to be told of its steps."""
        if type(optimizer) is not torch.optim.Adam or len(optimizer.param_groups) != 1:
            return False
        if optimizer._optimizer_step_pre_hooks or optimizer._optimizer_step_post_hooks:
            return False
        group = optimizer.param_groups[0]
        plain = not any(group[name] for name in ("amsgrad", "maximize", "weight_decay", "differentiable", "capturable"))
        return plain and group["fused"] is None and group["foreach"] is None

    def step(self, *args: Any) -> Gradient | None:
        """Evaluate a batch, and update the parameters if loss and gradient are finite.

        Returns:
            What the batch said, or ``None``, with nothing changed, for what cannot be traced.
        """
        group = self.optimizer.param_groups[0]
        kind = ("adam", group["betas"], group["eps"], self.max_grad_norm)
        graph, tensors = self.objective.graph(args, {}, tail=self._tail, inputs_of=self._state, kind=kind)
        if graph is None:
            return None
        self._rate.fill_(group["lr"])
        loss, parts, (norm,) = graph(tensors, self._state(graph.trained))
        numbers = [loss, norm, *parts.values()]
        if loss.device.type != "cpu":  # one wait for the device, not one each
            numbers = list(torch.stack([number.to(loss) for number in numbers]).cpu())
        first, second, *others = [number.item() for number in numbers]
        return Gradient(first, dict(zip(parts, others, strict=True)), second, norm)

    def _state(self, trained: Sequence[nn.Parameter]) -> list[Tensor]:
        """The learning rate, then each parameter's number of updates and two moments."""
        inputs = [self._rate]
        for parameter in trained:
            state = self.optimizer.state[parameter]
            if not state:
                # As torch's own first step does.
                state["step"] = torch.tensor(0.0)
                state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            inputs += [state["step"], state["exp_avg"], state["exp_avg_sq"]]
        return inputs

    def _tail(
        self, loss: Tensor, values: Sequence[Tensor], gradients: Sequence[Tensor], inputs: Sequence[Tensor]
    ) -> list[Tensor]:
        group = self.optimizer.param_groups[0]
        (beta1, beta2), epsilon = group["betas"], group["eps"]
        norm = nn.utils.get_total_norm(gradients, foreach=False)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        shrink = 1.0 if self.max_grad_norm is None else (self.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
        rate, *state = inputs
        for i, (value, gradient) in enumerate(zip(values, gradients, strict=True)):
            steps, mean, square = state[3 * i : 3 * i + 3]
            gradient = shrink * gradient
            done = steps + 1
            new_mean = mean.lerp(gradient, 1 - beta1)
            new_square = beta2 * square + (1 - beta2) * gradient * gradient
            size = (rate / (1 - beta1 ** done.double())).to(value)
            scale = (1 - beta2 ** done.double()).sqrt().to(value)
            new_value = value - size * new_mean / (new_square.sqrt() / scale + epsilon)
            for old, new in ((value, new_value), (steps, done), (mean, new_mean), (square, new_square)):
                old.copy_(torch.where(finite, new, old))
        return [norm]
