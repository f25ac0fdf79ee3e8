"""AnnealedGuide: the recursion by hand, NumPyro's AutoDAIS as its peer, and the closed-form limits it cannot pass."""

from __future__ import annotations

import math

import pytest
import torch

from guides import AnnealedGuide, FullRankGuide, MeanFieldGuide, OptionError
from guides.target import Target
from ppl_models import OffsetGaussian
from ppl_models.objectives import ELBO, log_weights
from tests.contract.problems import GLOBAL


def target_of(guide, x, batch_shape):
    return Target(torch.Size(batch_shape), lambda z: guide.space.log_joint(z, x), None)


# What is learned.


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_betas_increase_to_exactly_one(num_steps):
    problem = GLOBAL["offset_gaussian"]()
    guide = AnnealedGuide(problem.model, num_steps=num_steps).setup(*problem.args)
    torch.testing.assert_close(guide.betas, torch.arange(1.0, num_steps + 1) / num_steps)
    for _ in range(5):
        if num_steps > 1:
            guide.increments.data = 3 * torch.randn(num_steps)
        betas = guide.betas
        assert betas.shape == (num_steps,)
        assert betas[0] > 0
        assert (betas.diff() > 0).all()
        assert betas[-1].item() == pytest.approx(1.0, abs=1e-12)


def test_shapes_and_starting_values_of_what_is_learned():
    problem = GLOBAL["offset_gaussian"]()
    guide = AnnealedGuide(
        problem.model, num_steps=3, init_step_size=0.2, init_damping=0.7, step_size_per_step=True
    ).setup(*problem.args)
    assert guide.step_size.shape == (3, 2)
    assert guide.step_size.flatten().tolist() == pytest.approx([0.2] * 6)
    assert guide.damping.item() == pytest.approx(0.7)
    assert guide.noise_dim == 4 * 2
    # Steps are taken in the base's noise, of which a factor has numbers of its own.
    factor = FullRankGuide(problem.model, rank=1)
    over_factor = AnnealedGuide(problem.model, base=factor).setup(*problem.args)
    assert over_factor.step_size.shape == (3,)
    assert over_factor.noise_dim == 9 * 3


def test_one_step_learns_its_step_size_alone():
    problem = GLOBAL["offset_gaussian"]()
    guide = AnnealedGuide(problem.model, num_steps=1).setup(*problem.args)
    assert [n for n, _ in guide.named_parameters() if not n.startswith("base.")] == ["steps.logit"]


@pytest.mark.parametrize("num_steps", [1, 5])
def test_a_step_takes_one_force_evaluation(num_steps):
    problem = GLOBAL["offset_gaussian"]()
    guide = AnnealedGuide(problem.model, num_steps=num_steps).setup(*problem.args)
    evaluations = []

    def log_joint(latent):
        evaluations.append(latent.shape)
        return guide.space.log_joint(latent, *problem.args)

    guide.propose(Target(torch.Size([7]), log_joint, None), torch.randn(7, guide.noise_dim))
    assert evaluations == [(7, 2)] * num_steps


# The recursion itself.


