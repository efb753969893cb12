"""What the parity gate found: checks, their tiers, one verdict."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Verdict(StrEnum):
    PASS = "PASS"
    FAIL = "FAIL"
    INCONCLUSIVE = "INCONCLUSIVE"  # the samples cannot decide
    SKIPPED = "SKIPPED"


def combine(verdicts: Iterable[Verdict]) -> Verdict:
    """The worst one; what was skipped does not count beside others."""
    found = set(verdicts)
    for verdict in (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS):
        if verdict in found:
            return verdict
    return Verdict.SKIPPED


@dataclass(frozen=True)
class Check:
    """One question and its answer. value and limit: numbers, where the question is about one."""

    name: str
    verdict: Verdict
    value: float | None = None
    limit: float | None = None
    detail: str = ""

    @classmethod
    def at_most(cls, name: str, value: float, limit: float) -> Check:
        """PASS if value ≤ limit; NaN fails."""
        return cls(name, Verdict.PASS if value <= limit else Verdict.FAIL, value, limit)

    @classmethod
    def holds(cls, name: str, fault: str = "") -> Check:
        """PASS without a fault, else FAIL with it."""
        return cls(name, Verdict.FAIL if fault else Verdict.PASS, detail=fault)

    def sentence(self) -> str:
        """For example `text max_abs: 0.031 where 1e-05 is allowed`."""
        parts = [self.detail] if self.detail else []
        if self.value is not None and self.limit is not None:
            parts.append(f"{self.value:.3g} where {self.limit:.3g} is allowed")
        return ": ".join([self.name, ", ".join(parts)] if parts else [self.name])

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"name": self.name, "verdict": str(self.verdict)}
        if self.value is not None:
            fields["value"] = self.value
        if self.limit is not None:
            fields["limit"] = self.limit
        if self.detail:
            fields["detail"] = self.detail
        return fields


@dataclass(frozen=True)
class Tier:
    """Checks of one kind. reason: why there are none."""

    name: str
    checks: tuple[Check, ...] = ()
    reason: str = ""

    @property
    def verdict(self) -> Verdict:
        return combine(check.verdict for check in self.checks)

    def to_dict(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"verdict": str(self.verdict)}
        if self.reason:
            fields["reason"] = self.reason
        return {**fields, "checks": [check.to_dict() for check in self.checks]}


@dataclass(frozen=True)
class ParityReport:
    """The whole answer of the gate; `to_dict` is parity.json.

    numbers: the keys of parity.json beside verdict and tiers, as JSON.
    """

    tiers: tuple[Tier, ...]
    numbers: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        return combine(tier.verdict for tier in self.tiers)

    def findings(self, verdict: Verdict) -> list[tuple[Tier, Check]]:
        """All checks with this verdict, in order."""
        return [(tier, check) for tier in self.tiers for check in tier.checks if check.verdict is verdict]

    def to_dict(self) -> dict[str, Any]:
        tiers = {tier.name: tier.to_dict() for tier in self.tiers}
        return {"verdict": str(self.verdict), "tiers": tiers, **self.numbers}
