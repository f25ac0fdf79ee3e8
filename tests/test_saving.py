"""save and load: the same log-weights without the data, and files that do not fit."""

from __future__ import annotations

import contextlib
import copy
import pickle
import resource
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from guides import (
    DataError,
    FullRankGuide,
    GuideList,
    HamiltonianGuide,
    IAFGuide,
    LatentSpace,
    MeanFieldGuide,
    ModelError,
    PlanarGuide,
)
from guides.supports import from_plain, to_plain
from ppl_models import VAE, OffsetGaussian
from ppl_models.networks import MLPDecoder, MLPEncoder
from ppl_models.objectives import log_weights
from ppl_models.training import load, save
from tests.contract.problems import PROBLEMS
from tests.contract.registry import GUIDES, PAIRS


def perturb(*modules):
    with torch.no_grad():
        for module in modules:
            for parameter in module.parameters():
                parameter += 0.1 * torch.randn_like(parameter)


def weights(model, guide, args):
    pyro.set_rng_seed(7)
    return log_weights(model, guide, *args, num_particles=3).values.detach()


CHAINS = [name for name in PAIRS if name in ("hamiltonian-over-iaf", "planar-over-hamiltonian", "annealed-over-list")]


@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("name", [*GUIDES, *CHAINS])
def test_a_file_gives_the_same_weights_without_the_data(tmp_path, problem, name):
    if problem == "linear_vae" and name.endswith("-over-list"):
        return  # a list with an encoder is no base
    made = PROBLEMS[problem]()
    guide = (GUIDES | PAIRS)[name](made.model, made.encoder).setup(*made.args, init="prior")
    perturb(made.model, guide)
    save(tmp_path / "fit.pt", made.model, guide)
    expected = weights(made.model, guide, made.args)

    fresh = PROBLEMS[problem]()
    again = (GUIDES | PAIRS)[name](fresh.model, fresh.encoder)
    state = torch.random.get_rng_state()
    load(tmp_path / "fit.pt", fresh.model, again)
    assert torch.equal(state, torch.random.get_rng_state())
    assert torch.equal(weights(fresh.model, again, made.args), expected)
    assert repr(again) == repr(guide)
    for twin in (copy.deepcopy(again), pickle.loads(pickle.dumps(again))):
        assert torch.equal(weights(made.model, twin, made.args), expected)
    assert sum(p.numel() for p in again.parameters()) == sum(p.numel() for p in guide.parameters())


@pytest.mark.parametrize("init", ["laplace", "pathfinder"])
def test_the_whitening_is_in_the_file(tmp_path, init):
    made = PROBLEMS["groups"]()
    guide = HamiltonianGuide(made.model, num_steps=2).setup(*made.args, init=init)
    save(tmp_path / "fit.pt", made.model, guide)
    fresh = PROBLEMS["groups"]()
    again = HamiltonianGuide(fresh.model, num_steps=2)
    load(tmp_path / "fit.pt", fresh.model, again)
    assert torch.equal(weights(fresh.model, again, made.args), weights(made.model, guide, made.args))


def mixed(x):
    mu = pyro.sample("mu", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.LogNormal(mu, 1.0))
        pyro.sample("x", dist.Normal(z, 0.5), obs=x)


def mixed_guide():
    encoder = nn.Sequential(nn.Unflatten(0, (-1, 1)), nn.Linear(1, 8))
    local = IAFGuide(mixed, base=MeanFieldGuide(mixed, hide=["mu"], encoder=encoder), num_layers=1, hidden=(4,))
    return GuideList(mixed, [FullRankGuide(mixed, expose=["mu"]), HamiltonianGuide(mixed, base=local, num_steps=2)])


def test_lists_with_encoders_come_back(tmp_path):
    x = torch.rand(6) + 0.5
    guide = mixed_guide().setup(x)
    perturb(guide)
    save(tmp_path / "fit.pt", mixed, guide)
    again = mixed_guide()
    load(tmp_path / "fit.pt", mixed, again)
    assert torch.equal(weights(mixed, again, (x,)), weights(mixed, guide, (x,)))
    assert again(x[:2])["z"].shape == (2,)  # of other sizes of data too


def test_encoders_of_images_come_back(tmp_path):
    def make():
        vae = VAE(MLPDecoder(2, event_shape=(1, 4, 4), hidden=(8,)), latent_dim=2)
        encoder = MLPEncoder((1, 4, 4), output_dim=12, hidden=(8,))
        return vae, PlanarGuide(vae, encoder=encoder, num_layers=2)

    x = (torch.rand(5, 1, 4, 4) > 0.5).double()
    vae, guide = make()
    guide.setup(x)
    save(tmp_path / "fit.pt", vae, guide)
    again = make()
    load(tmp_path / "fit.pt", *again)
    assert torch.equal(weights(*again, (x,)), weights(vae, guide, (x,)))