@pytest.mark.parametrize("num_steps", [1, 2, 3])
def test_it_is_the_paper_s_recursion_in_the_latent_space(num_steps):
    """Zhang et al. 2021, algorithm 1, with step size eta and mass matrix M, one number after the other.

    In units of the base, z = mu + sigma e and v = sqrt(M) v', its step is s = eta / (sqrt(M) sigma).
    """
    offset, scale, dim, eta, mass = [0.3, -0.2, 0.1], [1.2, 0.6, 0.9], 3, 0.15, [0.7, 2.0, 1.3]
    mu, sigma = [0.2, -0.4, 0.1], [0.5, 0.8, 0.3]
    gaussian = OffsetGaussian(dim, offset=torch.tensor(offset), scale=torch.tensor(scale))
    x = torch.randn(4, dim)
    base = MeanFieldGuide(gaussian).setup(x)
    base.loc.data, base.log_scale.data = torch.tensor(mu), torch.tensor(sigma).log()
    guide = AnnealedGuide(gaussian, base=base, num_steps=num_steps, init_damping=0.6).setup(x)
    if num_steps > 1:
        guide.increments.data = torch.randn(num_steps)
    step = eta / (torch.tensor(mass).sqrt() * torch.tensor(sigma))
    guide.steps.logit.data = torch.logit(step / guide.steps.limit)
    noise = torch.randn(guide.noise_dim)
    proposal = guide.propose(target_of(guide, x, ()), noise)

    def log_normal(value, loc, variance):
        return -0.5 * math.log(2 * math.pi * variance) - 0.5 * (value - loc) ** 2 / variance

    rows, numbers = x.tolist(), noise.reshape(num_steps + 1, dim).tolist()
    betas, gamma = guide.betas.tolist(), 0.6 if num_steps > 1 else 1.0
    latent, log_weight = [], 0.0
    for j in range(dim):  # the model and the base are independent by dimension
        z = mu[j] + sigma[j] * numbers[0][j]
        v = math.sqrt(mass[j]) * numbers[1][j]
        log_weight -= log_normal(z, mu[j], sigma[j] ** 2)
        for k in range(1, num_steps + 1):
            log_weight -= log_normal(v, 0, mass[j])
            z += eta / 2 * v / mass[j]
            to_base = -(z - mu[j]) / sigma[j] ** 2
            to_posterior = -z + sum(row[j] - z - offset[j] for row in rows) / scale[j] ** 2
            v += eta * ((1 - betas[k - 1]) * to_base + betas[k - 1] * to_posterior)
            z += eta / 2 * v / mass[j]
            log_weight += log_normal(v, 0, mass[j])
            if k < num_steps:
                v = gamma * v + math.sqrt((1 - gamma**2) * mass[j]) * numbers[k + 1][j]
        latent.append(z)
        log_weight += log_normal(z, 0, 1) + sum(log_normal(row[j], z + offset[j], scale[j] ** 2) for row in rows)
    assert proposal.latent.tolist() == pytest.approx(latent, abs=1e-10)
    ours = guide.space.log_joint(proposal.latent, x) - proposal.log_q
    assert ours.item() == pytest.approx(log_weight, abs=1e-10)


# NumPyro's AutoDAIS.

#: OffsetGaussian, written in NumPyro in the test.
PEER_OFFSET, PEER_SCALE = [0.3, -0.2, 0.5], [0.6, 1.0, 1.5]


#: Base locations and scales, increments of beta, step size in the latent space, damping: all far from the best.
PEER_SETTINGS = {
    "small steps": ([0.0, 0.0, 0.0], [0.1, 0.1, 0.1], [1.0, 1.0, 1.0], 0.01, 0.9),
    "a base to one side": ([0.5, -1.0, 0.2], [0.3, 0.7, 1.5], [0.2, 1.0, 3.0], 0.1, 0.5),
    "a wide base": ([0.0, 0.3, -0.5], [1.0, 1.5, 2.0], [3.0, 0.5, 0.1], 0.25, 0.1),
}


