"""Reproductions of image studies: what was published, budgets, tables, and a small study from end to end."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import arviz as az
import pandas as pd
import pytest
import torch

from guides import HamiltonianGuide, MeanFieldGuide, OptionError
from ppl_models import OffsetGaussian
from ppl_models.cli import run
from ppl_models.datasets.idx_folder import RawImages, write_idx_folder
from ppl_models.diagnostics import ImportanceNLL, importance_nll
from ppl_models.networks import ConvDecoder
from ppl_models.objectives import ELBO, IWAE
from ppl_models.reproductions import ReportFolder, reproduce_hvae_iaf, reproduce_mnist
from ppl_models.reproductions.images import pieces, training, watching
from ppl_models.reproductions.images.data import StudyImages, grey_scores, load_images, mean_image_score
from ppl_models.reproductions.images.methods import (
    FLOW_METHODS,
    LATENT,
    SAMPLING_METHODS,
    Method,
    _hamiltonian,
    _mean_field,
)
from ppl_models.reproductions.images.pieces import (
    STUDY_DRAWS,
    Task,
    _study_s_number,
    follow_job,
    joined,
    judge_job,
    weigh_job,
)
from ppl_models.reproductions.images.published import FLOWS, MEAN_GREY_IMAGE, SAMPLING
from ppl_models.reproductions.images.sizes import LOOK
from ppl_models.reproductions.images.study import STUDIES
from ppl_models.reproductions.images.tables import (
    all_reached,
    compared_flows,
    compared_losses,
    goals,
    results,
    why_flow,
    why_loss,
)
from ppl_models.reproductions.images.training import bound_of, train_method
from ppl_models.reproductions.images.watching import POINTS, Watch
from ppl_models.study.job import own_settings
from ppl_models.training import train
from ppl_models.training.saving import read_file
from tests.examples import run_example
from tests.test_cli import refused

MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist"
NUM_TRAIN, NUM_TEST = 24, 6
PNG = b"\x89PNG\r\n\x1a\n"
HVAE = Method("HVAE", "one leapfrog step", _hamiltonian(1, _mean_field), aim=True)
TINY = {"VAE": SAMPLING_METHODS["VAE"], "HVAE": HVAE}


@pytest.fixture(scope="module")
def idx_folder(tmp_path_factory):
    """MNIST's four files with few images."""
    generator = torch.Generator().manual_seed(0)
    folder = tmp_path_factory.mktemp("idx")
    parts = []
    for count in (NUM_TRAIN, NUM_TEST):
        # A white frame, and noise of every grey inside.
        images = torch.zeros(count, 28, 28, dtype=torch.uint8)
        images[:, 8:20, 8:20] = torch.randint(256, (count, 12, 12), generator=generator, dtype=torch.uint8)
        parts += [images, torch.arange(count) % 10]
    write_idx_folder(folder, RawImages(*parts))
    return folder


@pytest.fixture(scope="module")
def images(idx_folder) -> StudyImages:
    return load_images(str(idx_folder))


# ------------------------------------------------------------------------------------------------- what was published


def test_the_flow_learned_nothing_from_the_images():
    if not MNIST.is_dir():
        pytest.skip("MNIST's files are not beside this checkout")
    grey = grey_scores(MNIST)
    assert grey["mean image"] == pytest.approx(MEAN_GREY_IMAGE, abs=0.005)
    assert grey["floor"] == pytest.approx(45.53, abs=0.005)
    published = {each.method: each.negative_elbo for each in FLOWS}
    assert published["VAE + IAF"] == pytest.approx(207.5)
    assert published["VAE + IAF"] > grey["mean image"]
    assert published["HVAE + IAF"] > grey["mean image"] > published["HVAE"] == pytest.approx(108.4)


