"""Pipelines with the networks, encoders and decoders of diffusers, and the run of this library."""

from .backbones import Backbone, Prompt, WrappedNetwork, register_backbone
from .diffusers_pipeline import DiffusersPipeline

__all__ = ["Backbone", "DiffusersPipeline", "Prompt", "WrappedNetwork", "register_backbone"]
