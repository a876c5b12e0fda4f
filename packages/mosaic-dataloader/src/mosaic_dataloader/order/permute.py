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
    """Where a keyed permutation sends each index.

    For one size and key, the results for ``0 … size - 1`` are a permutation of them.

    Args:
        index: int64[n].
        size: int64[n], size of the permutation that each index belongs to; below 2**62.
        key: uint64[n], its key.

    Returns:
        int64[n], each below its size.
    """
    # Sides as equal as they go: a * b is at least size, and less than size + a.
    a = np.ceil(np.sqrt(size.astype(np.float64))).astype(np.int64)
    a += a * a < size
    b = -(-size // a)
    ua, ub = a.astype(np.uint64), b.astype(np.uint64)
    found = _rounds(index.astype(np.uint64), ua, ub, key)
    limit = size.astype(np.uint64)
    # The few that left the range walk on along their cycle until they are back in it.
    astray = np.flatnonzero(found >= limit)
    while len(astray):
        found[astray] = _rounds(found[astray], ua[astray], ub[astray], key[astray])
        astray = astray[found[astray] >= limit[astray]]
    return found.astype(np.int64)


def _rounds(index: UInt64Array, a: UInt64Array, b: UInt64Array, key: UInt64Array) -> UInt64Array:
    """The permutation of ``0 … a * b - 1``."""
    right: UInt64Array
    left: UInt64Array
    right, left = np.divmod(index, a)
    for number in range(0, _ROUNDS, 2):
        left = _added(left, mixed(right + (key + _STEPS[number])), a)
        right = _added(right, mixed(left + (key + _STEPS[number + 1])), b)
    return right * a + left


def _added(value: UInt64Array, noise: UInt64Array, modulus: UInt64Array) -> UInt64Array:
    """``value`` plus a number below ``modulus`` made of ``noise``, modulo ``modulus``."""
    total = value + (((noise >> _32) * modulus) >> _32)
    reduced: UInt64Array = np.where(total >= modulus, total - modulus, total)
    return reduced
