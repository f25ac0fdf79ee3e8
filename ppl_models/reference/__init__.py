"""The answer to compare with."""

from ppl_models.reference.nuts import nuts

__all__ = ["nuts"]
