"""Scrubbing the block store: every block is read back before anybody needs it, and what rotted is put right.

    read      pack after pack (`running`); no lock is held, an archive may go on beside
    repair    what is damaged in a pack, before the next one is read (`repairing`), under the vault's lock: a block is looked
              for in other packs; else its good pieces, and for the bad ones the contents that lie there, from the tapes or
              from their sources, together must have the very digest that names the block. They are laid down in another
              pack, and nothing is written over

Packs are read from wherever they lie; what is put right is laid down on the local disk. A place that cannot be reached is no
damage, and ends the scrub.

Which pack was read when is work, not fact: it lies in the state (`known`), and who deletes that only begins anew. Running
again, after an interruption or with a time limit, goes on with what was read longest ago, and between that with what is
known to be damaged (`order`).
"""

from holdfast.scrubbing.request import ScrubRequest
from holdfast.scrubbing.running import scrub

__all__ = ["ScrubRequest", "scrub"]
