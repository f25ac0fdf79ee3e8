"""Networks: published parameter counts, shapes, and refusals."""

from __future__ import annotations

import pytest
import torch

from guides import DataError, OptionError
from ppl_models.networks import ConvDecoder, ConvEncoder, MLPDecoder, MLPEncoder


def count(module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_convolutional_pair_has_the_study_s_parameter_counts():
    assert count(ConvEncoder(batch_norm=True)) == 328_520
    assert count(ConvDecoder(batch_norm=True)) == 306_615


def test_fully_connected_layers_start_as_told():
    for init, biased in (("default", True), ("xavier_normal", False)):
        network = MLPDecoder(3, event_shape=(5,), hidden=(400, 300), activation="tanh", init=init)
        assert [type(layer).__name__ for layer in network.layers] == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
        assert bool(network.layers[2].bias.abs().max() > 0) == biased
        # Xavier's normal: variance 2 / (fan in + fan out); torch's own: 1 / (3 fan in).
        expected = (1 / 1200) ** 0.5 if biased else (2 / 700) ** 0.5
        assert network.layers[2].weight.std().item() == pytest.approx(expected, rel=0.02)


def test_without_batch_norm_only_its_parameters_are_missing():
    assert count(ConvEncoder()) == 328_520 - 2 * (1 + 16 + 32 + 32 + 450)
    assert count(ConvDecoder()) == 306_615 - 2 * (64 + 450 + 32 + 32 + 16)
    assert not list(ConvEncoder().buffers()) + list(ConvDecoder().buffers())


@pytest.mark.parametrize("decoder", [ConvDecoder(3), MLPDecoder(3, event_shape=(1, 28, 28))])
@pytest.mark.parametrize("batch", [(2,), (4, 1, 2)])
def test_decoders_take_any_batch_and_treat_rows_alone(decoder, batch):
    decoder = decoder.double()
    z = torch.randn(*batch, 3)
    images = decoder(z)
    assert images.shape == (*batch, 1, 28, 28)
    torch.testing.assert_close(images.reshape(-1, 1, 28, 28)[1], decoder(z.reshape(-1, 3)[1:2])[0])


def test_encoders_treat_rows_alone():
    for encoder in (ConvEncoder(3), MLPEncoder((1, 28, 28), output_dim=6)):
        encoder = encoder.double()
        x = torch.rand(4, 1, 28, 28)
        assert encoder(x).shape == (4, 6)
        torch.testing.assert_close(encoder(x)[2:3], encoder(x[2:3]))


def test_wrong_shapes_and_widths_are_refused():
    with pytest.raises(DataError, match=r"x must have shape \(B, 1, 28, 28\); got \(2, 784\)"):
        ConvEncoder(2)(torch.zeros(2, 784))
    with pytest.raises(DataError, match=r"x must have shape \(B, 1, 8, 8\); got \(2, 64\)"):
        MLPEncoder((1, 8, 8), output_dim=4)(torch.zeros(2, 64))
    with pytest.raises(OptionError, match="layer widths must be at least 1"):
        MLPDecoder(2, event_shape=(1, 8, 8), hidden=(0,))
    for network in (ConvEncoder, ConvDecoder):
        with pytest.raises(OptionError, match="latent_dim must be a whole number of at least 1; got 0"):
            network(0)
