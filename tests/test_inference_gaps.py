"""inference_gaps: the parts against closed forms of a linear-Gaussian VAE, guides of all kinds, and what is refused."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from guides import FullRankGuide, HamiltonianGuide, IAFGuide, MeanFieldGuide
from guides.errors import ModelError, OptionError
from ppl_models import VAE
from ppl_models.diagnostics import Bound, InferenceGaps, inference_gaps
from ppl_models.diagnostics.inference_gaps import _own_parameters

WEIGHT = torch.tensor([[1.5, 1.0], [0.5, -0.5], [1.0, 1.2]], dtype=torch.float64)
PRECISION = torch.eye(2, dtype=torch.float64) + WEIGHT.T @ WEIGHT


def model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z @ WEIGHT.T, 1.0).to_event(1), obs=x)


def log_evidence(x):
    return dist.MultivariateNormal(torch.zeros(3), WEIGHT @ WEIGHT.T + torch.eye(3)).log_prob(x)


class Encoder(nn.Module):
    """The exact means, moved, and the scales of the best independent law."""

    def __init__(self, shift=0.0):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(shift))

    def forward(self, x):
        mean = x @ WEIGHT @ PRECISION.inverse()
        return torch.cat([mean + self.shift, -0.5 * PRECISION.diagonal().log().expand_as(mean)], -1)


#: The divergence of the best independent law from the posterior.
FAMILY = (0.5 * (PRECISION.diagonal().log().sum() - torch.logdet(PRECISION))).item()
QUICK = {"log_evidence": "iwae", "steps": 200, "lr": 0.1, "seed": 0}


@pytest.mark.parametrize(("method", "shift"), [("iwae", 0.0), ("iwae", 0.5), ("ais", 0.5)])
def test_the_parts_are_those_of_closed_form_and_add_up(method, shift):
    x = torch.randn(6, 3)
    guide = MeanFieldGuide(model, encoder=Encoder(shift))
    found = inference_gaps(model, guide, x, **QUICK | {"log_evidence": method})
    # Of a law with exact scales and means that are off, the divergence grows by a quadratic form.
    moved = torch.full((2,), shift)
    encoder = 0.5 * (moved @ PRECISION @ moved).item()
    approximation, error = found.approximation
    sampling, sampling_error = found.sampling
    assert ((approximation + sampling - FAMILY).abs() < 4.5 * torch.hypot(error, sampling_error) + 0.003).all()
    amortisation, error = found.amortisation
    assert ((amortisation - encoder).abs() < 4.5 * error + 0.003).all()
    total, error = found.total
    assert ((total - (log_evidence(x) - found.elbo.mean)).abs() < 4.5 * error).all()
    parts = approximation + amortisation + sampling
    assert torch.allclose(parts, total, atol=1e-10)
    assert not found.unfinished.any()
    summary = found.summary
    assert list(summary.index) == ["elbo", "approximation", "amortisation", "sampling", "total"]
    assert summary.loc["total", "mean"] == pytest.approx(total.mean().item())
    assert summary.loc["total", "largest"] == pytest.approx(total.max().item())
    assert found.table.shape == (6, 10)
    assert "datum" in str(found)
    assert ("annealed chains" if method == "ais" else "1000 draws") in str(found)


def test_an_exact_family_has_no_approximation_part():
    guide = FullRankGuide(model, encoder=nn.Linear(3, 5))
    found = inference_gaps(model, guide, torch.randn(4, 3), **QUICK)
    assert found.approximation[0].abs().max() < 1e-4
    assert found.amortisation[0].min() > 0.1


@pytest.mark.parametrize("base", [None, IAFGuide])
def test_guides_over_an_amortised_base_have_gaps(base):
    encoder = nn.Linear(3, 4)
    if base is None:
        guide = HamiltonianGuide(model, encoder=encoder, num_steps=1)
    else:
        guide = HamiltonianGuide(model, base=IAFGuide(model, encoder=encoder, num_layers=1), num_steps=1)
    x = torch.randn(3, 3)
    guide.setup(x)
    before = {name: p.detach().clone() for name, p in guide.named_parameters()}
    found = inference_gaps(model, guide, x, **QUICK | {"steps": 100, "num_samples": 500})
    total, error = found.total
    assert ((total - (log_evidence(x) - found.elbo.mean)).abs() < 4.5 * error + 0.01).all()
    assert found.amortisation[0].min() > 0
    after = dict(guide.named_parameters())
    assert all(torch.equal(after[name], old) and after[name].requires_grad for name, old in before.items())


def test_only_the_encoders_output_is_fitted():
    vae = VAE(nn.Linear(2, 6), latent_dim=2, likelihood="normal")
    guide = IAFGuide(vae, encoder=nn.Linear(3, 4), num_layers=1)
    x = torch.randn(3, 3)
    guide.setup(x)
    own = _own_parameters(vae, guide, (x,))
    assert own.model is vae
    assert torch.allclose(own._innermost.encoder(x), guide._innermost.encoder(x))
    assert own._innermost.encoder.context.shape == (3, 4)


def test_data_are_taken_in_parts():
    x = torch.randn(3, 3)
    guide = MeanFieldGuide(model, encoder=Encoder(0.5))
    quick = {"num_samples": 500, "steps": 60, "lr": 0.1, "seed": 0}
    found = inference_gaps(model, guide, x, **quick, max_batch=2 * 128)
    total, error = found.total
    assert ((total - (log_evidence(x) - found.elbo.mean)).abs() < 4.5 * error + 0.01).all()


def test_the_sampling_part_is_what_logarithms_of_unbiased_estimates_are_too_low_by():
    noise = torch.randn(40_000, 50, 2)
    estimates = (0.7 * noise - 0.7**2 / 2).exp().mean(1).log()  # of log 1
    found = InferenceGaps(torch.zeros(9, 2), torch.zeros(9, 2), Bound(estimates), torch.zeros(2), "")
    part, error = found.sampling
    low = found.log_evidence
    assert ((low.mean + part).abs() < 4.5 * torch.hypot(low.standard_error, error) + 0.0005).all()
    assert (part > 0.005).all()
    spread = torch.stack([estimates[i::100].var(0) / 2 for i in range(100)]).std(0)
    assert torch.allclose(error * 10, spread, rtol=0.5)


def test_a_fit_that_has_not_ended_is_said_to_be_so():
    guide = MeanFieldGuide(model, encoder=Encoder(5.0))
    found = inference_gaps(model, guide, torch.randn(3, 3), log_evidence="iwae", steps=20, lr=0.01, rounds=1, seed=0)
    assert found.unfinished.all()
    assert "3 of 3 refitted guides were still getting better" in str(found)
    more = inference_gaps(model, guide, torch.randn(3, 3), log_evidence="iwae", steps=20, lr=0.3, rounds=30, seed=0)
    assert not more.unfinished.any()
    assert (more.approximation[0] - FAMILY).abs().max() < 0.2


def test_what_has_no_encoder_or_shares_latents_is_refused():
    x = torch.randn(3, 3)
    with pytest.raises(ModelError, match="guide must be one of this library with an encoder"):
        inference_gaps(model, MeanFieldGuide(model), x)
    guide = MeanFieldGuide(model, encoder=Encoder())
    for options, says in (({"log_evidence": "nuts"}, "log_evidence must be one of"), ({"steps": 0}, "steps must be")):
        with pytest.raises(OptionError, match=says):
            inference_gaps(model, guide, x, **options)
