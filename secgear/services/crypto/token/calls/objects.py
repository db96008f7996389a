"""Calls about objects (PKCS#11 2.40, 5.7)."""

from __future__ import annotations

from typing import Final

from secgear.services.crypto.pkcs11.constants import Attr, ObjectClass
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.pkcs11.values import Template, size_of, weight_of
from secgear.services.crypto.rpc.attributes import Filled, Room
from secgear.services.crypto.token import objects
from secgear.services.crypto.token.application import Application
from secgear.services.crypto.token.calls.registry import serves
from secgear.services.crypto.token.ledger import Event
from secgear.services.crypto.token.objects import Object
from secgear.services.crypto.token.session import Session

MAX_FOUND: Final = 1024  # handles of one answer
MAX_TOLD: Final = 4 << 20  # bytes of attributes of one answer
_EMPTY: tuple[()] = ()


def event(app: Application, session: Session, action: str, *items: Object) -> Event:
    """What the audit trail says about these objects: class, label and id, nothing secret."""
    detail: dict[str, str | int | bool] = {}
    for item in items[:1]:
        detail["class"] = ObjectClass(item.object_class).name
        label = item.attributes.get(Attr.LABEL)
        detail["label"] = label.decode("utf-8", "replace")[:128] if isinstance(label, bytes) else ""
        if item.id:
            detail["object"] = item.id
        if not item.token:
            detail["session object"] = True
    return Event(action, app.actor, session.slot.number, detail)


@serves("C_CreateObject")
def create_object(app: Application, handle: int, template: Template) -> tuple[int]:
    """An object from its parts."""
    session = app.session(handle)
    item = objects.create(template, so=app.is_so(session.slot))
    made = event(app, session, "object created", item)
    return (app.add(session, [item], made)[0],)


@serves("C_CopyObject")
def copy_object(app: Application, handle: int, original: int, template: Template) -> tuple[int]:
    """A copy of an object, with some attributes changed."""
    session = app.session(handle)
    item = app.find(session, original, Rv.OBJECT_HANDLE_INVALID)
    if not item.flag(Attr.COPYABLE):
        raise CryptokiError(Rv.ACTION_PROHIBITED)
    if item.private and template.get(Attr.PRIVATE) is False:
        raise CryptokiError(Rv.TEMPLATE_INCONSISTENT)
    copy = item.changed(template, copy=True, so=app.is_so(session.slot))
    made = event(app, session, "object copied", item)
    return (app.add(session, [copy], made)[0],)


@serves("C_DestroyObject")
def destroy_object(app: Application, handle: int, number: int) -> tuple[()]:
    """The end of an object."""
    session = app.session(handle)
    item = app.find(session, number, Rv.OBJECT_HANDLE_INVALID)
    app.check_access(session, item)
    if not item.flag(Attr.DESTROYABLE):
        raise CryptokiError(Rv.ACTION_PROHIBITED)
    app.remove(session, number, item, event(app, session, "object destroyed", item))
    return _EMPTY


@serves("C_GetObjectSize")
def get_object_size(app: Application, handle: int, number: int) -> tuple[int]:
    """Bytes of its attributes that are no secret."""
    item = app.find(app.session(handle), number, Rv.OBJECT_HANDLE_INVALID)
    return (item.size,)


@serves("C_GetAttributeValue")
def get_attribute_value(
    app: Application, handle: int, number: int, rooms: list[Room]
) -> tuple[list[Filled], int]:
    """Attributes: each by itself, and the return value for those that could not be had."""
    item = app.find(app.session(handle), number, Rv.OBJECT_HANDLE_INVALID)
    results, rv, told = [], Rv.OK, 0
    for room in rooms:
        try:
            value = item.get(room.attr)
        except CryptokiError as error:
            results.append(Filled(room.attr, None))
            rv = error.rv
            continue
        fits = size_of(value) <= room.size
        told += weight_of(value) if fits else 0
        if told > MAX_TOLD:  # the same one again and again
            raise CryptokiError(Rv.DEVICE_MEMORY)
        results.append(Filled(room.attr, value, fits))
        if room.size and not fits:
            rv = Rv.BUFFER_TOO_SMALL
    return (results, rv)


@serves("C_SetAttributeValue")
def set_attribute_value(
    app: Application, handle: int, number: int, template: Template
) -> tuple[()]:
    """Change attributes."""
    session = app.session(handle)
    item = app.find(session, number, Rv.OBJECT_HANDLE_INVALID)
    app.check_access(session, item)
    if not item.flag(Attr.MODIFIABLE):
        raise CryptokiError(Rv.ACTION_PROHIBITED)
    so = app.is_so(session.slot)

    def change(newest: Object) -> Object:
        return newest.changed(template, so=so)

    app.modify(session, number, change, event(app, session, "object changed", item))
    return _EMPTY


@serves("C_FindObjectsInit")
def find_objects_init(app: Application, handle: int, template: Template) -> tuple[()]:
    """Begin a search: what it finds is settled now."""
    session = app.session(handle)
    with session.lock:
        if session.found is not None:
            raise CryptokiError(Rv.OPERATION_ACTIVE)
        session.found = app.search(session, template)[::-1]
        try:
            app.check_held()
        except CryptokiError:
            session.found = None
            raise
    return _EMPTY


@serves("C_FindObjects")
def find_objects(app: Application, handle: int, room: int) -> tuple[list[int]]:
    """Some of what was found."""
    session = app.session(handle)
    with session.lock:
        if session.found is None:
            raise CryptokiError(Rv.OPERATION_NOT_INITIALIZED)
        count = min(room, MAX_FOUND, len(session.found))
        return ([session.found.pop() for _ in range(count)],)


@serves("C_FindObjectsFinal")
def find_objects_final(app: Application, handle: int) -> tuple[()]:
    """End the search."""
    session = app.session(handle)
    with session.lock:
        if session.found is None:
            raise CryptokiError(Rv.OPERATION_NOT_INITIALIZED)
        session.found = None
    return _EMPTY
