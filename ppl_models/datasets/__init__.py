"""Images to learn from: a seeded split, grey levels for training, fixed binary images for validation and test."""

from ppl_models.datasets.binarise import binarise
from ppl_models.datasets.digits import digits
from ppl_models.datasets.idx import read_idx
from ppl_models.datasets.image_data import ImageData
from ppl_models.datasets.mnist import mnist
from ppl_models.datasets.registry import DATASETS, load

__all__ = ["DATASETS", "ImageData", "binarise", "digits", "load", "mnist", "read_idx"]
