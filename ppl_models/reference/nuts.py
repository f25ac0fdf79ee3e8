"""nuts: draws from the exact posterior of any Pyro model, to hold a guide's answer against."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from guides.errors import OptionError, choose, positive, whole_number
from guides.starts import Init
from ppl_models.reference.chains import Settings
from ppl_models.reference.parameters import Prior, WithParameters
from ppl_models.reference.target import Target

if TYPE_CHECKING:
    from arviz import InferenceData

__all__ = ["nuts"]

log = logging.getLogger(__name__)


def nuts(
    model: Callable[..., Any],
    *args: Any,
    num_warmup: int = 1000,
    num_samples: int = 1000,
    num_chains: int = 4,
    seed: int = 0,
    init: Init = None,
    learn: str | None = None,
    prior: Prior | None = None,
    target_accept: float = 0.8,
    max_tree_depth: int = 10,
    dense_mass: bool = False,
    backend: str = "numpyro",
    progress: bool = True,
    **kwargs: Any,
) -> InferenceData:
    r"""Draw from the posterior of a Pyro model by the No-U-Turn sampler.

    The chains walk on the unconstrained latents in units of ``init``, :math:`u = m + L v`, with the density

    .. math:: \log p(x, T(m + L v)) + \log |\det \partial T / \partial u|

    in float64 throughout, whatever the precision of the model. With the backend ``"numpyro"`` the model is run once in
    torch, what it computes is replayed in JAX, and NumPyro advances the chains on as many threads as torch has; before
    that, value and gradient are compared with torch's at several points. Parameters of the model are constants at their
    present values, or, with ``learn="parameters"``, latents as well; the model keeps its own either way. Modules are in
    the mode they are in: ``model.eval()`` first, if there is dropout.

    Shapes: each latent in the group ``posterior`` is ``(num_chains, num_samples, *batch, *event)``; dimensions that
    belong to a plate have its name.

    Args:
        model: Any Pyro model with continuous latents that sees all its data.
        *args: Arguments of the model.
        num_warmup: Steps per chain that adapt the step size and mass matrix, and are not kept; at least 1.
        num_samples: Draws kept per chain, at least 1.
        num_chains: Number of chains, at least 1. Convergence is judged by comparing several.
        seed: Fixes the draws. The global generators are left as they were.
        init: Where chains start, and in which units :math:`L`: ``None`` (uniformly in (-2, 2) in unconstrained space),
            ``"prior"``, ``"laplace"``, ``"pathfinder"``, or values by site; as :meth:`guides.Guide.setup` takes it.
        learn: ``"parameters"`` to sample too what requires gradients: the parameters of a model that is a module (a
            ``PyroParam`` by its constrained value) or a method of one, and those from ``pyro.param``.
        prior: Their prior, on the values that the model computes with: laws of ``pyro.distributions`` by name, one law
            for all, or a function from name and value to a law. A law of a scalar holds for each element.
        target_accept: Mean acceptance rate that the step size is adapted to, between 0 and 1. Nearer to 1 there are
            fewer divergences and more steps.
        max_tree_depth: A trajectory has at most 2 to this power steps.
        dense_mass: Whether to adapt a full mass matrix instead of a diagonal one.
        backend: ``"numpyro"``, or ``"pyro"`` for Pyro's own NUTS: slower, and it runs models that cannot be replayed.
        progress: Whether to show a progress bar.
        **kwargs: Keyword arguments of the model.

    Returns:
        InferenceData with the groups ``posterior``, ``sample_stats`` (``diverging``, ``tree_depth``, ``n_steps``,
        ``energy``, ``acceptance_rate``, and ``lp``, the log density above) and ``observed_data``; versions and seed
        in ``attrs``. Divergent transitions are told in the log.

    Raises:
        OptionError: If an option breaks its rule, or ``prior`` leaves a parameter out or gives it a law that does not
            fit.
        DataError: If observed values are not finite, or ``init`` gives values that do not fit.
        ModelError: If the model has discrete latents, subsamples its data, has no finite log joint where chains start,
            decides something in Python by a latent's value, or uses an operation that is unknown in JAX.

    Example:
        >>> import torch
        >>> from ppl_models import OffsetGaussian
        >>> gaussian = OffsetGaussian(1)
        >>> x = torch.tensor([[0.9], [1.1]])
        >>> draws = nuts(gaussian, x, num_warmup=50, num_samples=50, num_chains=1, backend="pyro", progress=False)
        >>> draws.posterior["z"].shape
        (1, 50, 1)

    References:
        Matthew D. Hoffman, Andrew Gelman, The No-U-Turn Sampler, 2014, https://jmlr.org/papers/v15/hoffman14a.html.
        Du Phan, Neeraj Pradhan, Martin Jankowiak, Composable Effects for Flexible and Accelerated Probabilistic
        Programming in NumPyro, 2019, https://arxiv.org/abs/1912.11554, section 3.
    """
    num_chains = whole_number("num_chains", num_chains, least=1)
    settings = Settings(
        num_warmup=whole_number("num_warmup", num_warmup, least=1),
        num_samples=whole_number("num_samples", num_samples, least=1),
        seed=whole_number("seed", seed, least=0),
        target_accept=positive("target_accept", target_accept, below=1.0),
        max_tree_depth=whole_number("max_tree_depth", max_tree_depth, least=1),
        dense_mass=dense_mass,
        progress=progress,
    )
    choose("backend", backend, ["numpyro", "pyro"])
    if learn is not None:
        choose("learn", learn, ["parameters"])
    if (learn is None) != (prior is None):
        raise OptionError(
            "learn='parameters' and prior must be given together; got "
            f"{'prior' if learn is None else 'learn'} alone. Write prior=dist.Normal(0.0, 1.0), or laws by name."
        )

    from ppl_models.reference.inference_data import inference_data

    if prior is not None:
        model = WithParameters(model, prior, args, kwargs)
    target = Target(model, init, settings.seed, args, kwargs)
    generator = torch.Generator().manual_seed(settings.seed)
    starts = target.starts(num_chains, generator)
    if backend == "numpyro":
        from ppl_models.reference.numpyro_nuts import numpyro_nuts as sampler
    else:
        from ppl_models.reference.pyro_nuts import pyro_nuts as sampler
    chains = sampler(target, starts, generator, settings)
    _tell(int(chains.stats["diverging"].sum()), chains.stats["diverging"].size, settings)
    return inference_data(target, chains, settings)


def _tell(diverged: int, total: int, settings: Settings) -> None:
    """Warn of divergent transitions."""
    if diverged == total:
        log.warning(
            "nuts: all %d transitions diverged: the chains stood still, and say nothing of the posterior. Start them "
            "elsewhere (init='laplace', or values), let them adapt for longer (num_warmup, now %d), and see that the "
            "log joint has no jumps.",
            total,
            settings.num_warmup,
        )
    elif diverged:
        log.warning(
            "nuts: %d of %d transitions diverged (%.2g %%): the chains may miss a narrow part of the posterior. Raise "
            "target_accept (now %g), or give the model latents of one scale, such as z in loc + scale * z.",
            diverged,
            total,
            100 * diverged / total,
            settings.target_accept,
        )