def test_global_parameters_come_back(tmp_path):
    def model(x):
        scale = pyro.param("scale", torch.tensor(0.3), constraint=dist.constraints.interval(0.1, 2.0))
        loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, scale), obs=x)

    x = torch.randn(4)
    guide = MeanFieldGuide(model).setup(x)
    expected = weights(model, guide, (x,))
    save(tmp_path / "fit.pt", model, guide)
    leaf = pyro.get_param_store().get_state()["params"]["scale"].detach().clone()
    with torch.no_grad():
        pyro.get_param_store().get_state()["params"]["scale"].zero_()
    assert not torch.equal(weights(model, guide, (x,)), expected)
    again = MeanFieldGuide(model)
    load(tmp_path / "fit.pt", model, again)
    assert torch.equal(weights(model, again, (x,)), expected)
    pyro.clear_param_store()
    load(tmp_path / "fit.pt", model, again)
    assert torch.equal(pyro.param("scale").unconstrained(), leaf)
    assert torch.equal(weights(model, again, (x,)), expected)
    pyro.clear_param_store()


def test_pyro_s_guides_come_back(tmp_path):
    x = torch.randn(10, 2)
    first, second = OffsetGaussian(2, offset=1.0), OffsetGaussian(2)
    guide, again = (pyro.infer.autoguide.AutoDiagonalNormal(model) for model in (first, second))
    guide(x), again(x)
    save(tmp_path / "fit.pt", first, guide)
    load(tmp_path / "fit.pt", second, again)
    assert torch.equal(again.loc, guide.loc)
    assert torch.equal(first.offset, second.offset)


# State dicts.


def test_a_state_dict_sets_up_guides_inside_other_modules():
    made = PROBLEMS["groups"]()
    holder = nn.ModuleList([GUIDES["iaf"](made.model, None).setup(*made.args)])
    again = nn.ModuleList([GUIDES["iaf"](made.model, None)])
    again.load_state_dict(holder.state_dict())
    assert torch.equal(weights(made.model, again[0], made.args), weights(made.model, holder[0], made.args))


def test_a_state_dict_of_another_dtype_sets_up_in_its_own():
    gaussian = OffsetGaussian(2).float()
    guide = MeanFieldGuide(gaussian).setup(torch.randn(5, 2).float()).to(torch.float64)
    again = MeanFieldGuide(gaussian)
    again.load_state_dict(guide.state_dict())
    assert {p.dtype for p in again.parameters()} == {torch.float64}


def test_a_load_that_fails_leaves_no_guide_half_way():
    gaussian = OffsetGaussian(2)
    state = IAFGuide(gaussian, num_layers=1).setup(torch.randn(5, 2)).state_dict()
    state.pop("base.loc")
    guide = IAFGuide(gaussian, num_layers=1)
    with pytest.raises(RuntimeError, match=r"Missing key\(s\) in state_dict: \"base.loc\""):
        guide.load_state_dict(state)
    assert not guide.is_set_up
    assert not guide.base.is_set_up
    guide.setup(torch.randn(5, 2))


constraints = dist.constraints


@pytest.mark.parametrize(
    "support",
    [
        constraints.real,
        constraints.positive,
        constraints.unit_interval,
        constraints.greater_than(torch.tensor([1.0, 2.0])),
        constraints.half_open_interval(0.0, 3.0),
        constraints.simplex,
        constraints.corr_cholesky,
        constraints.ordered_vector,
        constraints.softplus_positive,
        constraints.independent(constraints.independent(constraints.positive, 1), 1),
        constraints.cat([constraints.real, constraints.positive], dim=-1, lengths=[1, 2]),
        dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), dist.Beta(torch.ones(2), torch.ones(2))).support,
    ],
    ids=str,
)
def test_supports_come_back(support):
    again = from_plain(to_plain(support))
    assert type(again) is type(support)
    assert str(again) == str(support)
    value = torch.tensor([1.5, 1.5]) if "tensor" in str(support) else torch.tensor([0.25, 0.75, 2.5])
    if again.event_dim == 0 or isinstance(support, type(constraints.simplex)):
        assert torch.equal(again.check(value), support.check(value))


class Odd(constraints.Constraint):
    """A support that only this file knows."""


def test_unknown_supports_are_refused():
    with pytest.raises(ModelError, match=r"support of a latent in a file must be one of .*; got tests.test_saving.Odd"):
        from_plain(to_plain(Odd()))
    with pytest.raises(ModelError, match="got os.system"):
        from_plain({"constraint": "os.system", "state": {}})
    with pytest.raises(ModelError, match=r"got torch.distributions.constraints.Any"):
        from_plain({"constraint": "torch.distributions.constraints.Any", "state": {}})


def test_spaces_come_back():
    made = PROBLEMS["groups"]()
    space = LatentSpace(made.model, *made.args)
    again = LatentSpace.from_description(made.model, space.description(), torch.zeros(()))
    ours, theirs = vars(space), vars(again)
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - {"sites"}:
        assert ours[name] == theirs[name], name
    assert str(again) == str(space)
    vectors = torch.randn(4, space.dim)
    assert torch.equal(again.log_joint(vectors, *made.args), space.log_joint(vectors, *made.args))


