"""Two-sided evidence: how often its interval holds the exact value, how wide it is, and what it costs."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.report import Row
from guides import MeanFieldGuide
from ppl_models import VAE, OffsetGaussian
from ppl_models.diagnostics import Evidence, evidence
from ppl_models.objectives import ELBO
from ppl_models.training import fit

RUNS, DIM, LATENTS, PIXELS, DATA = 100, 25, 4, 10, 20


class Affine(nn.Module):
    """Means affine in z and one free scale per pixel: with it a VAE is probabilistic PCA."""

    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(PIXELS, LATENTS, generator=generator, dtype=torch.float64))
        self.log_scale = nn.Parameter(torch.full((PIXELS,), -0.5, dtype=torch.float64))

    def forward(self, z: Tensor) -> Tensor:
        mean = z @ self.weight.T
        return torch.cat([mean, self.log_scale.expand_as(mean)], -1)

    def log_evidence(self, x: Tensor) -> Tensor:
        covariance = self.weight @ self.weight.T + torch.diag((2 * self.log_scale).exp())
        return torch.distributions.MultivariateNormal(torch.zeros(PIXELS), covariance).log_prob(x).detach()


def gaussian_run(seed: int, steps: int = 200) -> tuple[Evidence, Tensor]:
    """Data and latent simulated anew, a guide trained on them for a little while; upper side from the true latent."""
    generator = torch.Generator().manual_seed(seed)
    rank = torch.arange(DIM) - (DIM - 1) / 2
    model = OffsetGaussian(DIM, offset=rank / 5, scale=3.6 * rank**2 / (DIM - 1) ** 2 + 0.1).requires_grad_(False)
    z = torch.randn(DIM, generator=generator)
    x = model.offset + z + model.scale * torch.randn(100, DIM, generator=generator)
    guide = MeanFieldGuide(model)
    options = {"steps": steps, "lr": 0.3, "schedule": "cosine", "seed": seed, "progress": False}
    fit(model, guide, x, objective=ELBO(gradient="stl"), **options)
    return evidence(model, guide, x, posterior={"z": z}, seed=seed), model.log_evidence(x)


def linear_run(seed: int, steps: int = 500) -> tuple[Evidence, Tensor]:
    """A mean-field encoder, which cannot be exact, trained on data simulated anew; upper side from the true latents."""
    generator = torch.Generator().manual_seed(seed)
    decoder = Affine(generator)
    model = VAE(decoder, latent_dim=LATENTS, likelihood="normal").requires_grad_(False)
    z = torch.randn(DATA, LATENTS, generator=generator)
    x = decoder(z)[:, :PIXELS].detach() + decoder.log_scale.exp() * torch.randn(DATA, PIXELS, generator=generator)
    encoder = nn.Linear(PIXELS, 2 * LATENTS)
    with torch.no_grad():
        encoder.weight.zero_()
        encoder.bias.zero_()
    guide = MeanFieldGuide(model, encoder=encoder)
    fit(model, guide, x, steps=steps, lr=0.05, schedule="cosine", seed=seed, progress=False)
    return evidence(model, guide, x, posterior={"z": z}, seed=seed), decoder.log_evidence(x)


PROBLEMS: dict[str, Callable[[int], tuple[Evidence, Tensor]]] = {
    f"offset Gaussian, d = {DIM}, mean-field guide": gaussian_run,
    f"linear-Gaussian VAE, {DATA} data, mean-field guide": linear_run,
}


def two_sided(runs: int = RUNS) -> Iterator[Row]:
    """Of seeded runs: the share whose interval holds the exact value; the widest, in nats per datum; the slowest."""
    for name, run in PROBLEMS.items():
        held, held_data, of_mean, widths, seconds, gaps = 0, [], [], [], [], []
        for seed in range(runs):
            started = time.perf_counter()
            found, exact = run(seed)
            seconds.append(time.perf_counter() - started)
            low, high = found.interval_per_datum
            held += low <= exact.mean().item() <= high
            of_mean.append(high - low)
            each_low, each_high = found.interval
            held_data.append(((each_low <= exact) & (exact <= each_high)).double().mean().item())
            widths.append((each_high - each_low).max().item())
            gaps.append((exact - found.elbo.mean).mean().item())
        yield Row(f"{name}: ELBO's gap (nats per datum)", sum(gaps) / runs)
        yield Row(f"{name}: runs of {runs} whose interval holds log p(x)", held, least=math.ceil(0.95 * runs))
        yield Row(f"{name}: share of data whose own interval holds it", sum(held_data) / runs, least=0.95)
        yield Row(f"{name}: widest interval of a run (nats per datum)", max(of_mean), most=0.5)
        yield Row(f"{name}: widest interval of a single datum (nats)", max(widths), most=0.5)
        yield Row(f"{name}: slowest run, training included (s)", max(seconds), most=60)
