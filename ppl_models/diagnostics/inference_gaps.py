"""inference_gaps: what an amortised guide loses, per datum, by its family, by its encoder, and by sampling."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from guides import Guide, GuideList
from guides.errors import ModelError, choose, positive, whole_number
from ppl_models.diagnostics.evidence import Bound, evidence
from ppl_models.diagnostics.judging import judging, seeded
from ppl_models.diagnostics.parts import parts_of
from ppl_models.diagnostics.printing import as_text
from ppl_models.diagnostics.refits import only, sharpest
from ppl_models.objectives import Objective, log_weights
from ppl_models.training import fit
from ppl_models.training.batches import check_finite

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderResult

__all__ = ["InferenceGaps", "inference_gaps"]

#: In how many independent estimates the draws for log p(x) are shared out.
ESTIMATES = 16

#: How many chains make one of them.
CHAINS = 8

#: How many data a printed table shows.
SHOWN = 5

#: A round of fitting that gains no more than that for any datum, in nats, is the last.
FLAT = 0.01

PARTS = ("approximation", "amortisation", "sampling")


@dataclass(frozen=True)
class InferenceGaps:
    r"""What :func:`inference_gaps` found, in nats per datum.

    Args:
        log_weights: Of the guide's draws, ``(S, N)``.
        refitted: Of draws of the best member of its family for each datum, from the same noise, ``(S, N)``.
        log_evidence: Independent estimates of :math:`\log p(x)`, each from below in expectation.
        unfinished: Of which data the best member was still getting better, ``(N,)``.
        method: How the estimates were made, in words.
    """

    log_weights: Tensor = field(repr=False)
    refitted: Tensor = field(repr=False)
    log_evidence: Bound
    unfinished: Tensor = field(repr=False)
    method: str

    @property
    def elbo(self) -> Bound:
        """The guide's ELBO."""
        return Bound(self.log_weights)

    @property
    def refitted_elbo(self) -> Bound:
        """The ELBO of the best member of its family."""
        return Bound(self.refitted)

    @property
    def approximation(self) -> tuple[Tensor, Tensor]:
        """What the family lacks, with its standard error, ``(N,)`` each: the estimate of log p(x) less its ELBO."""
        error = torch.hypot(self.log_evidence.standard_error, self.refitted_elbo.standard_error)
        return self.log_evidence.mean - self.refitted_elbo.mean, error

    @property
    def amortisation(self) -> tuple[Tensor, Tensor]:
        """What the encoder lacks, with its standard error, ``(N,)`` each; the noise that both draws share cancels."""
        difference = Bound(self.refitted - self.log_weights)
        return difference.mean, difference.standard_error

    @property
    def sampling(self) -> tuple[Tensor, Tensor]:
        r"""What the estimate of log p(x) lacks, with its standard error, ``(N,)`` each.

        Half the variance of the estimates: to first order, the logarithm of an unbiased estimate of p(x) is so much too
        low.
        """
        variance = self.log_evidence.estimates.var(0)
        return variance / 2, variance / math.sqrt(2 * (len(self.log_evidence.estimates) - 1))

    @property
    def total(self) -> tuple[Tensor, Tensor]:
        """The whole gap, log p(x) less the ELBO, with its standard error, ``(N,)`` each: the sum of the parts."""
        sampling, sampling_error = self.sampling
        error = torch.stack([self.log_evidence.standard_error, self.elbo.standard_error, sampling_error]).norm(dim=0)
        return self.log_evidence.mean + sampling - self.elbo.mean, error

    @property
    def table(self) -> pd.DataFrame:
        """One row per datum: the ELBO, the parts, their sum ``total``, each followed by its standard error."""
        import pandas as pd

        columns = {"elbo": self.elbo.mean, "elbo_error": self.elbo.standard_error}
        for name in (*PARTS, "total"):
            columns[name], columns[f"{name}_error"] = getattr(self, name)
        numbers = {name: value.cpu().numpy() for name, value in columns.items()}
        return pd.DataFrame(numbers).rename_axis("datum")

    @property
    def summary(self) -> pd.DataFrame:
        """Over the data: ``mean``, its ``standard_error`` by the draws' chance, and the ``largest`` of one datum."""
        import pandas as pd

        table, rows = self.table, {}
        for name in ("elbo", *PARTS, "total"):
            error = math.sqrt(float((table[f"{name}_error"] ** 2).sum())) / len(table)
            rows[name] = {"mean": table[name].mean(), "standard_error": error, "largest": table[name].max()}
        return pd.DataFrame.from_dict(rows, orient="index")

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        from rich import box
        from rich.table import Table
        from rich.text import Text

        table, summary = self.table, self.summary
        yield Text(f"Inference gaps of {len(table)} data, in nats; log p(x): {self.method}", style="bold")
        rows = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        rows.add_column("")
        for name in summary.index:
            rows.add_column(str(name), justify="right", no_wrap=True)
        rows.add_row("mean", *(f"{row['mean']:.3f} +- {row.standard_error:.3f}" for _, row in summary.iterrows()))
        worst = table.sort_values("total", ascending=False).head(SHOWN)
        for datum, row in worst.iterrows():
            rows.add_row(
                f"datum {datum}", *(f"{row[name]:.3f} +- {row[f'{name}_error']:.3f}" for name in summary.index)
            )
        yield rows
        if self.unfinished.any():
            yield Text(
                f"{int(self.unfinished.sum())} of {len(table)} refitted guides were still getting better: raise steps.",
                style="bold red",
            )

    def __str__(self) -> str:
        return as_text(self)

    def __repr__(self) -> str:
        means = ", ".join(
            f"{name}={row['mean']:.3f}+-{row.standard_error:.3f}" for name, row in self.summary.iterrows()
        )
        return f"InferenceGaps({means}, nats, data={self.log_weights.shape[1]})"


