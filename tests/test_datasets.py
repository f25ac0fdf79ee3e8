"""Datasets: what is read, how it is split and binarised, and what is said about files that are not what they claim."""

from __future__ import annotations

import gzip
import inspect
import io
import json
import math
import os
import re
import struct
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from guides.errors import DataError, OptionError
from ppl_models import datasets
from ppl_models.datasets import (
    DATASETS,
    TOY_DENSITIES,
    ImageData,
    ToyData,
    binarise,
    digits,
    fashion_mnist,
    fetch,
    load,
    mnist,
    read_idx,
)
from ppl_models.datasets.cache import SUMS, kept_files, seal
from ppl_models.datasets.idx import IDX_FILES, write_idx
from ppl_models.datasets.toy import ENTROPIES
from ppl_models.files import atomic_path, remove_leftovers
from ppl_models.seeds import derived_seed

ROOT = Path(__file__).parents[1]
REAL_MNIST = ROOT.parent / "shared" / "data" / "mnist"
IMAGES, LABELS = 0x00000803, 0x00000801
TENSORS = [field.name for field in fields(ImageData) if field.name not in ("name", "grey_levels", "binary")]


def idx_bytes(values: torch.Tensor, magic: int | None = None) -> bytes:
    """Build an IDX file by hand: magic number, sizes, bytes."""
    magic = (IMAGES if values.dim() == 3 else LABELS) if magic is None else magic
    return struct.pack(f">{1 + values.dim()}I", magic, *values.shape) + bytes(values.flatten().int().tolist())


def tiny_mnist(train: int = 12, test: int = 4, side: int = 3) -> list[torch.Tensor]:
    """Make train images, train labels, test images, test labels; every train image is another one."""
    size = side * side
    images = (torch.arange(train * size) % 256).reshape(train, side, side)
    test_images = (255 - torch.arange(test * size) % 256).reshape(test, side, side)
    return [images, torch.arange(train) % 10, test_images, torch.arange(test) % 10]


def write_mnist(folder: Path, names: tuple[str, ...] = IDX_FILES, parts: list[torch.Tensor] | None = None) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, values in zip(names, parts or tiny_mnist(), strict=True):
        content = idx_bytes(values)
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return folder


def same(first: ImageData | ToyData, second: ImageData | ToyData) -> bool:
    names = [name for name in TENSORS if hasattr(first, name)]
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names)


def write_npz(path: Path, count: int = 50, **changed: object) -> Path:
    """Write drawings: ten characters of two alphabets, every drawing another one."""
    images = np.zeros((count, 28, 28), dtype=np.uint8)
    images[np.arange(count), np.arange(count) % 28, np.arange(count) // 28] = 255
    alphabet = np.array(["Latin", "Greek"])[np.arange(count) % 2]
    arrays = {"images": images, "alphabet": alphabet, "character": np.arange(count) % 5 + 1} | changed
    np.savez(path, **{name: values for name, values in arrays.items() if values is not None})
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_mnist(tmp_path / "mnist")


@pytest.fixture
def options(folder: Path) -> dict[str, dict[str, object]]:
    """What each dataset needs to be loaded quickly, from local files."""
    drawings = write_npz(folder / "drawings.npz")
    few = {"num_train": 30, "num_validation": 20, "num_test": 10}
    return (
        dict.fromkeys(TOY_DENSITIES, few)
        | {name: {"data_dir": folder} for name in ("mnist", "fashion_mnist")}
        | {"digits": {}, "omniglot": {"data_dir": drawings}}
    )


# ------------------------------------------------------------------------------------------------------------- by name


def test_the_registry_holds_every_public_loader():
    public = [vars(datasets)[name] for name in datasets.__all__ if name != "DataModule"]  # which imports Lightning
    functions = {each.__name__: each for each in public if inspect.isfunction(each)}
    loaders = {
        name: each
        for name, each in functions.items()
        if each is not load and inspect.signature(each).return_annotation == "ImageData"
    }
    assert {name: dataset.load for name, dataset in DATASETS.items() if name not in TOY_DENSITIES} == loaders
    assert set(DATASETS) == set(loaders) | set(TOY_DENSITIES)


@pytest.mark.parametrize("name", DATASETS)
def test_every_loader_is_reproducible_and_takes_a_seed(name, options):
    first, again, other = (load(name, seed=seed, **options[name]) for seed in (3, 3, 4))
    assert first.name == name
    assert same(first, again)
    for part in ("train", "validation", "test"):
        assert not torch.equal(getattr(first, part), getattr(other, part))
        assert getattr(first, part).dtype == torch.float32
        assert getattr(first, part)[0].dim() == len(DATASETS[name].event_shape)


@pytest.mark.parametrize("name", DATASETS)
def test_loaders_leave_the_global_generator_alone(name, options):
    before = torch.get_rng_state()
    first = load(name, **options[name])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12345)
    assert same(first, load(name, **options[name]))


