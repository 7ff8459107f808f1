"""Tests of ``fastpath.FieldLoader``. ``tests/unit/schemas/test_fast_loader.py`` compares it with its Python twin."""

from __future__ import annotations

import gc
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from roomcast import fastpath

pytestmark = pytest.mark.skipif(fastpath.FieldLoader is None, reason="The C code is not in use.")

FIELD = ("a", None, False, 0, 10, True, None)


def test_other_data_goes_to_the_fallback() -> None:
    """The fallback gets the data unchanged. Exceptions of the fallback, and of comparing keys, propagate."""
    assert fastpath.FieldLoader is not None
    load = fastpath.FieldLoader((FIELD,), lambda data: ["fallback", data], None)
    assert load({"a": 1}) == {"a": 1}
    for data in ({}, {"a": 1, "b": 2}, {"a": None}, OrderedDict(a=1), [1], None):
        assert load(data) == ["fallback", data]
    with pytest.raises(ZeroDivisionError):
        fastpath.FieldLoader((FIELD,), lambda data: 1 / 0, None)({})

    class Odd(str):
        __slots__ = ()
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            raise LookupError(other)

    with pytest.raises(LookupError):
        load({Odd("a"): 1})


def test_a_loader_leaks_nothing_and_is_freed() -> None:
    """A loader is freed although its fallback refers to it, as a validator does."""
    assert fastpath.FieldLoader is not None

    class Validator:
        load: Any = None

        def fallback(self, data: object) -> dict[str, Any]:
            return {}

    value, default = "".join(["val", "ue"]), "".join(["de", "fault"])
    fields = [
        ("a", str, True, 0, 10, True, None),
        ("b", None, False, 0, 9, False, default),
        ("c", dict, False, 0, 9, False, dict),
    ]
    validator = Validator()
    validator.load = fastpath.FieldLoader(
        (*fields, ("d", None, False, 0, 9, False, list), ("e", int, False, 0, 9, False, None)), validator.fallback, None
    )

    def work(validator: Validator) -> None:
        for data in ({"a": value}, {"a": None, "c": {}}, {"a": value, "b": value}, {"b": value}, {"a": value, "x": 1}):
            validator.load(data)
        with suppress(TypeError):
            fastpath.FieldLoader((FIELD, ("b", None)), validator.fallback, None)  # type: ignore[misc, arg-type]

    work(validator)
    gc.collect()
    before = [sys.getrefcount(item) for item in (value, default, validator)]
    blocks = sys.getallocatedblocks()
    for _ in range(1000):
        work(validator)
    gc.collect()
    assert [sys.getrefcount(item) for item in (value, default, validator)] == before
    assert sys.getallocatedblocks() - blocks < 100
    reference = weakref.ref(validator)
    del validator
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize(
    "call",
    [
        lambda: fastpath.FieldLoader([], print, None),
        lambda: fastpath.FieldLoader((1,), print, None),
        lambda: fastpath.FieldLoader((("a",),), print, None),
        lambda: fastpath.FieldLoader(((1, None, False, 0, 1, True, None),), print, None),
        lambda: fastpath.FieldLoader((("a", None, False, 0, "1", True, None),), print, None),
        lambda: fastpath.FieldLoader((), print, None)(),
        lambda: fastpath.FieldLoader((), print, None)({}, {}),
        lambda: fastpath.FieldLoader((), print, None)(data={}),
    ],
)
def test_arguments_of_a_wrong_type_are_refused(call: Callable[[], Any]) -> None:
    """The constructor and the call raise ``TypeError`` for arguments of the wrong type."""
    with pytest.raises(TypeError):
        call()
