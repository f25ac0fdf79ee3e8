"""FlowDensity and its layers: inverses and log-determinants against autograd, sizes, and the noise of images."""

from __future__ import annotations

import math

import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import ConditionalSpline
from torch import nn
from torch.autograd.functional import jacobian

from guides import HamiltonianGuide, MeanFieldGuide, OptionError, UniformDequantisation
from guides.errors import DataError
from ppl_models import VAE, FlowDensity
from ppl_models.networks import (
    ActNorm,
    AffineCoupling,
    ChannelMix,
    DenseBlock,
    Flow,
    MLPDecoder,
    MLPEncoder,
    Reverse,
    SplineCoupling,
)
from ppl_models.networks.spline import rational_quadratic
from ppl_models.objectives import ELBO, IWAE, log_weights
from ppl_models.training import fit, load, save, train
from tests.contract.registry import moved


def nothing(*_, **__):
    """The guide of a model without latents."""


def points(**options):
    return moved(FlowDensity.points(**({"hidden": (6,)} | options)))


def images(**options):
    sizes = {"num_couplings": 2, "hidden": 4, "growth": 2, "depth": 2}
    return moved(FlowDensity.images(**({"event_shape": (1, 4, 4), "num_scales": 2} | sizes | options)))


class Slopes(nn.Module):
    """Some network from one part of a vector to the numbers of splines of the other."""

    def __init__(self, split, rest, bins):
        super().__init__()
        self.sizes, self.linear = [rest * bins, rest * bins, rest * (bins - 1)], nn.Linear(split, rest * (3 * bins - 1))

    def forward(self, x):
        return self.linear(x).split(self.sizes, -1)


# layer and the shape it works on
LAYERS = {
    "actnorm": lambda: (ActNorm(3, event_dim=1), (3,)),
    "actnorm-images": lambda: (ActNorm(2, event_dim=3), (2, 2, 3)),
    "affine": lambda: (AffineCoupling(nn.Linear(2, 6), split=2, event_dim=1), (5,)),
    "affine-images": lambda: (
        AffineCoupling(DenseBlock(2, 4, hidden=3, growth=2, depth=2), split=2, event_dim=3),
        (4, 2, 2),
    ),
    "spline": lambda: (SplineCoupling(Slopes(2, 3, 4), split=2, bins=4, bound=2.0), (5,)),
    "mix": lambda: (ChannelMix(3), (3, 2, 2)),
    "reverse": lambda: (Reverse(), (4,)),
}

