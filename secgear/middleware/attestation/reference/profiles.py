"""What the measurements of a CoMID mean: a profile says it, and without one the caller.

A profile tells how elements of a CoMID are called in `Claims`. Nothing is left out silently: what
can't be compared is in the list of what was not imported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

import msgspec

from secgear.errors import PolicyError
from secgear.middleware.attestation.reference.comid import Measurement, ReferenceTriple
from secgear.middleware.attestation.reference.model import ReferenceValue
from secgear.middleware.attestation.values import Hex

SNP_MEASUREMENT: Final = 641  # draft-deeglaze-amd-sev-snp-corim-profile: MEASUREMENT of the report


class Named(msgspec.Struct, frozen=True):
    """What a triple came to.

    digests: by name in claims, each by algorithm, as often as it occurs: more than one value of a
    name is an alternative. about, platform: as in `ReferenceValue`. left_out: not compared.
    """

    tee: str
    digests: tuple[tuple[str, Mapping[str, bytes]], ...]
    about: str = "program"
    platform: Mapping[str, str] = {}
    left_out: tuple[str, ...] = ()


def cca_platform(triple: ReferenceTriple) -> Named:
    """The firmware below realms: BL, M1 … by name, for one implementation."""
    return Named(
        "cca",
        _components(triple, ""),
        "platform",
        {"implementation_id": triple.environment.class_id},
        _left_out(triple, _is_component),
    )


def psa(triple: ReferenceTriple) -> Named:
    """Software components by name, for one implementation."""
    return Named(
        "psa",
        _components(triple, "software."),
        "program",
        {"implementation_id": triple.environment.class_id},
        _left_out(triple, _is_component),
    )


def cca_realm(triple: ReferenceTriple) -> Named:
    """The realm's initial measurement and its extensible ones, in either of two forms."""
    names = {"rim": "launch"} | {f"rem{index}": f"rem{index}" for index in range(4)}
    found: list[tuple[str, Mapping[str, bytes]]] = []
    for one in triple.measurements:
        key = str(one.key).removeprefix("cca.")
        if one.digests and key in names:
            found.append((names[key], one.digests))
        found += [(names[name], it) for name, it in one.registers.items() if name in names]
    if found and "launch" not in dict(found):
        raise PolicyError("CoMID: registers of a realm without its initial measurement")
    return Named(
        "cca",
        tuple(found),
        left_out=_left_out(
            triple,
            lambda one: str(one.key).removeprefix("cca.") in names or bool(one.registers),
        ),
    )


def snp(triple: ReferenceTriple) -> Named:
    """The launch measurement. What the profile says of other fields belongs into a policy."""
    return Named(
        "snp",
        tuple(
            ("launch", one.digests)
            for one in triple.measurements
            if one.key == SNP_MEASUREMENT and one.digests
        ),
        left_out=_left_out(triple, lambda one: one.key == SNP_MEASUREMENT),
    )


def tpm(triple: ReferenceTriple) -> Named:
    """PCRs by number."""
    return Named(
        "tpm",
        tuple((f"pcr{one.key}", one.digests) for one in triple.measurements if _is_pcr(one)),
        left_out=_left_out(triple, _is_pcr),
    )


def other(tee: str) -> Callable[[ReferenceTriple], Named]:
    """No profile: the caller says for which TEE; an element without a name is what is launched."""

    def named(triple: ReferenceTriple) -> Named:
        return Named(
            tee,
            tuple(
                ("launch" if one.key is None else str(one.key), one.digests)
                for one in triple.measurements
                if one.digests
            ),
            left_out=_left_out(triple, lambda one: bool(one.digests)),
        )

    return named


PROFILES: Final[Mapping[str, Callable[[ReferenceTriple], Named]]] = {
    "tag:arm.com,2025:cca_platform#1.0.0": cca_platform,
    "http://arm.com/cca/ssd/1": cca_platform,
    "tag:arm.com,2025:cca_realm#1.0.0": cca_realm,
    "http://arm.com/cca/realm/1": cca_realm,
    "tag:arm.com,2025:psa#1.0.0": psa,
    "http://arm.com/psa/iot/1": psa,
    "tag:amd.com,2024:snp-corim-profile": snp,
    "tag:github.com/parallaxsecond,2023-03-03:tpm": tpm,
}

# Whose attestation keys the key triples of a profile hold, as a family of anchors.
KEY_FAMILIES: Final[Mapping[str, str]] = {
    profile: "tpm" if make is tpm else "arm"
    for profile, make in PROFILES.items()
    if make is not snp
}


def values(named: Named, name: str, source: str) -> Iterator[ReferenceValue]:
    """The values that `named` stands for: one for each algorithm, or one for each alternative.

    What is measured together must be good together: a value holds all names, and an algorithm that
    some of them lack gives none. Alternatives are understood where they are all there is, several
    values of a single name.
    Raises PolicyError for a mixture, whose combinations nobody has called good.
    """
    for found in _combinations(named, name):
        together = dict(found)
        if len(together) not in {1, len(found)}:
            raise PolicyError(f"CoMID: {name}: some elements have several values, others one")
        sets = [together] if len(together) == len(found) else [dict([item]) for item in found]
        for place, measurements in enumerate(sets):
            yield ReferenceValue(
                name=f"{name} {place}" if len(sets) > 1 else name,
                tee=named.tee,
                measurements={key: Hex(value) for key, value in measurements.items()},
                about="platform" if named.about == "platform" else "program",
                platform=named.platform,
                source=source,
            )


def _combinations(named: Named, name: str) -> Iterator[list[tuple[str, bytes]]]:
    """Names with digests that belong together: of each algorithm that all names have.

    Without one, of whichever each has, if that is one for each.
    """
    names = {key for key, _ in named.digests}
    whole = False
    for algorithm in dict.fromkeys(alg for _, digests in named.digests for alg in digests):
        found = [(key, it[algorithm]) for key, it in named.digests if algorithm in it]
        if {key for key, _ in found} == names:
            whole = True
            yield found
    if whole or not names:
        return
    if any(len(digests) > 1 for _, digests in named.digests):
        raise PolicyError(f"CoMID: {name}: no algorithm has a digest for all of its elements")
    yield [(key, value) for key, digests in named.digests for value in digests.values()]


def _components(
    triple: ReferenceTriple, prefix: str
) -> tuple[tuple[str, Mapping[str, bytes]], ...]:
    return tuple(
        (f"{prefix}{one.name or place}", one.digests)
        for place, one in enumerate(triple.measurements)
        if _is_component(one)
    )


def _is_component(one: Measurement) -> bool:
    return bool(one.digests) and str(one.key).endswith("software-component")


def _is_pcr(one: Measurement) -> bool:
    return type(one.key) is int and 0 <= one.key < 24 and bool(one.digests)


def _left_out(triple: ReferenceTriple, used: Callable[[Measurement], bool]) -> tuple[str, ...]:
    where = triple.environment.label
    return tuple(
        f"{where}: {one.key if one.key is not None else 'measurement'}"
        f"{f' {one.name}' if one.name else ''}{f': {what}' if used(one) else ''}"
        for one in triple.measurements
        for what in (one.ignored if used(one) else ("",))
    )
