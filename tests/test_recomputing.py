"""Checkpointed trajectories: the same numbers, with little kept, whatever surrounds the model."""

from __future__ import annotations

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from guides import AnnealedGuide, HamiltonianGuide, MeanFieldGuide, Minibatch, ModelError, OptionError
from ppl_models import VAE, OffsetGaussian
from ppl_models.objectives import ELBO, IWAE
from ppl_models.training import CompiledObjective, fit
from tests.contract.problems import PROBLEMS
from tests.contract.registry import halves, wide

MAKES = {
    "hamiltonian": lambda model, encoder, checkpoint: HamiltonianGuide(
        model, base=wide(model, encoder), num_steps=3, init_step_size=0.2, checkpoint=checkpoint
    ),
    "annealed": lambda model, encoder, checkpoint: AnnealedGuide(
        model, base=wide(model, encoder), num_steps=3, init_step_size=0.2, checkpoint=checkpoint
    ),
    "one over the other": lambda model, encoder, checkpoint: AnnealedGuide(
        model,
        base=HamiltonianGuide(model, base=wide(model, encoder), num_steps=1, checkpoint=checkpoint),
        num_steps=2,
        checkpoint=checkpoint,
    ),
}


def evaluated(objective, model, guide, *args):
    """Loss and gradients under the same seed, and the state in which the generator is left."""
    parameters = [*model.parameters(), *guide.parameters()] if isinstance(model, nn.Module) else [*guide.parameters()]
    for parameter in parameters:
        parameter.grad = None
    pyro.set_rng_seed(0)
    loss = objective.differentiable_loss(model, guide, *args)
    loss.backward()
    return [loss.detach(), *[p.grad for p in parameters], torch.get_rng_state()]


def assert_same(have, want):
    for one, other in zip(have, want, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def pair(make, problem, *args):
    """The same guide without and with checkpoints."""
    plain, kept = (make(problem.model, problem.encoder, checkpoint).setup(*args) for checkpoint in (False, True))
    kept.load_state_dict(plain.state_dict())  # whether memory is short is no part of the law
    return plain, kept


@pytest.mark.parametrize("name", MAKES)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_values_gradients_and_noise_are_the_same(problem, name):
    problem = PROBLEMS[problem]()
    guides = pair(MAKES[name], problem, *problem.args)
    want, have = (evaluated(ELBO(num_particles=2), problem.model, guide, *problem.args) for guide in guides)
    assert_same(have, want)


@pytest.mark.parametrize(
    "objective",
    [IWAE(num_particles=4, chunk_size=3), IWAE(num_particles=2, vectorize_particles=False)],
    ids=repr,
)
def test_every_way_of_evaluating_particles(objective):
    problem = PROBLEMS["linear_vae"]()
    guides = pair(MAKES["hamiltonian"], problem, *problem.args)
    want, have = (evaluated(objective, problem.model, guide, *problem.args) for guide in guides)
    assert_same(have, want)


def test_trained_by_pyro_and_by_us():
    found = []
    for checkpoint in (False, True):
        problem = PROBLEMS["groups"]()
        guide = MAKES["annealed"](problem.model, None, checkpoint).setup(*problem.args)
        svi = pyro.infer.SVI(problem.model, guide, pyro.optim.Adam({"lr": 0.1}), pyro.infer.Trace_ELBO(2))
        pyro.set_rng_seed(0)
        losses = [svi.step(*problem.args) for _ in range(2)]
        result = fit(problem.model, guide, *problem.args, steps=2, seed=0, progress=False)
        losses += [record["loss"] for record in result.records]
        found.append([torch.tensor(losses), *guide.parameters()])
    assert_same(*found)


def test_a_later_member_of_a_list_depends_on_earlier_ones():
    problem = PROBLEMS["groups"]()
    found = []
    for checkpoint in (False, True):
        guide = halves(problem.model, None).setup(*problem.args)
        guide.members[1].checkpoint = checkpoint
        found.append(evaluated(ELBO(num_particles=2), problem.model, guide, *problem.args))
    assert_same(*found)


def kept_bytes(num_steps, **options):
    """How much a trajectory's graph holds from the forward pass on."""
    problem = PROBLEMS["linear_vae"]()
    guide = HamiltonianGuide(problem.model, encoder=problem.encoder, num_steps=num_steps, **options)
    guide.setup(*problem.args)
    kept = []

    def keep(tensor):
        kept.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = ELBO(num_particles=1000).differentiable_loss(problem.model, guide, *problem.args)
    assert loss.requires_grad
    return sum({tensor.data_ptr(): tensor.nbytes for tensor in kept}.values())


def test_memory_hardly_grows_with_the_steps():
    one = 1000 * 4 * 2 * 8  # bytes of 1000 particles' positions, for 4 data with 2 latents each
    plain, checkpointed = (
        (kept_bytes(5, checkpoint=checkpoint) - kept_bytes(1, checkpoint=checkpoint)) / (4 * one)
        for checkpoint in (False, True)
    )
    # Of a step: the force, and the momentum in the middle and at the end, which are multiplied by the step sizes and
    # the cooling. (The position, where the force is computed again, is held beside the graph.)
    assert checkpointed == pytest.approx(3, abs=0.02)
    assert plain > 10


class Decoder(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(2, 5), nn.BatchNorm1d(5), nn.Dropout(0.3), nn.Linear(5, 4))


@pytest.mark.parametrize("as_module", [True, False])
def test_dropout_and_running_statistics(as_module):
    x = torch.randn(8, 4).sigmoid().round()
    found = []
    for checkpoint in (False, True):
        torch.manual_seed(1)
        vae = VAE(Decoder(), latent_dim=2)
        model = vae if as_module else lambda x, vae=vae: vae(x)
        guide = HamiltonianGuide(
            model, encoder=nn.Linear(4, 4), num_steps=2, init_step_size=0.3, checkpoint=checkpoint
        ).setup(x)
        found.append([*evaluated(ELBO(), model, guide, x), *vae.buffers()])
    assert_same(*found)


def test_a_minibatch_counts_as_it_did_when_the_loss_was_made():
    def model(x):
        with pyro.plate("series", len(x), dim=-2):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            with pyro.plate("times", x.shape[1], dim=-1):
                pyro.sample("x", dist.StudentT(3.0, z, 1.0), obs=x)

    x, gradients = torch.tensor([[0.5, -0.2, 0.1], [1.5, 0.0, 0.8]]), []
    for checkpoint in (False, True):
        torch.manual_seed(1)
        guide = HamiltonianGuide(
            model, encoder=nn.Linear(3, 2), num_steps=2, init_step_size=0.3, checkpoint=checkpoint
        ).setup(x)
        pyro.set_rng_seed(0)
        with Minibatch(10, plate="times"):
            loss = ELBO().differentiable_loss(model, guide, x)
        gradients.append(torch.autograd.grad(loss, list(guide.parameters())))
    assert_same(*gradients)


def test_rows_that_the_model_draws_are_drawn_once():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x), subsample_size=2) as rows:
            pyro.sample("x", dist.StudentT(3.0, z, 1.0), obs=x[rows])

    x = torch.randn(6)
    found = []
    for checkpoint in (False, True):
        guide = HamiltonianGuide(model, num_steps=2, init_step_size=0.3, checkpoint=checkpoint).setup(x)
        found.append(evaluated(ELBO(num_particles=2), model, guide, x))
    assert_same(*found)


