"""The programs that scientists use read stored files through `holdfast://`, without a copy on disk."""

# pyright: basic
# These libraries have few types of their own.

from __future__ import annotations

from pathlib import Path

import fsspec
import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from astropy.io import fits
from tests.acceptance.conftest import Archive

RNG = np.random.default_rng(7)
VISIBILITIES = RNG.normal(size=(64, 1024)) + 1j * RNG.normal(size=(64, 1024))
IMAGE = RNG.integers(0, 60_000, size=(512, 512)).astype(np.uint16)


@pytest.fixture
def night(tmp_path: Path) -> Path:
    night = tmp_path / "night"
    night.mkdir()
    with h5py.File(night / "zen.uvh5", "w") as file:
        file.create_dataset("Data/visdata", data=VISIBILITIES, chunks=(8, 128), compression="gzip")
        file["Header/telescope_name"] = "HERA"
    fits.HDUList([fits.PrimaryHDU(), fits.ImageHDU(IMAGE, name="SKY")]).writeto(night / "sky.fits")
    grid = xr.Dataset({"t": (("x", "y"), np.arange(12.0).reshape(3, 4))}, coords={"x": [1, 2, 3]})
    grid.to_netcdf(night / "grid.nc", engine="h5netcdf")
    (night / "log.csv").write_text("time,temperature\n1,281.5\n2,281.25\n")
    return night


@pytest.fixture
def options(vault: Path, night: Path, archived: Archive) -> dict[str, str]:
    archived(night)
    return {"vault": str(vault)}


def test_h5py_reads_a_dataset(options: dict[str, str]) -> None:
    with fsspec.open("holdfast://night/zen.uvh5", **options) as raw, h5py.File(raw, "r") as file:
        assert np.array_equal(file["Data/visdata"][10:20, 100:300], VISIBILITIES[10:20, 100:300])
        assert np.array_equal(file["Data/visdata"][()], VISIBILITIES)
        assert file["Header/telescope_name"][()] == b"HERA"


def test_astropy_reads_an_image(options: dict[str, str]) -> None:
    with fits.open("holdfast://night/sky.fits", use_fsspec=True, fsspec_kwargs=options) as units:
        assert np.array_equal(units["SKY"].section[5:10, 7:20], IMAGE[5:10, 7:20])
        assert np.array_equal(units["SKY"].data, IMAGE)


def test_xarray_reads_a_dataset(options: dict[str, str]) -> None:
    with fsspec.open("holdfast://night/grid.nc", **options) as raw, xr.open_dataset(raw, engine="h5netcdf") as grid:
        assert grid["t"].sel(x=2).values.tolist() == [4.0, 5.0, 6.0, 7.0]


def test_pandas_reads_a_table(options: dict[str, str]) -> None:
    table = pd.read_csv("holdfast://night/log.csv", storage_options=options)
    assert table["temperature"].tolist() == [281.5, 281.25]
