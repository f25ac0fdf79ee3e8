"""IAFGuide: what each coordinate and each datum may depend on, and Pyro's layer as a witness."""

from __future__ import annotations

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from guides import DataError, IAFGuide, MeanFieldGuide, OptionError
from guides.target import Target
from ppl_models.objectives import ELBO, log_weights
from ppl_models.training import fit

DIM, DATA = 4, 3


def shared(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z[..., :1], 1.0), obs=x)


def independent(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def far_from_the_start(guide):
    """Give the networks weights at which every layer bends: they start almost without."""
    for network in guide.layers:
        network.layers[-1].weight.data *= 100
    return guide


def global_guide(num_layers=2, **options):
    base = MeanFieldGuide(shared, init_scale=1.0)
    return far_from_the_start(IAFGuide(shared, base=base, num_layers=num_layers, **options).setup(torch.zeros(DATA, 1)))


def amortised_guide(num_layers=2, extra=0):
    encoder = nn.Sequential(nn.Linear(DIM, 2 * DIM + extra), nn.Tanh())
    guide = IAFGuide(independent, encoder=encoder, num_layers=num_layers, hidden=(16,)).setup(torch.zeros(2, DIM))
    return far_from_the_start(guide)


def draw(guide, noise, x=None):
    target = Target(noise.shape[:-1], lambda z: z, None if x is None else guide.base.encoder(x))
    return guide.propose(target, noise)


@pytest.mark.parametrize("amortised", [False, True])
def test_a_layer_is_triangular_and_the_next_is_so_in_reverse(amortised):
    guide = amortised_guide() if amortised else global_guide()
    context = torch.randn(2 * DIM) if amortised else None
    for network, allowed in zip(guide.layers, (torch.tril, torch.triu), strict=True):

        def layer(z, network=network):
            mean, logit = network(z) if context is None else network(z, context)
            return torch.cat([mean, logit])

        # Of the mean and of the gate: strictly before, and everything that is before.
        for part in jacobian(layer, torch.randn(DIM)).split(DIM):
            assert (part[allowed(torch.ones(DIM, DIM), -1 if allowed is torch.tril else 1) == 0] == 0).all()
            assert (part[allowed(torch.ones(DIM, DIM), -1 if allowed is torch.tril else 1) == 1] != 0).all()


@pytest.mark.parametrize("num_layers", [1, 2, 3])
def test_the_map_is_triangular_for_one_layer_only(num_layers):
    guide = global_guide(num_layers)
    dependence = jacobian(lambda e: draw(guide, e).latent, torch.randn(DIM))
    above = dependence.triu(1)
    assert (dependence.tril() != 0).sum() == DIM * (DIM + 1) / 2
    assert (above != 0).sum() == (0 if num_layers == 1 else DIM * (DIM - 1) / 2)


@pytest.mark.parametrize("num_layers", [1, 2, 5])
@pytest.mark.parametrize("amortised", [False, True])
def test_log_q_is_that_of_the_jacobian(num_layers, amortised):
    guide = amortised_guide(num_layers) if amortised else global_guide(num_layers)
    x = torch.randn(1, DIM) if amortised else None
    noise = torch.randn(1, DIM) if amortised else torch.randn(DIM)
    map_of = jacobian(lambda e: draw(guide, e, x).latent, noise).reshape(DIM, DIM)
    expected = dist.Normal(0.0, 1.0).log_prob(noise).sum() - torch.linalg.slogdet(map_of).logabsdet
    torch.testing.assert_close(draw(guide, noise, x).log_q.squeeze(), expected, rtol=1e-10, atol=1e-10)


def test_gates_keep_a_share_between_zero_and_one():
    # One layer: the gate of a coordinate is its derivative by itself, less the stretch at the start.
    guide = global_guide(1)
    for network in guide.layers:
        network.layers[-1].weight.data *= 100
    slopes = torch.cat([jacobian(lambda e: draw(guide, e).latent, e).diagonal() for e in torch.randn(20, DIM)])
    gates = slopes / (1 + math.exp(-2.0))
    assert ((gates > 0) & (gates < 1)).all()
    assert gates.min() < 0.2
    assert gates.max() > 0.8


@pytest.mark.parametrize("num_layers", [1, 4])
def test_it_starts_as_its_base(num_layers):
    base = MeanFieldGuide(shared, init_scale=1.0)
    guide = IAFGuide(shared, base=base, num_layers=num_layers).setup(torch.zeros(DATA, 1))
    noise = torch.randn(100, DIM)
    slopes = jacobian(lambda e: draw(guide, e).latent.sum(0), noise).diagonal(dim1=0, dim2=2)
    # 1, give or take the last biases of the networks, below 1 / sqrt(32), by sigmoid'(2) / sigmoid(2) = 0.12 a layer.
    assert (slopes.log().abs() < 0.12 * num_layers / math.sqrt(32) + 0.05).all()


class AsPyroHasIt(nn.Module):
    """A layer's network, from which Pyro takes a mean and the log of a scale."""

    def __init__(self, network):
        super().__init__()
        self.network, self.permutation = network, network.permutation

    def forward(self, z):
        mean, logit = self.network(z)
        kept = torch.tensor(2.0).sigmoid()
        return mean * (1 - kept * (logit + 2.0).sigmoid()), nn.functional.logsigmoid(logit + 2.0)


@pytest.mark.parametrize("num_layers", [1, 3])
def test_pyro_s_layer_agrees(num_layers):
    guide = global_guide(num_layers)
    noise = torch.randn(7, DIM)
    start, end = guide.base.propose(Target(noise.shape[:1], lambda z: z, None), noise), draw(guide, noise)
    clip = {"log_scale_min_clip": -100.0, "log_scale_max_clip": 0.0}
    transforms = [dist.transforms.AffineAutoregressive(AsPyroHasIt(n), **clip) for n in guide.layers]
    stretch = (1 + math.exp(-2.0)) ** num_layers
    z, log_q = start.latent * stretch, start.log_q - DIM * math.log(stretch)
    for transform in transforms:
        moved = transform(z)
        z, log_q = moved, log_q - transform.log_abs_det_jacobian(z, moved)
    torch.testing.assert_close(end.latent, z, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(end.log_q, log_q, rtol=1e-10, atol=1e-10)
    # Their way back finds where the draws came from.
    for transform in reversed(transforms):
        moved = transform._inverse(moved)
    torch.testing.assert_close(moved, start.latent * stretch, rtol=1e-8, atol=1e-8)


def test_no_datum_depends_on_another():
    # The study shuffled the batch between its layers, so that a latent was that of another image.
    guide, x, noise = amortised_guide(3), torch.randn(5, DIM), torch.randn(5, DIM)
    by_data = jacobian(lambda v: draw(guide, noise, v).latent, x).abs().sum((1, 3))
    by_noise = jacobian(lambda e: draw(guide, e, x).latent, noise).abs().sum((1, 3))
    weights = jacobian(lambda v: draw(guide, noise, v).log_q, x).abs().sum(2)
    for dependence in (by_data, by_noise, weights):
        assert (dependence.diagonal() > 0).all()
        assert (dependence - torch.diag(dependence.diagonal()) == 0).all()


def test_permuted_data_give_permuted_latents():
    guide, x, noise = amortised_guide(3), torch.randn(5, DIM), torch.randn(5, DIM)
    order = torch.tensor([3, 1, 4, 0, 2])
    straight, permuted = draw(guide, noise, x), draw(guide, noise[order], x[order])
    torch.testing.assert_close(permuted.latent, straight.latent[order])
    torch.testing.assert_close(permuted.log_q, straight.log_q[order])


def test_permuted_data_give_permuted_weights_through_pyro():
    guide, x = amortised_guide(2), 3 * torch.randn(5, DIM)
    order = torch.tensor([3, 1, 4, 0, 2])
    means = [log_weights(independent, guide, v, num_particles=4000).values.detach() for v in (x, x[order])]
    error = (means[0].var(0) / 4000 + means[1].var(0)[order.argsort()] / 4000).sqrt()
    assert ((means[0].mean(0) - means[1].mean(0)[order.argsort()]).abs() < 5 * error).all()
    assert (means[0].mean(0).diff().abs() > 5 * error[1:]).all(), "the data are alike: the check would see nothing"


def test_extra_context_is_read_by_the_layers_alone():
    guide = amortised_guide(2, extra=3)
    assert guide.context_width == 2 * DIM + 3
    noise, context = torch.randn(5, DIM), torch.randn(5, 2 * DIM + 3, requires_grad=True)
    target = Target(noise.shape[:1], lambda z: z, context)
    (of_base,) = torch.autograd.grad(guide.base.propose(target, noise).latent.sum(), context)
    assert (of_base[:, 2 * DIM :] == 0).all()
    for layers in (1, 2):
        one = IAFGuide(independent, base=guide.base, num_layers=layers).setup(torch.zeros(2, DIM))
        (of_layers,) = torch.autograd.grad(one.propose(target, noise).latent.sum(), context)
        assert (of_layers[:, 2 * DIM :] != 0).all()


def test_too_little_context_is_refused():
    guide = IAFGuide(independent, encoder=nn.Linear(DIM, 2 * DIM - 1))
    with pytest.raises(DataError, match="encoder must return at least 8 numbers per datum, .* of z; got 7"):
        guide.setup(torch.zeros(2, DIM))


def test_one_dimension_is_an_affine_map():
    def scalar(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guide = IAFGuide(scalar, base=MeanFieldGuide(scalar, init_scale=1.0), num_layers=2).setup(torch.tensor(0.3))
    far_from_the_start(guide)
    noise = torch.linspace(-2, 2, 5)[:, None]
    end = draw(guide, noise)
    slope = end.latent.diff(dim=0) / noise.diff(dim=0)
    torch.testing.assert_close(slope, slope[:1].expand(4, 1))
    expected = dist.Normal(0.0, 1.0).log_prob(noise[:, 0]) - slope[0, 0].log()
    torch.testing.assert_close(end.log_q, expected)


def test_one_dimension_per_datum_reads_the_context():
    def scalars(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 0.5), obs=x)

    encoder = nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 3))
    guide = far_from_the_start(IAFGuide(scalars, encoder=encoder, num_layers=2).setup(torch.zeros(2)))
    dependence = jacobian(
        lambda c: guide.propose(Target(c.shape[:1], lambda z: z, c), torch.zeros(2, 1)).latent, torch.randn(2, 3)
    )
    assert (dependence[[0, 1], 0, [0, 1]] != 0).all()
    assert (dependence[[0, 1], 0, [1, 0]] == 0).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_layers": 0}, "num_layers must be a whole number of at least 1; got 0. Without layers the guide equals"),
        ({"num_layers": True}, "got True"),
        ({"hidden": ()}, r"hidden must be a list of layer widths; got \(\). Write hidden=\(64, 64\)."),
        ({"hidden": (8, 0)}, "hidden must be a whole number of at least 1; got 0"),
        ({"hidden": (8, 3)}, r"hidden must be at least the number of latent dimensions, 4; got \(8, 3\)."),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        IAFGuide(shared, **options).setup(torch.zeros(DATA, 1))


def test_hidden_layers_may_be_as_narrow_as_the_latent():
    guide = global_guide(2, hidden=(DIM, DIM))
    dependence = jacobian(lambda e: draw(guide, e).latent, torch.randn(DIM))
    assert torch.linalg.slogdet(dependence).sign == 1


def test_from_a_narrow_start_it_bends():
    # It widens at first, and the quickest way to that is to open the gates: they must not silence the means.
    def banana():
        across = pyro.sample("across", dist.Normal(0.0, 1.0))
        pyro.sample("along", dist.Normal(across**2, 0.7))

    guide = IAFGuide(banana)
    fit(banana, guide, objective=ELBO(num_particles=32), steps=200, lr=0.02, seed=0, progress=False)
    with torch.no_grad():
        values = log_weights(banana, guide, num_particles=4000).values
    # The evidence is 1. Normal laws lack u / 2 - log(u) / 2 - 1 / 2 + u^2 / 0.49, where u is the variance of across.
    variance = torch.linspace(0.01, 1.0, 1000)
    best = (variance / 2 - variance.log() / 2 - 0.5 + variance.square() / 0.49).min()
    assert -values.mean() < best / 2
