"""Pipelines with the networks, encoders and decoders of diffusers."""

from .diffusers_pipeline import DiffusersPipeline

__all__ = ["DiffusersPipeline"]
