"""LadderVAE and LadderGuide: the merge, what flows down, the study's sizes, and guides of other kinds."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch import nn
from torch.autograd.functional import jacobian

from guides import HamiltonianGuide, IAFGuide, LadderGuide, MeanFieldGuide, OptionError
from guides.errors import DataError
from guides.ladder import merged
from guides.target import Target
from ppl_models import VAE, LadderVAE
from ppl_models.networks import MLPDecoder, MLPEncoder, Rung
from ppl_models.objectives import ELBO, IWAE, KLWeights, log_weights
from ppl_models.training import fit
from tests.contract.problems import ladder_vae
from tests.contract.registry import ladder as wide_guide

X = torch.tensor([[0.4, 0.2, -1.0], [-0.6, 0.3, 0.1], [0.5, -0.7, 0.8], [0.0, 1.0, 0.2]], dtype=torch.float64)


def small(**options):
    return LadderVAE((3,), latent_dims=(2, 1, 2), hidden=(5, 6, 4), likelihood="normal", **options)


def count(*parts):
    return sum(p.numel() for part in parts for p in part.parameters())


# The merge, and log q.


def test_the_merge_is_the_product_of_the_two_densities():
    mean, log_variance, other, log_other = torch.randn(4, 5)
    product = merged((mean, log_variance), (other, log_other))
    merged_law = dist.Normal(product[0], (0.5 * product[1]).exp())
    z = torch.randn(7, 5)
    ratio = dist.Normal(mean, (0.5 * log_variance).exp()).log_prob(z) - merged_law.log_prob(z)
    ratio = ratio + dist.Normal(other, (0.5 * log_other).exp()).log_prob(z)
    torch.testing.assert_close(ratio, ratio[:1].expand(7, 5), rtol=1e-10, atol=1e-10)


def test_the_merge_holds_where_the_two_differ_by_far():
    mean, log_variance = merged((torch.tensor(1.0), torch.tensor(-900.0)), (torch.tensor(5.0), torch.tensor(900.0)))
    assert (mean.item(), log_variance.item()) == (1.0, -900.0)


def direct_log_q(guide, x, values):
    """By the formula in words: at each level the product of two normals, the upper one given the level above."""
    ladder, terms = guide.model, []
    numbers = guide.encoder(x).split([2 * size for size in ladder.latent_dims], -1)
    for level in range(len(ladder.latent_dims)):
        mean, log_variance = numbers[level].chunk(2, -1)
        precision, weighted = (-log_variance).exp(), mean * (-log_variance).exp()
        if level + 1 < len(ladder.latent_dims):
            rungs = guide.rungs if guide.merge == "separate" else ladder.rungs
            _, mean, log_variance = rungs[level](values[f"z_{level + 2}"])
            precision, weighted = precision + (-log_variance).exp(), weighted + mean * (-log_variance).exp()
        law = dist.Normal(weighted / precision, precision.rsqrt())
        terms.append(law.log_prob(values[f"z_{level + 1}"]).sum(-1))
    return torch.stack(terms)


@pytest.mark.parametrize("merge", ["separate", "prior"])
def test_log_weights_are_those_of_the_formula(merge):
    ladder = small()
    guide = LadderGuide(ladder, merge=merge).setup(X)
    guide_trace = poutine.trace(guide).get_trace(X)
    values = {name: guide_trace.nodes[name]["value"] for name in ladder.sites}
    guide_trace.compute_log_prob()
    log_q = torch.stack([guide_trace.nodes[name]["log_prob"] for name in ladder.sites])
    torch.testing.assert_close(log_q, direct_log_q(guide, X, values), rtol=1e-10, atol=1e-10)


def test_log_q_is_that_of_the_jacobian():
    ladder = small()
    guide = LadderGuide(ladder).setup(X)
    context = guide.encoder(X[:1]).detach()
    noise = torch.randn(1, 5)

    def draw(e):
        return guide.propose(Target(e.shape[:1], lambda z: z, context), e)

    map_of = jacobian(lambda e: draw(e).latent, noise).reshape(5, 5)
    expected = dist.Normal(0.0, 1.0).log_prob(noise).sum() - torch.linalg.slogdet(map_of).logabsdet
    torch.testing.assert_close(draw(noise).log_q[0], expected, rtol=1e-10, atol=1e-10)


def test_the_vector_is_the_ladder_from_the_top():
    ladder = small()
    assert [site.name for site in LadderGuide(ladder).setup(X).space.sites] == ["z_3", "z_2", "z_1"]


@pytest.mark.parametrize("gradient", ["reparam", "stl"])
def test_every_level_has_a_kl_of_its_own(gradient):
    ladder = small()
    guide = LadderGuide(ladder).setup(X)
    pyro.set_rng_seed(3)
    parts = ELBO(gradient=gradient, kl=KLWeights(sites={"z_1": 0.0})).estimate(ladder, guide, X).parts
    pyro.set_rng_seed(3)
    values = guide(X)
    log_p = poutine.trace(poutine.condition(ladder, values)).get_trace(X)
    log_p.compute_log_prob()
    for i, log_q in enumerate(direct_log_q(guide, X, values)):
        expected = (log_q - log_p.nodes[ladder.sites[i]]["log_prob"]).sum()
        torch.testing.assert_close(parts[f"kl[{ladder.sites[i]}]"], expected.detach(), rtol=1e-9, atol=1e-9)
    assert set(parts) == {"reconstruction", "kl[z_1]", "kl[z_2]", "kl[z_3]"}


# What flows down.


def test_every_level_of_the_encoder_and_of_the_merge_reaches_the_reconstruction():
    # In the study the prior's draws flowed down, and these gradients were none.
    ladder = small()
    guide = LadderGuide(ladder).setup(X)
    log_weights(ladder, guide, X).terms["reconstruction"].sum().backward()
    heads = [
        m for rungs in (guide.encoder.rungs, guide.rungs) for rung in rungs for m in (rung.mean, rung.log_variance)
    ]
    assert len(heads) == 2 * (3 + 2)
    for head in heads:
        assert head.weight.grad.abs().max() > 1e-6


@pytest.mark.parametrize("features", ["own", "last"])
def test_what_the_levels_are_read_from(features):
    ladder = LadderVAE((3,), latent_dims=(2, 1, 2), hidden=(5, 5, 5), likelihood="normal")
    guide = LadderGuide(ladder, features=features).setup(X)
    lowest = guide.encoder(X)[:, : 2 * ladder.latent_dims[0]]
    lowest.sum().backward()
    reached = [bool(rung.features[0].weight.grad.any()) for rung in guide.encoder.rungs]
    assert reached == [True, features == "last", features == "last"]
    assert f"features={features!r}" in repr(guide)


def test_the_model_s_own_rungs_are_judged_at_the_guide_s_draws():
    ladder = small()
    guide = LadderGuide(ladder).setup(X)
    values = guide(X)
    trace = poutine.trace(poutine.condition(ladder, values)).get_trace(X)
    for level in (0, 1):
        mean, log_variance = ladder.prior(level, values[f"z_{level + 2}"])
        torch.testing.assert_close(trace.nodes[f"z_{level + 1}"]["fn"].mean, mean)
        torch.testing.assert_close(trace.nodes[f"z_{level + 1}"]["fn"].variance, log_variance.exp())


@pytest.mark.parametrize("normalisation", ["layer", "none", "batch"])
def test_no_datum_depends_on_another_unless_batches_are_normalised(normalisation):
    ladder = small(normalisation=normalisation)
    guide = LadderGuide(ladder).setup(X)
    noise = torch.randn(len(X), 5)

    def weights(x):
        proposal = guide.propose(Target(noise.shape[:1], lambda z: z, guide.encoder(x)), noise)
        return guide.space.log_joint(proposal.latent, x) - proposal.log_q

    dependence = jacobian(weights, X).abs().sum(-1)
    assert (dependence.diagonal() > 0).all()
    assert (dependence - torch.diag(dependence.diagonal()) == 0).all() == (normalisation != "batch")


def test_batch_norm_takes_particles_and_is_a_model_of_single_rows_when_evaluated():
    ladder = small(normalisation="batch")
    guide = LadderGuide(ladder).setup(X)
    assert torch.isfinite(log_weights(ladder, guide, X, num_particles=3).values).all()
    for part in (ladder, guide):
        part.eval()
    z = torch.randn(7, 5)[:, None].expand(7, 4, 5)
    together = guide.space.log_joint(z, X)
    torch.testing.assert_close(together[:, 1], guide.space.log_joint(z[:, 1:2], X[1:2])[:, 0])


# Sizes.


@pytest.mark.parametrize("normalisation", ["layer", "batch"])
def test_the_study_s_parameter_counts(normalisation):
    images = LadderVAE((1, 28, 28), normalisation=normalisation)
    guide = LadderGuide(images).setup(torch.zeros(2, 1, 28, 28))
    assert (count(guide.encoder), count(guide.rungs, images.rungs), count(images.decoder)) == (
        732_544,
        300_032,
        431_888,
    )
    assert count(images, guide) == 1_464_464
    toy = LadderVAE((2,), latent_dims=(4,) * 3, hidden=(128,) * 3, likelihood="normal", normalisation=normalisation)
    guide = LadderGuide(toy).setup(torch.zeros(2, 2))
    assert (count(guide.encoder), count(guide.rungs, toy.rungs), count(toy.decoder)) == (37_272, 7_712, 34_180)
    assert count(toy, guide) == 79_164
    assert count(toy, LadderGuide(toy, features="last").setup(torch.zeros(2, 2))) == 79_164


def test_a_merge_with_the_prior_has_no_networks_of_its_own():
    images = LadderVAE((1, 28, 28))
    guide = LadderGuide(images, merge="prior").setup(torch.zeros(2, 1, 28, 28))
    assert count(images, guide) == 1_464_464 - 150_016


def test_variances_may_be_smaller_than_the_prior_s():
    # The study's softplus kept every variance above 1.
    rung = Rung(3, hidden_dim=50, latent_dim=50)
    rung.log_variance.bias.data -= 5
    assert rung(torch.randn(9, 3))[2].max() < -2


# Estimators, starts, and other guides.


def test_scoring_again_leaves_out_the_score_and_nothing_else():
    ladder = small()
    guide = LadderGuide(ladder, merge="prior").setup(X)
    parameters = dict(guide.named_parameters()) | dict(ladder.named_parameters())
    gradients = []
    for gradient in ("reparam", "stl"):
        pyro.set_rng_seed(1)
        loss = ELBO(gradient=gradient).differentiable_loss(ladder, guide, X)
        gradients.append([loss.item(), *torch.autograd.grad(loss, list(parameters.values()))])
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-10)
    pyro.set_rng_seed(1)
    values = {name: value.detach() for name, value in guide(X).items()}
    score = torch.autograd.grad(direct_log_q(guide, X, values).sum(), list(parameters.values()), allow_unused=True)
    for name, with_score, without, of_q in zip(parameters, *(g[1:] for g in gradients), score, strict=True):
        expected = torch.zeros_like(without) if of_q is None else of_q
        torch.testing.assert_close(with_score - without, expected, rtol=1e-8, atol=1e-10, msg=name)
    assert max(g.abs().max() for g in score if g is not None) > 0.1


def test_doubly_reparametrised_gradients_have_the_same_mean():
    problem = ladder_vae()
    guide = wide_guide(problem.model).setup(*problem.args)
    parameter = guide.encoder.rungs[0].mean.bias
    samples = []
    for gradient in ("reparam", "dreg"):
        objective = IWAE(num_particles=4, gradient=gradient)
        found = []
        for _ in range(80):
            loss = objective.differentiable_loss(problem.model, guide, *problem.args)
            found.append(torch.autograd.grad(loss, parameter)[0])
        samples.append(torch.stack(found))
    error = (samples[0].var(0) / 80 + samples[1].var(0) / 80).sqrt()
    assert ((samples[0].mean(0) - samples[1].mean(0)).abs() < 5 * error).all()
    assert (samples[1].std(0) < samples[0].std(0)).all()


def test_units_change_nothing_but_what_stands_above_works_in_them():
    ladder = small()
    plain, in_units = (LadderGuide(ladder, merge="prior") for _ in range(2))
    in_units.encoder.load_state_dict(plain.encoder.state_dict())
    plain.setup(X)
    in_units.setup(X, init="prior")
    assert (in_units.whitening.scale - 1).abs().max() > 0.1
    for gradient in ("reparam", "stl"):
        losses = []
        for guide in (plain, in_units):
            pyro.set_rng_seed(2)
            losses.append(ELBO(gradient=gradient).differentiable_loss(ladder, guide, X).item())
        assert losses[0] == pytest.approx(losses[1], abs=1e-10)


@pytest.mark.parametrize("over", [IAFGuide, HamiltonianGuide])
def test_evidence_with_another_guide_on_top_in_units_of_the_prior(over):
    problem = ladder_vae()
    options = {"num_layers": 1, "hidden": (8,)} if over is IAFGuide else {"num_steps": 2, "init_step_size": 0.2}
    guide = over(problem.model, base=wide_guide(problem.model), **options).setup(*problem.args, init="prior")
    with torch.no_grad():
        values = log_weights(problem.model, guide, *problem.args, num_particles=6000).values
    ratio = (values - problem.log_evidence).exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert (error < 0.1).all()
    assert ((ratio.mean(0) - 1).abs() < 5 * error).all()


def test_guides_of_any_model_fit_it():
    ladder = small()
    for family, options in ((MeanFieldGuide, {}), (HamiltonianGuide, {"num_steps": 2})):
        guide = family(ladder, encoder=MLPEncoder((3,), output_dim=10, hidden=(6,)), **options)
        loss = IWAE(num_particles=3)(ladder, guide.setup(X))(X)
        loss.backward()
        assert all(p.grad.abs().max() > 0 for p in [*ladder.parameters(), *guide.parameters()])


def test_it_is_trained():
    ladder = LadderVAE((1, 2, 2), latent_dims=(2, 2), hidden=(8, 8))
    guide = LadderGuide(ladder)
    x = (torch.rand(40, 1, 1, 1) > 0.5).double().expand(40, 1, 2, 2).contiguous()  # one bit: log 2 is the floor
    result = fit(ladder, guide, x, objective=ELBO(num_particles=4), steps=80, lr=0.04, seed=0, progress=False)
    assert result.history["loss"][:5].mean() / 40 > 2.5
    assert math.log(2) - 0.15 < result.history["loss"][-20:].mean() / 40 < 1.6
    means = ladder.reconstruct(guide(x))
    assert means.shape == x.shape
    assert ((means - x).abs() < 0.5).double().mean() > 0.95


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"latent_dims": (2,), "hidden": (3,)},
            r"latent_dims must have at least two levels; got \(2,\). With one, write VAE",
        ),
        ({"hidden": (3,)}, r"hidden must have one width per level, 2; got \(3,\)"),
        ({"hidden": (3, 0)}, "hidden must be a whole number of at least 1; got 0"),
        ({"normalisation": "group"}, "normalisation must be one of 'layer', 'batch', 'none'; got 'group'"),
        ({"likelihood": "gauss"}, "likelihood must be one of .*; got 'gauss'"),
        (
            {"levels": 3},
            "levels must be given for 'categorical' or 'discretised_logistic' only; got it for 'bernoulli'",
        ),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        LadderVAE((4,), **({"latent_dims": (2, 2), "hidden": (3, 3)} | options))


def test_what_is_no_ladder_is_refused():
    vae = VAE(MLPDecoder(2, event_shape=(3,), hidden=(4,)), latent_dim=2)
    with pytest.raises(TypeError, match="model must be a LadderVAE; got VAE. For other models write MeanFieldGuide"):
        LadderGuide(vae)
    with pytest.raises(OptionError, match="merge must be one of 'separate', 'prior'; got 'shared'"):
        LadderGuide(small(), merge="shared")
    with pytest.raises(OptionError, match="features must be one of 'own', 'last'; got 'all'"):
        LadderGuide(small(), features="all")
    with pytest.raises(OptionError, match=r"features must be 'own' with widths that differ; got 'last' and hidden=\("):
        LadderGuide(small(), features="last")
    with pytest.raises(OptionError, match="features must be 'own' with an encoder"):
        LadderGuide(small(), encoder=nn.Linear(3, 10), features="last")
    with pytest.raises(DataError, match="encoder must return 10 numbers per datum, for LadderGuide over the 5 latent"):
        LadderGuide(small(), encoder=nn.Linear(3, 9)).setup(X)
    with pytest.raises(TypeError, match="decoder must be a torch.nn.Module; got function"):
        small(decoder=lambda z: z)