@pytest.mark.parametrize("seed", [-1, 2**63, 0.5, "0", None])
@pytest.mark.parametrize("name", DATASETS)
def test_a_seed_is_a_whole_number_of_at_least_zero(name, seed, options):
    with pytest.raises(OptionError, match=r"seed must be a whole number, at least 0 and below 2\*\*63; got"):
        load(name, seed=seed, **options[name])


def test_what_is_said_of_a_dataset_is_true_of_it():
    for name in ("digits", "moons"):
        said, data = DATASETS[name], load(name)
        assert said.sizes == tuple(len(getattr(data, part)) for part in ("train", "validation", "test"))
        assert said.event_shape == data.train.shape[1:]
    assert {name: said.entropy for name, said in DATASETS.items() if said.event_shape == (2,)} == ENTROPIES


def test_a_numpy_integer_is_a_seed():
    assert same(digits(seed=np.int64(5)), digits(seed=5))


def test_an_unknown_dataset_and_an_unknown_option_are_named():
    with pytest.raises(OptionError, match=r"dataset must be one of 'digits', .*, 'cos'; got 'minst'\. Did you mean 'm"):
        load("minst")
    with pytest.raises(OptionError, match=r"got '8gausians'\. Did you mean '8gaussians'\?"):
        load("8gausians")
    with pytest.raises(OptionError, match=r"dataset 'digits' must be one of 'seed', 'binary'; got 'data_dir'"):
        load("digits", data_dir="anywhere")
    with pytest.raises(OptionError, match=r"option of dataset 'moons' .* 'num_test', 'seed'; got 'num'"):
        load("moons", num=10)


def test_a_derived_seed_depends_on_the_seed_and_on_each_part_of_its_purpose():
    seeds = [derived_seed(seed, part, epoch) for seed in range(3) for part in ("order", "pixels") for epoch in range(5)]
    assert len({*seeds, derived_seed(0), derived_seed(0, "order")}) == 32
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_importing_the_datasets_imports_nothing_heavy():
    heavy = ["lightning", "PIL", "pytorch_lightning", "sklearn", "scipy"]
    code = f"import sys, ppl_models.datasets; print(any(name in sys.modules for name in {heavy}))"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300)
    assert result.stdout.split() == ["False"], result.stderr


# ------------------------------------------------------------------------------------------------------------ binarise