@pytest.mark.slow
def test_numpyro_s_autodais_agrees():
    """Weight by weight at the same noise, and ELBO by ELBO at each side's own.

    NumPyro's "mass matrix" m is not one (momenta have the standard deviation m, and drift by eta v / m), so that it
    has our dynamics at m = 1 only: there its step eta is sigma s in our units.
    """
    import jax  # here, since every worker of a test run imports every test module
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as jax_dist
    from numpyro.infer import Trace_ELBO as JaxELBO
    from numpyro.infer.autoguide import AutoDAIS
    from numpyro.infer.util import log_density

    def peer_model(x):
        z = numpyro.sample("z", jax_dist.Normal(jnp.zeros(3), 1.0).to_event(1))
        likelihood = jax_dist.Normal(z + jnp.array(PEER_OFFSET), jnp.array(PEER_SCALE))
        with numpyro.plate("data", len(x)):
            numpyro.sample("x", likelihood.to_event(1), obs=x)

    x = torch.randn(6, 3)
    with jax.enable_x64(True):
        their_x = jnp.asarray(x.numpy())
        peer = AutoDAIS(peer_model, K=3, eta_init=0.1, eta_max=0.5)
        numpyro.handlers.seed(peer, jax.random.key(0))(their_x)
        objective = JaxELBO(num_particles=20_000)
        their_loss = jax.jit(lambda key, parameters: objective.loss(key, parameters, peer_model, peer, their_x))

        @jax.jit
        @jax.vmap
        def their_log_weight(start, momenta, parameters):
            fixed = {"auto_z_0": start, "auto_momentum": momenta}
            guide = numpyro.handlers.substitute(numpyro.handlers.seed(peer, jax.random.key(0)), fixed)
            log_q, trace = log_density(guide, (their_x,), {}, parameters)
            z = trace["z"]["value"]
            return z, log_density(peer_model, (their_x,), {}, {"z": z})[0] - log_q

        for key, (loc, scale, increments, eta, damping) in enumerate(PEER_SETTINGS.values()):
            gaussian = OffsetGaussian(3, offset=torch.tensor(PEER_OFFSET), scale=torch.tensor(PEER_SCALE))
            base = MeanFieldGuide(gaussian).setup(x)
            base.loc.data, base.log_scale.data = torch.tensor(loc), torch.tensor(scale).log()
            guide = AnnealedGuide(gaussian, base=base, num_steps=3, max_step_size=4.0).setup(x)
            guide.increments.data = torch.tensor(increments).log()
            guide.damping_logit.data = torch.tensor(damping).logit()
            guide.steps.logit.data = torch.logit(eta / torch.tensor(scale) / 4.0)
            parameters = {
                "auto_z_0_loc": jnp.array(loc),
                "auto_z_0_scale": jnp.array(scale),
                "auto_beta_increments": jnp.array(increments),
                "auto_eta0": jnp.array(eta),
                "auto_eta_coeff": jnp.array(0.0),
                "auto_gamma": jnp.array(damping),
                "auto_mass_matrix": jnp.ones(3),
            }

            noise = torch.randn(20, guide.noise_dim)
            proposal = guide.propose(target_of(guide, x, (20,)), noise)
            ours = guide.space.log_joint(proposal.latent, x) - proposal.log_q
            start, *momenta = noise.chunk(4, -1)
            momenta = torch.stack([*momenta[1:], momenta[0]], 1)  # theirs begin with the last
            start = torch.tensor(loc) + torch.tensor(scale) * start
            many = jax.tree.map(lambda value: jnp.broadcast_to(value, (20, *jnp.shape(value))), parameters)
            z, theirs = their_log_weight(jnp.asarray(start.numpy()), jnp.asarray(momenta.numpy()), many)
            assert proposal.latent.detach().flatten().tolist() == pytest.approx(z.flatten().tolist(), abs=1e-10)
            assert ours.tolist() == pytest.approx(theirs.tolist(), rel=1e-10, abs=1e-10)

            values = log_weights(gaussian, guide, x, num_particles=20_000).values.detach()
            error = values.std().item() * math.sqrt(2 / 20_000)
            gap = gaussian.log_evidence(x).item() - values.mean().item()
            assert gap > 20 * error, "too near the evidence to tell one guide from another"
            assert values.mean().item() == pytest.approx(
                -float(their_loss(jax.random.key(key), parameters)), abs=4 * error
            )


# The limits of volume.


