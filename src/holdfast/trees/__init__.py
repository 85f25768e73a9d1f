"""Folder trees on a disk: walking and reading them steadily, and putting them back.

`walk` sees what is there; `keep` compares it with the catalog and gives what changed to a recorder: `storing` reads it
into the block store, `noting` leaves it where it is until it is dumped. `plant` puts files back. Nothing here knows
of tapes.
"""
