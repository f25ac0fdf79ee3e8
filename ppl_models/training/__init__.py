"""Training a model together with a guide, and keeping the two."""

from ppl_models.training.compile import CompiledObjective
from ppl_models.training.convergence import Converged
from ppl_models.training.fit import fit
from ppl_models.training.replay import Replay, replay
from ppl_models.training.result import FitResult, TrainResult
from ppl_models.training.saving import load, save
from ppl_models.training.train import train

__all__ = [
    "CompiledObjective",
    "Converged",
    "FitResult",
    "Replay",
    "TrainResult",
    "fit",
    "load",
    "replay",
    "save",
    "train",
]
