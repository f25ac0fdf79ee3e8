"""Plain torch networks that the models share."""

from ppl_models.networks.conv import ConvDecoder, ConvEncoder
from ppl_models.networks.dense_block import DenseBlock
from ppl_models.networks.filter_bank import FilterBank
from ppl_models.networks.flow import Flow
from ppl_models.networks.flow_layers import (
    ActNorm,
    AffineCoupling,
    ChannelMix,
    FlowLayer,
    Reverse,
    SplineCoupling,
)
from ppl_models.networks.lstm import LSTMStep
from ppl_models.networks.mlp import MLPDecoder, MLPEncoder
from ppl_models.networks.rung import Rung

__all__ = [
    "ActNorm",
    "AffineCoupling",
    "ChannelMix",
    "ConvDecoder",
    "ConvEncoder",
    "DenseBlock",
    "FilterBank",
    "Flow",
    "FlowLayer",
    "LSTMStep",
    "MLPDecoder",
    "MLPEncoder",
    "Reverse",
    "Rung",
    "SplineCoupling",
]
