"""Mechanisms on the wire: for each the form of its parameter.

Versions 0 and 1 write an empty byte array for a mechanism without parameter; version 2 writes
nothing then, and says for every other one whether there is a parameter. p11-kit's clients send
only what is on the list that is built into them; a mechanism that is not known here is refused at
once, because nobody knows where its parameter ends. Source: p11-kit, ``rpc-message.c``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from secgear.services.crypto.pkcs11.constants import Mech
from secgear.services.crypto.pkcs11.mechanism import (
    CcmParams,
    ChachaParams,
    ContextParams,
    CtrParams,
    EcdhParams,
    EddsaParams,
    GcmParams,
    HkdfParams,
    KdfParams,
    LengthParam,
    Mechanism,
    Mechanisms,
    MessageParams,
    OaepParams,
    Parameter,
    PssParams,
    RsaAesParams,
    Sm2ExchangeParams,
)
from secgear.services.crypto.pkcs11.rv import CryptokiError, Rv
from secgear.services.crypto.rpc.buffer import OWN, Reader, Writer

CANCEL: Final = 0xFFFFFFFF
"""In place of a mechanism: none, which ends an operation (PKCS#11 3.0)."""

MAX_PARAMETER: Final = 64 << 10
"""Bytes of one array in a parameter: an operation under way keeps them."""
MAX_BATCH: Final = 256
"""Operations of one batch."""
_BEFORE_PRESENCE: Final = 2  # the version that says whether there is a parameter


def read_mechanism(reader: Reader) -> Mechanism | None:
    """A mechanism, None to end an operation.

    Raises MalformedMessage, CryptokiError for a mechanism that is not known.
    """
    number = reader.u32()
    if number == CANCEL:
        return None
    if number not in _KNOWN:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    form = _FORMS.get(number)
    if reader.version == OWN:
        if not reader.u8():
            return Mechanism(number)
        return Mechanism(number, (form or _OCTETS).read(reader))
    if form is None:
        if reader.version < _BEFORE_PRESENCE:
            reader.array()
        return Mechanism(number)
    if reader.version >= _BEFORE_PRESENCE and not reader.u8():
        return Mechanism(number)
    return Mechanism(number, form.read(reader))


def write_mechanism(writer: Writer, mechanism: Mechanism | None) -> None:
    """The same, for a client. Raises CryptokiError for a parameter of another mechanism."""
    if mechanism is None:
        writer.u32(CANCEL)
        return
    writer.u32(mechanism.type)
    form = _FORMS.get(mechanism.type)
    if writer.version == OWN:
        form = form or _OCTETS
    if form is None:
        if writer.version < _BEFORE_PRESENCE:
            writer.array(None)
        return
    if writer.version >= _BEFORE_PRESENCE:
        writer.u8(mechanism.parameter is not None)
        if mechanism.parameter is None:
            return
    form.write(writer, mechanism.parameter)


def read_message_params(reader: Reader) -> MessageParams:
    """The parameter of one message. Raises MalformedMessage, CryptokiError."""
    return MessageParams(
        _octets(reader),
        reader.u64(),
        reader.u64(),
        _octets(reader),
        reader.u64(),
        reader.u64(),
    )


def write_message_params(writer: Writer, params: MessageParams) -> None:
    """The same, for a client."""
    writer.array(params.iv)
    writer.u64(params.fixed_bits)
    writer.u64(params.generator)
    writer.array(params.tag)
    writer.u64(params.tag_bits)
    writer.u64(params.size)


def read_mechanisms(reader: Reader) -> Mechanisms:
    """A mechanism with the parameters of a batch: ``u32 type | u8 present | u32 count | each``.

    Raises MalformedMessage, CryptokiError for a mechanism that is not known.
    """
    number, present, count = reader.u32(), reader.u8(), reader.count(MAX_BATCH)
    if number not in _KNOWN:
        raise CryptokiError(Rv.MECHANISM_INVALID)
    if not present:
        return Mechanisms(number, (None,) * count)
    read = _FORMS.get(number, _OCTETS).read
    return Mechanisms(number, tuple([read(reader) for _ in range(count)]))


def write_mechanisms(writer: Writer, mechanisms: Mechanisms) -> None:
    """The same, for a client: all have a parameter, or none has. Raises CryptokiError."""
    parameters = mechanisms.parameters
    present = any(parameter is not None for parameter in parameters)
    writer.u32(mechanisms.type)
    writer.u8(present)
    writer.u32(len(parameters))
    if present:
        form = _FORMS.get(mechanisms.type, _OCTETS)
        for parameter in parameters:
            form.write(writer, parameter)


def parameter_type(number: int) -> type:
    """The type of a known mechanism's parameter; bytes, as those of others are taken."""
    return (_FORMS.get(number) or _OCTETS).kind


class _Form:
    """How the parameter of a kind of mechanisms is read and written."""

    def __init__(
        self,
        kind: type,
        read: Callable[[Reader], Parameter],
        *fields: tuple[str, str],
    ) -> None:
        self.read = read
        self.kind = kind
        self._fields = fields

    def write(self, writer: Writer, parameter: Parameter) -> None:
        if not isinstance(parameter, self.kind):
            raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
        for name, how in self._fields:
            getattr(writer, how)(getattr(parameter, name) if name else parameter)


class _RsaAesForm(_Form):
    """A structure in the structure."""

    def write(self, writer: Writer, parameter: Parameter) -> None:
        if not isinstance(parameter, RsaAesParams):
            raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
        writer.u64(parameter.bits)
        _OAEP.write(writer, parameter.oaep)


class _GcmForm(_Form):
    """Its length in bits goes along with the initialisation vector."""

    def write(self, writer: Writer, parameter: Parameter) -> None:
        if not isinstance(parameter, GcmParams):
            raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
        writer.array(parameter.iv)
        writer.u64(8 * len(parameter.iv))
        writer.array(parameter.aad)
        writer.u64(parameter.tag_bits)


def _octets(reader: Reader) -> bytes:
    octets = reader.octets()
    if len(octets) > MAX_PARAMETER:
        raise CryptokiError(Rv.MECHANISM_PARAM_INVALID)
    return octets


def _read_gcm(reader: Reader) -> GcmParams:
    # ulIvBits is deprecated and left alone by many callers: the length in bytes counts.
    iv, _, aad, bits = _octets(reader), reader.u64(), _octets(reader), reader.u64()
    return GcmParams(iv, aad, bits)


def _read_oaep(reader: Reader) -> OaepParams:
    return OaepParams(reader.u64(), reader.u64(), reader.u64(), _octets(reader))


_OCTETS = _Form(bytes, _octets, ("", "array"))
_PSS = _Form(
    PssParams,
    lambda reader: PssParams(reader.u64(), reader.u64(), reader.u64()),
    ("hash", "u64"),
    ("mgf", "u64"),
    ("salt", "u64"),
)
_OAEP = _Form(
    OaepParams,
    _read_oaep,
    ("hash", "u64"),
    ("mgf", "u64"),
    ("source", "u64"),
    ("label", "array"),
)
_RSA_AES = _RsaAesForm(RsaAesParams, lambda reader: RsaAesParams(reader.u64(), _read_oaep(reader)))
_CTR = _Form(
    CtrParams,
    lambda reader: CtrParams(reader.u64(), _octets(reader)),
    ("bits", "u64"),
    ("block", "array"),
)
_GCM = _GcmForm(GcmParams, _read_gcm)
_CCM = _Form(
    CcmParams,
    lambda reader: CcmParams(reader.u64(), _octets(reader), _octets(reader), reader.u64()),
    ("size", "u64"),
    ("nonce", "array"),
    ("aad", "array"),
    ("mac", "u64"),
)
_CHACHA = _Form(
    ChachaParams,
    lambda reader: ChachaParams(_octets(reader), _octets(reader)),
    ("nonce", "array"),
    ("aad", "array"),
)
_ECDH = _Form(
    EcdhParams,
    lambda reader: EcdhParams(reader.u64(), _octets(reader), _octets(reader)),
    ("kdf", "u64"),
    ("shared_data", "array"),
    ("public_data", "array"),
)
_HKDF = _Form(
    HkdfParams,
    lambda reader: HkdfParams(
        reader.u8() != 0,
        reader.u8() != 0,
        reader.u64(),
        reader.u64(),
        _octets(reader),
        reader.u64(),
        _octets(reader),
    ),
    ("extract", "u8"),
    ("expand", "u8"),
    ("hash", "u64"),
    ("salt_type", "u64"),
    ("salt", "array"),
    ("salt_key", "u64"),
    ("info", "array"),
)
_KDF = _Form(
    KdfParams,
    lambda reader: KdfParams(reader.u64(), reader.u64(), _octets(reader), _octets(reader)),
    ("prf", "u64"),
    ("counter_bits", "u64"),
    ("before", "array"),
    ("after", "array"),
)
_SM2_EXCHANGE = _Form(
    Sm2ExchangeParams,
    lambda reader: Sm2ExchangeParams(
        reader.u8() != 0,
        reader.u64(),
        _octets(reader),
        _octets(reader),
        _octets(reader),
        _octets(reader),
    ),
    ("initiator", "u8"),
    ("ephemeral", "u64"),
    ("peer_public", "array"),
    ("peer_ephemeral", "array"),
    ("identity", "array"),
    ("peer_identity", "array"),
)
_EDDSA = _Form(
    EddsaParams,
    lambda reader: EddsaParams(reader.u8() != 0, _octets(reader)),
    ("prehash", "u8"),
    ("context", "array"),
)
_CONTEXT = _Form(
    ContextParams,
    lambda reader: ContextParams(reader.u64(), _octets(reader)),
    ("hedge", "u64"),
    ("context", "array"),
)
_LENGTH = _Form(LengthParam, lambda reader: LengthParam(reader.u64()), ("length", "u64"))

_KNOWN: Final = frozenset(int(mech) for mech in Mech)
_FORMS: Final[Mapping[int, _Form]] = {
    **{int(mech): _PSS for mech in Mech if mech.name.endswith("_PSS")},
    **{int(mech): _LENGTH for mech in Mech if mech.name.endswith("_GENERAL")},
    int(Mech.RSA_PKCS_OAEP): _OAEP,
    int(Mech.RSA_AES_KEY_WRAP): _RSA_AES,
    int(Mech.AES_CBC): _OCTETS,
    int(Mech.AES_CBC_PAD): _OCTETS,
    int(Mech.AES_CTR): _CTR,
    int(Mech.AES_GCM): _GCM,
    int(Mech.SM4_CTR): _CTR,
    int(Mech.SM4_GCM): _GCM,
    int(Mech.AES_CCM): _CCM,
    int(Mech.SM4_CCM): _CCM,
    int(Mech.AES_KEY_WRAP): _OCTETS,
    int(Mech.AES_KEY_WRAP_KWP): _OCTETS,
    int(Mech.CHACHA20_POLY1305): _CHACHA,
    int(Mech.ECDH1_DERIVE): _ECDH,
    int(Mech.HKDF_DERIVE): _HKDF,
    int(Mech.HKDF_DATA): _HKDF,
    int(Mech.SP800_108_COUNTER_KDF): _KDF,
    int(Mech.SM2_EXCHANGE): _SM2_EXCHANGE,
    int(Mech.EDDSA): _EDDSA,
    int(Mech.ML_DSA): _CONTEXT,
}
