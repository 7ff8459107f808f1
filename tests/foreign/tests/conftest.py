"""The fixtures come with roomcast."""

pytest_plugins = ["roomcast.testing"]
