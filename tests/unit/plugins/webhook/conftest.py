"""Fixtures of the tests of webhooks."""

from webhook_site import start

__all__ = ["start"]
