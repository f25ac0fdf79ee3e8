"""HamiltonianGuide: leapfrog trajectories of the model's own dynamics, from any base guide."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from guides.base import Guide
from guides.call import Call
from guides.chained import ChainedGuide
from guides.errors import ModelError, OptionError, choose, whole_number
from guides.force import Force
from guides.hamiltonian_path import HamiltonianPath
from guides.latent_space import LatentSpace, Model
from guides.leapfrog import leapfrog
from guides.step_size import StepSize
from guides.target import Proposal, Target
from guides.tempering import SCHEDULES, Tempering

__all__ = ["HamiltonianGuide"]


class HamiltonianGuide(ChainedGuide):
    r"""Move the draws of a base guide by K tempered leapfrog steps in the potential of the model.

    .. math::
        z_0 \sim q_0, \quad \gamma \sim N(0, I), \quad \rho_0 = T_0 \gamma, \qquad
        (z_k, \rho_k) = \mathrm{cool}_k(\mathrm{leapfrog}(z_{k-1}, \rho_{k-1})), \qquad
        \log q = \log q_0(z_0) - \tfrac12 |\gamma|^2 + \tfrac12 |\rho_K|^2

    where cooling multiplies the momentum by :math:`T_k / T_{k-1}` and :math:`T_K = 1`. The map
    :math:`(z_0, \gamma) \mapsto (z_K, \rho_K)` keeps volume, so with the extended target
    :math:`p(x, z) N(\rho; 0, I)` this log q gives an unbiased evidence estimate, although :math:`z_K` has no density
    in closed form. The force is :math:`\nabla_u \log p(x, u)` over the unconstrained latents, evaluated K + 1 times,
    and its own derivatives are kept in the gradient.

    Args:
        model: Any Pyro model with a differentiable log joint.
        encoder: Encoder of an amortised mean-field base; see :class:`~guides.MeanFieldGuide`.
        base: Guide that draws :math:`z_0`, with its :math:`\log q_0`; a mean-field guide by default.
        hide: Names of latents that other guides of a :class:`~guides.GuideList` draw.
        expose: Names of the only latents that this guide draws.
        num_steps: K, at least 1.
        init_step_size: Initial leapfrog step size :math:`\epsilon`, in unconstrained units.
        max_step_size: Upper limit of :math:`\epsilon = \epsilon_{max} \mathrm{sigmoid}(e)`.
        step_size_per_step: Whether each of the K steps has its own :math:`\epsilon`; it always differs by dimension.
        tempering: Schedule of the momentum scales :math:`T_k = 1/\sqrt{\beta_k}`: ``"inverse_sqrt_beta"`` and
            ``"inverse_beta"`` (quadratic in :math:`1/\sqrt\beta` and in :math:`1/\beta`, with a learned start),
            ``"free"`` (each step's factor learned) or ``"none"``.
        init_temperature: Initial :math:`T_0`, greater than 1; 1.5 by default.
        temperature_per_dimension: Whether :math:`T_0` (and free factors) differ by latent dimension.
        detach_force: Whether to leave the force's own derivatives out of the gradient: cheaper, but biased.
        checkpoint: Whether the gradient computes each force again, instead of keeping what it needs of all of them:
            memory then hardly grows with K, a step takes longer, and values and gradients are the same. The model must
            give the same density when it is run again.

    Raises:
        OptionError: If a number is outside its range, or ``tempering`` has an unknown name.
        ModelError: On a call with a minibatch that the model did not draw itself, for latents that all data share:
            moved by what they are judged by, they would put the bound above the evidence. In
            ``plate(subsample_size=...)`` the force draws a minibatch of its own.
        DivergedError: On a call while Pyro's validation is on, if the force is not finite.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        ...     pyro.sample("x", dist.Normal(z, 0.1).to_event(1), obs=x)
        >>> guide = HamiltonianGuide(model, num_steps=5).setup(torch.zeros(2))
        >>> guide.step_size.shape, guide.temperatures.shape
        (torch.Size([2]), torch.Size([6]))
        >>> print(guide.describe())
        num_steps=5, tempering='inverse_sqrt_beta', base=MeanFieldGuide()

    References:
        Anthony L. Caterini, Arnaud Doucet, Dino Sejdinovic, Hamiltonian Variational Auto-Encoder, 2018,
        https://arxiv.org/abs/1805.11328, algorithm 1 and eqs. 7-10. Departures: the base may be any guide, step sizes
        may differ by step, temperatures by dimension.
    """

    steps: StepSize
    tempering: Tempering

    def __init__(
        self,
        model: Model,
        *,
        encoder: nn.Module | None = None,
        base: Guide | None = None,
        hide: Collection[str] | None = None,
        expose: Collection[str] | None = None,
        num_steps: int = 10,
        init_step_size: float = 0.005,
        max_step_size: float = 0.5,
        step_size_per_step: bool = False,
        tempering: str = "inverse_sqrt_beta",
        init_temperature: float | None = None,
        temperature_per_dimension: bool = False,
        detach_force: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(model, base=base, encoder=encoder, hide=hide, expose=expose)
        without = "Without steps the guide equals its base: use the base guide itself."
        self.num_steps = whole_number("num_steps", num_steps, least=1, instead=without)
        self.steps = StepSize(init_step_size, max_step_size, num_steps if step_size_per_step else None)
        if tempering == "none" and (temperature_per_dimension or init_temperature is not None):
            raise OptionError("init_temperature and temperature_per_dimension need tempering; got tempering='none'.")
        init_temperature = 1.5 if init_temperature is None else init_temperature
        if not 1 < init_temperature < math.inf:
            raise OptionError(
                f"init_temperature must be greater than 1 and finite; got {init_temperature}. "
                "Write init_temperature=1.5, or tempering='none' to do without."
            )
        self.schedule = choose("tempering", tempering, SCHEDULES)
        self.init_temperature = init_temperature
        self.temperature_per_dimension = temperature_per_dimension
        self.detach_force, self.checkpoint = detach_force, checkpoint

    def build(self, space: LatentSpace) -> None:
        self.steps.build(space.dim, space)
        temperature_shape = (space.dim,) if self.temperature_per_dimension else ()
        tempering = SCHEDULES[self.schedule](self.num_steps, self.init_temperature, temperature_shape)
        self.tempering = tempering.to(dtype=space.dtype, device=space.device)

    @property
    def noise_dim(self) -> int:
        return self.base.noise_dim + self.space.dim

    @property
    def step_size(self) -> Tensor:
        """The leapfrog step sizes, ``(D,)`` or ``(K, D)``."""
        return self.steps()

    @property
    def temperatures(self) -> Tensor:
        """The momentum scales ``T_0, ..., T_K``, ``(K + 1,)`` or ``(K + 1, D)``."""
        return self.tempering.scales()

    def propose(self, target: Target, noise: Tensor) -> Proposal:
        start = self.base.propose(target, noise[..., : self.base.noise_dim])
        noise = noise[..., self.base.noise_dim :]
        for position, _, momentum in self._steps(target, start.latent, noise):  # noqa: B007, the last one counts
            pass
        return Proposal(position, start.log_q + 0.5 * (momentum.square() - noise.square()).sum(-1))

    def _steps(self, target: Target, start: Tensor, noise: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Positions and momenta, before cooling and after it, at the start and after each step."""
        step_sizes = self.step_size.expand(self.num_steps, -1)
        kept = {"detach": self.detach_force, "checkpoint": self.checkpoint}
        force_at = Force(self, target.log_joint, step_sizes, from_start=True, **kept)
        scales = self.temperatures.to(noise)

        position, momentum, force = start, scales[0] * noise, force_at(start)
        yield position, momentum, momentum
        for k in range(1, self.num_steps + 1):
            position, moved, force = leapfrog(position, momentum, force, step_sizes[k - 1], force_at)
            momentum = moved * (scales[k] / scales[k - 1])
            yield position, moved, momentum

    @torch.no_grad()
    def path(self, *args: Any, num_particles: int = 1, at_rest: bool = False) -> HamiltonianPath:
        r"""Draw as a call does, and keep all steps: what :func:`ppl_models.diagnostics.trajectory` shows.

        The energy is :math:`H_k = -\log p(x, u_k) + \tfrac12 |\rho_k|^2`. Leapfrog steps would conserve it if they were
        short, and cooling takes from it: so :math:`H_k - H_0` less the heat taken up to there is the steps' own error.

        Args:
            *args: Arguments of the model.
            num_particles: S, how many trajectories, of each datum for amortised guides.
            at_rest: Whether the momentum starts at zero: no draw of the guide, for such paths have no density; they
                climb the posterior.

        Raises:
            OptionError: If ``num_particles`` is less than 1.
            ModelError: If other guides draw some of the latents.
        """
        num_particles = whole_number("num_particles", num_particles, least=1)
        self.setup(*args)
        if self.space.hidden:
            raise ModelError(
                f"a path needs a guide of all latents; other guides draw {', '.join(map(repr, self.space.hidden))}."
            )
        target = self._target(Call(args, {}), {self.space.max_plate_nesting + 1: num_particles})
        like = next(self.parameters()) if target.context is None else target.context
        noise = torch.randn([*target.batch_shape, self.noise_dim], dtype=like.dtype, device=like.device)
        start = self.base.propose(target, noise[..., : self.base.noise_dim]).latent
        kick = noise[..., self.base.noise_dim :] * (not at_rest)
        latents, energies, heats = [], [], [start.new_zeros(start.shape[:-1])]
        for position, moved, momentum in self._steps(target, start, kick):
            latents.append(self.whitening(position))
            energies.append(0.5 * momentum.square().sum(-1) - target.log_joint(position))
            heats.append(heats[-1] + (momentum.square() - moved.square()).sum(-1) / 2)
        return HamiltonianPath(torch.stack(latents), torch.stack(energies), torch.stack(heats[1:]))

    def describe(self) -> str:
        return f"num_steps={self.num_steps}, tempering={self.schedule!r}, {super().describe()}"
