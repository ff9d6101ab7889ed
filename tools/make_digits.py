"""Make models/data/digits.npz from scikit-learn's copy of the UCI handwritten digits.

Needs scikit-learn: ``pip install scikit-learn && python tools/make_digits.py``.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

TARGET = Path(__file__).parents[1] / "src/noise_scheduler_sampling_system/models/data/digits.npz"


def main() -> None:
    """Write the file, after a check that bytes hold every value."""
    images, labels = load_digits(return_X_y=True)
    packed = {"images": images.astype(np.uint8), "labels": labels.astype(np.uint8)}
    if not (np.array_equal(packed["images"], images) and np.array_equal(packed["labels"], labels)):
        raise SystemExit("the digits are no longer small whole numbers")
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(TARGET, **packed)
    print(f"wrote {TARGET} ({TARGET.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
