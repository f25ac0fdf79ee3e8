"""Plain torch networks that the models share."""

from ppl_models.networks.conv import ConvDecoder, ConvEncoder
from ppl_models.networks.mlp import MLPDecoder, MLPEncoder

__all__ = ["ConvDecoder", "ConvEncoder", "MLPDecoder", "MLPEncoder"]
