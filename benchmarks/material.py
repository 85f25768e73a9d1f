"""Files to archive: noise that no compression can shrink, the same in every run, made quickly."""

from __future__ import annotations

from pathlib import Path

from blake3 import blake3

PIECE_BYTES = 4 * 2**20


def noise_file(path: Path, size_bytes: int, seed: str) -> None:
    """Noise from `seed`: BLAKE3's endless output."""
    source = blake3(seed.encode())
    with path.open("wb") as file:
        for offset in range(0, size_bytes, PIECE_BYTES):
            file.write(source.digest(length=min(PIECE_BYTES, size_bytes - offset), seek=offset))


def large_files(folder: Path, sizes_bytes: list[int]) -> int:
    """A few large files; returns the bytes of all."""
    folder.mkdir(parents=True)
    for number, size_bytes in enumerate(sizes_bytes):
        noise_file(folder / f"night-{number:03d}.raw", size_bytes, f"large {number}")
    return sum(sizes_bytes)


def small_files(folder: Path, count: int, size_bytes: int, *, in_folder: int = 1000) -> int:
    """Many small files, `in_folder` to a folder; returns the bytes of all."""
    for number in range(count):
        if number % in_folder == 0:
            place = folder / f"run-{number // in_folder:04d}"
            place.mkdir(parents=True)
        noise_file(place / f"frame-{number:07d}.dat", size_bytes, f"small {number}")
    return count * size_bytes
