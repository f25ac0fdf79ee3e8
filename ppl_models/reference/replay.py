"""replay: a target's log joint as a JAX function, proved equal to torch's before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from guides.errors import ModelError
from ppl_models.reference.tape import Tape, is_in_place
from ppl_models.reference.target import Target

if TYPE_CHECKING:
    import jax

__all__ = ["compare", "replay"]

#: Largest difference between torch and JAX, relative to 1 + |value|.
PRECISION = 1e-8

#: Where rounding alone moves the model by more (a matrix that is nearly singular), that many times its effect.
ROUNDINGS = 100.0


def replay(target: Target, point: Tensor) -> Callable[[jax.Array], jax.Array]:
    """Write a target's log joint as a JAX function of one vector ``(D,)``. To be called with 64-bit JAX enabled.

    Args:
        target: The log joint.
        point: Where it is recorded, ``(D,)``; it must be finite there.

    Raises:
        ModelError: If the model looks at the value of a latent, or uses an operation that is not in the table; when
            the function is called, if JAX cannot do one of them with these arguments.
    """
    import jax.numpy as jnp
    from torch._decomp import core_aten_decompositions

    from ppl_models.reference.operations import operation

    composite = {op: parts for op, parts in core_aten_decompositions().items() if operation(op) is None}
    tape = Tape(target, point, composite)
    known = {node: jnp.asarray(_numpy(value)) for node, value in tape.constants.items() if isinstance(value, Tensor)}
    steps = []
    for node in tape.nodes:
        if node.op == "call_function":
            function = operation(node.target)
            if function is None:
                raise ModelError(
                    f"nuts knows no JAX function for the operation {node.target}, got {tape.where(node)}. Write the "
                    "model without it, or use backend='pyro', which runs Pyro's own NUTS."
                )
            steps.append((node, function))
    given = next(node for node in tape.nodes if node.op == "placeholder")
    result = next(node for node in tape.nodes if node.op == "output").args[0]

    def log_joint(vector: jax.Array) -> jax.Array:
        values: dict[fx.Node, Any] = known | {given: jnp.asarray(vector)}
        for node, function in steps:
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
            try:
                values[node] = function(*args, **kwargs)
            except (TypeError, ValueError, IndexError, NotImplementedError) as error:
                raise ModelError(
                    f"JAX cannot do the operation {node.target} as the model does, {tape.where(node)}; it says: "
                    f"{str(error).splitlines()[0]} Write the model without it, or use backend='pyro', which runs "
                    "Pyro's own NUTS."
                ) from error
            if is_in_place(node.target):
                values[node.args[0]] = values[node]  # type: ignore[index]
        return jnp.asarray(fx.node.map_arg(result, values.__getitem__))

    return log_joint


def compare(target: Target, value_and_gradient: Callable[..., Any], points: Tensor) -> None:
    """See that torch and JAX agree on the log joint and its gradient at each of ``points``.

    Points where torch's are not finite are left out.

    Args:
        target: The log joint.
        value_and_gradient: Of the replayed log joint, for one vector.
        points: Shape ``(num_points, D)``.

    Raises:
        ModelError: If they do not.
    """
    for point in points:
        value, gradient = target.value_and_gradient(point)
        if not (value.isfinite() and gradient.isfinite().all()):
            continue
        again = target.value_and_gradient(point)
        there = [torch.tensor(each.tolist(), dtype=torch.float64) for each in value_and_gradient(_numpy(point))]
        nearby = target.value_and_gradient(point * (1 + 4 * torch.finfo(torch.float64).eps))
        pairs = zip(("value", "gradient"), (value, gradient), again, there, nearby, strict=True)
        for what, ours, repeated, theirs, near in pairs:
            ours, repeated, near = ours.cpu(), repeated.cpu(), near.cpu()
            allowed = PRECISION * (1 + ours.abs().max())
            gap = (ours - repeated).abs().max()  # a model that draws numbers has no rounding to speak of
            if gap <= allowed:
                allowed, gap = allowed + ROUNDINGS * (near - ours).abs().max(), (ours - theirs).abs().max()
            if not gap <= allowed:
                raise ModelError(
                    f"the model must compute the same log joint in every run; its {what} in torch and as recorded "
                    f"differ by {float(gap):.3g}, more than {float(allowed):.3g}. Draw random numbers in sample sites "
                    "only, call model.eval() if it has dropout, and let no Python code look at a latent's value; "
                    "backend='pyro' does not record the model."
                )


def _numpy(tensor: Tensor) -> Any:
    return tensor.detach().cpu().numpy()
