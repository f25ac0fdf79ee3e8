"""The picture of the README, four guides of one model and what `check` says of each: python examples/picture.py."""

from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import pyro
import pyro.distributions as dist
import torch

from guides import FullRankGuide, HamiltonianGuide, IAFGuide, LatentSpace, MeanFieldGuide
from ppl_models.diagnostics import check
from ppl_models.objectives import ELBO
from ppl_models.training import fit

DOCS = Path(__file__).parents[1] / "docs"
COLOURS = {"pass": "#009E73", "doubtful": "#B87800", "fail": "#D55E00"}


def banana():
    across = pyro.sample("across", dist.Normal(0.0, 1.0))
    pyro.sample("along", dist.Normal(across**2, 0.7))


def trained(guide, steps):
    options = {"lr": 0.02, "schedule": "cosine", "average": 0.1, "seed": 0, "progress": False}
    fit(banana, guide, objective=ELBO(num_particles=64), steps=steps, **options)
    return guide


def draw(ax, guide):
    x, y = torch.meshgrid(torch.linspace(-3.3, 3.3, 221), torch.linspace(-2.6, 7, 321), indexing="xy")
    density = LatentSpace(banana).log_joint(torch.stack([x, y], -1)).exp()
    levels = density.max().item() * torch.tensor([0.01, 0.1, 0.25, 0.5, 0.75, 1.0])
    ax.contourf(x, y, density, levels=levels, cmap="Oranges")
    torch.manual_seed(1)
    draws = guide.sample_posterior(600)
    ax.plot(draws["across"], draws["along"], ".", color="C0", markersize=2.5)
    ax.set(xlim=(-3.3, 3.3), ylim=(-2.6, 7), xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
    ax.set_title(type(guide).__name__)


def main():
    matplotlib.rc_file(DOCS / "matplotlibrc")
    torch.manual_seed(0)
    guides = {
        MeanFieldGuide(banana): 500,
        FullRankGuide(banana): 500,
        HamiltonianGuide(banana, num_steps=4, init_step_size=0.1): 500,
        IAFGuide(banana): 2000,
    }
    figure, axes = plt.subplots(1, 4, figsize=(8.4, 2.9))
    for ax, (guide, steps) in zip(axes, guides.items(), strict=True):
        draw(ax, trained(guide, steps))
        verdict = check(banana, guide, seed=0)
        print(guide, verdict, sep="\n")
        told = f"{verdict.level} ($\\hat{{k}}$ = {verdict['k-hat'].value:.2f})"
        ax.set_xlabel(told, color=COLOURS[verdict.level], fontweight="bold")
    figure.savefig(DOCS / "_static" / "guides.png", dpi=200, pil_kwargs={"optimize": True})


if __name__ == "__main__":
    main()