def test_binarise_draws_one_with_the_grey_value_as_its_probability():
    grey = torch.tensor([0.0, 0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    draws = 100_000
    frequency = binarise(grey.expand(draws, 5), torch.Generator().manual_seed(0)).mean(0)
    # Five standard errors; exact where the standard error is zero.
    assert ((frequency - grey).abs() <= 5 * (grey * (1 - grey) / draws).sqrt()).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_binarise_keeps_shape_and_dtype_and_gives_only_zero_and_one(dtype):
    images = torch.rand(6, 1, 5, 4, dtype=dtype)
    binary = binarise(images)
    assert binary.shape == images.shape
    assert binary.dtype == dtype
    assert set(binary.unique().tolist()) == {0.0, 1.0}


def test_binarise_draws_from_the_generator_it_is_given():
    images = torch.full((1000,), 0.5)
    first, again = (binarise(images, torch.Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(binarise(images), binarise(images))
    before = torch.get_rng_state()
    binarise(images, torch.Generator())
    assert torch.equal(torch.get_rng_state(), before)


def test_binarise_takes_an_empty_batch():
    assert binarise(torch.zeros(0, 1, 8, 8)).shape == (0, 1, 8, 8)


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf, -math.inf])
def test_binarise_refuses_what_is_no_probability(value):
    images = torch.full((3, 1, 2, 2), 0.5)
    images[1, 0, 1, 0] = value
    with pytest.raises(DataError, match=r"images must be finite and in \[0, 1\]; got values from"):
        binarise(images)


def test_binarise_tells_what_to_do_with_bytes():
    with pytest.raises(DataError, match=r"floating point in \[0, 1\]; got torch.uint8. For bytes write images"):
        binarise(torch.tensor([0, 255], dtype=torch.uint8))


# ----------------------------------------------------------------------------------------------------------- ImageData


def parts(**changed: object) -> dict[str, object]:
    images, labels = torch.full((3, 1, 2, 2), 0.5), torch.tensor([0, 1, 2])
    binary = (images > 0).to(images.dtype)
    whole = {"name": "toy", "train": images, "validation": binary, "test": binary, "grey_levels": 3}
    return whole | {f"{part}_labels": labels for part in ("train", "validation", "test")} | changed


def with_value(value: float) -> torch.Tensor:
    images = torch.zeros(3, 1, 2, 2)
    images[2, 0, 1, 1] = value
    return images


def test_image_data_shows_shapes_and_not_values():
    text = "ImageData(name='toy', grey_levels=3, train=(3, 1, 2, 2), validation=(3, 1, 2, 2), test=(3, 1, 2, 2))"
    assert repr(ImageData(**parts())) == text


def test_grey_image_data_says_so():
    images = torch.tensor([0.0, 0.5, 1.0])[:, None, None, None].expand(3, 1, 2, 2)
    data = ImageData(**parts(train=images, validation=images, test=images, binary=False))
    assert repr(data).startswith("ImageData(name='toy', grey_levels=3, binary=False, train=(3, 1, 2, 2)")


@pytest.mark.parametrize("name", ["digits", "mnist", "fashion_mnist", "omniglot"])
def test_grey_images_are_those_that_are_binarised(name, options):
    grey, binary = (load(name, seed=3, binary=each, **options[name]) for each in (False, True))
    assert (grey.binary, binary.binary) == (False, True)
    assert torch.equal(grey.train, binary.train)
    for part in ("validation", "test"):
        images, drawn = getattr(grey, part), getattr(binary, part)
        assert torch.equal(getattr(grey, f"{part}_labels"), getattr(binary, f"{part}_labels"))
        assert (drawn[images == 0] == 0).all()
        assert (drawn[images == 1] == 1).all()
        assert ((images > 0) & (images < 1)).any() or name == "omniglot"  # whose made-up drawings are black and white


def test_image_data_cannot_be_changed():
    data = ImageData(**parts())
    with pytest.raises(FrozenInstanceError):
        data.train = data.test


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train": torch.zeros(3, 2, 2)}, r"train must have shape \(N, 1, H, W\); got \(3, 2, 2\)"),
        ({"train": torch.zeros(3, 1, 4)}, r"train must have shape \(N, 1, H, W\); got \(3, 1, 4\)"),
        ({"test": torch.zeros(3, 3, 2, 2)}, r"test must have shape \(N, 1, H, W\); got \(3, 3, 2, 2\)"),
        (
            {"validation": torch.zeros(0, 1, 2, 2)},
            r"validation must hold at least one image .* got shape \(0, 1, 2, 2\)",
        ),
        ({"test": torch.zeros(3, 1, 2, 0)}, r"test must hold at least one image of at least one pixel"),
        (
            {"train": torch.zeros(3, 1, 2, 2).long()},
            r"train must be floating point; got torch.int64. Write train.float",
        ),
        ({"train": with_value(1.5)}, r"train must be finite and in \[0, 1\]; got values from 0 to 1.5"),
        ({"train": with_value(-0.5)}, r"train must be finite and in \[0, 1\]; got values from -0.5 to 0"),
        ({"train": with_value(math.nan)}, r"train must be finite and in \[0, 1\]; got values from nan to nan"),
        ({"test": with_value(math.inf)}, r"test must be finite and in \[0, 1\]; got values from 0 to inf"),
        ({"test": with_value(0.5)}, r"test must be binary, every value 0 or 1; .* Use binarise\(test\)"),
        ({"validation": with_value(0.5)}, r"validation must be binary"),
        (
            {"test": torch.zeros(3, 1, 3, 2)},
            r"test must have images of the same size as train, \(1, 2, 2\); got \(1, 3,",
        ),
        (
            {"train_labels": torch.zeros(2).long()},
            r"train_labels must have shape \(3,\), one label per image; got \(2,\)",
        ),
        ({"test_labels": torch.zeros(3).float()}, r"test_labels must be int64; got torch.float32"),
        ({"validation_labels": torch.tensor([0, -1, 2])}, r"validation_labels must be at least 0; got -1"),
        ({"grey_levels": 1}, r"grey_levels must be at least 2; got 1"),
        (
            {"binary": False, "validation": with_value(0.3)},
            r"validation must have the 3 grey levels k / 2 with .*Write \(validation \* 2\)\.round\(\) / 2\.",
        ),
        ({"binary": False, "test": with_value(1.5)}, r"test must be finite and in \[0, 1\]"),
    ],
)
def test_image_data_names_the_part_the_rule_and_the_value(changed, message):
    with pytest.raises(DataError, match=message):
        ImageData(**parts(**changed))


# -------------------------------------------------------------------------------------------------------------- digits


def test_digits_are_the_ones_scikit_learn_bundles():
    from sklearn.datasets import load_digits

    bunch, data = load_digits(), digits()
    assert data.train.shape == (1257, 1, 8, 8)
    assert data.validation.shape == (180, 1, 8, 8)
    assert data.test.shape == (360, 1, 8, 8)
    assert data.grey_levels == len(np.unique(bunch.images)) == 17
    where = {tuple(row): label for row, label in zip(bunch.data.astype(int).tolist(), bunch.target, strict=True)}
    grey = (data.train * 16).reshape(-1, 64)
    assert [where[tuple(map(int, row))] for row in grey.tolist()] == data.train_labels.tolist()
    every_label = torch.cat([data.train_labels, data.validation_labels, data.test_labels])
    assert torch.bincount(every_label).tolist() == np.bincount(bunch.target).tolist()


