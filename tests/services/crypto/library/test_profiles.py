"""OASIS's mandatory test cases of the PKCS#11 3.2 profiles, played through the library.

Each case is a list of calls and what they return. What is the vendor's to say (names, flags, sizes,
which objects there are, a signature by a key that nobody publishes) is not compared, but its form
is; a signature is verified instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from ctypes import addressof, byref, c_ubyte, c_ulong
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.serialization import load_der_public_key

from secgear.services.crypto.pkcs11.calls import BY_NAME
from secgear.services.crypto.pkcs11.constants import (
    UNAVAILABLE,
    Attr,
    Mech,
    MechanismFlag,
    ObjectClass,
    SessionFlag,
    UserType,
)
from secgear.services.crypto.pkcs11.rv import Rv
from secgear.services.crypto.token.module import Module
from tests.adversary.crypto_host import PIN, MemoryStore, open_module
from tests.services.crypto.library.answering import Answering
from tests.services.crypto.library.cryptoki import (
    Attribute,
    Library,
    Mechanism,
    Session,
    buffer_of,
    raw_of,
    template,
)

CASES = ("BL-M-1-32", "EXT-M-1-32", "AUTH-M-1-32", "CERT-M-1-32")
ROOTS = b"Mozilla Builtin Roots\0"


class Player:
    """Plays the calls of a case, and remembers what `${...}` stands for."""

    def __init__(self, library: Library, address: str) -> None:
        self.library = library
        self.address = address
        self.known: dict[str, Any] = {"Pin": PIN}
        self.played = 0
        self.signed: tuple[bytes, bytes] | None = None

    def play(self, case: Element) -> None:
        for asked, said in pairs(case):
            assert asked.tag == said.tag
            assert "rv" in said.attrib
            rv = getattr(self, BY_NAME[asked.tag].method, self.plain)(asked, said)
            assert rv == Rv[said.attrib["rv"]], asked.tag
            self.played += 1

    def value(self, element: Element | None) -> Any:
        """What an element's value stands for."""
        assert element is not None
        text = element.attrib["value"]
        found = re.fullmatch(r"\$\{(.*)\}", text)
        return self.known[found[1]] if found else text

    def handle(self, asked: Element, name: str = "Session") -> int:
        return int(self.value(asked.find(name)))

    def plain(self, asked: Element, said: Element) -> int:
        """A call whose only argument is a slot or a session, or none."""
        return self.library.rv(asked.tag, *(int(self.value(one)) for one in asked))

    # --- about the module ------------------------------------------------------------------------

    def initialize(self, asked: Element, said: Element) -> int:
        self.library.initialise(self.address)
        return Rv.OK

    def finalize(self, asked: Element, said: Element) -> int:
        return self.library.rv("C_Finalize", None)

    def get_info(self, asked: Element, said: Element) -> int:
        info = buffer_of(88)
        rv = self.library.rv("C_GetInfo", info)
        version = said.find("Info/CryptokiVersion")
        assert version is not None
        assert tuple(info[:2]) == (int(version.attrib["major"]), int(version.attrib["minor"]))
        printable(info, (2, 32), (48, 32))
        return rv

    def get_slot_info(self, asked: Element, said: Element) -> int:
        info = buffer_of(112)
        rv = self.library.rv("C_GetSlotInfo", self.handle(asked, "SlotID"), info)
        printable(info, (0, 64), (64, 32))
        assert number(info, 96) & 1  # CKF_TOKEN_PRESENT
        return rv

    def get_token_info(self, asked: Element, said: Element) -> int:
        info = buffer_of(208)
        rv = self.library.rv("C_GetTokenInfo", self.handle(asked, "SlotID"), info)
        printable(info, (0, 32), (32, 32), (64, 16), (80, 16))
        wanted = {
            "RNG": 1,
            "LOGIN_REQUIRED": 4,
            "USER_PIN_INITIALIZED": 8,
            "TOKEN_INITIALIZED": 1024,
        }
        flags = said.find("TokenInfo/Flags")
        assert flags is not None
        assert set(wanted) <= set(flags.attrib["value"].split("|"))
        assert number(info, 96) & sum(wanted.values()) == sum(wanted.values())
        return rv

    def _list(self, name: str, what: str, asked: Element, said: Element, *before: int) -> int:
        wanted = asked.find(what)
        assert wanted is not None
        if "length" not in wanted.attrib:
            count = c_ulong(0)
            rv = self.library.rv(name, *before, None, byref(count))
            self.known[f"{what}.length"] = count.value
            return rv
        count = c_ulong(int(self.value_of(wanted.attrib["length"])))
        items = (c_ulong * count.value)()
        rv = self.library.rv(name, *before, items, byref(count))
        self.known[what] = items[: count.value]
        for i, item in enumerate(items[: count.value]):
            self.known[f"{what}.SlotID[{i}]"] = item
        return rv

    def value_of(self, text: str) -> Any:
        found = re.fullmatch(r"\$\{(.*)\}", text)
        return self.known[found[1]] if found else text

    def get_slot_list(self, asked: Element, said: Element) -> int:
        return self._list("C_GetSlotList", "SlotList", asked, said, 1)

    def get_mechanism_list(self, asked: Element, said: Element) -> int:
        slot = self.handle(asked, "SlotID")
        rv = self._list("C_GetMechanismList", "MechanismList", asked, said, slot)
        for one in said.findall("MechanismList/Type"):
            assert Mech[one.attrib["value"]] in self.known["MechanismList"]
        return rv

    def get_mechanism_info(self, asked: Element, said: Element) -> int:
        info = (c_ulong * 3)()
        mechanism = Mech[self.value(asked.find("Type"))]
        rv = self.library.rv("C_GetMechanismInfo", self.handle(asked, "SlotID"), mechanism, info)
        assert info[0] <= info[1]
        flags = said.find("MechanismInfo/Flags")
        assert flags is not None
        for name in flags.attrib["value"].split("|"):
            assert info[2] & MechanismFlag[name], name
        return rv

    # --- sessions --------------------------------------------------------------------------------

    def open_session(self, asked: Element, said: Element) -> int:
        flags = sum(SessionFlag[name] for name in self.value(asked.find("Flags")).split("|"))
        session = c_ulong(0)
        slot = self.handle(asked, "SlotID")
        rv = self.library.rv("C_OpenSession", slot, flags, None, None, byref(session))
        self.known["Session"] = session.value
        return rv

    def login(self, asked: Element, said: Element) -> int:
        user, pin = UserType[self.value(asked.find("UserType"))], self.value(asked.find("Pin"))
        return self.library.rv("C_Login", self.handle(asked), user, pin, len(pin))

    # --- objects ---------------------------------------------------------------------------------

    def find_objects_init(self, asked: Element, said: Element) -> int:
        wanted = {}
        for one in asked.findall("Template/Attribute"):
            name, text = one.attrib["type"], one.attrib["value"]
            if name == "CLASS":
                wanted[name] = ObjectClass[text]
            else:
                wanted[name] = text == "TRUE" if name == "TOKEN" else text.encode()
        made = template(**wanted)
        return self.library.rv("C_FindObjectsInit", self.handle(asked), made, len(made))

    def find_objects(self, asked: Element, said: Element) -> int:
        room = asked.find("Object")
        assert room is not None
        handles, count = (c_ulong * int(room.attrib["length"]))(), c_ulong(0)
        rv = self.library.rv(
            "C_FindObjects", self.handle(asked), handles, len(handles), byref(count)
        )
        expected = said.findall("Object/Object")
        if expected:
            assert count.value == len(expected)
        for i, handle in enumerate(handles[: count.value]):
            self.known[f"Object.Object[{i}]"] = handle
        return rv

    def get_attribute_value(self, asked: Element, said: Element) -> int:
        wanted = asked.findall("Template/Attribute")
        made = (Attribute * len(wanted))()
        made.kept = []
        for place, one in zip(made, wanted, strict=True):
            place.type = Attr[one.attrib["type"]]
            if "length" in one.attrib:
                buffer = (c_ubyte * int(one.attrib["length"]))()
                made.kept.append(buffer)
                place.value, place.size = addressof(buffer), len(buffer)
        rv = self.library.rv(
            "C_GetAttributeValue", self.handle(asked), self.handle(asked, "Object"), made, len(made)
        )
        for i, (place, one) in enumerate(
            zip(made, said.findall("Template/Attribute"), strict=True)
        ):
            assert place.size != UNAVAILABLE
            if "length" in one.attrib:
                assert place.size == int(one.attrib["length"])
            elif one.attrib["type"] in ("LABEL", "VALUE", "PUBLIC_EXPONENT"):
                given, raw = one.attrib["value"], bytes(made.kept[i][: place.size])
                text = raw.rstrip(b"\0").decode() if one.attrib["type"] == "LABEL" else raw.hex()
                assert text == given
        return rv

    # --- signatures ------------------------------------------------------------------------------

    def sign_init(self, asked: Element, said: Element) -> int:
        mechanism = byref(Mechanism(Mech[self.value(asked.find("Mechanism/Type"))]))
        key = self.handle(asked, "Key")
        return self.library.rv("C_SignInit", self.handle(asked), mechanism, key)

    def sign(self, asked: Element, said: Element) -> int:
        data = bytes.fromhex(self.value(asked.find("Data")))
        room = asked.find("Signature")
        assert room is not None
        signature = buffer_of(int(room.attrib["length"]))
        size = c_ulong(len(signature))
        rv = self.library.rv("C_Sign", self.handle(asked), data, len(data), signature, byref(size))
        given = said.find("Signature")
        assert given is not None
        assert size.value == len(given.attrib["value"]) // 2
        self.signed = data, bytes(signature[: size.value])
        return rv


