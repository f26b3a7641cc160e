"""The two messages that kubectl (since 1.32) sends as protobuf whatever it is told: Eviction and DeleteOptions.

Field numbers: k8s.io/api policy/v1 and apimachinery meta/v1, generated.proto; framing: runtime/generated.proto.
"""

from __future__ import annotations

from drkit.lab.kube.resources import ApiError, Object

MAGIC = b"k8s\x00"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
Fields = dict[int, list[int | bytes]]


def decoded(body: bytes) -> Object:
    """Return a message as JSON would have it. Raises ApiError 415 for one of another kind, 400 for a broken one."""
    try:
        envelope = _fields(body[len(MAGIC) :])
        kind, raw = _text(_fields(_bytes(envelope, 1)), 2), _bytes(envelope, 2)
        if kind == "DeleteOptions":
            return {"kind": kind, **_delete_options(raw)}
        if kind == "Eviction":
            message = _fields(raw)
            meta = _fields(_bytes(message, 1))
            made: Object = {"kind": kind, "metadata": {"name": _text(meta, 1), "namespace": _text(meta, 3)}}
            return {**made, "deleteOptions": _delete_options(_bytes(message, 2))} if 2 in message else made
    except (IndexError, ValueError) as e:
        raise ApiError(400, "BadRequest", f"this is no protobuf message: {e}") from None
    raise ApiError(
        415,
        "UnsupportedMediaType",
        f"the lab's cluster reads no protobuf {kind}: kubectl apply -f and create -f send JSON",
    )


def _delete_options(raw: bytes) -> Object:
    message = _fields(raw)
    options: Object = {}
    if 1 in message:
        options["gracePeriodSeconds"] = message[1][-1]
    if 2 in message:
        wanted = _fields(_bytes(message, 2))
        options["preconditions"] = {
            name: _text(wanted, n) for n, name in ((1, "uid"), (2, "resourceVersion")) if n in wanted
        }
    if 4 in message:
        options["propagationPolicy"] = _text(message, 4)
    return options


def _fields(raw: bytes) -> Fields:
    found: Fields = {}
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        number, wire = tag >> 3, tag & 7
        value: int | bytes
        if wire == _VARINT:
            value, at = _varint(raw, at)
        else:
            size = {_FIXED64: 8, _FIXED32: 4}.get(wire, 0)
            if wire == _BYTES:
                size, at = _varint(raw, at)
            elif not size:
                raise ValueError(f"wire type {wire}")
            value, at = raw[at : at + size], at + size
        found.setdefault(number, []).append(value)
    return found


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = raw[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            return value, at


def _bytes(fields: Fields, number: int) -> bytes:
    value = fields.get(number, [b""])[-1]
    if not isinstance(value, bytes):
        raise ValueError(f"field {number} is a number")
    return value


def _text(fields: Fields, number: int) -> str:
    return _bytes(fields, number).decode()