def test_each_published_number_has_its_reason_and_its_method():
    assert {each.method for each in SAMPLING} <= set(SAMPLING_METHODS)
    assert {each.method for each in FLOWS} <= set(FLOW_METHODS)
    assert all(why_loss(each.method) for each in SAMPLING)
    assert all(why_flow(each.method) for each in FLOWS)
    assert "no bound" in why_loss("HVAE")
    assert ("shuffled" in why_flow("VAE + IAF"), "shuffled" in why_flow("HVAE")) == (True, False)


def test_methods_are_the_studies():
    guides = {name: method.build()[1] for name, method in (SAMPLING_METHODS | FLOW_METHODS).items()}
    assert guides["HVAE"].num_steps == guides["HVAE + IAF"].num_steps == 20
    assert SAMPLING_METHODS["HVAE"].build()[1].num_steps == 15
    assert [name for name, method in SAMPLING_METHODS.items() if method.aim] == ["HVAE after VAE"]
    assert guides["HVAE + IAF"].base.num_layers == guides["VAE + IAF"].num_layers == 5
    assert SAMPLING_METHODS["IWAE"].objective.num_particles == 40
    networks = [method.build(seed=3)[0] for method in SAMPLING_METHODS.values()]
    for name, value in networks[0].state_dict().items():
        assert all(torch.equal(value, other.state_dict()[name]) for other in networks[1:])


def test_the_first_weights_let_the_latents_through_to_the_pixels():
    """By torch's own a logit hardly depends on the latents, and a training begins with steps that learn nothing."""
    own = ConvDecoder(LATENT)
    model, _ = SAMPLING_METHODS["VAE"].build()
    z = torch.randn(50, LATENT)
    with torch.no_grad():
        spread, others = (decoder(z).std(0).mean() for decoder in (model.decoder, own))
    assert spread > 10 * others


# --------------------------------------------------------------------------------------------------------------- data


def test_the_study_s_images_are_the_first_ones_rounded(idx_folder, images):
    from ppl_models.datasets.mnist import mnist_files

    raw = mnist_files(idx_folder)
    assert images.train.shape == (NUM_TRAIN, 1, 28, 28)
    assert images.train.dtype == torch.float32
    assert torch.equal(images.train[:, 0] == 1, raw.images >= 128)
    assert torch.equal(images.test[:, 0] == 1, raw.test_images >= 128)
    assert images.transform is None
    whole = load_images(str(idx_folder), full=True)
    assert whole.transform is not None
    assert len(whole.train) == len(whole.validation) * 5 == 20


def test_the_mean_image_s_score_by_hand():
    train, test = torch.tensor([[0.0, 1.0], [0.0, 0.0], [0.0, 1.0]]), torch.tensor([[1.0, 1.0]])
    expected = -math.log(0.5 / 4) - math.log(2.5 / 4)
    assert mean_image_score(train, test) == pytest.approx(expected)


# ------------------------------------------------------------------------------------------------------------ budgets


#: Steps of three seconds that first pass a tenth of 40 seconds, two tenths, ...
POINTS_PASSED = (2, 3, 4, 6, 7, 8, 10, 11, 12, 14)


def watch_for(budget: int, *, in_steps: bool = True, share: float = 1.0, before: Any = None) -> Watch:
    looks = iter(range(1000))
    return Watch(
        budget=budget, in_steps=in_steps, share=share, num_data=10, look=lambda: {"look": next(looks)}, before=before
    )


def follow(watch: Watch, most: int) -> int:
    """Make steps until the watch ends them; return how many."""
    trainer = SimpleNamespace(should_stop=False)
    batch = {"args": (torch.zeros(5),)}
    for step in range(1, most + 1):
        watch.on_train_batch_start(trainer, None, batch, 0)
        watch.on_train_batch_end(trainer, None, {"loss": torch.tensor(10.0 * step)}, batch, 0)
        if trainer.should_stop:
            return step
    return most


