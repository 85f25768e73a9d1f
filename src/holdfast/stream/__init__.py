"""Files over Kafka: each version as BEGIN, DATA and END records, put together again whatever becomes of them on the way.

Pure: `records` (the nouns), `wire` (their bytes), `ranges` and `assembly` (when is a version whole, and what is missing).
No user's folder is walked here, and nothing that only Linux has is imported: the sending side runs on instrument PCs.
"""
