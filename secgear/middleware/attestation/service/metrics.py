"""What the service counts, for Prometheus. Each application has a registry of its own."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest


class Metrics:
    """Counters and times since the start of this instance."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.challenges = Counter("secgear_challenges", "Nonces given out.", registry=self.registry)
        self.nonces_refused = Counter(
            "secgear_nonces_refused",
            "Nonces that were unknown, expired or used already.",
            registry=self.registry,
        )
        self.appraisals = Counter(
            "secgear_appraisals",
            "Evidence that was judged, by outcome and TEE (none: not authentic).",
            ("outcome", "tee"),
            registry=self.registry,
        )
        self.seconds = Histogram(
            "secgear_appraisal_seconds",
            "Time to judge one piece of evidence.",
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
        )
        self.refused = Counter(
            "secgear_requests_refused",
            "Requests that were answered with a problem, by code.",
            ("code",),
            registry=self.registry,
        )
        self.changes = Counter(
            "secgear_documents_changed",
            "Changes of policies, reference values and collateral.",
            ("kind", "action"),
            registry=self.registry,
        )

    def text(self) -> bytes:
        """In Prometheus' text form."""
        return generate_latest(self.registry)
