"""PlanarGuide: one layer by the paper's formula, by Pyro's layer and by its own Jacobian; what a guide makes of K."""

from __future__ import annotations

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.autograd.functional import jacobian

from guides import MeanFieldGuide, OptionError, PlanarGuide
from guides.planar import planar
from guides.target import Target

DIM = 3


def plain(x):
    z = pyro.sample("z", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z.sum(-1, keepdim=True), 1.0), obs=x)


def independent(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(DIM), 1.0).to_event(1))
        pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)


def layer(along: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random u, w and b of one layer with w . u as given: where softplus is flat, bent and straight."""
    u, w, b = torch.randn(DIM), torch.randn(DIM), torch.randn(())
    return u + (along - w @ u) * w / w.square().sum(), w, b


#: Values of w . u. Below -36, softplus(w . u) is less than the rounding of 1 in float64.
ALONG = [-1000.0, -40.0, -10.0, -2.0, -1.0, 0.0, 0.5, 3.0, 50.0]


@pytest.mark.parametrize("along", ALONG)
def test_a_layer_is_the_paper_s_formula(along):
    # Rezende & Mohamed 2015, eq. 10 and appendix A.1, number by number.
    u, w, b = layer(along)
    z = torch.randn(DIM)
    w_u = sum(w[i].item() * u[i].item() for i in range(DIM))
    m = -1 + (w_u if w_u > 700 else math.log(1 + math.exp(w_u)))
    norm = sum(w[i].item() ** 2 for i in range(DIM))
    u_hat = [u[i].item() + (m - w_u) * w[i].item() / norm for i in range(DIM)]
    h = math.tanh(sum(w[i].item() * z[i].item() for i in range(DIM)) + b.item())
    expected = torch.tensor([z[i].item() + u_hat[i] * h for i in range(DIM)])
    w_u_hat = sum(w[i].item() * u_hat[i] for i in range(DIM))
    assert w_u_hat == pytest.approx(m, abs=1e-9)
    moved, log_det = planar(z, u, w, b)
    torch.testing.assert_close(moved, expected, rtol=1e-10, atol=1e-10)
    assert log_det.item() == pytest.approx(math.log(1 + m * (1 - h**2)), abs=1e-9)


@pytest.mark.parametrize("along", [a for a in ALONG if a > -36])
def test_w_u_hat_is_above_minus_one(along):
    # u_hat is what a point moves by where tanh = 1.
    u, w, _ = layer(along)
    far, _ = planar(torch.zeros(DIM), u, w, torch.tensor(40.0))
    assert (w @ far).item() == pytest.approx(math.log1p(math.exp(along)) - 1, abs=1e-8)
    assert (w @ far).item() > -1


@pytest.mark.parametrize("along", ALONG)
def test_the_log_determinant_is_the_jacobian_s(along):
    u, w, b = layer(along)
    for z in torch.randn(5, DIM):
        expected = torch.linalg.slogdet(jacobian(lambda v: planar(v, u, w, b)[0], z))
        assert expected.sign == 1
        assert planar(z, u, w, b)[1].item() == pytest.approx(expected.logabsdet.item(), abs=1e-9, rel=1e-10)


@pytest.mark.parametrize("along", ALONG)
def test_a_layer_is_a_bijection(along):
    # Across w nothing moves but by what h says; along w the map must be monotone, over the reals.
    u, w, b = layer(along)
    line = torch.linspace(-4, 4, 2001)
    moved, log_det = planar(line[:, None] * w / w.norm(), u, w, b)
    ahead = moved @ w / w.norm()
    assert (ahead.diff() > 0).all()
    assert torch.isfinite(log_det).all()
    # The slope along w is the determinant: its integral is the way made.
    slope = log_det.exp()
    way = torch.trapezoid(slope, line)
    assert way.item() == pytest.approx((ahead[-1] - ahead[0]).item(), rel=1e-3)


@pytest.mark.parametrize("along", ALONG)
def test_pyro_s_layer_agrees(along):
    u, w, b = layer(along)
    theirs = dist.transforms.Planar(DIM)
    theirs.u.data, theirs.w.data, theirs.bias.data = u, w, b[None]
    z = torch.randn(7, DIM)
    expected = theirs(z)
    moved, log_det = planar(z, u, w, b)
    torch.testing.assert_close(moved, expected.detach(), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(log_det, theirs.log_abs_det_jacobian(z, expected).detach(), rtol=1e-8, atol=1e-8)


def test_a_layer_broadcasts_over_particles_and_data():
    u, w, b, z = torch.randn(4, DIM), torch.randn(4, DIM), torch.randn(4), torch.randn(6, 4, DIM)
    moved, log_det = planar(z, u, w, b)
    for s in range(6):
        for i in range(4):
            alone, alone_log_det = planar(z[s, i], u[i], w[i], b[i])
            torch.testing.assert_close(moved[s, i], alone)
            torch.testing.assert_close(log_det[s, i], alone_log_det)


def flow(guide, noise, context=None):
    target = Target(noise.shape[:-1], lambda z: z, context)
    return guide.base.propose(target, noise), guide.propose(target, noise)


@pytest.mark.parametrize("num_layers", [1, 4])
def test_every_layer_has_parameters_of_its_own(num_layers):
    guide = PlanarGuide(plain, num_layers=num_layers).setup(torch.zeros(2, 1))
    own = [p for name, p in guide.named_parameters() if not name.startswith("base.")]
    assert sum(p.numel() for p in own) == num_layers * (2 * DIM + 1)
    guide.layers.data = torch.randn_like(guide.layers)
    start, end = flow(guide, torch.randn(5, DIM))
    z, log_q = start.latent, start.log_q
    for row in guide.layers:
        z, log_det = planar(z, row[:DIM], row[DIM : 2 * DIM], row[-1])
        log_q = log_q - log_det
    torch.testing.assert_close(end.latent, z)
    torch.testing.assert_close(end.log_q, log_q)


def test_log_q_is_that_of_the_whole_flow():
    guide = PlanarGuide(plain, num_layers=5).setup(torch.zeros(2, 1))
    guide.layers.data = torch.randn_like(guide.layers)
    noise = torch.randn(DIM)
    map_of = jacobian(lambda e: flow(guide, e)[1].latent, noise)
    expected = dist.Normal(0.0, 1.0).log_prob(noise).sum() - torch.linalg.slogdet(map_of).logabsdet
    torch.testing.assert_close(flow(guide, noise)[1].log_q, expected, rtol=1e-10, atol=1e-10)


def test_it_starts_near_the_identity():
    base = MeanFieldGuide(plain, init_scale=1.0)
    guide = PlanarGuide(plain, base=base, num_layers=8).setup(torch.zeros(2, 1))
    start, end = flow(guide, torch.randn(1000, DIM))
    # u is 0.01 away from the identity's: 8 layers of sqrt(3) * 0.01 each, to be added at worst.
    assert (end.latent - start.latent).norm(dim=-1).max() < 8 * math.sqrt(3) * 0.01 * 3
    assert (end.log_q - start.log_q).abs().max() < 0.2
    assert (end.latent - start.latent).abs().max() > 1e-4, "the identity itself has no gradient for w and b"


def test_every_datum_has_layers_of_its_own():
    encoder = nn.Linear(DIM, 2 * DIM)
    guide = PlanarGuide(independent, encoder=encoder, num_layers=3).setup(torch.zeros(2, DIM))
    guide.to_layers.weight.data = torch.randn_like(guide.to_layers.weight)
    x = torch.randn(4, DIM)
    x[3] = x[0]
    # The same noise for all data, and the base taken off: what is left differs by the layers alone.
    context = encoder(x)
    layers = guide.to_layers(context).unflatten(-1, (3, 2 * DIM + 1))
    assert ((layers[0] - layers[1]).abs().amin((-2, -1)) > 0).all()
    noise = torch.randn(DIM).expand(4, DIM)
    start, end = flow(guide, noise, context)
    for i in range(4):
        z, log_q = start.latent[i], start.log_q[i]
        for row in layers[i]:
            z, log_det = planar(z, row[:DIM], row[DIM : 2 * DIM], row[-1])
            log_q = log_q - log_det
        torch.testing.assert_close(end.latent[i], z)
        torch.testing.assert_close(end.log_q[i], log_q)
    torch.testing.assert_close(end.latent[0], end.latent[3])
    assert (end.latent[0] - end.latent[1]).abs().min() > 1e-3
    # And no datum sees another: permuted data give permuted draws.
    order = torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(flow(guide, noise, context[order])[1].latent, end.latent[order])


def test_an_encoder_may_return_more_than_the_base_reads():
    encoder = nn.Linear(DIM, 2 * DIM + 2)
    guide = PlanarGuide(independent, encoder=encoder, num_layers=2).setup(torch.zeros(2, DIM))
    guide.to_layers.weight.data = torch.randn_like(guide.to_layers.weight)
    context = encoder(torch.randn(4, DIM)).detach().requires_grad_()
    start, end = flow(guide, torch.randn(4, DIM), context)
    assert not torch.autograd.grad(start.latent.sum(), context)[0][:, 2 * DIM :].any()
    assert (torch.autograd.grad(end.latent.sum(), context)[0][:, 2 * DIM :].abs() > 0).all()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (0, "num_layers must be a whole number of at least 1; got 0. Without layers the guide equals its base: use"),
        (2.0, "num_layers must be a whole number of at least 1; got 2.0"),
    ],
)
def test_a_wrong_number_of_layers_is_refused(number, message):
    with pytest.raises(OptionError, match=message):
        PlanarGuide(plain, num_layers=number)


@pytest.mark.parametrize(("free", "at"), [(-20.0, 1e-4), (-40.0, 1e-9), (-300.0, 0.0)])
def test_the_log_determinant_of_a_layer_that_almost_folds_is_finite(free, at):
    # softplus(free) - 1 rounds to -1 here, where 1 + w . u_hat = exp(free) is what is left.
    z, w = torch.tensor([at, 0.3]), torch.tensor([1.0, 0.0])
    log_det = planar(z, free * w, w, torch.tensor(0.0))[1]
    stretch, h = math.log1p(math.exp(free)), math.tanh(at)
    torch.testing.assert_close(log_det, torch.tensor(math.log(h**2 + stretch * (1 - h**2))), rtol=1e-10, atol=0)