def limit(gaussian, x, blocks) -> float:
    r"""The most that any volume-preserving map of that many blocks of noise can reach, dimension by dimension.

    A trajectory of K steps maps the K + 1 standard normal blocks :math:`(e_0, v_0, \xi_1, \dots, \xi_{K-1})` to as
    many, :math:`(e_K, \hat v_K, r_1, \dots, r_{K-1})`: leapfrog steps have determinant 1, and a refreshment
    :math:`(\hat v, \xi) \mapsto (\gamma \hat v + \sqrt{1 - \gamma^2} \xi, \sqrt{1 - \gamma^2} \hat v - \gamma \xi)` is
    a rotation, which keeps length as well. So the ELBO less the log evidence is minus the divergence of the image of
    N(0, I) from the target, posterior times N(0, I). Here both split by dimension; in one of them, let n = K + 1 be
    the number of blocks and A = diag(a, 1, ..., 1) the target's precision, :math:`a = 1 + N / \sigma^2`. Since the
    image keeps the entropy of N(0, I), and has a second moment S about the target's mean,

    .. math::
        KL = \tfrac12 (\mathrm{tr}(A S) - n - \log\det A), \qquad
        \mathrm{tr}(A S) \ge n \det(A S)^{1/n} \ge n a^{1/n}

    by the inequality of means, with equality at :math:`S = a^{1/n} A^{-1}`. At n = 2, one step or no refreshments, it
    is the limit of Hamiltonian trajectories, :math:`\sqrt a - 1 - \tfrac12 \log a`; it vanishes as n grows.
    """
    a = 1 + x.count / gaussian.scale.detach().square()
    divergence = 0.5 * (blocks * (a ** (1 / blocks) - 1) - a.log())
    return (gaussian.log_evidence(x) - divergence.sum()).item()


def expected_log_weight(guide, gaussian, x):
    """The ELBO exactly: dynamics are linear, so log w is quadratic in the noise, and 2 M + 1 points give its mean."""
    unit = torch.eye(guide.noise_dim)
    noise = torch.cat([torch.zeros(1, guide.noise_dim), unit, -unit])
    posterior, evidence = gaussian.exact_posterior(x), gaussian.log_evidence(x)
    target = Target(noise.shape[:1], lambda z: evidence + posterior.log_prob(z).sum(-1), None)
    proposal = guide.propose(target, noise)
    values = target.log_joint(proposal.latent) - proposal.log_q
    return values[0] + 0.5 * (values[1:] - values[0]).sum()


@pytest.fixture
def gaussian():
    return OffsetGaussian(3, scale=torch.tensor([0.5, 2.0, 1.0])).requires_grad_(False)


@pytest.fixture(params=[0.0, 0.4], ids=["centred", "to one side"])
def x(gaussian, request):
    summary = gaussian.summarise(torch.randn(100, 3))
    gaussian.offset.data = summary.mean + request.param
    return summary


def from_standard_normal(gaussian, x, **options):
    base = MeanFieldGuide(gaussian, init_scale=1.0).setup(x).requires_grad_(False)
    return AnnealedGuide(gaussian, base=base, max_step_size=2.0, **options).setup(x)


def test_the_exact_mean_is_that_of_the_draws(gaussian, x):
    guide = from_standard_normal(gaussian, x, num_steps=3, init_step_size=0.05, init_damping=0.4)
    values = log_weights(gaussian, guide, x, num_particles=50_000).values.detach()
    error = values.std().item() / math.sqrt(len(values))
    assert expected_log_weight(guide, gaussian, x).item() == pytest.approx(values.mean().item(), abs=5 * error)


@pytest.mark.parametrize("num_steps", [1, 2, 4, 8])
def test_no_trajectory_from_a_standard_normal_passes_the_limit_of_volume(gaussian, x, num_steps):
    with torch.no_grad():
        for step in (0.01, 0.03, 0.06, 0.1, 0.3):
            for damping in (0.01, 0.3, 0.6, 0.9):
                guide = from_standard_normal(
                    gaussian, x, num_steps=num_steps, init_step_size=step, init_damping=damping
                )
                for _ in range(3):
                    value = expected_log_weight(guide, gaussian, x).item()
                    assert value <= limit(gaussian, x, num_steps + 1) + 1e-9
                    guide.steps.logit += torch.randn(3)  # steps that differ by dimension, and another bridge
                    if num_steps > 1:
                        guide.increments.data = 2 * torch.randn(num_steps)


@pytest.mark.parametrize("num_steps", [2, 5])
def test_without_refreshments_the_limit_is_that_of_hamiltonian_trajectories(gaussian, x, num_steps):
    with torch.no_grad():
        for step in (0.02, 0.05, 0.1, 0.2):
            guide = from_standard_normal(gaussian, x, num_steps=num_steps, init_step_size=step)
            guide.damping_logit.fill_(50.0)
            assert guide.damping == 1
            for _ in range(20):
                assert expected_log_weight(guide, gaussian, x).item() <= limit(gaussian, x, 2) + 1e-9
                guide.steps.logit += 0.5 * torch.randn(3)
                guide.increments.data = 2 * torch.randn(num_steps)


