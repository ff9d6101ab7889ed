"""One pass over memory for a whole step, by a small C kernel that the machine's compiler makes at its first use.

A step reads k tensors and writes the next state and, where a later row reads it, this row's prediction. Eager PyTorch
makes one pass for each term. The kernel makes one for all of them. It computes

    after = a·x + b·y + Σ_j c_j·h_j,    kept = u·x + v·y.

It acts on contiguous float32 tensors on a CPU. Where no compiler is found, or the kernel cannot be loaded, one line is
logged and the eager path stays. ``NOISE_SAMPLING_KERNELS=off`` in the environment turns it off. The kernel is compiled
into a private folder that is deleted when the kernel is loaded, so no cache can be stale or tampered with.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor

from .operands import MOST_TERMS, Terms, is_plain, is_turned_off, is_untracked

__all__ = ["combination", "kernel"]

logger = logging.getLogger(__name__)

_SECONDS: Final = 60
_FLAGS: Final = ("-O3", "-shared", "-fPIC", "-fno-math-errno", "-ffp-contract=fast")
#: Flags that a compiler may lack, best first.
_EXTRA: Final = (("-march=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())

_Kernel = Callable[[int, Sequence[int], Sequence[float], int, int, int], None]


def _source() -> str:
    """The C code: a function for each number of terms, with and without the kept prediction."""
    lines = [
        "#include <stddef.h>",
        "typedef void (*loop)(ptrdiff_t, const float *const *, const float *, float *, float *);",
    ]
    for keeps, terms in itertools.product((0, 1), range(2, MOST_TERMS + 3)):
        each = range(terms)
        pointers = " ".join(f"const float *restrict p{j} = p[{j}]; const float c{j} = c[{j}];" for j in each)
        total = " + ".join(f"c{j} * p{j}[i]" for j in each)
        kept = f"k[i] = c[{MOST_TERMS + 2}] * p0[i] + c[{MOST_TERMS + 3}] * p1[i];" if keeps else ""
        lines.append(
            f"static void loop_{keeps}_{terms}(ptrdiff_t n, const float *const *p, const float *c, "
            f"float *restrict out, float *restrict k) {{ {pointers}\n"
            f"  for (ptrdiff_t i = 0; i < n; i++) {{ out[i] = {total}; {kept} }} }}"
        )
    for keeps in (0, 1):
        names = ", ".join(f"loop_{keeps}_{terms}" for terms in range(2, MOST_TERMS + 3))
        lines.append(f"static const loop table_{keeps}[] = {{ {names} }};")
    lines.append(_ENTRY.replace("$terms$", str(MOST_TERMS + 2)))
    return "\n".join(lines)


#: Threads take blocks in order, each a share of them.
_ENTRY: Final = """
enum { BLOCK = 4096 };
void combine(ptrdiff_t n, const float *const *p, const float *c, float *out, float *kept, int terms, int threads) {
  const loop run = (kept ? table_1 : table_0)[terms - 2];
  const ptrdiff_t blocks = (n + BLOCK - 1) / BLOCK;
#pragma omp parallel for schedule(static) num_threads(threads)
  for (ptrdiff_t b = 0; b < blocks; b++) {
    const ptrdiff_t first = b * BLOCK, size = n - first < BLOCK ? n - first : BLOCK;
    const float *q[$terms$];
    for (int j = 0; j < terms; j++) q[j] = p[j] + first;
    run(size, q, c, out + first, kept ? kept + first : 0);
  }
}
"""


@functools.cache
def kernel() -> _Kernel | None:
    """The kernel, compiled at the first call; None where it cannot be made."""
    if is_turned_off():
        return None
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform == "win32":
        logger.info("no C compiler is found: a step makes one pass over memory for each of its terms")
        return None
    try:
        return _loaded(compiler)
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        logger.info("the kernel of one pass a step cannot be made (%s): a step makes one for each term", error)
        return None


def _loaded(compiler: str) -> _Kernel:
    with tempfile.TemporaryDirectory() as folder:
        source, library = Path(folder, "combine.c"), Path(folder, "combine.so")
        source.write_text(_source())
        for extra in _EXTRA:
            command = [*compiler.split(), *_FLAGS, *extra, str(source), "-o", str(library)]
            done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
            if done.returncode == 0:
                break
        else:
            raise OSError(done.stderr.decode(errors="replace").strip()[-200:] or "the compiler failed")
        function = ctypes.CDLL(str(library)).combine
    pointers, floats = ctypes.c_void_p * (MOST_TERMS + 2), ctypes.c_float * (MOST_TERMS + 4)
    function.restype = None
    function.argtypes = (
        ctypes.c_ssize_t, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int, ctypes.c_int
    )  # fmt: skip

    def run(n: int, inputs: Sequence[int], factors: Sequence[float], out: int, kept: int, threads: int) -> None:
        function(n, pointers(*inputs), floats(*factors), out, kept or None, len(inputs), threads)

    return run


def combination(
    x: Tensor, a: float, y: Tensor, b: float, terms: Terms, keep: tuple[float, float] | None
) -> tuple[Tensor, Tensor | None] | None:
    """As :func:`.fused_combination`, for contiguous float32 tensors on the CPU; None for others."""
    if not is_plain(x) or not _fits(x, x) or not _fits(y, x) or not all(_fits(h, x) for h, _ in terms):
        return None
    run = kernel()
    if run is None:
        return None
    after = torch.empty_like(x)
    kept = torch.empty_like(x) if keep is not None else None
    inputs = [x.data_ptr(), y.data_ptr(), *(h.data_ptr() for h, _ in terms)]
    factors = [a, b, *(c for _, c in terms), *[0.0] * (MOST_TERMS - len(terms)), *(keep or (0.0, 0.0))]
    run(x.numel(), inputs, factors, after.data_ptr(), 0 if kept is None else kept.data_ptr(), torch.get_num_threads())
    return after, kept


def _fits(y: Tensor, x: Tensor) -> bool:
    return is_untracked(y) and y.dtype == torch.float32 and y.device.type == "cpu" and y.shape == x.shape
