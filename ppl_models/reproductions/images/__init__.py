"""Published studies of guides for a VAE of images: HVAE against IWAE, and HVAE with IAF."""

from ppl_models.reproductions.images.front_ends import ImageOptions, reproduce_hvae_iaf, reproduce_mnist
from ppl_models.reproductions.images.reproduce import reproduce_images

__all__ = ["ImageOptions", "reproduce_hvae_iaf", "reproduce_images", "reproduce_mnist"]