def trained_elbo(gaussian, x, num_steps):
    """The exact ELBO of a trajectory whose steps, bridge and damping were made as good as they get."""
    guide = from_standard_normal(
        gaussian, x, num_steps=num_steps, step_size_per_step=True, init_step_size=0.05, init_damping=0.1
    )
    optimizer = torch.optim.Adam([p for p in guide.parameters() if p.requires_grad], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        value = expected_log_weight(guide, gaussian, x)
        (-value).backward()
        optimizer.step()
    return value.item()


def test_the_gap_shrinks_with_the_number_of_steps(gaussian):
    summary = gaussian.summarise(torch.randn(100, 3))
    gaussian.offset.data = summary.mean
    evidence = gaussian.log_evidence(summary).item()
    hamiltonian, gaps = evidence - limit(gaussian, summary, 2), {}
    for num_steps in (2, 4, 8):
        gaps[num_steps] = evidence - trained_elbo(gaussian, summary, num_steps)
        assert gaps[num_steps] > evidence - limit(gaussian, summary, num_steps + 1)
    # Refreshments let it pass the limit of Hamiltonian trajectories, and come near its own.
    assert gaps[4] < hamiltonian / 2
    assert gaps[8] < hamiltonian / 6
    assert gaps[8] < 1.5 * (evidence - limit(gaussian, summary, 9))


def test_without_refreshments_two_steps_attain_the_limit():
    # Two quarter turns: with s_k^2 times the precision of the k-th bridge 2, a step is (e, v) -> (s v / 2, -2 e / s).
    # The first precision sqrt(a), the second a, give e and v the target's ratio of scales at determinant 1.
    gaussian = OffsetGaussian(2, scale=0.5).requires_grad_(False)
    summary = gaussian.summarise(torch.randn(100, 2))
    gaussian.offset.data = summary.mean
    guide = from_standard_normal(gaussian, summary, num_steps=2, step_size_per_step=True)
    root = math.sqrt(1 + 100 / 0.25)
    with torch.no_grad():
        guide.damping_logit.fill_(50.0)
        guide.increments.copy_(torch.tensor([1 / (1 + root), root / (1 + root)]).log())
        steps = torch.tensor([[math.sqrt(2 / root)], [math.sqrt(2) / root]]).expand(2, 2)
        guide.steps.logit.copy_(torch.logit(steps / 2.0))
        value = expected_log_weight(guide, gaussian, summary).item()
    assert value == pytest.approx(limit(gaussian, summary, 2), abs=1e-8)


def test_training_finds_the_posterior_from_a_learned_base(gaussian, x):
    # A mean-field base can be exact here, and then the moves have nothing left to do.
    base = MeanFieldGuide(gaussian).setup(x)
    posterior = gaussian.exact_posterior(x)
    base.loc.data, base.log_scale.data = posterior.mean.clone(), posterior.stddev.log()
    guide = AnnealedGuide(gaussian, base=base, num_steps=8, init_step_size=0.01).setup(x)
    gap = gaussian.log_evidence(x).item() + ELBO(num_particles=2000).loss(gaussian, guide, x)
    # In the base's noise the target is N(0, I) whatever beta: leapfrog keeps its energy to order s^2.
    assert abs(gap) < 1e-4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_steps": 0}, "num_steps must be a whole number of at least 1; got 0. Without steps the guide equals its"),
        ({"num_steps": 2.0}, "got 2.0"),
        ({"init_step_size": 0.0}, "init_step_size must be positive and below 1; got 0.0"),
        ({"max_step_size": math.inf}, "max_step_size must be positive and finite; got inf"),
        ({"init_damping": 0.0}, "init_damping must be positive and below 1; got 0.0. Write init_damping=0.5."),
        ({"init_damping": 1.0}, "got 1.0"),
        ({"init_damping": math.nan}, "got nan"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        AnnealedGuide(lambda: None, **options)
