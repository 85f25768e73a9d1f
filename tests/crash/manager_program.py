"""Writes contents through the block manager, many at once, and says where each lies when it is durable.

Run with the vault's folder. Every content is `bytes_of(name)`. Small ones are packed, large ones have blocks of their own, one
comes twice; some are closed by themselves, some by a barrier; packs roll over.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from holdfast.blocks import BlockManager, ContentWriter, Fence, PackKeeper, SlabPool
from holdfast.vault import owned

SIZES = {"tiny": 700, "small": 9_000, "middle": 60_000, "large": 200_000}
NAMES = [f"{kind}{number}" for number in range(3) for kind in SIZES]


def bytes_of(name: str) -> bytes:
    return random.Random(name).randbytes(next(size for kind, size in SIZES.items() if name.startswith(kind)))


def say(name: str, content: ContentWriter) -> None:
    places = " ".join(f"{s.locator},{s.offset_bytes},{s.length_bytes}" for s in content.segments())
    print(f"kept {name} {places}", flush=True)


def main(folder: Path) -> None:
    with owned(folder, "test", print) as vault:
        keeper = PackKeeper(
            vault.settings.packs_folder,
            vault_id=vault.settings.id,
            pack_bytes=400_000,
            index=vault.catalog,
            sink=vault.catalog,
            fence=Fence(vault.settings.fence_folder),
        )
        with keeper, BlockManager(keeper, pool=SlabPool(2**20), block_bytes=128 * 1024, workers=1) as manager:
            contents = {name: manager.content(name) for name in NAMES}
            for start in range(0, 200_000, 30_000):  # all of them at once, piece by piece
                for name, content in contents.items():
                    content.write(bytes_of(name)[start : start + 30_000])
            for name in NAMES[:4]:
                contents[name].close()
                say(name, contents[name])
            for name in NAMES[4:]:
                contents[name].close(wait=False)
            manager.commit_all()
            for name in NAMES[4:]:
                say(name, contents[name])
            again = manager.content("again")
            again.write(bytes_of("large0"))
            again.close()
            say("large0", again)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
