from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.unit.catalog.kit import quick_folder

from holdfast.catalog import Catalog


@pytest.fixture
def catalog() -> Iterator[Catalog]:
    with quick_folder() as folder, Catalog(folder / "catalog.db") as catalog:
        yield catalog