def test_a_watch_ends_a_training_and_looks_at_equal_distances():
    watch = watch_for(40)
    assert follow(watch, 100) == 40
    assert [point["steps"] for point in watch.points] == list(range(4, 41, 4))
    assert len(watch.points) == POINTS
    assert watch.points[0]["training"] == pytest.approx((1 + 2 + 3 + 4) / 4)
    assert watch.points[-1]["epochs"] == 40 * 5 / 10
    few = watch_for(3)
    assert follow(few, 10) == 3
    assert [point["steps"] for point in few.points] == [1, 2, 3]


def test_a_watch_counts_the_time_of_steps_alone(monkeypatch):
    ticks = itertools.count()
    monkeypatch.setattr(watching, "time", SimpleNamespace(process_time=lambda: 3.0 * next(ticks)))
    watch = watch_for(40, in_steps=False)  # seconds: each step begins at one tick and ends at the next
    assert follow(watch, 100) == 14
    assert watch.seconds == 42
    assert [point["minutes"] for point in watch.points] == pytest.approx([3 * k / 60 for k in POINTS_PASSED])


def test_a_watch_goes_on_with_the_budget_of_another():
    first = watch_for(40, share=0.75)
    assert follow(first, 100) == 30
    again = watch_for(40, before=json.loads(json.dumps(first.state_dict())))
    assert follow(again, 100) == 10
    assert [point["steps"] for point in again.points] == [4, 8, 12, 16, 20, 24, 28, 30, 32, 36, 40]
    assert len(first.points) == 8


def test_a_bound_of_fewer_particles_than_draws_is_a_mean_of_bounds():
    values = torch.randn(6, 3)
    groups = values.unflatten(0, (2, 3))  # two particles, three bounds
    expected = (groups.logsumexp(0) - math.log(2)).mean(0)
    torch.testing.assert_close(bound_of(IWAE(num_particles=2), values), expected)
    torch.testing.assert_close(bound_of(ELBO(), values), values.mean(0))


def test_an_interrupted_training_goes_on_where_it_was(images, tmp_path, monkeypatch):
    method = Method("VAE after VAE", "twice", _hamiltonian(1, _mean_field), base_share=0.5)
    options: dict[str, Any] = {"budget": 4, "in_steps": True, "watched": 2}
    with own_settings():
        whole = train_method(method, images, folder=tmp_path / "whole", **options)
    keep = Watch._keep_point

    def interrupted(self):
        if self.steps == 4:
            raise RuntimeError("broken on purpose")
        keep(self)

    monkeypatch.setattr(Watch, "_keep_point", interrupted)
    with own_settings(), pytest.raises(RuntimeError, match="broken on purpose"):
        train_method(method, images, folder=tmp_path / "other", **options)
    monkeypatch.setattr(Watch, "_keep_point", keep)
    with own_settings():
        again = train_method(method, images, folder=tmp_path / "other", **options)
    assert [point["steps"] for point in whole.points] == [1, 2, 3, 4]
    for number in "01":  # each phase has made its half of the steps
        path = tmp_path / "whole" / number / "last.ckpt"
        assert read_file(path, "checkpoint", near=whole.model)["global_step"] == 2
    for one, other in zip(whole.points, again.points, strict=True):
        assert {**one, "minutes": 0} == {**other, "minutes": 0}
    for name, value in whole.guide.state_dict().items():
        if torch.is_tensor(value):
            assert torch.equal(value, again.guide.state_dict()[name]), name


def test_the_phases_of_a_training_have_orders_and_noise_of_their_own_and_skip_together(images, tmp_path, monkeypatch):
    method, seeds = Method("VAE after VAE", "twice", _hamiltonian(1, _mean_field), base_share=0.5), []

    def noted(*args, seed, **options):
        seeds.append(seed)
        return replace(train(*args, seed=seed, **options), skipped=len(seeds))

    monkeypatch.setattr(training, "train", noted)
    with own_settings():
        found = train_method(method, images, folder=tmp_path, budget=2, in_steps=True, watched=2)
    assert len(set(seeds)) == 2
    assert found.skipped == 1 + 2


