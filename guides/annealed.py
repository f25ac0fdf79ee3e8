"""AnnealedGuide: Langevin moves through densities that lead from a base guide to the posterior."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn

from guides.base import Guide
from guides.chained import ChainedGuide
from guides.errors import positive, whole_number
from guides.force import Force
from guides.latent_space import LatentSpace, Model
from guides.leapfrog import position_leapfrog
from guides.step_size import StepSize
from guides.target import Proposal, Target, log_standard_normal

__all__ = ["AnnealedGuide"]


class AnnealedGuide(ChainedGuide):
    r"""Move the draws of a base guide through K bridging densities towards the posterior.

    This is uncorrected Hamiltonian annealing, or differentiable annealed importance sampling. A base guide makes a
    latent vector z, and its :math:`\log q_0`, from standard normal noise e: it is a function
    :math:`w(e) = p(x, z(e)) / q_0(e)` whose mean is the evidence. The particles move in the space of that noise,
    through

    .. math::
        \log \pi_k(e) = \log N(e; 0, I) + \beta_k \log w(e), \qquad 0 < \beta_1 < \dots < \beta_K = 1.

    Over a normal base this is the geometric bridge :math:`q_0(z)^{1 - \beta} p(x, z)^\beta` in the base's own units;
    and since nothing is asked of the base but the function, it may be any guide. With
    :math:`e_0, v_0 \sim N(0, I)`, for k = 1, ..., K

    .. math::
        (e_k, \hat v_k) = \mathrm{leapfrog}_{\pi_k}(e_{k-1}, v_{k-1}), \qquad
        v_k = \gamma \hat v_k + \sqrt{1 - \gamma^2}\, \xi_k, \quad \xi_k \sim N(0, I)

    and the log-weight on the space of all positions and momenta has

    .. math::
        \log q = \log q_0(e_K) + \tfrac12 |e_K|^2 - \tfrac12 |e_0|^2
        + \tfrac12 \sum_{k=1}^{K} \big( |\hat v_k|^2 - |v_{k-1}|^2 \big)

    The bridging schedule, the step sizes, the damping :math:`\gamma` and the base are learned together.

    Args:
        model: Any Pyro model with a differentiable log joint.
        encoder: Encoder of an amortised mean-field base; see :class:`~guides.MeanFieldGuide`.
        base: Any guide of the same model; a mean-field guide by default.
        hide: Names of latents that other guides of a :class:`~guides.GuideList` draw.
        expose: Names of the only latents that this guide draws.
        num_steps: K, at least 1; each evaluates the force once.
        init_step_size: Initial leapfrog step size, in standard deviations of the base.
        max_step_size: Upper limit of the step size.
        step_size_per_step: Whether each of the K steps has its own; they always differ by dimension.
        init_damping: Initial :math:`\gamma`, in (0, 1): how much of the momentum a step keeps.
        detach_force: Whether to leave the force's own derivatives out of the gradient: cheaper, but biased.
        checkpoint: Whether the gradient computes each force again, instead of keeping what it needs of all of them:
            memory then hardly grows with K, a step takes longer, and values and gradients are the same. The model must
            give the same density when it is run again.

    Raises:
        OptionError: If a number is outside its range.
        ModelError: On a call with a minibatch that the model did not draw itself, for latents that all data share:
            moved by what they are judged by, they would put the bound above the evidence. In
            ``plate(subsample_size=...)`` the force draws a minibatch of its own.
        DivergedError: On a call while Pyro's validation is on, if the force is not finite.

    Example:
        >>> import pyro, torch, pyro.distributions as dist
        >>> def model(x):
        ...     z = pyro.sample("z", dist.Normal(0.0, 1.0).expand([2]).to_event(1))
        ...     pyro.sample("x", dist.Normal(z, 0.1).to_event(1), obs=x)
        >>> guide = AnnealedGuide(model, num_steps=4).setup(torch.zeros(2))
        >>> guide.betas.detach()
        tensor([0.2500, 0.5000, 0.7500, 1.0000])

    References:
        Tomas Geffner, Justin Domke, MCMC Variational Inference via Uncorrected Hamiltonian Annealing, 2021,
        https://arxiv.org/abs/2107.04150, algorithms 1-2.
        Guodong Zhang et al., Differentiable Annealed Importance Sampling and the Perils of Gradient Noise, 2021,
        https://arxiv.org/abs/2107.10211, algorithm 1, with its order of drift and kick. Departure: the bridge is taken
        in the space of the base's noise.
    """

    steps: StepSize

    def __init__(
        self,
        model: Model,
        *,
        encoder: nn.Module | None = None,
        base: Guide | None = None,
        hide: Collection[str] | None = None,
        expose: Collection[str] | None = None,
        num_steps: int = 8,
        init_step_size: float = 0.1,
        max_step_size: float = 1.0,
        step_size_per_step: bool = False,
        init_damping: float = 0.5,
        detach_force: bool = False,
        checkpoint: bool = False,
    ) -> None:
        super().__init__(model, base=base, encoder=encoder, hide=hide, expose=expose)
        self.num_steps = whole_number(
            "num_steps", num_steps, least=1, instead="Without steps the guide equals its base: use the base guide."
        )
        self.steps = StepSize(init_step_size, max_step_size, num_steps if step_size_per_step else None)
        self.init_damping = positive("init_damping", init_damping, below=1, instead="Write init_damping=0.5.")
        self.detach_force, self.checkpoint = detach_force, checkpoint

    def build(self, space: LatentSpace) -> None:
        self.steps.build(self.base.noise_dim, space)
        if self.num_steps > 1:  # one step has nothing between base and posterior, and no momentum to keep
            like = {"dtype": space.dtype, "device": space.device}
            self.increments = nn.Parameter(torch.zeros(self.num_steps, **like))
            self.damping_logit = nn.Parameter(torch.logit(torch.tensor(self.init_damping, **like)))

    @property
    def noise_dim(self) -> int:
        return (self.num_steps + 1) * self.base.noise_dim

    @property
    def betas(self) -> Tensor:
        r"""The bridging schedule :math:`\beta_1, \dots, \beta_K`."""
        return self.increments.softmax(0).cumsum(0) if self.num_steps > 1 else self.step_size.new_ones(1)

    @property
    def damping(self) -> Tensor:
        r""":math:`\gamma`, the share of the momentum that a step keeps."""
        return self.damping_logit.sigmoid() if self.num_steps > 1 else self.step_size.new_ones(())

    @property
    def step_size(self) -> Tensor:
        """The leapfrog step sizes, one per number that the base is made from, ``(M,)`` or ``(K, M)``."""
        return self.steps()

    def propose(self, target: Target, noise: Tensor) -> Proposal:
        start, momentum, *refreshments = noise.chunk(self.num_steps + 1, dim=-1)
        betas, damping, step_sizes = self.betas, self.damping, self.step_size.expand(self.num_steps, -1)

        def log_weight(position: Tensor) -> Tensor:
            proposal = self.base.propose(target, position)
            return target.log_joint(proposal.latent) - proposal.log_q

        kept = {"detach": self.detach_force, "checkpoint": self.checkpoint}
        slope_at = Force(self, log_weight, step_sizes, from_start=False, **kept)
        position, kinetic = start, torch.zeros_like(noise[..., 0])
        for k in range(self.num_steps):
            if k > 0:
                momentum = damping * momentum + (1 - damping.square()).sqrt() * refreshments[k - 1]
            kinetic = kinetic - 0.5 * momentum.square().sum(-1)
            position, momentum = position_leapfrog(
                position,
                momentum,
                step_sizes[k],
                lambda e, beta=betas[k]: beta * slope_at(e) - e,  # type: ignore[misc]
            )
            kinetic = kinetic + 0.5 * momentum.square().sum(-1)
        moved = self.base.propose(target, position)
        bridge = log_standard_normal(start) - log_standard_normal(position)
        return Proposal(moved.latent, moved.log_q + bridge + kinetic)

    def describe(self) -> str:
        return f"num_steps={self.num_steps}, {super().describe()}"
