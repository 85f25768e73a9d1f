"""Work, as opposed to facts: who is doing what. Everything here can be thrown away and made again."""

from holdfast.state.runs import Run, RunLog, vault_lock

__all__ = ["Run", "RunLog", "vault_lock"]
