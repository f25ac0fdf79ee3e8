"""The variance of gradient estimators where the guide is the posterior itself."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.report import Row
from guides import MeanFieldGuide
from ppl_models import OffsetGaussian
from ppl_models.objectives import ELBO, gradient_report


def at_the_exact_posterior() -> Iterator[Row]:
    model = OffsetGaussian(50)
    data = model.summarise(torch.randn(1000, 50))
    guide, posterior = MeanFieldGuide(model).setup(data), model.exact_posterior(data)
    with torch.no_grad():
        guide.loc.copy_(posterior.mean)
        guide.log_scale.copy_(posterior.stddev.log())
    for gradient, most in (("reparam", None), ("stl", 1e-12)):
        report = gradient_report(model, guide, data, objectives=[ELBO(gradient=gradient)], seed=0)
        variance = report.set_index("parameters").loc["guide", "variance"]
        name = f"gradient={gradient!r} at the exact posterior, offset Gaussian, d=50: variance of the guide's gradient"
        yield Row(name, variance, most=most)
