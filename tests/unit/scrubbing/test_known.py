"""What is noted of the packs is known to the next run; a state that cannot be used stops nothing."""

from __future__ import annotations

import uuid
from contextlib import closing
from pathlib import Path

from holdfast.errors import HoldfastError
from holdfast.scrubbing.known import Known

ONE, TWO = uuid.UUID(int=1), uuid.UUID(int=2)


def test_looks_are_known_to_the_next_run_with_their_damage(tmp_path: Path) -> None:
    warnings: list[HoldfastError] = []
    with closing(Known(tmp_path, warnings.append)) as known:
        assert known.looks == {}
        known.was_looked_at(ONE, 3)
        known.was_looked_at(TWO, 0)
    with closing(Known(tmp_path, warnings.append)) as known:
        assert {pack: look.is_damaged for pack, look in known.looks.items()} == {ONE: True, TWO: False}
        assert 0 < known.looks[ONE].at_ns < known.looks[TWO].at_ns
        known.was_looked_at(ONE, 0)
    with closing(Known(tmp_path, warnings.append)) as known:
        assert not known.looks[ONE].is_damaged
    assert warnings == []


def test_a_state_that_is_no_folder_is_told_once(tmp_path: Path) -> None:
    warnings: list[HoldfastError] = []
    (tmp_path / "state").write_bytes(b"")
    with closing(Known(tmp_path / "state", warnings.append)) as known:
        known.was_looked_at(ONE, 3)
        assert known.looks == {}
    assert len(warnings) == 1
