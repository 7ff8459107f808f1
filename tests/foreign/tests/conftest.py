"""Loads the fixtures of roomcast."""

pytest_plugins = ["roomcast.testing"]