def test_digits_parts_are_disjoint_and_binarised_from_their_own_grey_images():
    from sklearn.datasets import load_digits

    bunch, data = load_digits(), digits(seed=7)
    everything, labels = torch.from_numpy(bunch.images).to(torch.float32) / 16, torch.from_numpy(bunch.target)
    order = torch.randperm(1797, generator=torch.Generator().manual_seed(7))
    assert torch.equal(data.train[:, 0], everything[order[:1257]])
    assert torch.equal(torch.cat([data.train_labels, data.validation_labels, data.test_labels]), labels[order])
    for binary, grey in ((data.validation, everything[order[1257:1437]]), (data.test, everything[order[1437:]])):
        assert binary.shape[0] == grey.shape[0]
        assert (binary[:, 0][grey == 0] == 0).all()
        assert (binary[:, 0][grey == 1] == 1).all()
        between = (grey > 0) & (grey < 1)
        error = (binary[:, 0][between] - grey[between]).sum().abs()
        assert error <= 5 * (grey * (1 - grey))[between].sum().sqrt()


# ------------------------------------------------------------------------------------------------------------ IDX files


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzip"])
def test_read_idx_gives_back_what_was_written(tmp_path, packed):
    images = torch.randint(256, (5, 4, 3), dtype=torch.uint8)
    labels = torch.tensor([7, 0, 9], dtype=torch.uint8)
    for values in (images, labels):
        content = idx_bytes(values)
        (tmp_path / "file").write_bytes(gzip.compress(content) if packed else content)
        read = read_idx(tmp_path / "file")
        assert read.dtype == torch.uint8
        assert torch.equal(read, values)


def test_write_idx_writes_the_published_format(tmp_path):
    for values in (torch.arange(24).reshape(2, 3, 4), torch.tensor([5, 0, 4])):
        write_idx(tmp_path / "file", values)
        assert (tmp_path / "file").read_bytes() == idx_bytes(values)