FLOWS = {
    "points": lambda: points().flow,
    "points-3d": lambda: points(dim=3).flow,
    "splines": lambda: points(couplings="spline", bins=5, bound=2.0).flow,
    "images": lambda: images().flow,
    "three-scales": lambda: images(num_scales=3, num_couplings=1).flow,
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_inverted_and_their_log_determinants_are_autograd_s(name):
    layer, shape = LAYERS[name]()
    layer = moved(moved(layer))
    x = 1.5 * torch.randn(4, 2, *shape)
    y, log_det = layer(x)
    torch.testing.assert_close(layer.inverse(y), x, rtol=1e-10, atol=1e-10)
    assert log_det.shape in ((), (4, 2))
    log_det = log_det.expand(4, 2)
    dim = x[0, 0].numel()
    for i in ((0, 0), (3, 1)):
        slope = jacobian(lambda one: layer(one)[0], x[i]).reshape(dim, dim)
        torch.testing.assert_close(log_det[i], torch.linalg.slogdet(slope).logabsdet, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", FLOWS)
def test_flows_are_inverted_and_their_log_determinants_are_autograd_s(name):
    flow = FLOWS[name]()
    x = torch.randn(3, *flow.event_shape)
    z, log_det = flow(x)
    assert z.shape == (3, flow.dim)
    torch.testing.assert_close(flow.inverse(z), x, rtol=1e-10, atol=1e-10)
    slope = jacobian(lambda one: flow(one)[0], x[1]).reshape(flow.dim, flow.dim)
    torch.testing.assert_close(log_det[1], torch.linalg.slogdet(slope).logabsdet, rtol=1e-10, atol=1e-10)


def test_scales_of_couplings_are_bounded_and_the_first_half_conditions_the_second():
    coupling = AffineCoupling(nn.Linear(1, 2), split=1, event_dim=1, bound=1.5)
    coupling.network.weight.data *= 1e6
    x = torch.randn(50, 2)
    y, log_det = coupling(x)
    assert torch.equal(y[:, 0], x[:, 0])
    assert log_det.abs().max().item() == pytest.approx(1.5)
    coupling.network.weight.data.zero_()
    coupling.network.bias.data = torch.tensor([0.3, -2.0])  # the scale, then the shift
    scale = math.exp(1.5 * math.tanh(0.2))
    torch.testing.assert_close(coupling(x)[0][:, 1], scale * x[:, 1] - 2.0)


def test_splines_are_pyro_s():
    split, rest, bins = 2, 3, 4
    network = Slopes(split, rest, bins)
    x = torch.cat([torch.randn(200, split), 1.5 * torch.randn(200, rest)], -1)
    y, _ = SplineCoupling(network, split=split, bins=bins, bound=2.0)(x)
    theirs = ConditionalSpline(network, rest, bins, bound=2.0, order="quadratic").condition(x[:, :split])
    moved, log_slopes = theirs.spline_op(x[:, split:])
    # In the first and the last piece Pyro's slope at the end is 0.999, and ours 1.
    widths = network(x[:, :split])[0].reshape(200, rest, bins).softmax(-1)
    ends = 4 * widths[..., [0, -1]] * 0.996 + 0.004
    own = (x[:, split:] > -2 + ends[..., 0] + 1e-5) & (x[:, split:] < 2 - ends[..., 1] - 1e-5)
    own = own | (x[:, split:].abs() > 2)
    assert 0.3 < own.double().mean() < 0.9
    torch.testing.assert_close(y[:, split:][own], moved[own], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(y[:, split:], moved, rtol=0, atol=2e-3)
    _, ours = rational_quadratic(
        x[:, split:], *(part.unflatten(-1, (rest, -1)) for part in network(x[:, :split])), bound=2.0
    )
    torch.testing.assert_close(ours[own], log_slopes[own], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("couplings", ["affine", "spline"])
def test_the_density_of_points_integrates_to_one(couplings):
    model = points(couplings=couplings, bound=1.0 if couplings == "affine" else 4.0)
    ticks = torch.linspace(-9, 9, 361)
    with torch.no_grad():
        mass = model.log_density(torch.cartesian_prod(ticks, ticks)).exp().sum() * (18 / 360) ** 2
    assert mass.item() == pytest.approx(1, abs=2e-3)  # splines have kinks in their second derivative


def test_points_are_drawn_from_the_density():
    model = points()
    with torch.no_grad():
        x = model(None, num=4000)
        z, _ = model.flow(x)
    assert (z.mean(0).abs() < 5 / math.sqrt(4000)).all()
    assert ((z.var(0) - 1).abs() < 5 * math.sqrt(2 / 4000)).all()


@pytest.mark.parametrize("objective", [ELBO(num_particles=3), IWAE(num_particles=3), ELBO()])
def test_every_bound_of_a_model_without_latents_is_its_density(objective):
    model = points()
    x = torch.randn(6, 2)
    loss = objective(model, nothing)(x)
    torch.testing.assert_close(-loss, model.log_density(x).sum())
    assert log_weights(model, nothing, x, num_particles=2).values.shape == (2, 6)


def test_data_start_with_mean_zero_and_variance_one():
    model = FlowDensity.points(hidden=(6,), num_couplings=1)
    x = torch.tensor([5.0, -3.0]) + torch.tensor([0.1, 20.0]) * torch.randn(500, 2)
    z, _ = model.start(x).flow(x)
    torch.testing.assert_close(z.mean(0), torch.zeros(2), rtol=0, atol=1e-6)
    torch.testing.assert_close(z.std(0), torch.ones(2), rtol=0, atol=1e-3)
    pictures = FlowDensity.images((1, 4, 4), num_scales=2, num_couplings=1, hidden=4, growth=2, depth=1)
    norms = [layer for layer in pictures.modules() if isinstance(layer, ActNorm)]
    before = [layer.loc.clone() for layer in norms]
    pictures.start((torch.rand(50, 1, 4, 4) > 0.3).double())
    assert all(not torch.equal(loc, layer.loc) for loc, layer in zip(before, norms, strict=True))


def norms_of(model):
    return [
        part.detach().clone() for layer in model.modules() if isinstance(layer, ActNorm) for part in layer.parameters()
    ]


def assert_same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("train_with", ["fit", "train"])
@pytest.mark.parametrize("kind", ["points", "images"])
def test_training_starts_it_once_by_its_first_batch(kind, train_with):
    if kind == "points":
        guide, x = nothing, torch.tensor([5.0, -3.0]) + torch.tensor([0.1, 20.0]) * torch.randn(60, 2)
        model = FlowDensity.points(hidden=(6,), num_couplings=2)
    else:
        x = (torch.rand(60, 1, 4, 4) > 0.3).double()
        model = FlowDensity.images((1, 4, 4), num_scales=2, num_couplings=1, hidden=4, growth=2, depth=1)
        guide = UniformDequantisation(model)
    shown = []
    start, model.start = model.start, lambda x: (shown.append(x), start(x))[1]

    def go_on(data):
        options = {"batch_size": 20, "lr": 1e-15, "seed": 3, "progress": False}
        if train_with == "fit":
            fit(model, guide, data, steps=4, **options)
        else:
            train(model, guide, data, epochs=1, **options)

    assert not model.started
    go_on(x)
    (batch,) = shown
    assert model.started
    assert batch.shape == (20, *x.shape[1:])
    assert {tuple(row.flatten().tolist()) for row in batch} <= {tuple(row.flatten().tolist()) for row in x}
    found = norms_of(model)
    if kind == "points":  # no noise
        assert_same(found, norms_of(start(batch)))
    go_on(1 - 2 * x)
    assert len(shown) == 1
    assert_same(norms_of(model), found)


def test_data_given_by_hand_are_not_replaced_by_the_first_batch():
    x = 3 + torch.randn(60, 2)
    model = FlowDensity.points(hidden=(6,)).start(x)
    found = norms_of(model)
    fit(model, nothing, x, steps=1, batch_size=7, lr=1e-15, progress=False)
    assert_same(norms_of(model), found)


def test_a_start_is_part_of_what_is_saved(tmp_path):
    x = 3 + torch.randn(60, 2)
    model = FlowDensity.points(hidden=(6,)).start(x)
    save(tmp_path / "flow.pt", model, nothing)
    again = FlowDensity.points(hidden=(6,))
    load(tmp_path / "flow.pt", again, nothing)
    fit(again, nothing, 5 * x, steps=1, lr=1e-15, progress=False)
    assert_same(norms_of(again), norms_of(model))


def test_a_training_that_goes_on_is_not_started_again(tmp_path):
    x = 3 + torch.randn(40, 2)

    def run(folder, epochs):
        torch.manual_seed(1)
        model = FlowDensity.points(hidden=(6,))
        options = {"batch_size": 16, "lr": 0.01, "seed": 0, "progress": False, "folder": folder, "resume": True}
        train(model, nothing, x, epochs=epochs, **options)
        return list(model.parameters())

    want = run(tmp_path / "whole", 3)
    run(tmp_path / "broken", 1)
    for one, other in zip(run(tmp_path / "broken", 3), want, strict=True):
        assert torch.equal(one, other)


def test_one_datum_is_not_enough_to_start():
    with pytest.raises(DataError, match=r"a flow must be started by at least 2 data.* got 1. Write model.start\(x\)"):
        fit(FlowDensity.points(), nothing, torch.randn(5, 2), batch_size=1, progress=False)


def test_it_is_trained():
    x = torch.cat([torch.randn(100, 2) * 0.2 - 1, torch.randn(100, 2) * 0.2 + 1])
    model = FlowDensity.points(couplings="spline", hidden=(16,), num_couplings=2)
    single = dist.MultivariateNormal(x.mean(0), x.T.cov()).log_prob(x).mean()
    fit(model, nothing, x, steps=60, lr=0.03, seed=0, progress=False)
    assert model.log_density(x).mean() > single + 0.2


# Images.


def test_the_weight_of_an_image_is_the_density_of_its_noise_s_place():
    model, x = images(levels=5), torch.randint(5, (3, 1, 4, 4)) / 4.0
    u, e = torch.rand(3, 1, 4, 4), torch.randn(3, 1, 4, 4)
    z, log_det = model.flow(torch.cat([(4 * x + u) / 5, e], 1))
    joint = dist.Normal(0.0, 1.0).log_prob(z).sum(-1) + log_det - 16 * math.log(5)
    trace = poutine.trace(poutine.condition(model, {"dequantisation": u, "augmentation": e})).get_trace(x)
    trace.compute_log_prob()
    total = sum(trace.nodes[name]["log_prob"] for name in ("dequantisation", "augmentation", "x"))
    torch.testing.assert_close(total, joint, rtol=1e-10, atol=1e-10)


def test_uniform_noise_is_uniform_and_knows_nothing_of_the_image():
    model = images()
    guide = UniformDequantisation(model)
    values = guide(model(None, num=2000))
    for name, law in (("dequantisation", dist.Uniform(0.0, 1.0)), ("augmentation", dist.Normal(0.0, 1.0))):
        ranks = law.cdf(values[name]).flatten().sort().values
        n = len(ranks)
        # Kolmogorov's distance is above 2.8 / sqrt(n) once in 3e6 times.
        assert (ranks - (torch.arange(n) + 0.5) / n).abs().max() < 2.8 / math.sqrt(n)
    assert not list(guide.parameters())


def test_uniform_noise_is_scored_by_its_laws():
    model, x = images(), torch.zeros(3, 1, 4, 4)
    for init in (None, "prior"):
        guide = UniformDequantisation(model).setup(x, init=init)
        trace = poutine.trace(guide).get_trace(x)
        trace.compute_log_prob()
        total = sum(site["log_prob"] for site in trace.nodes.values() if "log_prob" in site)
        expected = dist.Normal(0.0, 1.0).log_prob(trace.nodes["augmentation"]["value"]).sum((1, 2, 3))
        torch.testing.assert_close(total, expected, rtol=1e-10, atol=1e-10)
        losses = []
        for gradient in ("reparam", "stl"):
            torch.manual_seed(1)
            losses.append(ELBO(gradient=gradient).differentiable_loss(model, guide, x).item())
        assert losses[0] == pytest.approx(losses[1], abs=1e-9)


@pytest.mark.parametrize("kind", ["uniform", "learned", "hamiltonian"])
def test_dequantisations_are_guides(kind):
    model, x = images(num_couplings=1), (torch.rand(2, 1, 4, 4) > 0.5).double()
    encoder = MLPEncoder((1, 4, 4), output_dim=64, hidden=(5,))
    guide = {
        "uniform": lambda: UniformDequantisation(model),
        "learned": lambda: MeanFieldGuide(model, encoder=encoder),
        "hamiltonian": lambda: HamiltonianGuide(model, base=UniformDequantisation(model), num_steps=1),
    }[kind]().setup(x)
    for objective in (ELBO(), IWAE(num_particles=2)):
        model.zero_grad()
        objective(model, guide)(x).backward()
        for parameter in [*model.parameters(), *guide.parameters()]:
            assert torch.isfinite(parameter.grad).all()
            assert parameter.grad.abs().max() > 0


def test_generated_images_have_the_levels_and_are_where_the_flow_puts_them():
    model = images(levels=4)
    with torch.no_grad():
        x = model(None, num=200)
    assert set((3 * x).round().flatten().tolist()) <= {0.0, 1.0, 2.0, 3.0}
    assert ((3 * x) - (3 * x).round()).abs().max() < 1e-12
    torch.manual_seed(5)
    one = model(None, num=1)
    torch.manual_seed(5)
    v = model.flow.inverse(torch.randn(1, model.flow.dim))[:, :1]
    torch.testing.assert_close(one, ((4 * v).floor().clamp(0, 3) / 3).detach())


def test_squeezed_pixels_stand_side_by_side_and_half_of_the_channels_leave():
    flow = Flow([[], []], event_shape=(2, 2, 2))
    z, _ = flow(torch.arange(8.0).reshape(1, 2, 2, 2))
    assert z.tolist() == [[4.0, 5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 3.0]]


# Sizes and refusals.


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_the_study_s_parameter_counts():
    assert count(FlowDensity.points()) == 82_824
    model = FlowDensity.images()
    assert count(model) == 3_634_680
    couplings = [count(layer) for layer in model.modules() if isinstance(layer, AffineCoupling)]
    assert couplings == [302_594] * 4 + [302_788] * 4 + [303_176] * 4
    assert model.flow.dim == 2 * 784
    assert [shape.numel() for shape in model.flow.shapes] == [1568, 784, 392]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FlowDensity.points(1), "dim must be a whole number of at least 2; got 1"),
        (lambda: FlowDensity.points(couplings="cubic"), "couplings must be one of 'affine', 'spline'; got 'cubic'"),
        (lambda: FlowDensity.points(num_couplings=0), "num_couplings must be a whole number of at least 1; got 0"),
        (lambda: FlowDensity.points(bound=-1.0), "bound must be positive and finite; got -1.0"),
        (
            lambda: FlowDensity.images((1, 6, 6), num_scales=3),
            r"data must be images of even sides .*; got shape \(4, 3",
        ),
        (lambda: FlowDensity.images(levels=1), "levels must be a whole number of at least 2; got 1"),
        (lambda: FlowDensity.points(couplings="spline", bins=501), "bins must be at most 500; got 501"),
        (lambda: ChannelMix(1), "channels must be at least 2; got 1"),
        (lambda: DenseBlock(1, 0), "out_channels must be a whole number of at least 1; got 0"),
    ],
)
def test_bad_options_are_refused(make, message):
    with pytest.raises(OptionError, match=message):
        make()


def test_what_has_no_noise_is_refused():
    for model in (points(), VAE(MLPDecoder(2, event_shape=(3,), hidden=(4,)), latent_dim=2)):
        with pytest.raises(TypeError, match="model must be a FlowDensity made by FlowDensity.images; got"):
            UniformDequantisation(model)
    with pytest.raises(DataError, match=r"x must have shape \(B, 1, 4, 4\) with B >= 1; got \(2, 16\)"):
        images().start(torch.zeros(2, 16))
