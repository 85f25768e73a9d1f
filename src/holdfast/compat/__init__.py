"""The names of Holdfast's predecessors, so that a program of theirs needs only its import changed."""
