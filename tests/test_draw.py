"""DRAW and DRAWGuide: the filter bank, what a step sees and writes, the study's variants and sizes."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from torch.autograd.functional import jacobian

from guides import DRAWGuide, HamiltonianGuide, MeanFieldGuide, OptionError
from guides.errors import DataError
from guides.target import Target
from ppl_models import DRAW, VAE
from ppl_models.networks import FilterBank, MLPDecoder, MLPEncoder
from ppl_models.objectives import ELBO, IWAE, log_weights
from ppl_models.training import fit
from tests.contract.problems import drawing
from tests.contract.registry import drawing as wide_guide

IMAGE = (1, 3, 4)
OPTIONS = {
    "draw": {},
    "draw2": {"error_image": False},
    "draw3": {"accumulate": False},
    "draw4": {"error_image": False, "accumulate": False},
    "filterbank": {"attention": "filterbank", "patch_size": 2},
}


def small(**options):
    return DRAW(IMAGE, latent_dim=2, hidden_dim=5, num_steps=3, **options)


def images(num=4):
    return (torch.rand(num, *IMAGE) > 0.5).double()


def count(*parts):
    return sum(p.numel() for part in parts for p in part.parameters())


# The filter bank.


def direct_filter(size, longest, patch, centre, log_variance, log_stride):
    """The formula, number by number."""
    place = (size - 1) / 2 + (size + 1) / 2 * centre
    stride = (longest - 1) / (patch - 1) * math.exp(log_stride)
    rows = []
    for i in range(patch):
        mean = place + (i - (patch - 1) / 2) * stride
        weights = [math.exp(-((a - mean) ** 2) / (2 * math.exp(log_variance))) for a in range(size)]
        rows.append([weight / sum(weights) for weight in weights])
    return torch.tensor(rows)


@pytest.mark.parametrize("patch", [2, 3, 5])
def test_filters_reading_and_writing_are_those_of_the_formula(patch):
    bank = FilterBank((4, 7), patch_size=patch)
    parameters, x, w = 0.5 * torch.randn(3, 5), torch.randn(3, 2, 4, 7), torch.randn(3, 2, patch, patch)
    read, written = bank.read(x, parameters), bank.write(w, parameters)
    for i, (across, down, log_variance, log_stride, log_intensity) in enumerate(parameters.tolist()):
        rows = direct_filter(4, 7, patch, down, log_variance, log_stride)
        columns = direct_filter(7, 7, patch, across, log_variance, log_stride)
        for c in range(2):
            seen = math.exp(log_intensity) * rows @ x[i, c] @ columns.T
            torch.testing.assert_close(read[i, c], seen, rtol=1e-10, atol=1e-12)
            stroke = rows.T @ w[i, c] @ columns / math.exp(log_intensity)
            torch.testing.assert_close(written[i, c], stroke, rtol=1e-10, atol=1e-12)


def test_rows_are_normalised_wherever_the_grid_is():
    rows, columns, _ = FilterBank((28, 20), patch_size=12).filters(3 * torch.randn(50, 5))
    for matrix in (rows, columns):
        torch.testing.assert_close(matrix.sum(-1), torch.ones(50, 12))


@pytest.mark.parametrize("patch", [4, 5])
def test_the_grid_is_centred_and_spans_the_image_at_first(patch):
    # The study's lay off by one stride.
    narrow = torch.tensor([0.0, 0.0, -6.0, 0.0, 0.0])
    rows, _, _ = FilterBank((25, 25), patch_size=patch).filters(narrow)
    centres = rows @ torch.arange(25.0)
    torch.testing.assert_close(centres, torch.linspace(0, 24, patch), rtol=0, atol=1e-8)


# A step.


@pytest.mark.parametrize("name", OPTIONS)
def test_what_a_step_sees_and_writes(name):
    draw = small(**OPTIONS[name])
    x, z = images(), torch.randn(2, 4, 2)
    first = draw.step(z[0], draw.start([4]))
    second = draw.step(z[1], first)
    hidden, cell = torch.nn.LSTMCell.forward(draw.decoder, z[1], (first.hidden, first.cell))
    torch.testing.assert_close((second.hidden, second.cell), (hidden, cell))
    stroke = draw.write(hidden)
    if draw.attention == "filterbank":
        stroke = draw.bank.write(stroke.reshape(4, 1, 2, 2), draw.write_head(hidden))
    stroke = stroke.reshape(4, *IMAGE)
    torch.testing.assert_close(second.canvas, first.canvas + stroke if draw.accumulate else stroke)
    views = draw.views(x, second.canvas)
    assert len(views) == (2 if draw.error_image else 1)
    assert torch.equal(views[0], x)
    if draw.error_image:  # what the likelihood lacks, and not what the canvas does
        mean = draw.observation(second.canvas.flatten(1)).sigmoid().reshape(x.shape)
        torch.testing.assert_close(views[1], x - mean)


def test_attention_is_of_each_image():
    # The study placed all patches of a batch by its first image.
    draw = small(**OPTIONS["filterbank"])
    z = torch.randn(3, 2)
    together = draw.step(z, draw.start([3])).canvas
    alone = torch.cat([draw.step(row[None], draw.start([1])).canvas for row in z])
    torch.testing.assert_close(together, alone)
    heads = draw.write_head(draw.step(z, draw.start([3])).hidden)
    assert (heads[0] - heads[1]).abs().min() > 1e-4


def test_every_step_of_a_generated_image_has_a_latent_of_its_own():
    draw = small()
    trace = poutine.trace(draw).get_trace(None, num=6)
    latents = {site: trace.nodes[site]["value"] for site in draw.sites}
    assert len({round(value.sum().item(), 9) for value in latents.values()}) == 3
    canvases = draw.canvases(latents)
    assert canvases.shape == (3, 6, *IMAGE)
    torch.testing.assert_close(canvases[-1], trace.nodes["x"]["fn"].mean)
    short = DRAW(IMAGE, latent_dim=2, hidden_dim=5, num_steps=2)
    short.load_state_dict(draw.state_dict())
    torch.testing.assert_close(short.canvases({site: latents[site] for site in short.sites}), canvases[:2])


def test_without_the_observation_layer_the_canvas_is_the_logits():
    draw = small(observation=False)
    canvas = torch.randn(2, *IMAGE)
    torch.testing.assert_close(draw.decode(canvas).mean, canvas.sigmoid())
    assert count(small()) - count(draw) == 12 * 12 + 12


# The guide.


def direct_log_q(guide, x, values):
    """Step by step, with torch's own cells."""
    draw, size, total = guide.model, len(x), 0.0
    canvas, hidden, cell = torch.zeros(size, *IMAGE), torch.zeros(size, 5), torch.zeros(size, 5)
    own = torch.zeros(size, guide.hidden_dim), torch.zeros(size, guide.hidden_dim)
    for site in draw.sites:
        seen = [x]
        if draw.error_image:
            seen.append(x - draw.observation(canvas.flatten(1)).sigmoid().reshape(x.shape))
        if draw.attention == "filterbank":
            seen = [draw.bank.read(view, guide.read_head(hidden)) for view in seen]
        inputs = torch.cat([*(view.flatten(1) for view in seen), hidden], -1)
        own = torch.nn.LSTMCell.forward(guide.network, inputs, own)
        loc, log_scale = guide.posterior(own[0]).chunk(2, -1)
        total = total + dist.Normal(loc, log_scale.exp()).log_prob(values[site]).sum(-1)
        hidden, cell, canvas = draw.step(values[site], (type(draw.start([1])))(hidden, cell, canvas))
    return total