# Files that do not fit, or are none.


def fitted(guide=MeanFieldGuide, dim=2, **options):
    gaussian = OffsetGaussian(dim, **options)
    return gaussian, guide(gaussian).setup(torch.randn(10, dim))


def gaussian():
    return OffsetGaussian(2)


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (
            lambda: PROBLEMS["gamma_poisson"]().model,
            MeanFieldGuide,
            "model must be of class OffsetGaussian, as in the file; got Gamma",
        ),
        (
            lambda: OffsetGaussian(3),
            MeanFieldGuide,
            r"model must have the parameters .*size mismatch for .*shape torch.Size",
        ),
        (
            lambda: OffsetGaussian(2).float(),
            MeanFieldGuide,
            r"must be torch.float64, as in the file; .*\.to\(torch.float64\)",
        ),
        (gaussian, FullRankGuide, "guide must be of class HamiltonianGuide, as in .*; got FullRank"),
        (gaussian, partial(HamiltonianGuide, num_steps=4), "num_steps of a HamiltonianGuide must be 3, as in"),
        (
            gaussian,
            partial(HamiltonianGuide, num_steps=3, max_step_size=0.9),
            "max_step_size of a HamiltonianGuide must be 0.5",
        ),
        (
            gaussian,
            lambda model: HamiltonianGuide(model, base=FullRankGuide(model), num_steps=3),
            "state for a FullRankGuide must be that of a FullRankGuide; got that of a MeanFieldGuide",
        ),
    ],
)
def test_files_of_others_are_refused_and_change_nothing(tmp_path, model, guide, message):
    save(tmp_path / "fit.pt", *fitted(partial(HamiltonianGuide, num_steps=3), offset=2.0))
    model = model()
    guide = guide(model)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ModelError, match=message):
        load(tmp_path / "fit.pt", model, guide)
    assert not guide.is_set_up
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_guides_of_other_latents_are_refused():
    def model(name):
        return lambda: pyro.sample(name, dist.Normal(0.0, 1.0))

    guide = MeanFieldGuide(model("w")).setup()
    with pytest.raises(ModelError, match=r"latents of a MeanFieldGuide must be z \(\), as in the state .*; got w \(\)"):
        guide.load_state_dict(MeanFieldGuide(model("z")).setup().state_dict())


def test_files_cut_short_are_refused(tmp_path):
    path, pair = tmp_path / "fit.pt", fitted()
    save(path, *pair)
    whole = path.read_bytes()
    for size in [*range(0, len(whole), len(whole) // 50), len(whole) - 50, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(DataError, match=r"fit.pt must be a whole file written by ppl-models; it is damaged or cut"):
            load(path, *pair)


def test_files_with_a_wrong_bit_are_refused(tmp_path):
    path, pair = tmp_path / "fit.pt", fitted()
    save(path, *pair)
    whole, loaded = path.read_bytes(), 0
    for place in range(0, len(whole), len(whole) // 150):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        before = [p.clone() for part in pair for p in part.parameters()]
        with contextlib.suppress(DataError):
            load(path, *pair)
            loaded += 1  # between the parts there is nothing to damage
        for have, want in zip((p for part in pair for p in part.parameters()), before, strict=True):
            assert torch.equal(have, want)
    assert loaded < 100


@pytest.mark.parametrize(("number", "older"), [(2, "older"), (0, "newer")])
def test_other_versions_are_refused(tmp_path, number, older):
    path = tmp_path / "fit.pt"
    save(path, *fitted())
    content = torch.load(path, weights_only=True)
    assert content["versions"]["torch"] == torch.__version__
    torch.save(content | {"format": number, "versions": {"ppl-models": "9.9"}}, path)
    with pytest.raises(DataError, match=f"got {number}, written by ppl-models 9.9: this ppl-models is {older}"):
        load(path, *fitted())


def test_other_files_are_refused(tmp_path):
    torch.save({"a": 1}, tmp_path / "dict.pt")
    torch.save(OffsetGaussian, tmp_path / "code.pt")
    with pytest.raises(DataError, match=r"must be a file of kind 'fit' or 'checkpoint' written by ppl-models"):
        load(tmp_path / "dict.pt", *fitted())
    with pytest.raises(DataError, match=r"must hold tensors and plain data only; .*OffsetGaussian"):
        load(tmp_path / "code.pt", *fitted())
    with pytest.raises(FileNotFoundError, match="none.pt"):
        load(tmp_path / "none.pt", *fitted())


def test_a_full_disk_leaves_the_older_file(tmp_path):
    path, (gaussian, guide) = tmp_path / "fit.pt", fitted(offset=1.0)
    save(path, gaussian, guide)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            save(path, gaussian, guide)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["fit.pt"]
