"""The leapfrog step of Hamiltonian dynamics, as a pure function."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

__all__ = ["leapfrog"]


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
