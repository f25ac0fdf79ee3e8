"""HamiltonianPath: where the leapfrog steps of a guide lead, and their energy."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["HamiltonianPath"]


@dataclass(frozen=True)
class HamiltonianPath:
    r"""The K steps of a Hamiltonian guide.

    Args:
        latent: Unconstrained vectors :math:`u_0, \dots, u_K`, ``(K + 1, *batch, D)``.
        energy: :math:`H_0, \dots, H_K`, ``(K + 1, *batch)``; of a whitened guide up to a constant.
        heat: What cooling has added to the energy up to each step, zero at first and never positive where the
            temperature falls, ``(K + 1, *batch)``.
    """

    latent: Tensor
    energy: Tensor
    heat: Tensor