@pytest.mark.parametrize("name", OPTIONS)
def test_log_q_is_that_of_the_steps(name):
    draw = small(**OPTIONS[name])
    x = images()
    guide = DRAWGuide(draw, hidden_dim=4).setup(x)
    trace = poutine.trace(guide).get_trace(x)
    trace.compute_log_prob()
    values = {site: trace.nodes[site]["value"] for site in draw.sites}
    log_q = sum(site["log_prob"] for site in trace.nodes.values() if "log_prob" in site)
    torch.testing.assert_close(log_q, direct_log_q(guide, x, values), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["draw", "filterbank"])
def test_scoring_again_leaves_out_the_score_and_nothing_else(name):
    draw = small(**OPTIONS[name])
    x = images()
    guide = DRAWGuide(draw).setup(x)
    parameters = dict(guide.named_parameters()) | {f"model.{n}": p for n, p in draw.named_parameters()}
    gradients = []
    for gradient in ("reparam", "stl"):
        pyro.set_rng_seed(1)
        loss = ELBO(gradient=gradient).differentiable_loss(draw, guide, x)
        gradients.append([loss.item(), *torch.autograd.grad(loss, list(parameters.values()))])
    assert gradients[0][0] == pytest.approx(gradients[1][0], abs=1e-10)
    pyro.set_rng_seed(1)
    values = {site: value.detach() for site, value in guide(x).items()}
    score = torch.autograd.grad(direct_log_q(guide, x, values).sum(), list(parameters.values()), allow_unused=True)
    for parameter, with_score, without, of_q in zip(parameters, *(g[1:] for g in gradients), score, strict=True):
        expected = torch.zeros_like(without) if of_q is None else of_q
        torch.testing.assert_close(with_score - without, expected, rtol=1e-8, atol=1e-10, msg=parameter)
    # The canvas, and so the model, has a part in q.
    assert max(g.abs().max() for n, g in zip(parameters, score, strict=True) if g is not None and "model" in n) > 1e-4


@pytest.mark.parametrize("name", ["draw", "filterbank"])
def test_no_datum_depends_on_another(name):
    draw = small(**OPTIONS[name])
    x = images(3)
    guide = DRAWGuide(draw).setup(x)
    noise = torch.randn(3, 6)

    def latent(data):
        return guide.propose(Target(noise.shape[:1], lambda z: z, data.flatten(1)), noise).latent

    dependence = jacobian(latent, x).abs().sum((1, 3, 4, 5))
    assert (dependence.diagonal() > 0).all()
    assert (dependence - torch.diag(dependence.diagonal()) == 0).all()


