"""Files of samples: pictures, and tensors with what made them."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ..support.errors import ConfigurationError

if TYPE_CHECKING:
    from torch import Tensor

    from ..running.results import SamplingResult

__all__ = ["ENDINGS", "is_picture", "refuse_no_picture", "write_samples"]

ENDINGS: Final = (".safetensors", ".npz", ".png")


def is_picture(out: Path) -> bool:
    """Whether a file is to hold a picture."""
    return out.suffix == ".png"


def refuse_no_picture(shape: tuple[int, ...], *, latents: bool = False, flat: bool = False) -> None:
    """Raise, before the run, where samples of this shape cannot be drawn.

    Args:
        shape: of the batch, (B, ...).
        latents: whether they are decoded first.
        flat: whether (B, H, W) are images; for most models, three dimensions are (B, C, L).
    """
    drawn = (flat and len(shape) == 3) or (len(shape) == 4 and (latents or shape[1] in (1, 3)))
    if not drawn:
        raise ConfigurationError(
            f"samples of shape {shape} cannot be drawn as pictures",
            where="shape",
            suggestion="give B,1,H,W or B,3,H,W, or write to a .safetensors or .npz file",
        )


def write_samples(
    out: Path, result: SamplingResult, pictures: Tensor | None, *, white_on_black: bool = False
) -> None:  # fmt: skip
    """Write a result, whole or not at all.

    ``.safetensors`` holds "samples", with "keys" and "plan" as JSON in its metadata; ``.npz`` holds "samples", "keys"
    (seed, index) and "plan" as JSON text; ``.png`` holds the pictures.

    Args:
        out: the file.
        result: the samples.
        pictures: the samples as images in [−1, 1], for ``.png``.
        white_on_black: they are white strokes on black, which are drawn dark on light.
    """
    import numpy as np

    from ..support.figures import save_image
    from ..support.files import write_atomic

    samples = result.samples.detach().cpu().contiguous()
    plan = json.dumps(result.plan.to_dict())
    if pictures is not None:
        save_image(pictures, out, paper=white_on_black)
    elif out.suffix == ".npz":
        buffer = io.BytesIO()
        np.savez_compressed(buffer, samples=samples.numpy(), keys=np.array(list(result.keys), np.uint64), plan=plan)
        write_atomic(out, buffer.getvalue())
    else:
        from safetensors.torch import save

        about = {"keys": json.dumps(list(result.keys)), "plan": plan}
        write_atomic(out, save({"samples": samples}, metadata=about))
