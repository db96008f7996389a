"""What the demo does not show, in words."""

from __future__ import annotations

from secgear.base.tee import Tee
from secgear.cli._demo.report import Report


def limits(report: Report, tee: Tee) -> list[str]:
    """One paragraph each."""
    found = [f"What the {tee.name} TEE protects: {tee.protects}."]
    if tee.simulated:
        found.append(
            "SIMULATION: root, the kernel, a hypervisor and whoever holds the machine can read "
            "everything. The evidence is signed by a key in a file that this host can read: it "
            "could sign evidence for itself, and the owners would believe it. On hardware that key "
            "is the processor's."
        )
    found.append(
        "The host still learns who connects, when, how many bytes go which way, and the progress "
        "that the program reports. It can refuse, delay and end everything."
    )
    found.append(
        "The host's memory was searched at one moment, after the answer; its files, its log and "
        "the recording are complete."
    )
    if any(place.unseen for place in (*report.seen, *report.control)):
        found.append("A place that could not be searched shows nothing; see above for the reason.")
    if report.attacker is not None and report.attacker.uid == 0:
        found.append(
            "This ran as root, because no other user can read this interpreter or these packages. "
            "The attacker gave up its capabilities but not its uid, which owns what it attacked. "
            "Run the demo as another user, or from a folder that others may read."
        )
    if any(attack.verdict == "inconclusive" for attack in report.attacks):
        found.append(
            "An attack in yellow shows nothing: it does not work here on an ordinary process "
            "either, or it failed for another reason than permission."
        )
    return found
