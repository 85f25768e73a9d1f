"""Tapes: their formats, and what is done with them.

Pure: `layout` (the tar of a tape file), `checksums` (MANIFEST), `label` (tape file 0), `plan` (which files where),
`reader` (a tape file as it streams past). Shells: `drive` and `changer` (one protocol each, and drivers), `journal`,
`library` (mounted pairs), `fan` (one read feeds both drives). Operations: `pairs` (a whole session), `prepare` (who is
this tape and where does it end), `dump`, `session` (the catalogs), `verify`, `recall`. `rescue` goes onto every tape
and imports nothing of ours.

No user's folder is walked here, and no block is kept: contents come from whoever offers them (`contents`).
"""
