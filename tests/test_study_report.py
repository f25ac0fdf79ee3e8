"""A study in figures, in words, and as one HTML file."""

from __future__ import annotations

import base64
import math
import re
from html.parser import HTMLParser
from io import BytesIO

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from guides.errors import DataError, OptionError
from ppl_models.study import (
    compare_models,
    metrics_table,
    parameters_table,
    plot_losses,
    plot_metric,
    runs_table,
    study_summary,
    write_report,
)
from ppl_models.study.table_formats import readable
from tests.study_results import DATASETS, MODELS, made_up_results, stop

FLOORS = {"mnist": 80.0}


@pytest.fixture(scope="module")
def results():
    return made_up_results()


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


# ------------------------------------------------------------------------------------------------------------- figures


def test_curves_are_medians_in_the_range_of_the_runs(results):
    axes = plot_losses(results, "8gaussians")
    losses = results["validation_loss"].sel(model="vae", dataset="8gaussians").values
    np.testing.assert_allclose(axes.lines[0].get_ydata(), np.median(losses, axis=0))
    band = axes.collections[0].get_paths()[0].vertices
    assert band[:, 1].min() == losses.min()
    assert band[:, 1].max() == losses.max()
    labels = [each.get_text() for each in axes.get_legend().get_texts()]
    assert labels == ["vae", "vae+iaf/iwae", "lvae, 2 of 6 diverged", "entropy 2.832", "KL warm-up"]


def test_diverged_runs_end_in_a_cross_where_they_ended(results):
    axes = plot_losses(results, "8gaussians")
    crosses = [line for line in axes.lines if line.get_marker() == "x"]
    losses = results["validation_loss"].sel(model="lvae", dataset="8gaussians", seed=0)
    assert [(int(each.get_xdata()[0]), float(each.get_ydata()[0])) for each in crosses] == [(8, float(losses[7]))]
    median = axes.lines[2].get_ydata()  # over the four that are done
    done = results["validation_loss"].sel(model="lvae", dataset="8gaussians").values[2:]
    np.testing.assert_allclose(median, np.median(done, axis=0))


def test_the_scale_shows_the_late_epochs(results):
    low, high = plot_losses(results, "mnist").get_ylim()
    assert low < results["validation_loss"].sel(dataset="mnist").min()
    assert high < results["validation_loss"].sel(dataset="mnist").max() / 2
    assert plot_losses(results, "mnist", floors=FLOORS).get_ylim()[0] < 80


def test_bars_stand_on_the_floor_with_their_intervals(results):
    axes = plot_metric(results, "8gaussians", "test_loss")
    table = metrics_table(results, metrics=["test_loss"]).query("dataset == '8gaussians'")
    assert [bar.get_y() for bar in axes.patches] == [pytest.approx(2.831880)] * 3
    assert [bar.get_y() + bar.get_height() for bar in axes.patches] == pytest.approx(table["mean"].tolist())
    intervals = [container[2][0].get_segments()[0][:, 1] for container in axes.containers if len(container) == 3]
    assert [tuple(each) for each in intervals if len(each)] == [
        pytest.approx((low, high)) for low, high in zip(table["low"], table["high"], strict=True)
    ]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["vae", "vae+iaf/iwae", "lvae\n2 of 6 diverged"]
    assert len(plot_metric(results, "mnist", "test_loss").patches) == 0  # no floor, no bars
    assert len(plot_metric(results, "mnist", "test_loss", floors=FLOORS).patches) == 3


def test_times_and_counts_are_drawn_from_zero(results):
    axes = plot_metric(results, "8gaussians", "time_to_threshold", threshold=3.0)
    table = metrics_table(results, metrics=["time_to_threshold"], threshold=3.0).query("dataset == '8gaussians'")
    assert [bar.get_height() for bar in axes.patches] == table["median"].tolist()
    assert axes.get_ylim()[0] == 0
    never = plot_metric(results, "mnist", "time_to_threshold", threshold=3.0)
    assert [each.get_text() for each in never.texts] == ["0 of 6 runs"] * 3


def test_figures_of_what_has_hardly_run(tmp_path):
    results = made_up_results(seeds=2, epochs=1, warmup=0)
    stop(results, ("lvae", "mnist", 1), "missing", "", 0)
    for dataset in DATASETS:
        plot_losses(results, dataset)
        assert plot_metric(results, dataset).get_title() == dataset
    assert "no run" in [each.get_text() for each in plot_metric(results, "mnist").texts]
    write_report(results, tmp_path / "report.html", metric="last")
    with pytest.raises(OptionError, match="Did you mean 'mnist'"):
        plot_losses(results, "minst")


