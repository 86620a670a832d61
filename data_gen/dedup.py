"""Near-duplicates of a growing pool: MinHash LSH finds candidates, the exact Jaccard of word 3-shingles decides.

The definition is `extes_train.dialogue.shingles` (Jaccard >= 0.7 over all turns); shingles are held as 32-bit hashes.
Bands are chosen so that a pair at the threshold becomes a candidate with probability 0.99: for 0.7, 25 bands of 5 rows,
which find 0.9999 at 0.8 (datasketch's own choice balances misses against work and finds 0.61 and 0.95). Many candidates
are far apart, so signatures are compared first. Every hash is fixed: a query answers the same in every process.
"""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_gen.filters.text import TextView, sorted_unique

PERMUTATIONS = 125
RECALL = 0.985  # at the threshold
SLACK = 0.2  # signatures estimate the Jaccard with a standard deviation of 0.04
Shingles = NDArray[np.uint32]


def shingle_hashes(view: TextView) -> Shingles:
    """The word 3-shingles of all texts of `view`, as sorted unique 32-bit hashes."""
    return sorted_unique((view.shingles() >> np.uint64(32)).astype(np.uint32))


def jaccard(a: Shingles, b: Shingles) -> float:
    """Shared / all of two sets of hashes; two empty sets are equal."""
    if len(a) == 0 and len(b) == 0:
        return 1.0
    both = np.concatenate([a, b])
    both.sort(kind="stable")
    shared = int(np.count_nonzero(both[1:] == both[:-1]))
    return shared / (len(a) + len(b) - shared)


def bands_for(threshold: float) -> tuple[int, int]:
    """Bands and rows of the signature: the longest rows that still find a pair at `threshold` with RECALL."""
    for rows in range(12, 1, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, rows
    return PERMUTATIONS, 1


class NearDuplicates:
    """Dialogues that were kept, by key. Memory: about 4 bytes a shingle and 3 kB a dialogue."""

    def __init__(self, threshold: float) -> None:
        from datasketch import MinHash, MinHashLSH

        self.threshold = threshold
        self._bands, self._rows = bands_for(threshold)
        self._lsh = MinHashLSH(num_perm=PERMUTATIONS, params=(self._bands, self._rows), hashfunc=zlib.crc32)
        self._lsh.hashtables = [_Buckets() for _ in range(self._bands)]
        self._factors, self._terms = MinHash(num_perm=PERMUTATIONS, hashfunc=int).permutations
        self._signatures = np.zeros((1024, PERMUTATIONS), np.uint32)
        self._shingles: list[Shingles] = []
        self._keys: list[str] = []
        self._last: tuple[Shingles, NDArray[np.uint32], list[int]] | None = None

    def __len__(self) -> int:
        return len(self._keys)

    def find(self, shingles: Shingles) -> tuple[str, float] | None:
        """The key of the most similar kept dialogue and its Jaccard, if that reaches the threshold."""
        if len(shingles) == 0:
            return None
        signature, bands = self._sketch(shingles)
        found: set[int] = set()
        for table, band in zip(self._lsh.hashtables, bands):
            found.update(table.get(band))
        if not found:
            return None
        candidates = np.array(sorted(found))
        estimate = (self._signatures[candidates] == signature).mean(axis=1)
        best: tuple[str, float] | None = None
        for i in candidates[estimate >= self.threshold - SLACK].tolist():
            similarity = jaccard(shingles, self._shingles[i])
            if similarity >= self.threshold and (best is None or similarity > best[1]):
                best = (self._keys[i], similarity)
        return best

    def add(self, key: str, shingles: Shingles) -> None:
        """Keep a dialogue."""
        signature, bands = self._sketch(shingles)
        position = len(self._keys)
        for table, band in zip(self._lsh.hashtables, bands):
            table.insert(band, position)
        if position == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.zeros_like(self._signatures)])
        self._signatures[position] = signature
        self._keys.append(key)
        self._shingles.append(shingles)

    def _sketch(self, shingles: Shingles) -> tuple[NDArray[np.uint32], list[int]]:
        """The MinHash signature (as `MinHash.update_batch` computes it) and a hash of each of its bands.

        What is added was searched for just before, so the last answer is kept.
        """
        if self._last is not None and self._last[0] is shingles:
            return self._last[1:]
        permuted = _mixed(shingles)[:, None] * self._factors
        permuted += self._terms
        signature = permuted.min(axis=0, initial=np.uint32(0xFFFFFFFF))
        data, width = signature.tobytes(), 4 * self._rows
        bands = [zlib.crc32(data[i * width : (i + 1) * width]) for i in range(self._bands)]
        self._last = (shingles, signature, bands)
        return signature, bands


def _mixed(values: Shingles) -> Shingles:
    """MurmurHash3's finalizer, which datasketch applies before its permutations."""
    h = values ^ (values >> np.uint32(16))
    h *= np.uint32(0x85EBCA6B)
    h ^= h >> np.uint32(13)
    h *= np.uint32(0xC2B2AE35)
    h ^= h >> np.uint32(16)
    return h


class _Buckets:
    """One band's table: hash -> position, or a list of positions; a sixth of the memory of datasketch's sets."""

    def __init__(self) -> None:
        self._table: dict[Any, Any] = {}

    def get(self, key: Any) -> Any:
        found = self._table.get(key, ())
        return (found,) if isinstance(found, int) else found

    def insert(self, key: Any, value: int) -> None:
        found = self._table.setdefault(key, value)
        if isinstance(found, list):
            found.append(value)
        elif found is not value:
            self._table[key] = [found, value]


class Ids:
    """A growing set of 64-bit ids in 8 bytes each: the newest in a set, the others in a sorted array."""

    NEWEST = 1 << 14

    def __init__(self) -> None:
        self._sorted = np.zeros(0, np.uint64)
        self._newest: set[int] = set()

    def __contains__(self, value: int) -> bool:
        if value in self._newest:
            return True
        place = int(self._sorted.searchsorted(np.uint64(value)))
        return place < len(self._sorted) and int(self._sorted[place]) == value

    def add(self, value: int) -> None:
        """Take `value`, which is not in the set."""
        self._newest.add(value)
        if len(self._newest) == self.NEWEST:
            fresh = np.fromiter(self._newest, np.uint64, self.NEWEST)
            self._sorted = np.sort(np.concatenate([self._sorted, fresh]), kind="stable")
            self._newest.clear()


class Novelty:
    """How much of a dialogue's shingles was never seen: of a quarter of them, the hashes below 2^30, which stand first
    in the sorted array. A fixed bitmap of 4 MiB remembers them (a little is missed as it fills)."""

    BITS = 1 << 25
    BELOW = np.uint32(1 << 30)

    def __init__(self) -> None:
        self._seen = np.zeros(self.BITS // 8, np.uint8)

    def add(self, shingles: Shingles) -> float:
        """The share of `shingles` not seen before; they are from now on."""
        sample = shingles[: max(1, int(shingles.searchsorted(self.BELOW)))]
        if len(sample) == 0:
            return 0.0
        slot = sample & np.uint32(self.BITS - 1)
        index, bit = slot >> np.uint32(3), np.uint8(1) << (slot & np.uint32(7)).astype(np.uint8)
        new = int(np.count_nonzero((self._seen[index] & bit) == 0))
        np.bitwise_or.at(self._seen, index, bit)  # unbuffered: bits may share a byte
        return new / len(sample)