def test_reduced_precision():
    x, found = torch.rand(8, 4).round().float(), []
    for checkpoint in (False, True):
        torch.manual_seed(1)
        vae = VAE(nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 4)).float(), latent_dim=2)
        encoder = nn.Linear(4, 4).float()
        guide = HamiltonianGuide(vae, encoder=encoder, num_steps=2, init_step_size=0.3, checkpoint=checkpoint).setup(x)
        pyro.set_rng_seed(0)
        with torch.autocast("cpu", torch.bfloat16):
            loss = ELBO().differentiable_loss(vae, guide, x)
        loss.backward()
        found.append([p.grad for p in (*vae.parameters(), *guide.parameters())])
    assert_same(*found)


@pytest.mark.parametrize("later", [lambda z: z.exp().exp(), lambda z: z, lambda z: z.expand(1).exp()[0]])
def test_a_model_that_takes_another_course_is_refused(later):
    course = []

    def model():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.StudentT(3.0, course[0](z) if course else z.exp(), 1.0), obs=torch.tensor(0.0))

    guide = HamiltonianGuide(model, num_steps=1, checkpoint=True).setup()
    loss = ELBO().differentiable_loss(model, guide)
    course.append(later)
    with pytest.raises(ModelError, match="with checkpoint=True the model must run the same way when its density"):
        loss.backward()


def test_a_graph_that_is_kept_can_be_used_twice():
    problem = PROBLEMS["groups"]()
    guide = MAKES["one over the other"](problem.model, None, True).setup(*problem.args)
    loss, parameters = ELBO().differentiable_loss(problem.model, guide, *problem.args), list(guide.parameters())
    first = torch.autograd.grad(loss, parameters, retain_graph=True)
    assert_same(torch.autograd.grad(loss, parameters), first)


def test_compiling_is_refused():
    gaussian, x = OffsetGaussian(2), torch.zeros(3, 2)
    base = HamiltonianGuide(gaussian, num_steps=1, checkpoint=True)
    for guide in (base, AnnealedGuide(gaussian, base=base, num_steps=1)):
        with pytest.raises(OptionError, match="compile and checkpoint must not be given together; got .*Hamiltonian"):
            CompiledObjective(ELBO()(gaussian, guide.setup(x)))
    CompiledObjective(ELBO()(gaussian, MeanFieldGuide(gaussian).setup(x)))
