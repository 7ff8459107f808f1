"""Documents that describe what a server with its plugins can do: AsyncAPI, OpenAPI, TypeScript and Python.

``catalog`` lists all frames; ``asyncapi``, ``openapi``, ``typescript`` and ``python`` are made from it, with values of
``examples``. ``compare`` finds the changes between two AsyncAPI documents that break clients. The package imports the
plugin API, ``protocol.messages`` and ``errors``. ``web.pages`` serves the documents, ``cli`` prints them.
"""
