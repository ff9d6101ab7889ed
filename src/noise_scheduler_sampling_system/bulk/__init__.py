"""Large sets of samples on disk: made in shards by one process or many, resumed, checked and repaired."""

from .formats import FORMATS, ShardWriter
from .generate import GenerationReport, generate_dataset
from .progress import Progress
from .verify import Verification, verify_dataset

__all__ = [
    "FORMATS",
    "GenerationReport",
    "Progress",
    "ShardWriter",
    "Verification",
    "generate_dataset",
    "verify_dataset",
]
