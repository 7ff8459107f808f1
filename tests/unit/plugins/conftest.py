"""Fixtures of the tests of the built-in plugins."""

from chat_commands import alice, bob

__all__ = ["alice", "bob"]
