"""A keyed permutation of ``0 … size - 1`` that is evaluated index by index.

A Feistel network over two numbers instead of two bit strings, so that its domain is hardly larger
than ``size``, with cycle walking for the rest: Black and Rogaway, "Ciphers with Arbitrary Finite
Domains" (CT-RSA 2002), their generalized-Feistel construction. The round function is the finalizer
of splitmix64 (Steele, Lea and Flood, OOPSLA 2014). It shuffles; it keeps no secrets.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mosaic_dataloader.order.mixture import Int64Array

UInt64Array = NDArray[np.uint64]

# Four make a random-looking permutation out of random functions (Luby and Rackoff, 1988); small
# domains need more. With eight, all permutations of 4 elements occur equally often; of 5 to 7
# elements some still occur up to a fifth more often than others.
_ROUNDS = 8

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEPS = [np.uint64(0x9E3779B97F4A7C15 * (n + 1) % 2**64) for n in range(_ROUNDS)]
_FIRST, _SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_30, _27, _31, _32 = (np.uint64(bits) for bits in (30, 27, 31, 32))


def mixed(values: UInt64Array) -> UInt64Array:
    """splitmix64's finalizer, uint64 to uint64 of the same shape: every bit depends on all bits."""
    values = (values ^ (values >> _30)) * _FIRST
    values = (values ^ (values >> _27)) * _SECOND
    result: UInt64Array = values ^ (values >> _31)
    return result


def keys(*parts: Any) -> UInt64Array:
    """One key, uint64, for each combination of the parts.

    Args:
        parts: Integers or integer arrays that broadcast together; their order matters.
    """
    key: UInt64Array = np.zeros(1, np.uint64)
    # Overflow is what makes it mix; numpy warns of it for scalars only.
    for part in parts:
        key = mixed((key + _GOLDEN) ^ np.atleast_1d(np.asarray(part)).astype(np.uint64))
    return key


def permuted(index: Int64Array, size: Int64Array, key: UInt64Array) -> Int64Array:
    """Where a keyed permutation sends each index; see `Permutations`. All arrays are of one length.

    For one size and key, the results for ``0 … size - 1`` are a permutation of them.
    """
    return Permutations(size, key).at(np.arange(len(index)), index)


class Permutations:
    """Many keyed permutations, with what follows from their sizes worked out once.

    ``size``, int64[n], of each is below 2**62; ``key`` is uint64[n].
    """

    def __init__(self, size: Int64Array, key: UInt64Array):
        # Sides as equal as they go: a * b is at least size, and less than size + a.
        a = np.ceil(np.sqrt(size.astype(np.float64))).astype(np.int64)
        a += a * a < size
        b = -(-size // a)
        self._size = size.astype(np.uint64)
        self._a, self._b = a.astype(np.uint64), b.astype(np.uint64)
        self._key = key

    def at(self, which: Int64Array, index: Int64Array) -> Int64Array:
        """Where permutations send indexes, int64[m].

        ``which`` are numbers of permutations, and ``index`` numbers below the size of each, both
        int64[m].
        """
        a, b = self._a[which], self._b[which]
        key, size = self._key[which], self._size[which]
        found = _rounds(index.astype(np.uint64), a, b, key)
        # The few that left the range walk on along their cycle until they are back in it.
        astray = np.flatnonzero(found >= size)
        while len(astray):
            again = _rounds(found[astray], a[astray], b[astray], key[astray])
            found[astray] = again
            astray = astray[again >= size[astray]]
        return found.view(np.int64)


def _rounds(index: UInt64Array, a: UInt64Array, b: UInt64Array, key: UInt64Array) -> UInt64Array:
    """The permutation of ``0 … a * b - 1``."""
    right: UInt64Array
    left: UInt64Array
    right, left = np.divmod(index, a)
    noise, spare = np.empty_like(index), np.empty_like(index)
    for number in range(0, _ROUNDS, 2):
        _add_noise(left, right, key, _STEPS[number], a, noise, spare)
        _add_noise(right, left, key, _STEPS[number + 1], b, noise, spare)
    right *= a
    right += left
    return right


def _add_noise(
    value: UInt64Array,
    other: UInt64Array,
    key: UInt64Array,
    step: np.uint64,
    modulus: UInt64Array,
    noise: UInt64Array,
    spare: UInt64Array,
) -> None:
    """Add to ``value`` a number below ``modulus`` made of ``other`` and the key, modulo it.

    This is ``value = (value + (mixed(other + key + step) >> 32) * modulus >> 32) % modulus`` where
    nothing is allocated, which takes half the time; ``noise`` and ``spare`` are overwritten.
    """
    np.add(key, step, out=noise)
    noise += other
    # As in `mixed`.
    np.right_shift(noise, _30, out=spare)
    noise ^= spare
    noise *= _FIRST
    np.right_shift(noise, _27, out=spare)
    noise ^= spare
    noise *= _SECOND
    np.right_shift(noise, _31, out=spare)
    noise ^= spare
    noise >>= _32
    noise *= modulus
    noise >>= _32
    value += noise
    # One modulus too much at the most; where it is not, the difference wraps round and is larger.
    np.subtract(value, modulus, out=noise)
    np.minimum(value, noise, out=value)