# ------------------------------------------------------------------------------------------------------------- tables


def found_of(log_evidence, points=()):
    weights = {"log evidence": log_evidence, "elbo": [value - 1 for value in log_evidence]}
    return {"weights": weights, "training": {"points": list(points)}}


def test_methods_are_compared_image_by_image():
    base = [-100.0, -80.0, -120.0]
    found = {
        "VAE": found_of(base),
        "IWAE": found_of([value + 3 for value in base]),
        "HVAE": found_of([-100.5, -80.0, -120.0]),
        "HVAE after VAE": found_of([-101.0, -81.1, -121.2]),
        "HVAE + IAF": found_of([-99.5, -80.5, -120.0]),
        "HVAE of nothing": found_of([-90.0, -70.0, -math.inf]),
    }
    aims = [name for name in found if name not in ("VAE", "IWAE")]
    rows = {row["NLL of"]: row for row in goals(found, aims=aims, more=True)}
    assert rows["IWAE"]["less that of the VAE"] == pytest.approx(-3)
    assert rows["HVAE"]["less that of the VAE"] == pytest.approx(0.5 / 3)
    assert rows["HVAE"]["standard error"] == pytest.approx(0.5 / 3)
    assert {name: (row["most"], row["reached"], row["remark"]) for name, row in rows.items()} == {
        "IWAE": (None, None, "no goal"),
        "HVAE": (0.0, None, "undecided: more --images would tell"),
        "HVAE after VAE": (0.0, False, ""),
        "HVAE + IAF": (0.0, True, ""),
        "HVAE of nothing": (0.0, False, ""),
    }
    undecided = goals({"VAE": found["VAE"], "HVAE": found["HVAE"]}, aims=aims, more=False)
    assert undecided[0]["remark"] == "undecided"  # there are no more images
    assert goals({"HVAE": found["HVAE"]}, aims=aims, more=True) == []


@pytest.mark.parametrize(
    ("told", "together"),
    [
        ([True, True], True),
        ([True, None], None),
        ([None, False], False),
        ([False, True], False),
        ([], None),
    ],
)
def test_goals_are_reached_if_all_are_and_missed_if_one_is(told, together):
    without = {"most": None, "reached": None}
    assert all_reached([*({"most": 0.0, "reached": each} for each in told), without]) is together


def test_an_image_that_no_draw_explains_has_the_worst_tail(idx_folder, tmp_path, monkeypatch):
    """JSON has no infinities: a job keeps those of k-hat as words; earlier jobs kept nothing of them."""
    told, all_lost, all_equal = torch.randn(80) - 90, torch.full((80,), -math.inf), torch.full((80,), -80.0)
    one_alone = torch.where(torch.arange(80) == 3, -90.0, torch.randn(80) - 1500)
    weighed = ImportanceNLL(torch.stack([told, one_alone, all_lost, all_equal], 1))
    monkeypatch.setattr(pieces, "importance_nll", lambda *args, **options: weighed)
    monkeypatch.setattr(pieces, "trained", lambda *args: (None, None))
    folder = ReportFolder(tmp_path, name="tails", settings={})
    task = Task("mnist", "VAE", str(idx_folder), False, 0, False, LOOK)
    new = weigh_job(folder, task=task, start=0, stop=4)
    tail = weighed.k_hat[0].item()
    for key, job in (("new", new), ("old", new | {"k-hat": [tail, None, None, None]})):
        folder.keep(key, job)
        weights = joined([folder.result(key)])
        assert weights["k-hat"] == [tail, math.inf, math.inf, -math.inf]
        assert weights["log evidence"] == weighed.log_evidence.tolist()
        assert weights["elbo"][2] == weights["bound"][2] == -math.inf
    assert new["k-hat"][1:] == ["inf", "inf", "-inf"]
    point = {"epochs": 1.0, "minutes": 1.0}
    found = {"training": {"points": [point]}, "judgement": {"active units": 3, "verdict": None}, "weights": weights}
    row, _ = results({"VAE": found}, 200.0, number=False)
    assert tail < 0.7
    assert (row["k-hat, median"], row["k-hat > 0.7"], row["NLL"]) == (math.inf, 0.5, math.inf)
    assert "study's number" not in row


