"""Recipes: what fit can do with them, and how they are looked up."""

from __future__ import annotations

import inspect
from dataclasses import replace

import pytest
import torch

from benchmarks.recipes import RECIPES, Recipe, recipe
from guides import OptionError
from ppl_models import FlowDensity
from ppl_models.objectives import ELBO
from ppl_models.training import fit


@pytest.mark.parametrize("name", RECIPES, ids=" of ".join)
def test_options_are_those_of_fit(name):
    options = RECIPES[name].options(100)
    assert set(options) < set(inspect.signature(fit).parameters)
    assert options["steps"] > RECIPES[name].warmup


def test_an_objective_counts_its_own_warm_up():
    some = Recipe(steps=20, batch_size=5, lr=0.1, warmup=10)
    one, other = some.objective(), some.objective()
    one.set_progress(step=5, epoch=0)
    assert (one.kl.beta.item(), other.kl.beta.item()) == (0.5, 0.0)
    assert replace(some, warmup=0).objective().kl is None
    assert replace(some, warmup=0, free_bits=2.0).objective().kl.free_bits == 2.0


def test_the_largest_gradient_is_that_of_all_data():
    some = Recipe(steps=20, batch_size=5, lr=0.1)
    assert replace(some, max_grad_norm=0.5).options(40)["max_grad_norm"] == 20.0
    assert some.options(40)["max_grad_norm"] is None


def test_fit_takes_a_recipe():
    short = replace(recipe("spline_flow", "points"), steps=3, batch_size=4)
    model, x = FlowDensity.points(couplings="spline", hidden=(5,)), torch.randn(12, 2)
    result = fit(model, lambda *_: None, x, objective=short.objective(), **short.options(len(x)), progress=False)
    assert result.steps == 3
    assert isinstance(short.objective(), ELBO)


def test_names_are_looked_up():
    assert recipe("vae", "images") is RECIPES["vae", "images"]
    with pytest.raises(OptionError, match=r"model must be one of 'draw', 'flow', .*; got 'gan'"):
        recipe("gan", "points")
    with pytest.raises(OptionError, match="kind of data for draw must be .*'images'; got 'points'"):
        recipe("draw", "points")
