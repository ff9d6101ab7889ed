"""Normal numbers of thousands of generators at once, bit for bit those of NumPy's Philox and float32 ziggurat.

NumPy needs about 3 µs to set a generator to a key and to draw from it, which is longer than the numbers of a small
sample take. Here one array operation acts on all generators: first on the blocks of Philox-4x64-10 (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"), then on the first try of the ziggurat (Marsaglia and Tsang 2000, "The
ziggurat method for generating random variables"). About 1 % of the numbers need a second try; only their samples are
continued number by number, and the few that reach the tail of the distribution are left to NumPy.
"""

from __future__ import annotations

import functools
import threading
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["keyed", "standard_normal"]

_Words = npt.NDArray[np.uint64]
_Floats = npt.NDArray[np.float32]

_MULTIPLIERS: Final = np.array([[0xD2E7470EE14C6C93], [0xCA5A826395121157]], dtype=np.uint64)
_WEYL: Final = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], dtype=np.uint64)
_ROUNDS: Final = 10
_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
#: Numbers of 32 bits in a block.
_BLOCK: Final = 8
#: Further tries that a sample may need before NumPy takes over.
_SPARE: Final = 4
#: Blocks that are made at a time, so that they stay in the cache.
_CHUNK: Final = 4096
#: Where the ziggurat's tail begins, the area of a layer, and 2 to the number of bits of a candidate.
_TAIL: Final = 3.6541528853610088
_AREA: Final = 0.00492867323399
_BITS: Final = float(1 << 23)


class _Ziggurat(NamedTuple):
    """The 256 layers: accepted below ``limit``, scaled by ``width``; ``density`` at their edges."""

    limit: npt.NDArray[np.uint32]
    width: _Floats
    density: _Floats


class _OfThread(threading.local):
    """The generator of a thread: a new one would first draw a seed from the operating system, which takes 10 µs."""

    def __init__(self) -> None:
        self.bits = np.random.Philox(key=0)
        self.generator = np.random.Generator(self.bits)


_OF_THREAD: Final = _OfThread()
_EMPTY: Final = np.zeros(4, dtype=np.uint64)


def keyed(seed: int, index: int, stage: int, step: int) -> np.random.Generator:
    """The Philox generator with the key (seed, index) and the counter (0, 0, stage, step).

    It is the thread's own: draw from it before the next call of this function.
    """
    state: Any = {  # NumPy takes any sequences of whole numbers here
        "bit_generator": "Philox",
        "state": {"counter": (0, 0, stage, step), "key": (seed, index)},
        "buffer": _EMPTY,
        "buffer_pos": 4,  # nothing is left in the buffer
        "has_uint32": 0,
        "uinteger": 0,
    }
    _OF_THREAD.bits.state = state
    return _OF_THREAD.generator


