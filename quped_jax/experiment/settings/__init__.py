"""All settings of a federated experiment: small groups, one flat dataclass."""

from quped_jax.experiment.settings.settings import Settings

__all__ = ["Settings"]
