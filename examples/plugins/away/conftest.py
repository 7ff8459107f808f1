pytest_plugins = ["roomcast.testing"]