def standard_normal(keys: _Words, stage: int, step: int, count: int) -> _Floats:
    """The first ``count`` float32 normal numbers of each generator, shape (G, count).

    Args:
        keys: (seed, index) of each generator, shape (G, 2).
        stage, step: the counters of all of them, as for :func:`keyed`.
        count: numbers of each generator.
    """
    blocks = -(-(count + _SPARE) // _BLOCK)
    words = _stream(keys, stage, step, blocks)
    table = _ziggurat()
    x, fits = _candidates(np.ascontiguousarray(words[:, :count]), table)
    open_rows = np.flatnonzero(~fits.all(axis=1))
    if len(open_rows):
        x[open_rows], finished = _continued(words[open_rows], count, table)
        for row in open_rows[~finished]:
            generator = keyed(int(keys[row, 0]), int(keys[row, 1]), stage, step)
            x[row] = generator.standard_normal(count, dtype=np.float32)
    return x


def _candidates(words: npt.NDArray[np.uint32], table: _Ziggurat) -> tuple[_Floats, npt.NDArray[np.bool_]]:
    """The number that each word proposes, and whether it is accepted at once."""
    layer = (words & np.uint32(0xFF)).astype(np.intp)
    size = words >> np.uint32(9)
    x = size.astype(np.float32)
    x *= table.width.take(layer)
    x.view(np.uint32)[...] |= (words & np.uint32(0x100)) << np.uint32(23)  # the bit of the sign
    return x, size < table.limit.take(layer)


def _continued(words: npt.NDArray[np.uint32], count: int, table: _Ziggurat) -> tuple[_Floats, npt.NDArray[np.bool_]]:
    """The numbers of generators that reject a word: one number of each at a time.

    Returns:
        The numbers, and which generators are finished; the others reached the tail, or the end of their words.
    """
    out = np.zeros((len(words), count), dtype=np.float32)
    place, done = np.zeros(len(words), dtype=np.int64), np.zeros(len(words), dtype=np.int64)
    going = np.arange(len(words))
    while len(going):
        word = words[going, place[going]]
        x, accepted = _candidates(word, table)
        layer = (word & np.uint32(0xFF)).astype(np.int64)
        wedge = ~accepted & (layer > 0)
        height = (words[going, place[going] + 1] >> np.uint32(8)).astype(np.float32) * np.float32(1.0 / (1 << 24))
        below = table.density[layer]
        under = (table.density[layer - 1] - below) * height + below < np.exp(-0.5 * x.astype(np.float64) ** 2)
        taken = accepted | (wedge & under)
        out[going[taken], done[going[taken]]] = x[taken]
        done[going] += taken
        place[going] += 1 + wedge
        tail = ~accepted & (layer == 0)
        place[going[tail]] = words.shape[1]  # left to NumPy
        going = going[(done[going] < count) & (place[going] < words.shape[1] - 1)]
    return out, done == count


def _stream(keys: _Words, stage: int, step: int, blocks: int) -> npt.NDArray[np.uint32]:
    """The first 8·blocks words of 32 bits of each generator, shape (G, 8·blocks), in the order of NumPy."""
    out = np.empty((len(keys), blocks, 4), dtype=np.uint64)
    for first in range(0, len(keys), _CHUNK):
        part = keys[first : first + _CHUNK]
        for block in range(blocks):  # NumPy increments the counter before a block
            out[first : first + _CHUNK, block] = _philox_block(part, block + 1, stage, step).T
    return out.view("<u4").reshape(len(keys), blocks * _BLOCK)


def _philox_block(keys: _Words, first: int, stage: int, step: int) -> _Words:
    """The block (4, G) of Philox-4x64-10 with the counter (first, 0, stage, step)."""
    even = np.array([[first], [stage]], dtype=np.uint64)  # words 0 and 2, which are multiplied
    odd = np.array([[0], [step]], dtype=np.uint64)  # words 1 and 3
    key = keys.T.copy()
    for turn in range(_ROUNDS):
        if turn:
            key += _WEYL[:, None]
        high, low = _product(even)
        # (hi1 ^ c1 ^ k0, lo1, hi0 ^ c3 ^ k1, lo0)
        even = key ^ odd
        even ^= high[::-1]
        odd = low[::-1]
    return np.stack([even[0], odd[0], even[1], odd[1]])


def _product(x: _Words) -> tuple[_Words, _Words]:
    """The high and the low 64 bits of the products with the two multipliers, by halves of 32 bits."""
    top, bottom = _MULTIPLIERS >> _HALF, _MULTIPLIERS & _LOW
    high, low = x >> _HALF, x & _LOW
    middle = low * bottom
    middle >>= _HALF
    low *= top
    middle += low  # below 2⁶⁴: (2³² − 1)² + 2³² − 1
    cross = high * bottom
    cross += middle & _LOW
    middle >>= _HALF
    cross >>= _HALF
    high *= top
    high += middle
    high += cross
    return high, x * _MULTIPLIERS


@functools.cache
def _ziggurat() -> _Ziggurat:
    """The table of Marsaglia and Tsang for 256 layers and candidates of 23 bits."""
    edge, density = np.empty(256), np.empty(256)
    edge[255], density[255] = _TAIL, np.exp(-0.5 * _TAIL**2)
    for i in range(254, 0, -1):
        edge[i] = np.sqrt(-2.0 * np.log(_AREA / edge[i + 1] + density[i + 1]))
        density[i] = np.exp(-0.5 * edge[i] ** 2)
    edge[0], density[0] = _AREA / density[255], 1.0
    limit = np.empty(256)
    limit[0] = _TAIL / edge[0] * _BITS
    limit[1] = 0.0
    limit[2:] = edge[1:255] / edge[2:] * _BITS
    return _Ziggurat(limit.astype(np.uint32), (edge / _BITS).astype(np.float32), density.astype(np.float32))
