"""The leapfrog step of Hamiltonian dynamics, as pure functions of its two orders."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["leapfrog", "position_leapfrog"]


def leapfrog(
    position: Tensor, momentum: Tensor, force: Tensor, step_size: Tensor, force_at: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Move a particle by one leapfrog step of unit mass: half kick, drift, half kick.

    .. math::
        \rho' = \rho + \tfrac{\epsilon}{2} f(z), \quad
        z_+ = z + \epsilon \rho', \quad
        \rho_+ = \rho' + \tfrac{\epsilon}{2} f(z_+)

    The map has unit Jacobian determinant for any force :math:`f`. The force at the end of one step is the force at
    the start of the next, so K steps need K + 1 evaluations.

    Args:
        position: :math:`z`, shape ``(*, D)``.
        momentum: :math:`\rho`, shape ``(*, D)``.
        force: :math:`f(z)`, shape ``(*, D)``.
        step_size: :math:`\epsilon`, broadcastable to ``(D,)``.
        force_at: The function :math:`f`.

    Returns:
        :math:`z_+`, :math:`\rho_+` and :math:`f(z_+)`.

    Example:
        >>> import torch
        >>> z, rho = torch.tensor([1.0]), torch.tensor([0.0])
        >>> z, rho, force = leapfrog(z, rho, -z, torch.tensor(0.1), lambda z: -z)
        >>> round(float(z**2 + rho**2), 4)
        1.0

    References:
        Radford M. Neal, MCMC using Hamiltonian dynamics, 2011, https://arxiv.org/abs/1206.1901, eqs. 2.28-2.30.
    """
    momentum = momentum + 0.5 * step_size * force
    position = position + step_size * momentum
    force = force_at(position)
    return position, momentum + 0.5 * step_size * force, force


def position_leapfrog(
    position: Tensor, momentum: Tensor, step_size: Tensor, force_at: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    r"""Move a particle by one leapfrog step in the other order: half drift, kick, half drift.

    .. math::
        z' = z + \tfrac{\epsilon}{2} \rho, \quad
        \rho_+ = \rho + \epsilon f(z'), \quad
        z_+ = z' + \tfrac{\epsilon}{2} \rho_+

    It takes one force evaluation, whatever the force was in the step before: the order for forces that change from
    step to step.

    Args:
        position: :math:`z`, shape ``(*, D)``.
        momentum: :math:`\rho`, shape ``(*, D)``.
        step_size: :math:`\epsilon`, broadcastable to ``(D,)``.
        force_at: The function :math:`f`.

    Returns:
        :math:`z_+` and :math:`\rho_+`.

    Example:
        >>> import torch
        >>> z, rho = position_leapfrog(torch.tensor([1.0]), torch.tensor([0.0]), torch.tensor(0.1), lambda z: -z)
        >>> round(float(z**2 + rho**2), 4)
        1.0
    """
    position = position + 0.5 * step_size * momentum
    momentum = momentum + step_size * force_at(position)
    return position + 0.5 * step_size * momentum, momentum
