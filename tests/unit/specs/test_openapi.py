"""Tests of ``specs.openapi``."""

from __future__ import annotations

from openapi_spec_validator import OpenAPIV31SpecValidator

from roomcast.registry import Registry
from roomcast.specs.openapi import openapi


def test_the_document_is_valid(zoo_registry: Registry) -> None:
    """The document follows OpenAPI 3.1, and has the paths of the API and the events that backends may publish."""
    document = openapi(zoo_registry, "https://cast.example")
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    assert "/api/v1/rooms/{room}/history" in document["paths"]
    assert "animal.fed" in document["components"]["schemas"]
    assert "user_joined" not in document["components"]["schemas"]