def pairs(case: Element) -> Iterator[tuple[Element, Element]]:
    steps = iter(case)
    return zip(steps, steps, strict=True)


def number(raw: Any, at: int) -> int:
    return int.from_bytes(bytes(raw[at : at + 8]), "little")


def printable(raw: Any, *fields: tuple[int, int]) -> None:
    """Texts are padded with spaces and have no end."""
    for at, size in fields:
        assert b"\0" not in bytes(raw[at : at + size])


@pytest.fixture
def module(store: MemoryStore) -> Module:
    """Of each case its own: what it finds on the token is counted."""
    return open_module(store)


@pytest.fixture
def key(library: Library, server: Answering) -> bytes:
    """A token with what the cases look for. Returns the signing key's public half."""
    library.initialise(server.address)
    session = Session(library, pin=PIN)
    public, _ = session.pair(
        Mech.RSA_PKCS_KEY_PAIR_GEN,
        {"MODULUS_BITS": 2048, "TOKEN": True, "LABEL": b"testrsa-pub", "VERIFY": True},
        {"TOKEN": True, "LABEL": b"testrsa-pri", "SIGN": True},
    )
    spki = session.get(public, Attr.PUBLIC_KEY_INFO)
    library.call("C_Finalize", None)
    return spki


def certificates(session: Session, value: bytes) -> None:
    """Objects in the order in which the case finds them."""
    session.create(CLASS=ObjectClass.DATA, TOKEN=True, PRIVATE=False, LABEL=ROOTS)
    for i in range(4):
        session.create(
            CLASS=ObjectClass.CERTIFICATE, CERTIFICATE_TYPE=0, TOKEN=True, PRIVATE=False,
            SUBJECT=b"0\0", VALUE=value if i == 0 else raw_of(i),
        )  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_profile(
    library: Library,
    server: Answering,
    vector: Callable[[str], bytes],
    request: pytest.FixtureRequest,
    name: str,
) -> None:
    case = ElementTree.fromstring(vector(f"crypto/pkcs11-profiles/{name}.xml"))
    player = Player(library, server.address)
    if name.startswith("CERT"):
        values = [one.attrib["value"] for one in case.iter("Attribute") if "value" in one.attrib]
        library.initialise(server.address)
        certificates(Session(library, pin=PIN), bytes.fromhex(max(values, key=len)))
        library.call("C_Finalize", None)
    else:
        spki = request.getfixturevalue("key")
    player.play(case)
    assert player.played == len(case) // 2
    if name.startswith("AUTH"):
        assert player.signed is not None
        data, signature = player.signed
        load_der_public_key(spki).verify(signature, data, padding.PKCS1v15(), hashes.SHA256())