def test_published_losses_stand_beside_ours_of_the_same_epoch():
    points = [{"epochs": epochs, "validation": 300.0 - 50 * epochs} for epochs in (0.5, 1.5, 2.5)]
    rows = compared_losses({"IWAE": found_of([-90.0, -92.0], points)}, {})
    ours = {row["epoch"]: row["ours, −bound"] for row in rows if row["method"] == "IWAE"}
    assert (ours["1"], ours["2"], ours["5"]) == (pytest.approx(250), pytest.approx(200), None)
    assert [row["ours, NLL"] for row in rows if row["method"] == "IWAE" and row["epoch"] == "40"] == [91]
    flows = compared_flows({"HVAE": found_of([-90.0, -92.0])}, {"mean image": 205.65, "floor": 45.53})
    assert [(row["method"], row["ours, −ELBO"]) for row in flows] == [
        ("HVAE", 92.0),
        ("VAE + IAF", None),
        ("HVAE + IAF", None),
    ]


def test_from_the_exact_posterior_the_study_s_number_is_no_bound():
    r"""Minus the log evidence is the least that an honest loss can be: the number is 21 nats below it, of 25 possible.

    In a direction of scale s the posterior draws :math:`s \epsilon`, and linear maps take it to (a, b/s) times
    that: the energy gains :math:`(a^2 + b^2 - 1) / 2` on average. Nothing of it is paid for, as it would be by a
    momentum that is drawn.
    """
    dim, num_steps = 50, 10
    model = OffsetGaussian(dim, offset=torch.randn(dim), scale=1.5).requires_grad_(False)
    x = torch.randn(dim) + model.offset + 1.5 * torch.randn(20, dim)
    posterior, evidence = model.exact_posterior(x), float(model.log_evidence(x))
    base = MeanFieldGuide(model).setup(x)
    base.loc.data, base.log_scale.data = posterior.mean, posterior.stddev.log()
    step_size = 0.2 * posterior.stddev.mean().item()
    guide = HamiltonianGuide(model, base=base, num_steps=num_steps, init_step_size=step_size, init_temperature=3.0)
    guide.setup(x)

    scales, (a, b) = guide.temperatures.tolist(), (1.0, 0.0)
    for before, after in itertools.pairwise(scales):
        half = b - 0.1 * a
        a += 0.2 * half
        b = (half - 0.1 * a) * after / before
    gain = dim * (a**2 + b**2 - 1) / 2
    error = math.sqrt(dim / 2) * (1 - a**2 - b**2) / math.sqrt(STUDY_DRAWS)
    number = _study_s_number(model, guide, x, seed=0)
    assert number == pytest.approx(-evidence + gain, abs=5 * error)
    assert number < -evidence - 5 * error
    honest = importance_nll(model, guide, x, num_samples=1000, seed=0).log_weights
    assert -honest.mean() + 5 * honest.std() / math.sqrt(1000) > -evidence


def test_the_study_s_number_is_the_base_s_without_steps_to_speak_of(images):
    model, guide = HVAE.build()
    model, guide, x = model.double(), guide.double(), images.test[:1].double()
    guide.setup(x)
    number = _study_s_number(model, guide, x, seed=0)
    base = -float(importance_nll(model, guide.base, x, num_samples=100, seed=0).log_weights.mean())
    # A short path from rest climbs, so that the number is smaller than minus the base's ELBO.
    assert number < base
    still = HamiltonianGuide(model, base=guide.base, num_steps=1, init_step_size=1e-9).setup(x)
    assert _study_s_number(model, still, x, seed=0) == pytest.approx(base, abs=1e-6)


