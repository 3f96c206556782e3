"""Decode Go's gob encoding, as far as conversations of `mods` need it.

The documentation of Go's package `encoding/gob` describes the form (pkg.go.dev/encoding/gob, "Encoding Details").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_MAX_DEPTH = 20
_MAX_TYPES = 1000

_INT, _STRING = 2, 6
_WIRE_TYPE, _FIELDS = 16, 22


@dataclass(frozen=True, slots=True)
class _Struct:
    fields: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class _Slice:
    element: int


# The types that every decoder knows, which describe the others.
_KNOWN: dict[int, _Struct | _Slice] = {
    _WIRE_TYPE: _Struct((("array", 17), ("slice", 19), ("struct", 20), ("map", 23))),
    17: _Struct((("common", 18), ("element", _INT), ("length", _INT))),
    18: _Struct((("name", _STRING), ("id", _INT))),
    19: _Struct((("common", 18), ("element", _INT))),
    20: _Struct((("common", 18), ("fields", _FIELDS))),
    21: _Struct((("name", _STRING), ("id", _INT))),
    _FIELDS: _Slice(21),
    23: _Struct((("common", 18), ("key", _INT), ("element", _INT))),
}


class UnreadableGob(ValueError):
    """The bytes are not gob, or hold a type that is not read here."""


def decode_gob(data: bytes) -> Any:
    """Return the first value of a gob stream: structs as dicts by their fields' names, without those that are zero.

    Raises:
        UnreadableGob: the bytes are not a gob stream, or hold a type that is not read here.
    """
    decoder = _Decoder(data)
    try:
        return decoder.read_value()
    except IndexError:
        raise UnreadableGob("ends too early") from None


class _Decoder:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._types = dict(_KNOWN)

    def read_value(self) -> Any:
        while len(self._types) < _MAX_TYPES:
            self._read_uint()  # the length of the message
            id = self._read_int()
            if id < 0:
                self._types[-id] = self._read_type()
                continue
            if not isinstance(self._types.get(id), _Struct) and self._read_uint() != 0:
                raise UnreadableGob("is not gob")
            return self._read(id, 0)
        raise UnreadableGob(f"defines more than {_MAX_TYPES} types")

    def _read_type(self) -> _Struct | _Slice:
        described = self._read(_WIRE_TYPE, 0)
        if "struct" in described:
            fields = described["struct"].get("fields", [])
            return _Struct(tuple((field.get("name", ""), field.get("id", 0)) for field in fields))
        if "slice" in described:
            return _Slice(described["slice"].get("element", 0))
        raise UnreadableGob("holds a type that conversations of mods do not have")

    def _read(self, id: int, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise UnreadableGob(f"is nested more than {_MAX_DEPTH} levels deep")
        kind = self._types.get(id)
        if isinstance(kind, _Struct):
            return self._read_struct(kind, depth)
        if isinstance(kind, _Slice):
            count = self._read_uint()
            if count > len(self._data) - self._at:
                raise UnreadableGob("ends too early")
            return [self._read(kind.element, depth + 1) for _ in range(count)]
        match id:
            case 1:
                return self._read_uint() != 0
            case 2:
                return self._read_int()
            case 3:
                return self._read_uint()
            case 5:
                return self._read_bytes()
            case 6:
                return self._read_bytes().decode("utf-8", "replace")
        raise UnreadableGob("holds a type that conversations of mods do not have")

    def _read_struct(self, kind: _Struct, depth: int) -> dict[str, Any]:
        values: dict[str, Any] = {}
        field = -1
        while (step := self._read_uint()) != 0:
            field += step
            if field >= len(kind.fields):
                raise UnreadableGob("is not gob")
            name, id = kind.fields[field]
            values[name] = self._read(id, depth + 1)
        return values

    def _read_bytes(self) -> bytes:
        size = self._read_uint()
        end = self._at + size
        if end > len(self._data):
            raise UnreadableGob("ends too early")
        found = self._data[self._at : end]
        self._at = end
        return found

    def _read_uint(self) -> int:
        first = self._data[self._at]
        self._at += 1
        if first < 128:
            return first
        size = 256 - first
        if size > 8:
            raise UnreadableGob("is not gob")
        end = self._at + size
        if end > len(self._data):
            raise UnreadableGob("ends too early")
        found = int.from_bytes(self._data[self._at : end])
        self._at = end
        return found

    def _read_int(self) -> int:
        found = self._read_uint()
        return ~(found >> 1) if found & 1 else found >> 1