# --------------------------------------------------------------------------------------------------------------- words


def told(results, dataset, **options):
    return {each.text: each.level for each in study_summary(results, **options) if each.dataset == dataset}


def test_the_words_are_made_from_the_numbers(results):
    row = metrics_table(results, metrics=["test_loss"]).set_index(["dataset", "model"]).loc["8gaussians", MODELS[1]]
    found = told(results, "8gaussians")
    text = next(iter(found))
    assert text.startswith(f"vae+iaf/iwae has the least mean test loss: {row['mean']:.3f} nats")
    assert f"(95 % interval {row['low']:.3f} to {row['high']:.3f}), over 6 of 6 runs" in text
    assert f"{row['gap']:.3f} nats above the entropy." in text
    assert found["2 of 6 runs of lvae diverged; its mean is over the other 4."] == "fail"
    assert told(results, "mnist")["2 of 6 runs of lvae have no result."] == "doubtful"
    assert told(results, "") == {
        "Of 36 runs, 32 are done, 2 diverged, 1 crashed and 1 missing.": "doubtful",
        "2 of 36 runs skipped steps that were not finite, up to 3 in one: the table of runs says which.": "doubtful",
    }
    assert len(told(made_up_results(healthy=True), "")) == 1
    assert next(iter(told(results, "mnist", metric="exceeds"))).startswith(
        "vae has the least mean exceeds: 0.0 epochs ("
    )
    assert "16.006 nats above the best known value" in next(iter(told(results, "mnist", floors=FLOORS)))


def test_too_few_seeds_are_said_to_be_too_few(results):
    text = next(text for text in told(results, "8gaussians") if text.startswith("By paired tests"))
    assert "not told apart from vae (p = 0.19) and lvae (p = 0.19), corrected for 6 comparisons" in text
    assert "no p-value below 0.19 can come out; 8 seeds would do." in text
    enough = told(made_up_results(seeds=8, healthy=True), "8gaussians")
    text = next(text for text in enough if text.startswith("By paired tests"))
    assert (
        text == "By paired tests it is better than vae (p = 0.047) and lvae (p = 0.047), corrected for 6 comparisons."
    )
    assert enough[text] == "pass"


def test_a_model_of_which_most_runs_diverged_is_never_the_best():
    results = made_up_results(healthy=True)
    for seed in range(3):
        stop(results, (MODELS[1], "mnist", seed), "diverged", "", 5)
    assert next(iter(told(results, "mnist"))).startswith("lvae has the least mean")


def test_a_loss_below_the_entropy_is_called_impossible():
    results = made_up_results(healthy=True)
    results["nll"].loc[{"model": "lvae", "dataset": "8gaussians"}] = 2.7
    found = told(results, "8gaussians")
    text = next(text for text in found if "below the entropy 2.832" in text)
    assert text.startswith("The NLL of lvae comes down to 2.700")
    assert found[text] == "fail"
    results["nll"].loc[{"model": "lvae", "dataset": "8gaussians"}] = 2.82  # within the error of the test set
    assert not any("no model can do that" in text for text in told(results, "8gaussians"))


def test_models_that_had_not_settled():
    results = made_up_results(healthy=True, epochs=100)
    assert not any("last fifth" in text for text in told(results, "mnist"))
    trend = (results["epoch"] - 50).clip(min=0) * 0.01
    for sign, what in (
        (-1, r"was still falling when it ended: by (\S+) nats"),
        (1, r"was rising when it ended, by (\S+)"),
    ):
        changed = results.assign(validation_loss=results["validation_loss"] + sign * trend)
        found = [re.search(what, text) for text in told(changed, "mnist")]
        assert [float(each[1]) for each in found if each] == pytest.approx([0.2] * 3, abs=0.002)


def test_summaries_of_one_model_and_of_nothing(results):
    alone = study_summary(results.sel(model=["vae"]))
    assert not any("paired" in each.text for each in alone)
    nothing = results.assign(status=results["status"].copy(data=np.full(results["status"].shape, "missing")))
    for name in ("test_loss", "validation_loss", "skipped"):
        nothing[name] = nothing[name] * math.nan
    assert [each.text for each in study_summary(nothing)][1] == "No model has a result in more runs than diverged."


