"""Plain torch networks that the models share."""

from ppl_models.networks.conv import ConvDecoder, ConvEncoder
from ppl_models.networks.filter_bank import FilterBank
from ppl_models.networks.lstm import LSTMStep
from ppl_models.networks.mlp import MLPDecoder, MLPEncoder
from ppl_models.networks.rung import Rung

__all__ = ["ConvDecoder", "ConvEncoder", "FilterBank", "LSTMStep", "MLPDecoder", "MLPEncoder", "Rung"]
