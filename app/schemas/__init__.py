"""Validation of the data of commands and events, against the marshmallow schemas that plugins declare.

``Validator`` in ``validator.py`` is the only entry point. ``fast_loader.py`` loads most data without marshmallow,
``json_schema.py`` describes a schema for documents and forms. The package imports only ``errors`` and ``fastpath``.
``plugin`` creates the validators, ``gateway`` and ``web`` use them through the declarations.
"""