# ---------------------------------------------------------------------------------------------------------- the report


class Page(HTMLParser):
    """Everything that a browser would look for in a page."""

    VOID = ("meta", "img", "source", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.tables: list[list[list[str]]] = []
        self.open: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words += data
        if self.open[-1:] in (["td"], ["th"]):
            self.tables[-1][-1][-1] += data

    def values(self, name):
        return [attrs[name] for _, attrs in self.tags if name in attrs]


@pytest.fixture(scope="module")
def page(results, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    assert write_report(results, path, threshold=3.0, floors=FLOORS) == path
    return path.read_text(encoding="utf-8")


def test_the_report_needs_nothing_else(page):
    found = Page(page)
    assert all(each.startswith("#") for each in found.values("href"))
    text = re.sub(r"base64,[\w+/=]+", "", page)
    assert not re.search(r"https?:|//|@import|url\(|<script|<link|<iframe", text)
    pictures = found.values("src") + found.values("srcset")
    assert len(pictures) == 8  # two datasets, two figures, light and dark
    for each in pictures:
        kind, _, content = each.partition(",")
        assert kind == "data:image/png;base64"
        with Image.open(BytesIO(base64.b64decode(content, validate=True))) as image:
            image.load()
            assert min(image.size) > 300
    assert all(found.values("alt"))
    assert "prefers-color-scheme: dark" in page
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in found.tags


def test_every_anchor_resolves_and_every_section_is_in_the_contents(page):
    found = Page(page)
    ids = found.values("id")
    assert len(set(ids)) == len(ids)
    assert {each.removeprefix("#") for each in found.values("href")} == set(ids)


def test_every_table_of_the_report_holds_the_numbers(page, results):
    tested = metrics_table(results, metrics=["test_loss", "nll"], floors=FLOORS)
    pairs = compare_models(results).drop(columns="metric")
    names = ["min", "max", "last", "first", "exceeds", "time_to_threshold"]
    whole, after = (
        metrics_table(results, metrics=names, threshold=3.0, floors=FLOORS, after_warmup=each) for each in (False, True)
    )
    expected = []
    for dataset in DATASETS:
        expected += [table[table["dataset"] == dataset].drop(columns="dataset") for table in (tested, pairs)]
    expected += [whole, after, runs_table(results), parameters_table(results)]
    shown = Page(page).tables
    assert len(shown) == len(expected)
    for table, numbers in zip(shown, expected, strict=True):
        texts = readable(numbers)
        assert table == [list(texts.columns), *texts.to_numpy().tolist()]


def test_words_and_configuration_are_in_the_report_and_escaped(page, results):
    words = Page(page).words
    for each in study_summary(results, floors=FLOORS):
        assert each.text in words
    assert "The entropy of the data is 2.831880 nats" in words
    assert "The floor is a value from elsewhere, 80.000 nats" in words
    assert "[0, 1, 2, 3, 4, 5]" in words
    assert "MemoryError: &lt;killed&gt; &amp; gone_50%" in page


def test_a_report_without_warm_up_or_comparison(results, tmp_path):
    healthy = made_up_results(healthy=True, warmup=0).sel(model=["vae"], dataset=["mnist"])
    text = write_report(healthy, tmp_path / "report.html").read_text()
    assert len(Page(text).tables) == 4
    assert "warm-up" not in Page(text).words
    assert "The entropy of the data is not known." in Page(text).words


def test_points_on_a_curve_rank_no_models(results, tmp_path):
    line = results.sel(dataset=["mnist"]).assign_coords(dataset=["line"])
    assert any("these losses rank no models" in text for text in told(line, "line"))
    assert not any("rank no models" in text for text in told(results, "mnist"))
    words = Page(write_report(line.isel(model=[0]), tmp_path / "report.html").read_text()).words
    assert "The points lie on a curve and have no density: there is no floor." in words


def test_what_is_wrong_is_said_before_a_file_is_written(results, tmp_path):
    for options, message in (({"metric": "lats"}, "Did you mean 'last'"), ({"floors": {"mnits": 1.0}}, "'mnist'")):
        with pytest.raises(OptionError, match=message):
            write_report(results, tmp_path / "report.html", **options)
    with pytest.raises(DataError, match="they have no 'status'"):
        write_report(results.drop_vars("status"), tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
