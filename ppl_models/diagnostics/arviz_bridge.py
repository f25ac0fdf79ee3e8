"""to_arviz and from_fit: a fit and what a guide says, as ArviZ takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from guides.errors import OptionError, whole_number
from ppl_models.diagnostics.draws import Drawing, SiteShape
from ppl_models.diagnostics.judging import judging
from ppl_models.labels import Labelled, contain, datasets, versions
from ppl_models.training.batches import check_finite
from ppl_models.training.result import FitResult

if TYPE_CHECKING:
    from arviz import InferenceData

__all__ = ["from_fit", "to_arviz"]


@torch.no_grad()
def to_arviz(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *args: Any,
    num_samples: int = 250,
    num_chains: int = 4,
    prior: bool = True,
    predictive: bool = True,
    coords: Mapping[str, Sequence[Any]] | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    max_batch: int = 50_000,
    vectorize_particles: bool = True,
    container: str | None = None,
    seed: int | None = None,
) -> InferenceData:
    r"""Draw from a guide and write all that ArviZ asks for, dimensions named after the model's plates.

    Groups, with the dimensions ``chain`` and ``draw`` first:

    - ``posterior``: the guide's draws of each latent;
    - ``posterior_predictive``: data drawn anew given each of them;
    - ``log_likelihood``: the log density of each datum, so that ``az.loo`` and ``az.waic`` work;
    - ``sample_stats``: ``log_p``, the log joint of latents and data, and ``log_q``, the guide's log density or what
      stands for it, one number for each plate of independent data: what PSIS-LOO of an approximate posterior needs
      (``arviz_stats.loo_approximate_posterior(data, log_p, log_q)``);
    - ``prior`` and ``prior_predictive``, as many draws;
    - ``observed_data``.

    A guide's draws are independent: its chains are a mere partition of them, for programs that want several. The model
    and guide are evaluated in evaluation mode.

    Args:
        model: Any Pyro model.
        guide: Any Pyro guide of it.
        *args: Arguments of both.
        num_samples: Draws per chain.
        num_chains: Number of chains.
        prior: Whether to draw from the prior too.
        predictive: Whether to draw data too.
        coords: What the places along a dimension are called, by its name, which may be a plate's.
        dims: Names of the dimensions of a site's event, by site: ``{"x": ["row", "column"]}``.
        max_batch: Upper limit of draws times data in one batched run; it bounds the memory.
        vectorize_particles: Whether to draw in batched runs. Models that cannot be batched need ``False``.
        container: ``"inference_data"`` (ArviZ 0.x) or ``"datatree"`` (``arviz-base`` and the other 1.x packages); what
            the installed ArviZ takes, if not given.
        seed: Fixes the draws; the global generator is left as it was.

    Raises:
        OptionError: If a number is less than 1, or ``coords`` or ``dims`` do not fit.
        DataError: If data are not finite, or the model subsamples them.
        ModelError: If the prior is improper.

    Example:
        >>> import torch
        >>> from guides import MeanFieldGuide
        >>> from ppl_models import OffsetGaussian
        >>> gaussian = OffsetGaussian(2)
        >>> x = torch.randn(5, 2)
        >>> data = to_arviz(gaussian, MeanFieldGuide(gaussian), x, num_samples=10, container="datatree")
        >>> data["log_likelihood"]["x"].dims, data["posterior"]["z"].shape
        (('chain', 'draw', 'data'), (4, 10, 2))

    References:
        Måns Magnusson, Michael Riis Andersen, Johan Jonasson, Aki Vehtari, Bayesian leave-one-out cross-validation for
        large data, 2019, https://arxiv.org/abs/1904.10679, section 3, for ``log_p`` and ``log_q``.
    """
    total = whole_number("num_chains", num_chains, least=1) * whole_number("num_samples", num_samples, least=1)
    max_batch = whole_number("max_batch", max_batch, least=1)
    check_finite(args)
    with judging(model, guide, seed):
        drawing = Drawing(
            model, guide, args, max_batch=max_batch, vectorize_particles=vectorize_particles, caller="to_arviz"
        )
        drawn = drawing.posterior(total, predict=predictive)
        from_prior = drawing.prior(total, instead="Write prior=False.") if prior else {}
    event_names = _checked(dims, drawing.shapes)

    def draws(values: Mapping[str, Tensor]) -> dict[str, Labelled]:
        return {name: data(name, value.unflatten(0, (num_chains, num_samples))) for name, value in values.items()}

    def data(name: str, value: Tensor) -> Labelled:
        shape = drawing.shapes[name]
        return Labelled(value, shape.event_dim, shape.plates, event_names.get(name, ()))

    plates = {i - len(drawn.independent): name for i, name in enumerate(drawn.independent)}
    groups = {
        "posterior": draws(drawn.latents),
        "posterior_predictive": draws(drawn.predicted),
        "log_likelihood": {
            name: Labelled(value.unflatten(0, (num_chains, num_samples)), 0, drawing.shapes[name].plates)
            for name, value in drawn.log_likelihood.items()
        },
        "sample_stats": {
            name: Labelled(value.unflatten(0, (num_chains, num_samples)), 0, plates)
            for name, value in (("log_p", drawn.log_p), ("log_q", drawn.log_q))
        },
        "prior": draws({name: value for name, value in from_prior.items() if name in drawn.latents}),
        "prior_predictive": draws(
            {name: value for name, value in from_prior.items() if predictive and name in drawn.observed}
        ),
        "observed_data": {name: data(name, value) for name, value in drawn.observed.items()},
    }
    attrs: dict[str, Any] = {**versions("ppl-models"), "guide": type(guide).__name__}
    attrs |= {} if seed is None else {"seed": seed}
    return contain(
        datasets({name: group for name, group in groups.items() if group}, coords=coords), attrs=attrs, kind=container
    )


def from_fit(result: FitResult, *, container: str | None = None) -> InferenceData:
    """Write the history of a fit as the group ``training``, along the dimension ``step``.

    Args:
        result: What :func:`ppl_models.training.fit` returned.
        container: As for :func:`to_arviz`.

    Raises:
        OptionError: If ``container`` is unknown.

    Example:
        >>> from ppl_models.training import FitResult
        >>> result = FitResult(steps=2, records=[{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.5}])
        >>> from_fit(result, container="datatree")["training"]["loss"].values
        array([2. , 1.5])
    """
    dataset = result.history.set_index("step").to_xarray()
    names = ("steps", "skipped", "converged", "averaged", "seconds", "compile_seconds", "num_parameters")
    # netCDF has no truth values.
    summary = {name: int(value) if isinstance(value := getattr(result, name), bool) else value for name in names}
    return contain({"training": dataset}, attrs=versions("ppl-models") | summary, kind=container)


def _checked(dims: Mapping[str, Sequence[str]] | None, shapes: Mapping[str, SiteShape]) -> Mapping[str, Sequence[str]]:
    dims = {} if dims is None else dims
    for name, names in dims.items():
        if name not in shapes:
            raise OptionError(f"dims must name sites of the model ({', '.join(shapes)}); got {name!r}.")
        if isinstance(names, str) or len(names) != shapes[name].event_dim:
            raise OptionError(
                f"dims[{name!r}] must be a list of {shapes[name].event_dim} names, one for each dimension of an event; "
                f"got {names!r}."
            )
        clash = set(names) & {*shapes, "chain", "draw"}
        if clash:
            raise OptionError(f"dims[{name!r}] must not have the names of sites; got {clash.pop()!r}.")
    return dims