# -------------------------------------------------------------------------------------------------------- end to end


@pytest.fixture(scope="module")
def tiny():
    """The study with methods that take no time."""
    like = STUDIES["mnist"]
    STUDIES["mnist"] = replace(like, methods=TINY)
    yield
    STUDIES["mnist"] = like


OPTIONS: dict[str, Any] = {"steps": 2, "images": 2, "processes": 1, "progress": False}


@pytest.fixture(scope="module")
def report(tiny, idx_folder, tmp_path_factory):
    return reproduce_mnist(out=tmp_path_factory.mktemp("reports") / "tiny", data_dir=idx_folder, **OPTIONS)


@pytest.mark.parametrize("name", ["mnist", "hvae_iaf"])
def test_the_examples_show_a_report(name, report, capsys):
    run_example(name, report)
    assert capsys.readouterr().out.endswith(f"{report.folder / 'index.md'}\n")


def test_a_report_has_every_part(report):
    names = {str(path.relative_to(report.folder)) for path in report.files}
    assert names >= {
        "index.md",
        "config.json",
        *(f"tables/{name}.csv" for name in ("results", "goals", "training", "published", "curves")),
        *(f"figures/{name}.png" for name in ("common", "bounds", "samples", "reconstructions")),
        *(f"figures/trajectories-{name}.png" for name in ("vae", "hvae")),
        *(
            f"{part}/{name}.{ending}"
            for part, ending in (("posteriors", "nc"), ("models", "pt"))
            for name in ("vae", "hvae")
        ),
    }
    assert not (report.folder / "runs").exists()
    assert all(path.read_bytes().startswith(PNG) for path in report.files if path.suffix == ".png")
    index = (report.folder / "index.md").read_text(encoding="utf-8")
    for path in report.files:
        if path.suffix in (".png", ".nc", ".pt", ".csv"):
            assert f"({path.relative_to(report.folder)})" in index


def test_a_report_s_numbers_are_those_of_its_jobs_and_models(report, images):
    results = report.tables["results"].set_index("method")
    assert list(results.index) == ["VAE", "HVAE", "mean image"]
    jobs = {path.stem: json.loads(path.read_text()) for path in (report.folder / "jobs").iterdir()}
    weighed = jobs["weigh-hvae-0-2"]
    assert results.loc["HVAE", "NLL"] == pytest.approx(-sum(weighed["log evidence"]) / 2)
    assert results.loc["HVAE", "−ELBO"] == pytest.approx(-sum(weighed["elbo"]) / 2)
    curves = pd.read_csv(report.folder / "tables" / "curves.csv")
    assert curves["steps"].tolist() == [1, 2, 1, 2]
    trainings = pd.read_csv(report.folder / "tables" / "training.csv").set_index("method")
    assert trainings["steps"].tolist() == [2, 2]
    assert trainings.loc["VAE", "maximised"] == "ELBO"
    draws = az.from_netcdf(str(report.folder / "posteriors" / "vae.nc"))
    assert draws.posterior["z"].shape == (4, 10, 2, 64)
    torch.testing.assert_close(torch.tensor(draws.observed_data["x"].values), images.test[:2])
    assert json.dumps(report.as_dict(), allow_nan=False)
    (goal,) = report.as_dict()["tables"]["goals"]
    assert (goal["NLL of"], report.reached) == ("HVAE", goal["reached"])


def test_a_judged_method_leaves_a_verdict(report, idx_folder, monkeypatch):
    monkeypatch.setattr("ppl_models.diagnostics.predictive.MANY_DATA_SETS", 20)
    folder = ReportFolder(
        report.folder, name="mnist", settings=json.loads((report.folder / "config.json").read_text())["settings"]
    )
    task = Task("mnist", "VAE", str(idx_folder), False, 0, False, replace(LOOK, judged=2))
    result = judge_job(folder, task=task)
    verdict = json.loads((report.folder / "verdicts" / "vae.json").read_text())
    assert verdict["level"] == result["verdict"] == "fail"  # after two steps
    assert "study's number" not in result


