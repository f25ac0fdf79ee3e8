"""trajectory: how a Hamiltonian guide, or Hamiltonian Monte Carlo from any guide, moves through the latents."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from guides import Guide, HamiltonianGuide, LatentSpace
from guides.errors import DataError, ModelError, OptionError, choose, positive, whole_number
from ppl_models.diagnostics.annealing import Moves, Points, adapt, sigmoid_schedule
from ppl_models.diagnostics.draws import Drawing
from ppl_models.diagnostics.judging import judging, widened
from ppl_models.diagnostics.normal_space import NormalSpace
from ppl_models.training.batches import check_finite

__all__ = ["Trajectory", "trajectory"]

#: Draws of the guide that give the moves their units, and what the step sizes are adapted with.
MOMENT_DRAWS, ADAPTING_CHAINS, ADAPTING_TEMPERATURES = 1000, 32, 20

#: Of Hamiltonian Monte Carlo, if not given.
NUM_TRANSITIONS, NUM_LEAPFROG = 15, 10


@dataclass(frozen=True)
class Trajectory:
    r"""What :func:`trajectory` found, of S particles (and each of the data, where they are independent).

    Args:
        latent: The unconstrained latents at the start and after each step, ``(T + 1, S, *plates, D)``: leapfrog steps
            of a guide, transitions of Hamiltonian Monte Carlo.
        energy: :math:`H = -\log p(x, u) + \tfrac12 |\rho|^2` up to a constant, at the start and after each of the L
            leapfrog steps, ``(L + 1, R, S, *plates)``: of a guide R = 1, of Hamiltonian Monte Carlo one row for each
            transition, accepted or not.
        heat: What the guide's cooling has added to the energy, likewise; zero of Hamiltonian Monte Carlo.
        accepted: Which transitions were accepted, ``(T, S, *plates)``; ``None`` of a guide, which accepts all.
        space: The latents as one vector.
    """

    latent: Tensor
    energy: Tensor
    heat: Tensor
    accepted: Tensor | None
    space: LatentSpace
    _log_joint: Callable[[Tensor], Tensor] = field(repr=False)

    @property
    def num_steps(self) -> int:
        """T."""
        return len(self.latent) - 1

    @property
    def energy_error(self) -> Tensor:
        """The energy since the start less the heat, ``(L + 1, R, S, *plates)``: what finite steps add to it."""
        return self.energy - self.energy[0] - self.heat

    @property
    def latents(self) -> dict[str, Tensor]:
        """The latents by site, ``(T + 1, S, *batch, *event)`` each, in float64."""
        return self.space.constrain(self.latent)

    def log_joint(self, latent: Tensor) -> Tensor:
        """The log joint at unconstrained vectors ``(S, *plates, D)``, as ``(S, *plates)``."""
        return self._log_joint(latent)

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.latent.shape))
        rate = "" if self.accepted is None else f", accepted={self.accepted.double().mean():.2f}"
        return f"Trajectory(latent=({shape}), sites=[{', '.join(site.name for site in self.space.sites)}]{rate})"


@torch.no_grad()
def trajectory(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    method: str = "guide",
    num_particles: int = 1,
    at_rest: bool = False,
    num_transitions: int | None = None,
    num_leapfrog: int | None = None,
    step_size: float | None = None,
    seed: int | None = None,
) -> Trajectory:
    r"""Follow particles from a guide's draws through the model's Hamiltonian dynamics.

    - ``method="guide"``: the K leapfrog steps of a :class:`~guides.HamiltonianGuide` itself, with the step sizes and
      temperatures that it has learned, from its base's draws: no momentum is drawn anew and nothing is rejected. The
      end is a draw of the guide.
    - ``method="hmc"``: Hamiltonian Monte Carlo from any guide's draws. Each transition draws a new momentum, takes
      ``num_leapfrog`` steps and accepts where it led with probability :math:`\min(1, e^{H_0 - H_L})`. The latents move
      in units of the mean and covariance of the guide's draws, with step sizes that vary by a quarter from one
      transition to the next.

    Args:
        model: Any Pyro model with continuous latents.
        guide: A guide of it.
        *args: Arguments of both. For a model with independent data, give those that are to be looked at.
        method: ``"guide"`` or ``"hmc"``.
        num_particles: S.
        at_rest: For ``"guide"``: whether the momentum starts at zero instead of a random one. Such paths climb the
            posterior; they are no draws of the guide, and have no density.
        num_transitions: T, for ``"hmc"``; 15 by default.
        num_leapfrog: L, for ``"hmc"``; 10 by default.
        step_size: For ``"hmc"``, in standard deviations of the guide's draws; adapted to an acceptance rate of 0.8, in
            each direction and for each datum, if not given.
        seed: Fixes all chance; the global generator is left as it was.

    Raises:
        OptionError: If an option breaks its rule, or belongs to the other method.
        ModelError: If the guide has no path of its own, or the model discrete latents.
        DataError: If data are not finite.

    Example:
        >>> import torch
        >>> from guides import HamiltonianGuide
        >>> from ppl_models import OffsetGaussian
        >>> gaussian = OffsetGaussian(2)
        >>> guide = HamiltonianGuide(gaussian, num_steps=5)
        >>> trajectory(gaussian, guide, torch.randn(10, 2), num_particles=3, seed=0)
        Trajectory(latent=(6, 3, 2), sites=[z])

    References:
        Radford M. Neal, MCMC using Hamiltonian dynamics, 2011, https://arxiv.org/abs/1206.1901, section 3.2.
        Anthony L. Caterini, Arnaud Doucet, Dino Sejdinovic, Hamiltonian Variational Auto-Encoder, 2018,
        https://arxiv.org/abs/1805.11328, algorithm 1.
    """
    own = choose("method", method, ["guide", "hmc"]) == "guide"
    num_particles = whole_number("num_particles", num_particles, least=1)
    options = {"num_transitions": num_transitions, "num_leapfrog": num_leapfrog, "step_size": step_size}
    for name, value in options.items():
        if own and value is not None:
            raise OptionError(
                f"{name} is for method='hmc'; got {value!r} with method='guide', whose steps are learned."
            )
    if at_rest and not own:
        raise OptionError("at_rest is for method='guide': Hamiltonian Monte Carlo draws its momentum.")
    if own and not isinstance(guide, HamiltonianGuide):
        raise ModelError(
            f"method='guide' needs a HamiltonianGuide; got {type(guide).__name__}. Write method='hmc' for chains that "
            "start from its draws."
        )
    transitions = whole_number(
        "num_transitions", NUM_TRANSITIONS if num_transitions is None else num_transitions, least=1
    )
    leapfrogs = whole_number("num_leapfrog", NUM_LEAPFROG if num_leapfrog is None else num_leapfrog, least=1)
    if step_size is not None:
        step_size = positive("step_size", step_size, instead="Write step_size=0.3.")
    check_finite(args)
    if isinstance(guide, Guide):
        guide.setup(*args)

    def log_joint(latent: Tensor) -> Tensor:
        with torch.no_grad(), judging(model, guide, None), widened(model, guide, args):
            return found.space.log_joint(latent.double(), *args)

    with judging(model, guide, seed), widened(model, guide, args):
        if own:
            assert isinstance(guide, HamiltonianGuide)
            path = guide.path(*args, num_particles=num_particles, at_rest=at_rest)
            energy, heat = path.energy[:, None], path.heat[:, None]
            found = Trajectory(path.latent, energy, heat, None, guide.space, log_joint)
        else:
            found = _chains(model, guide, args, num_particles, transitions, leapfrogs, step_size, log_joint)
    return found


def _chains(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: tuple[Any, ...],
    num_particles: int,
    num_transitions: int,
    num_leapfrog: int,
    step_size: float | None,
    log_joint: Callable[[Tensor], Tensor],
) -> Trajectory:
    """Hamiltonian Monte Carlo on the posterior, by the moves that annealing makes at its end."""
    drawing = Drawing(model, guide, args, max_batch=50_000, vectorize_particles=True, caller="trajectory")
    drawn = drawing.posterior(max(MOMENT_DRAWS, num_particles))
    if len(drawn.independent) > 1:
        raise ModelError(f"trajectory needs independent data in one plate; got {', '.join(drawn.independent)}.")
    normal = NormalSpace(model, args, drawn.latents, amortised=bool(drawn.independent), vectorize_particles=True)
    moves = Moves(normal, num_leapfrog)
    if step_size is None:
        sizes = adapt(moves, sigmoid_schedule(ADAPTING_TEMPERATURES, normal), ADAPTING_CHAINS).step_sizes[-1]
    else:
        sizes = torch.full([*normal.plates_shape, normal.dim], step_size, dtype=torch.float64, device=normal.device)
    start = {name: value[:num_particles] for name, value in drawn.latents.items()}
    points = Points.at(normal, normal.noise_of(start))
    if not points.log_weight.isfinite().all():
        raise DataError("the guide's draws must have a density under the model; got some without. Train it first.")
    visited, energies, accepted = [points.noise], [], []
    for _ in range(num_transitions):
        move = moves.follow(points, torch.ones(normal.plates_shape, dtype=torch.float64), sizes)
        points = move.points
        visited.append(points.noise)
        energies.append(move.energy)
        accepted.append(move.accepted)
    energy = torch.stack(energies, 1).nan_to_num(nan=math.inf, posinf=math.inf)  # of a particle that flew away
    latent = normal.vector_of(torch.stack(visited))
    return Trajectory(latent, energy, torch.zeros_like(energy), torch.stack(accepted), normal.space, log_joint)