@pytest.mark.parametrize("over", [False, True])
def test_evidence_with_attention(over):
    problem = drawing("filterbank")
    guide = wide_guide(problem.model)
    if over:
        guide = HamiltonianGuide(problem.model, base=guide, num_steps=2, init_step_size=0.2)
    with torch.no_grad():
        values = log_weights(problem.model, guide, *problem.args, num_particles=4000).values
    ratio = (values - problem.log_evidence).exp()
    error = ratio.std(0) / math.sqrt(len(ratio))
    assert (error < 0.1).all()
    assert ((ratio.mean(0) - 1).abs() < 5 * error).all()


def test_every_parameter_of_model_and_guide_is_reached():
    draw, x = small(**OPTIONS["filterbank"]), images()
    for guide in (DRAWGuide(draw), HamiltonianGuide(draw, base=DRAWGuide(draw), num_steps=1)):
        for part in (draw, guide.setup(x)):
            part.zero_grad()
        IWAE(num_particles=3)(draw, guide)(x).backward()
        for name, parameter in [*draw.named_parameters(), *guide.named_parameters()]:
            assert torch.isfinite(parameter.grad).all(), name
            assert parameter.grad.abs().max() > 0, name


def test_guides_of_any_model_fit_it():
    draw, x = small(), images()
    for family in (MeanFieldGuide, HamiltonianGuide):
        guide = family(draw, encoder=MLPEncoder(IMAGE, output_dim=12, hidden=(6,))).setup(x)
        IWAE(num_particles=2)(draw, guide)(x).backward()
        assert all(p.grad.abs().max() > 0 for p in [*draw.parameters(), *guide.parameters()])


def test_it_is_trained():
    draw = DRAW((1, 2, 2), latent_dim=4, hidden_dim=32, num_steps=2)
    guide = DRAWGuide(draw)
    x = (torch.rand(40, 1, 1, 1) > 0.5).double().expand(40, 1, 2, 2).contiguous()  # one bit: log 2 is the floor
    result = fit(draw, guide, x, objective=ELBO(num_particles=4), steps=80, lr=0.04, seed=0, progress=False)
    assert result.history["loss"][:3].mean() / 40 > 2.5
    assert math.log(2) - 0.15 < result.history["loss"][-20:].mean() / 40 < 1.6
    assert ((draw.canvases(guide(x))[-1] - x).abs() < 0.5).double().mean() > 0.95


# Sizes and refusals.


@pytest.mark.parametrize(
    ("name", "expected"),
    [("draw", 3_262_304), ("draw2", 2_459_488), ("draw3", 3_262_304), ("draw4", 2_459_488), ("filterbank", 1_789_674)],
)
def test_the_study_s_parameter_counts(name, expected):
    # The filter bank's are the study's 1,788,389, and 1,285 of a write head of its own.
    draw = DRAW(**({"attention": "filterbank"} if name == "filterbank" else OPTIONS[name]))
    guide = DRAWGuide(draw).setup(torch.zeros(2, 1, 28, 28))
    assert count(draw, guide) == expected
    if name == "draw":
        parts = (guide.network, draw.decoder, guide.posterior, draw.write, draw.observation)
        assert [count(part) for part in parts] == [2_131_968, 296_960, 16_448, 201_488, 615_440]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "bank"}, "attention must be one of 'none', 'filterbank'; got 'bank'"),
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1; got 0"),
        ({"patch_size": 5}, "patch_size must be given with attention='filterbank' only"),
        ({"patch_size": 1, "attention": "filterbank"}, "patch_size must be a whole number of at least 2; got 1"),
        ({"event_shape": (9,), "attention": "filterbank"}, r"event_shape must be \(C, H, W\) with attention"),
        ({"observation": False, "likelihood": "normal"}, "observation must be True with likelihood='normal'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        DRAW(**({"event_shape": (1, 4, 4)} | options))


def test_what_draws_nothing_is_refused():
    with pytest.raises(TypeError, match="model must be a DRAW; got VAE. For other models write MeanFieldGuide"):
        DRAWGuide(VAE(MLPDecoder(2, event_shape=(3,), hidden=(4,)), latent_dim=2))
    with pytest.raises(OptionError, match="hidden_dim must be a whole number of at least 1; got 0"):
        DRAWGuide(small(), hidden_dim=0)
    with pytest.raises(DataError, match="latents must be of the sites z_1, z_2, z_3; got z_1"):
        small().canvases({"z_1": torch.zeros(2)})
    with pytest.raises(DataError, match=r"x must have shape \(B, 1, 3, 4\) with B >= 1; got \(2, 1, 4, 3\)"):
        DRAWGuide(small())(torch.zeros(2, 1, 4, 3))