def test_a_study_whose_momentum_was_drawn_has_nothing_from_rest(report, idx_folder, monkeypatch):
    titles: list[str] = []

    def drawn(name, figure):
        titles.extend(axes.get_title() for axes in figure.axes)
        return report.folder

    monkeypatch.setitem(STUDIES, "hvae_iaf", replace(STUDIES["hvae_iaf"], methods=TINY))
    folder = SimpleNamespace(path=report.folder, draw=drawn, posterior=lambda *kept: None)
    task = Task("hvae_iaf", "HVAE", str(idx_folder), False, 0, False, LOOK)
    follow_job(folder, task=task)
    assert ["zero" in title for title in titles] == [False, False]
    assert "study's number" not in judge_job(folder, task=task)
    assert report.tables["results"]["study's number"].notna().tolist() == [
        False,
        True,
        False,
    ]  # of the study that had it


def test_a_second_call_does_what_is_missing_alone(report, tiny, idx_folder, monkeypatch):
    before = (report.folder / "tables" / "results.csv").read_bytes()
    (report.folder / "jobs" / "weigh-vae-0-2.json").unlink()
    (report.folder / "index.md").unlink()
    done: list[str] = []
    keep = ReportFolder.keep
    monkeypatch.setattr(ReportFolder, "keep", lambda self, key, result: (done.append(key), keep(self, key, result)))
    reproduce_mnist(out=report.folder, data_dir=idx_folder, **OPTIONS)
    assert done == ["weigh-vae-0-2"]
    assert (report.folder / "tables" / "results.csv").read_bytes() == before
    assert (report.folder / "index.md").exists()


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0}, "minutes must be positive"),
        ({"methods": ["HVA"]}, "methods must be one of 'VAE', .*; got 'HVA'. Did you mean 'HVAE'?"),
        ({"methods": []}, "methods must name at least one of 'VAE'"),
        ({"minutes": 1, "steps": 1}, "minutes and steps must not be given together"),
        ({"steps": 0}, "steps must be"),
        ({"images": 1}, "images must be"),
    ],
)
def test_bad_options_are_refused_before_anything_is_done(options, message, idx_folder, tmp_path):
    for reproduce in (reproduce_mnist, reproduce_hvae_iaf):
        with pytest.raises(OptionError, match=message):
            reproduce(out=tmp_path / "out", data_dir=idx_folder, **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_another_budget_is_refused(report, tiny, idx_folder):
    with pytest.raises(OptionError, match=r"out holds a report of other settings: .* has budget=2"):
        reproduce_mnist(out=report.folder, data_dir=idx_folder, **{**OPTIONS, "steps": 3})


def test_the_commands_refuse_in_a_line(idx_folder, tmp_path, capsys):
    where = ["--data-dir", str(idx_folder), "--out", str(tmp_path / "out"), "--mute"]
    assert "Did you mean 'HVAE'?" in refused(["reproduce", "mnist", "--methods", "HVAEE", *where], capsys)
    assert "minutes must be positive" in refused(["reproduce", "hvae_iaf", "--minutes", "-1", *where], capsys)


def test_the_command_writes_and_prints(report, idx_folder, capsys):
    arguments = ["reproduce", "mnist", "--methods", "VAE", "--steps", "2", "--images", "2", "--data-dir"]
    arguments += [str(idx_folder), "--processes", "1", "--mute", "--out", str(report.folder)]
    assert run([*arguments, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["reproduction"], told["reached"]) == ("mnist", None)
    assert [row["method"] for row in told["tables"]["results"]] == ["VAE", "mean image"]
    assert run([*arguments[:2], *arguments[4:]]) == 0
    shown = capsys.readouterr().out
    assert "mean image" in shown
    assert "standard error" in shown
