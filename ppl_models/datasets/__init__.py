"""Data to learn from: images and points in the plane, split by a seed."""

from typing import TYPE_CHECKING, Any

from ppl_models.datasets.batches import Batches
from ppl_models.datasets.binarise import binarise
from ppl_models.datasets.digits import digits
from ppl_models.datasets.idx import read_idx
from ppl_models.datasets.image_data import ImageData
from ppl_models.datasets.mnist import fashion_mnist, mnist
from ppl_models.datasets.omniglot import omniglot
from ppl_models.datasets.registry import DATASETS, Dataset, fetch, load
from ppl_models.datasets.toy import TOY_DENSITIES, ToyDensity, toy
from ppl_models.datasets.toy_data import ToyData, toy_data

if TYPE_CHECKING:
    from ppl_models.datasets.data_module import DataModule

__all__ = [
    "DATASETS",
    "TOY_DENSITIES",
    "Batches",
    "DataModule",
    "Dataset",
    "ImageData",
    "ToyData",
    "ToyDensity",
    "binarise",
    "digits",
    "fashion_mnist",
    "fetch",
    "load",
    "mnist",
    "omniglot",
    "read_idx",
    "toy",
    "toy_data",
]


def __getattr__(name: str) -> Any:
    """Import Lightning when somebody asks for ``DataModule``, and not before."""
    if name != "DataModule":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ppl_models.datasets.data_module import DataModule

    return DataModule
