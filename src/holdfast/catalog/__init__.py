"""The catalog: every fact, in one database.

`Catalog` opens it; `files` holds the queries on sources, versions and the store, `tapes` those on cartridges and
objects, `proof` those on evidence, `holders` those on what lies in a block. Bytes are made durable before a transaction here tells of them. No file of a user,
no pack and no drive is touched in this room.
"""

from holdfast.catalog import files, holders, proof, tapes
from holdfast.catalog.catalog import Catalog
from holdfast.catalog.files import PresentVersion
from holdfast.catalog.proof import Evidence
from holdfast.catalog.tapes import Cartridge, MemberFacts, Pair, TapeFile, TapePlace

__all__ = [
    "Cartridge",
    "Catalog",
    "Evidence",
    "MemberFacts",
    "Pair",
    "PresentVersion",
    "TapeFile",
    "TapePlace",
    "files",
    "holders",
    "proof",
    "tapes",
]