def inference_gaps(
    model: Callable[..., Any],
    guide: Guide,
    *args: Any,
    num_samples: int = 1000,
    log_evidence: str = "ais",
    steps: int = 500,
    lr: float = 0.05,
    rounds: int = 10,
    objective: Objective | None = None,
    max_batch: int = 50_000,
    seed: int | None = None,
) -> InferenceGaps:
    r"""Say what part of the gap between ELBO and log evidence comes from where, for each datum.

    .. math::
        \log p(x) - L[q] = \underbrace{\log \hat p(x) - L[q^*]}_{\text{approximation}}
        + \underbrace{L[q^*] - L[q]}_{\text{amortisation}}
        + \underbrace{\log p(x) - \log \hat p(x)}_{\text{sampling}}

    :math:`q^*` is the best that the guide can be for this datum by the choice of its encoder's output: parameters of
    its own, from the encoder's output on, fitted to all data at once, until no datum gains by another round. What all
    data share, such as the layers of a flow or the step sizes of a leapfrog, is held fixed with the model. A large
    approximation part asks for a richer family, a large amortisation part for a larger encoder or more training.
    :math:`\log \hat p(x)` is an estimate that is too low in expectation, and the sampling part what it lacks, to first
    order; where that is not small beside the others, take more samples.

    Args:
        model: Any Pyro model whose data are independent.
        guide: A guide of this library with an encoder.
        *args: Arguments of both, tensors of N rows.
        num_samples: S, at least 2: draws for each ELBO, and for each estimate of log p(x) with ``"iwae"``.
        log_evidence: ``"ais"``: chains annealed from :math:`q^*`, see :func:`ppl_models.diagnostics.evidence`.
            ``"iwae"``: importance sampling from :math:`q^*`, much faster, and as good where its weights are even.
        steps: Number of optimizer steps in one round of fitting :math:`q^*`.
        lr: Learning rate of Adam at the start of a round, which falls to zero as a cosine.
        rounds: The most rounds. If data still gain by the last one, the result says so: what it counts as approximation
            is then partly that.
        objective: What :math:`q^*` maximises: by default the ELBO of ten particles, sticking the landing where the
            guide can score its draws.
        max_batch: Upper limit of draws times data in one batched run.
        seed: Fixes all chance; the global generator is left as it was.

    Raises:
        OptionError: If a number breaks its rule.
        DataError: If data are not finite or subsampled.
        ModelError: If the guide has no encoder, or data are not independent.
        DivergedError: If the fit of :math:`q^*` does.

    Example:
        >>> import torch
        >>> from guides import MeanFieldGuide
        >>> from ppl_models import VAE
        >>> decoder = torch.nn.Linear(2, 8)
        >>> vae = VAE(decoder, latent_dim=2, likelihood="normal")
        >>> guide = MeanFieldGuide(vae, encoder=torch.nn.Linear(4, 4))
        >>> quick = {"log_evidence": "iwae", "num_samples": 50, "steps": 20, "rounds": 1}
        >>> gaps = inference_gaps(vae, guide, torch.randn(3, 4), **quick, seed=0)
        >>> list(gaps.summary.index)
        ['elbo', 'approximation', 'amortisation', 'sampling', 'total']

    References:
        Chris Cremer, Xuechen Li, David Duvenaud, Inference Suboptimality in Variational Autoencoders, 2018,
        https://arxiv.org/abs/1801.03558, section 3. Departure: of flows, the layers are held fixed.
        Justin Domke, Daniel Sheldon, Importance Weighting and Variational Inference, 2018,
        https://arxiv.org/abs/1808.09034, theorem 3, for the sampling part.
    """
    num_samples = whole_number("num_samples", num_samples, least=2)
    choose("log_evidence", log_evidence, ["ais", "iwae"])
    steps, lr = whole_number("steps", steps, least=1), positive("lr", lr)
    rounds = whole_number("rounds", rounds, least=1)
    max_batch = whole_number("max_batch", max_batch, least=1)
    if not isinstance(guide, Guide) or isinstance(guide, GuideList) or not guide.amortised:
        raise ModelError(
            f"guide must be one of this library with an encoder, whose latents belong to one datum each; got {guide!r}."
        )
    check_finite(args)
    guide.setup(*args)
    with judging(model, guide, seed):
        with torch.no_grad():
            # No larger than what ``evidence`` takes whole: parameters of single data cannot be cut.
            most = max(1, max_batch // (CHAINS * ESTIMATES))
            parts = parts_of(model, guide, args, most=most, caller="inference_gaps")
        if not parts.independent:
            raise ModelError("data must be independent, in one plate, to have gaps of their own; got others.")
        objective = sharpest(model, guide, args) if objective is None else objective
        found, still = [], []
        for part, size in zip(parts.args, parts.sizes, strict=True):
            own = _own_parameters(model, guide, part)
            draw = partial(_draw, model, args=part, num=num_samples, most=max(1, max_batch // size))
            noise = int(torch.randint(2**62, ()))
            weights, before = (draw(each, noise=noise) for each in (guide, own))
            for _ in range(rounds):
                with only([own._innermost.encoder.context], model, own):
                    fit(model, own, *part, objective=objective, steps=steps, lr=lr, schedule="cosine", progress=False)
                refitted = draw(own, noise=noise)
                gain = Bound(refitted - before)
                improved = gain.mean > torch.clamp(3 * gain.standard_error, min=FLAT)
                before = refitted
                if not improved.any():
                    break
            still.append(improved)
            if log_evidence == "ais":
                bounds = evidence(model, own, *part, num_particles=CHAINS, num_batches=ESTIMATES, max_batch=max_batch)
                estimates = bounds.annealed.estimates
            else:
                estimates = torch.stack([draw(own).logsumexp(0) - math.log(num_samples) for _ in range(ESTIMATES)])
            found.append((weights, refitted, estimates))
    weights, refitted, log_p = (torch.cat(each, 1) for each in zip(*found, strict=True))
    each = f"{num_samples} draws" if log_evidence == "iwae" else f"{CHAINS} annealed chains"
    described = f"{ESTIMATES} estimates by {each} of the refitted guide"
    return InferenceGaps(weights, refitted, Bound(log_p), torch.cat(still), described)


class _Own(nn.Module):
    """Stands in an encoder's place: for each datum its own numbers, which may be trained."""

    def __init__(self, context: Tensor) -> None:
        super().__init__()
        self.context = nn.Parameter(context)

    def forward(self, *args: Any) -> Tensor:
        return self.context


@torch.no_grad()
def _draw(
    model: Callable[..., Any],
    guide: Callable[..., Any],
    *,
    args: tuple[Any, ...],
    num: int,
    most: int,
    noise: int | None = None,
) -> Tensor:
    """Log-weights ``(S, N)``, as many at once as may be, by a noise that several guides can share."""
    sizes = [min(most, num - start) for start in range(0, num, most)]
    with seeded(noise):
        return torch.cat([log_weights(model, guide, *args, num_particles=size).values for size in sizes])


def _own_parameters(model: Callable[..., Any], guide: Guide, args: tuple[Any, ...]) -> Any:
    """A copy of a guide, of the same model, with parameters for each datum where the encoder's output was."""
    copied = deepcopy(guide, {id(model): model})
    innermost = copied._innermost
    assert innermost.encoder is not None, "checked before"
    with torch.no_grad():
        context = innermost.encoder(*args).detach().clone()
    innermost.encoder = _Own(context)
    return copied
