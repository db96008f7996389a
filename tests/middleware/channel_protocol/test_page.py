"""The page against the code: kinds, limits, members, labels; the rest of it the peers show."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from secgear.errors import ChannelError
from secgear.middleware.channel import binding, messages
from secgear.middleware.channel.messages import Frames, Kind, header
from tests.middleware.channel_protocol import independent

PAGE = (Path(__file__).parents[3] / "docs" / "channel-protocol.md").read_text()
_KIND = re.compile(
    r"^\| (\d+) \| ([A-Z]+) \| (client|server|both) \| .* \| (\d+) (KiB|MiB) \|$", re.M
)
_RULE = re.compile(r"^(\w+) += \{(.*?)\}", re.M)
KINDS = {
    name: (int(number), int(size) << (10 if unit == "KiB" else 20))
    for number, name, _, size, unit in _KIND.findall(PAGE)
}


def test_kinds_are_those_of_the_page() -> None:
    assert {kind.name: int(kind) for kind in Kind} == {
        name: number for name, (number, _) in KINDS.items()
    }
    assert {number: name for name, (number, _) in KINDS.items()} == independent.KINDS


@pytest.mark.parametrize("name", KINDS)
def test_limits_are_those_of_the_page(name: str) -> None:
    kind, limit = Kind[name], KINDS[name][1]
    seen: list[tuple[Kind, int]] = []
    frames = Frames(lambda kind, size: seen.append((kind, size)))
    frames.feed([header(kind, limit)])
    assert list(frames) == []
    assert seen == [(kind, limit)]
    frames = Frames(lambda *_: None)
    frames.feed([header(kind, limit + 1)])
    with pytest.raises(ChannelError):
        list(frames)


def test_members_are_those_of_the_page() -> None:
    rules = {
        name: {member.split(":")[0].strip() for member in members.split(",") if member.strip()}
        for name, members in _RULE.findall(PAGE)
    }
    ours = {
        "challenge": messages.Challenge,
        "evidence": messages.Presented,
        "accept": messages.Accept,
        "refuse": messages.Refuse,
        "open": messages.Open,
        "opened": messages.Opened,
        "failed": messages.Failed,
    }
    for name, struct in ours.items():
        assert rules[name] == {field.name for field in msgspec.structs.fields(struct)}
        assert rules[name] == independent.MEMBERS[name.upper()].keys()


def test_labels_are_those_of_the_page() -> None:
    assert f'`"{binding.EXPORTER_LABEL.decode()}"`' in PAGE
    assert independent.EXPORTER == binding.EXPORTER_LABEL
    assert '`"secgear channel v1\\0"`' in PAGE
    assert independent.LABEL == b"secgear channel v1\0"