IMAGE_FILE = idx_bytes(torch.arange(24).reshape(2, 3, 4))
LABEL_FILE = idx_bytes(torch.tensor([5, 0, 4]))
BAD_FILES = {
    "empty": (b"", r"must begin with the magic number 0x00000803 \(images\) or 0x00000801 \(labels\); got 0 bytes"),
    "short magic": (b"\0\0\x08", r"must begin with the magic number .* got 3 bytes"),
    "wrong magic": (b"\x89PNG" + IMAGE_FILE[4:], r"magic number must be 0x00000803 .*; got 0x89504e47\. Give a file"),
    "wrong type": (idx_bytes(torch.zeros(2, 2, 2), 0x00000D03), r"magic number must be .*; got 0x00000d03"),
    "short header": (IMAGE_FILE[:11], r"the header of IDX images must have 16 bytes; got 11"),
    "truncated": (IMAGE_FILE[:-5], r"is truncated: 2 x 3 x 4 images need 24 bytes after the header; got 19"),
    "too long": (LABEL_FILE + b"\0\0", r"is too long: 3 labels need 3 bytes after the header; got 5"),
    "huge": (struct.pack(">4I", IMAGES, *[2**32 - 1] * 3) + b"\0", r"is truncated: 4294967295 x .* got 1"),
    "no images": (
        idx_bytes(torch.zeros(0, 28, 28)),
        r"must hold at least one of its images; its header says 0 x 28 x 28",
    ),
    "no labels": (idx_bytes(torch.zeros(0)), r"must hold at least one of its labels; its header says 0\."),
    "broken off gzip": (gzip.compress(IMAGE_FILE)[:-12], r"must be an intact gzip file; got one that breaks off"),
    "gzip without body": (gzip.compress(IMAGE_FILE)[:6], r"must be an intact gzip file"),
    "gzip with damage": (gzip.compress(IMAGE_FILE)[:-8] + b"\1" * 8, r"must be an intact gzip file; got .*CRC"),
    "gzip with junk": (gzip.compress(IMAGE_FILE)[:10] + b"\xff" * 20, r"must be an intact gzip file; got"),
    "gzip then junk": (gzip.compress(IMAGE_FILE) + b"junk", r"must be an intact gzip file; got"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_read_idx_names_the_file_the_rule_and_the_value(tmp_path, case):
    content, message = BAD_FILES[case]
    path = tmp_path / "damaged-file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"damaged-file: {message}") as caught:
        read_idx(path)
    assert len(str(caught.value).splitlines()) == 1


def test_read_idx_tells_images_from_labels(tmp_path):
    (tmp_path / "images").write_bytes(IMAGE_FILE)
    (tmp_path / "labels").write_bytes(LABEL_FILE)
    with pytest.raises(
        DataError, match=r"labels: magic .* be 0x00000803 \(images\); got 0x00000801, which marks labels"
    ):
        read_idx(tmp_path / "labels", kind="images")
    with pytest.raises(
        DataError, match=r"images: magic .* be 0x00000801 \(labels\); got 0x00000803, which marks images"
    ):
        read_idx(tmp_path / "images", kind="labels")


def test_read_idx_names_the_four_files_when_its_own_is_missing(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: must be an IDX file; there is no such file") as caught:
        read_idx(tmp_path / "nowhere")
    assert all(name in str(caught.value) for name in IDX_FILES)


def test_read_idx_does_not_read_a_folder(tmp_path):
    with pytest.raises(DataError, match=r"must be a readable IDX file; got "):
        read_idx(tmp_path)


# ------------------------------------------------------------------------------------------------- MNIST from its files

PLAIN = tuple(name.removesuffix(".gz") for name in IDX_FILES)
DOTTED = tuple(name.replace("-idx", ".idx") for name in PLAIN)
SPELLINGS = {
    "published": IDX_FILES,
    "plain": PLAIN,
    "dotted": DOTTED,
    "dotted gzip": tuple(f"{name}.gz" for name in DOTTED),
    "mixed": (IDX_FILES[0], PLAIN[1], DOTTED[2], IDX_FILES[3]),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_mnist_finds_its_files_in_every_spelling(tmp_path, spelling):
    data = mnist(write_mnist(tmp_path, SPELLINGS[spelling]))
    assert data.train.shape == (10, 1, 3, 3)
    assert data.validation.shape == (2, 1, 3, 3)
    assert data.test.shape == (4, 1, 3, 3)
    assert data.grey_levels == 256


def test_mnist_holds_out_one_training_image_in_six_and_keeps_the_test_images(folder):
    images, labels, test_images, test_labels = tiny_mnist()
    data = mnist(str(folder), seed=2)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(2))
    assert torch.equal(data.train[:, 0], images[order[:10]].to(torch.float32) / 255)
    assert torch.equal(data.train_labels, labels[order[:10]])
    assert torch.equal(data.validation_labels, labels[order[10:]])
    assert torch.equal(data.test_labels, test_labels)
    assert (data.test[:, 0][test_images == 255] == 1).all()
    assert (data.validation[:, 0][images[order[10:]] == 0] == 0).all()


def test_mnist_binarises_held_out_images_by_their_grey_value(tmp_path):
    grey = torch.full((6, 40, 40), 51)  # 51 / 255 = 0.2
    labels = torch.zeros(6, dtype=torch.int64)
    data = mnist(write_mnist(tmp_path, parts=[grey, labels, grey, labels]))
    for part in (data.validation, data.test):
        assert abs(part.mean() - 0.2) <= 5 * math.sqrt(0.2 * 0.8 / part.numel())


def test_mnist_says_which_files_a_folder_lacks(folder):
    (folder / IDX_FILES[1]).unlink()
    (folder / IDX_FILES[2]).unlink()
    rule = r"data_dir must be a folder with train-images.*\(or the same without .gz\); got"
    with pytest.raises(DataError, match=rf"{rule} '.*mnist', which lacks {IDX_FILES[1]}, {IDX_FILES[2]}\.$"):
        mnist(folder)
    with pytest.raises(DataError, match=rf"{rule} '.*nowhere', which is not a folder"):
        mnist(folder / "nowhere")


def test_mnist_says_that_images_and_labels_are_swapped(folder):
    images, labels = (folder / name for name in IDX_FILES[:2])
    swapped = images.read_bytes(), labels.read_bytes()
    labels.write_bytes(swapped[0])
    images.write_bytes(swapped[1])
    with pytest.raises(DataError, match=r"train-images.*which marks labels\. .* look swapped: exchange their names"):
        mnist(folder)


NINE_LABELS, TEN_SIDES = torch.arange(9), torch.zeros(4, 10, 10)


@pytest.mark.parametrize(
    ("which", "values", "message"),
    [
        (1, NINE_LABELS, r"train-labels.*one label per image of train-images.*, which has 12; got 9"),
        (3, NINE_LABELS, r"t10k-labels.*one label per image of t10k-images.*, which has 4; got 9"),
        (3, torch.tensor([0, 10, 1, 2]), r"t10k-labels.*labels must be digits from 0 to 9; got 10"),
        (2, TEN_SIDES, r"t10k-images.*must hold images of the same size as train-images.*, \(3, 3\); got \(10, 10\)"),
    ],
)
def test_mnist_refuses_files_that_do_not_belong_together(tmp_path, which, values, message):
    changed = tiny_mnist()
    changed[which] = values
    with pytest.raises(DataError, match=message):
        mnist(write_mnist(tmp_path, parts=changed))


def test_mnist_needs_an_image_to_hold_out(tmp_path):
    with pytest.raises(DataError, match=r"train-images.*must hold at least 6 images, .*; got 5"):
        mnist(write_mnist(tmp_path, parts=tiny_mnist(train=5)))


def test_the_real_mnist():
    if not REAL_MNIST.is_dir():
        pytest.skip("MNIST's files are not beside this checkout")
    data = mnist(REAL_MNIST)
    assert data.train.shape == (50_000, 1, 28, 28)
    assert data.validation.shape == data.test.shape == (10_000, 1, 28, 28)
    labels = torch.cat([data.train_labels, data.validation_labels])
    assert [torch.bincount(labels).tolist(), torch.bincount(data.test_labels).tolist()] == list(MNIST_COUNTS)
    pixels = read_idx(REAL_MNIST / IDX_FILES[0]).to(torch.float32) / 255
    assert float(pixels.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(0.3081, abs=5e-5)
    order = torch.randperm(60_000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(data.train[:, 0], pixels[order[:50_000]])
    assert (data.validation[:, 0][pixels[order[50_000:]] == 0] == 0).all()


# ------------------------------------------------------------------------------------------------- MNIST through OpenML


MNIST_COUNTS = (
    [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949],
    [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009],
)


@pytest.fixture
def openml(monkeypatch):
    """Stand in for the download: `openml.answer` is what it gives or raises, `openml.calls` what it was asked."""
    pixels = np.zeros((70_000, 784), dtype=np.uint8)
    pixels[60_000:] = 255
    target = np.concatenate([np.repeat(np.arange(10), counts) for counts in MNIST_COUNTS]).astype(str).astype(object)
    stub = SimpleNamespace(answer=SimpleNamespace(data=pixels, target=target), calls=[])

    def fetch(name, **options):
        stub.calls.append({"name": name} | options)
        if isinstance(stub.answer, Exception):
            warnings.warn("A network error occurred while downloading. Retrying...", stacklevel=1)
            raise stub.answer
        return stub.answer

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    return stub


def test_openml_gives_sixty_thousand_to_train_and_the_last_ten_thousand_to_test(openml, tmp_path):
    data = mnist(cache_dir=tmp_path)
    assert openml.calls[0]["name"] == "mnist_784"
    assert openml.calls[0]["version"] == 1
    assert openml.calls[0]["as_frame"] is False
    assert openml.calls[0]["data_home"] == str(tmp_path)
    assert data.train.shape == (50_000, 1, 28, 28)
    assert data.validation.shape == data.test.shape == (10_000, 1, 28, 28)
    assert (data.train == 0).all()
    assert (data.validation == 0).all()
    assert (data.test == 1).all()
    labels = torch.cat([data.train_labels, data.validation_labels])
    assert [torch.bincount(labels).tolist(), torch.bincount(data.test_labels).tolist()] == list(MNIST_COUNTS)
    # The second time the cache answers, and answers the same.
    again = mnist(cache_dir=tmp_path)
    assert len(openml.calls) == 1
    assert same(data, again)


@pytest.mark.parametrize("gone", [PLAIN[3], SUMS])
def test_an_incomplete_cache_is_downloaded_again(openml, tmp_path, gone):
    seal(write_mnist(tmp_path / "mnist", PLAIN), PLAIN)
    assert mnist(cache_dir=tmp_path).train.shape == (10, 1, 3, 3)
    (tmp_path / "mnist" / gone).unlink()
    openml.answer = TimeoutError("asked")
    with pytest.raises(DataError, match="asked"):
        mnist(cache_dir=tmp_path)


def test_a_damaged_cache_is_not_used(openml, tmp_path):
    seal(write_mnist(tmp_path / "mnist", PLAIN), PLAIN)
    path = tmp_path / "mnist" / PLAIN[0]
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    message = rf"{PLAIN[0]}: must have the SHA-256 checksum that stands in {SUMS} .* ppl-models data fetch mnist\.$"
    with pytest.raises(DataError, match=message):
        mnist(cache_dir=tmp_path)
    assert openml.calls == []


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff\xfe\x00"])
def test_checksums_that_name_no_file_are_none(tmp_path, content):
    seal(write_mnist(tmp_path, PLAIN), PLAIN)
    (tmp_path / SUMS).write_bytes(content)
    assert kept_files(tmp_path) == []


def test_the_checksums_are_those_that_sha256sum_reads(tmp_path):
    (tmp_path / "a file").write_bytes(b"abc")
    seal(tmp_path, ["a file"])
    # The hash of "abc" from FIPS 180-2, appendix B.1.
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert (tmp_path / SUMS).read_text() == f"{expected}  a file\n"


def test_an_interrupted_rewrite_of_the_cache_does_not_count_as_kept(openml, tmp_path, monkeypatch):
    folder = write_mnist(tmp_path / "mnist", PLAIN)
    seal(folder, PLAIN)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(KeyboardInterrupt):
        fetch("mnist", cache_dir=tmp_path)
    assert kept_files(folder) == []


def test_fashion_mnist_is_asked_for_by_its_name_and_kept_apart(openml, tmp_path):
    openml.answer.target = np.tile(np.arange(10), 7000).astype(str).astype(object)
    data = fashion_mnist(cache_dir=tmp_path)
    assert data.name == "fashion_mnist"
    assert openml.calls[0]["name"] == "Fashion-MNIST"
    assert [path.name for path in tmp_path.iterdir()] == ["fashion_mnist"]
    assert torch.bincount(data.test_labels).tolist() == [1000] * 10
    assert len(kept_files(tmp_path / "fashion_mnist")) == 4


def test_what_is_fetched_must_be_the_published_set(openml, tmp_path, folder):
    with pytest.raises(DataError, match=r"mnist: must be MNIST as published, 60000 and 10000 .*; got 12 and 4 images"):
        fetch("mnist", folder, cache_dir=tmp_path)
    with pytest.raises(DataError, match=r"OpenML: must be Fashion-MNIST as published, .* got .*\(5923, 6742"):
        fashion_mnist(cache_dir=tmp_path)
    # The test images first: the same labels, in another order.
    openml.answer.target = openml.answer.target[::-1]
    with pytest.raises(DataError, match="OpenML: must be MNIST as published"):
        mnist(cache_dir=tmp_path)
    assert not list(tmp_path.rglob(SUMS))


def test_fetch_copies_from_a_folder_and_then_no_network_is_needed(openml, tmp_path):
    if not REAL_MNIST.is_dir():
        pytest.skip("MNIST's files are not beside this checkout")
    files = fetch("mnist", str(REAL_MNIST), cache_dir=tmp_path)
    assert [path.name for path in files] == list(PLAIN)
    # The checksum of the published file, unpacked.
    assert (tmp_path / "mnist" / SUMS).read_text().startswith("ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a")
    assert mnist(cache_dir=tmp_path).train.shape == (50_000, 1, 28, 28)
    assert openml.calls == []


def test_a_cache_that_cannot_be_written_costs_a_warning_in_the_log(openml, tmp_path, caplog):
    (tmp_path / "mnist").write_text("a file where the folder should be")
    assert mnist(cache_dir=tmp_path).train.shape == (50_000, 1, 28, 28)
    assert "MNIST could not be kept in" in caplog.text


@pytest.mark.parametrize(("variable", "expected"), [("given", "given"), ("", ".cache"), ("relative", ".cache")])
def test_the_default_cache_follows_xdg(openml, tmp_path, monkeypatch, variable, expected):
    home = str(tmp_path / variable) if variable == "given" else variable
    monkeypatch.setenv("XDG_CACHE_HOME", home)
    monkeypatch.setenv("HOME", str(tmp_path))
    openml.answer = TimeoutError("no answer")
    with pytest.raises(DataError):
        mnist()
    assert openml.calls[0]["data_home"] == str(tmp_path / expected / "ppl-models")


@pytest.mark.parametrize(
    "cause",
    [urllib.error.URLError("no route"), TimeoutError("too slow"), ValueError("md5\nchecksum"), KeyError("data")],
    ids=lambda cause: type(cause).__name__,
)
def test_a_failed_download_is_one_sentence_that_asks_for_data_dir(openml, tmp_path, cause):
    openml.answer = cause
    message = rf"^MNIST could not be loaded from OpenML into .* \({type(cause).__name__}: .*\); give data_dir, a folder"
    with pytest.raises(DataError, match=message) as caught:
        mnist(cache_dir=tmp_path)
    assert caught.value.__cause__ is cause
    assert len(str(caught.value).splitlines()) == 1


class _Broken:
    """OpenML's answers to what scikit-learn asks for MNIST, with data that are not those of the checksum."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, request: urllib.request.Request) -> io.BytesIO:
        path = request.full_url.removeprefix("https://www.openml.org/")
        self.asked.append(path)
        answers = {
            "list/": {"data": {"dataset": [{"did": "554", "name": "mnist_784", "status": "active"}]}},
            "json/data/554": {
                "data_set_description": {
                    "id": "554", "name": "mnist_784", "version": "1", "status": "active", "format": "ARFF",
                    "file_id": "52667", "md5_checksum": "0" * 32, "default_target_attribute": "class",
                    "url": "https://www.openml.org/data/v1/download/52667/mnist_784.arff",
                }
            },
            "features/": {
                "data_features": {
                    "feature": [
                        {"index": str(i), "name": name, "data_type": kind, "is_target": str(i == 1).lower(),
                         "is_ignore": "false", "is_row_identifier": "false", "number_of_missing_values": "0"}
                        for i, (name, kind) in enumerate([("pixel1", "numeric"), ("class", "nominal")])
                    ]
                }
            },
            "qualities/": {"data_qualities": {"quality": [{"name": "NumberOfInstances", "value": "70000"}]}},
        }  # fmt: skip
        found = [json.dumps(answer).encode() for part, answer in answers.items() if part in path]
        answer = io.BytesIO(found[0] if found else b"half a fi")
        answer.info = dict  # type: ignore[attr-defined]
        return answer


def test_a_broken_download_from_openml_is_not_kept(tmp_path, monkeypatch):
    broken = _Broken()
    monkeypatch.setattr("sklearn.datasets._openml.urlopen", broken)
    before = tmp_path / "openml" / "openml.org" / "of_others.gz"
    before.parent.mkdir(parents=True)
    before.write_bytes(b"of another set")
    for _ in range(2):
        broken.asked.clear()
        with pytest.raises(DataError, match=r"MNIST could not be loaded from OpenML .*ValueError: The md5 checksum"):
            mnist(cache_dir=tmp_path)
        assert [path.endswith(".arff") for path in broken.asked].count(True) == 2
        assert [path for path in tmp_path.rglob("*") if path.is_file()] == [before]


def test_what_openml_sends_is_checked(openml, tmp_path):
    whole = openml.answer
    openml.answer = SimpleNamespace(data=whole.data[:60_000], target=whole.target[:60_000])
    with pytest.raises(DataError, match=r"70000 rows of 784 pixels and 70000 labels; got shapes \(60000, 784\)"):
        mnist(cache_dir=tmp_path)
    openml.answer = SimpleNamespace(data=whole.data[:, :783], target=whole.target)
    with pytest.raises(DataError, match=r"got shapes \(70000, 783\) and \(70000,\)"):
        mnist(cache_dir=tmp_path)
    openml.answer = SimpleNamespace(data=whole.data, target=whole.target[:60_000])
    with pytest.raises(DataError, match=r"got shapes \(70000, 784\) and \(60000,\)"):
        mnist(cache_dir=tmp_path)
    openml.answer = SimpleNamespace(data=np.broadcast_to(np.float32(math.nan), (70_000, 784)), target=whole.target)
    with pytest.raises(DataError, match=r"pixels from 0 to 255 and labels from 0 to 9; got pixels from nan"):
        mnist(cache_dir=tmp_path)
    openml.answer = SimpleNamespace(data=whole.data, target=np.full(70_000, "12", dtype=object))
    with pytest.raises(DataError, match=r"and labels from 12 to 12; give data_dir"):
        mnist(cache_dir=tmp_path)


# --------------------------------------------------------------------------------------------------------- atomic_path


def test_atomic_path_puts_a_complete_file_in_place(tmp_path):
    final = tmp_path / "new" / "folder" / "picture.png"
    with atomic_path(final) as temporary:
        assert temporary.parent == final.parent
        assert temporary.suffix == ".png"
        assert temporary.name.startswith(".")
        temporary.write_text("complete")
        assert not final.exists()
    assert final.read_text() == "complete"
    assert list(final.parent.iterdir()) == [final]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_atomic_path_leaves_the_old_file_and_nothing_else_when_stopped(tmp_path, error):
    final = tmp_path / "table.csv"
    final.write_text("old")

    def stopped_half_way():
        with atomic_path(final) as temporary:
            temporary.write_text("ha")
            raise error

    with pytest.raises(error):
        stopped_half_way()
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_atomic_path_names_the_file_for_which_the_disk_had_no_room(tmp_path):
    final = tmp_path / "table.csv"
    final.write_text("old")

    def on_a_full_disk():
        with atomic_path(final) as temporary:
            temporary.symlink_to("/dev/full")
            temporary.write_text("complete")

    with pytest.raises(OSError, match=re.escape(f"No space left on device: '{final}'")):
        on_a_full_disk()
    assert final.read_text() == "old"
    assert list(tmp_path.iterdir()) == [final]


def test_atomic_path_writes_to_the_disk_before_it_renames_and_the_folder_after(tmp_path, monkeypatch):
    final, seen = tmp_path / "new" / "folder" / "table.csv", []
    monkeypatch.setattr("os.fsync", lambda file: seen.append((os.readlink(f"/proc/self/fd/{file}"), final.exists())))
    for text in ("complete", "anew"):
        with atomic_path(final) as temporary:
            temporary.write_text(text)
            written = str(temporary)
        if text == "complete":  # new folders are entries themselves
            assert seen[:2] == [(str(final.parent.parent), False), (str(tmp_path), False)]
            assert seen[2:] == [(written, False), (str(final.parent), True)]
    assert seen[4:] == [(written, True), (str(final.parent), True)]


def test_atomic_path_lends_each_caller_its_own_file(tmp_path):
    final = tmp_path / "table.csv"
    with atomic_path(final) as first, atomic_path(str(final)) as second:
        assert first != second
        first.write_text("first")
        second.write_text("second")
    assert final.read_text() == "first"


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    others = [".7-0123abcd.other.txt", ".hidden.json", "table.json"]
    for name in others:
        (tmp_path / name).touch()

    def removed_half_way():
        with atomic_path(tmp_path / "table.json") as temporary:
            temporary.write_text("ha")  # and the writer is killed
            assert len(list(tmp_path.iterdir())) == 4
            remove_leftovers(tmp_path, "*.json")

    with pytest.raises(FileNotFoundError):
        removed_half_way()
    assert sorted(each.name for each in tmp_path.iterdir()) == others


def test_atomic_path_says_when_nothing_was_written(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "table.csv"):
        pass
    assert list(tmp_path.iterdir()) == []
