"""Collapse: latents of single data that say nothing about them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from ppl_models.diagnostics.findings import Finding, Threshold, finding

__all__ = ["collapse"]

#: A unit is active if the variance of its posterior mean over the data exceeds this.
ACTIVE = 0.01

#: A site is collapsed if the divergence of its posterior from its prior is below the first number, in nats, for all
#: data but a share of the second.
SMALL, FEW = 0.01, 0.01

UNITS = Threshold(
    1.0,
    float("-inf"),
    f"Yuri Burda et al., 2016, https://arxiv.org/abs/1509.00519, section 5: active if the variance exceeds {ACTIVE}",
)
INFORMED = Threshold(
    FEW,
    float("-inf"),
    "James Lucas et al., Don't Blame the ELBO!, 2019, https://arxiv.org/abs/1911.02469, definition 1, with "
    f"{SMALL} nats",
)

_ADVICE = "Give the latents more to do: KLWeights as warm-up, a weaker decoder, or fewer of them."


def collapse(vectors: Tensor, names: list[str], divergences: Mapping[str, Tensor]) -> list[Finding]:
    r"""Count active units, :math:`\mathrm{Var}_x(E_{q(u \mid x)} u) > 0.01`, and data on which a site is informed.

    A posterior may well be equal to the prior where the data say nothing: collapse is no error of a guide, and makes a
    verdict doubtful only where a site is collapsed as a whole.

    Args:
        vectors: Unconstrained draws, ``(S, N, D)``.
        names: The site of each of the D.
        divergences: :math:`\log q - \log p` of the draws, by site or by sites drawn as one vector, ``(S, N)``.

    References:
        Yuri Burda, Roger Grosse, Ruslan Salakhutdinov, Importance Weighted Autoencoders, 2016,
        https://arxiv.org/abs/1509.00519, section 5.
    """
    if vectors.shape[1] < 2:
        return []
    # The variance of the means of S draws, less what the draws' chance adds.
    means = vectors.mean(0)
    variance = means.var(0) - vectors.var(0).mean(0) / len(vectors)
    found = []
    for site in dict.fromkeys(names):
        own = variance[torch.tensor([name == site for name in names])]
        active = int((own > ACTIVE).sum())
        found.append(finding(f"active units of {site}", active, None, UNITS, _ADVICE, detail=f"of {len(own)}"))
    for site, ratio in divergences.items():
        each = ratio.double().mean(0)
        found.append(
            finding(
                f"share of data that inform {site}",
                (each > SMALL).double().mean(),
                None,
                INFORMED,
                _ADVICE,
                detail=f"KL from the prior {each.mean().item():.3g} nats per datum",
            )
        )
    return found
