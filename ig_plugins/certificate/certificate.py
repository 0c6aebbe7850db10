"""The certificate: a bound, its evidence, and the guard it speaks of."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ig_plugins.errors import MismatchError

# The promise is over all seeds, and a blocked answer is blocked however the caller hears of it.
UNBOUND = frozenset({"seed", "on_block"})


class Setting(BaseModel):
    """One tested setting and what it showed.

    Attributes:
        overrides: The options by which the guard differed, such as {"budget": {...}}.
        prompts: Prompts answered, each once.
        unsafe: Released answers that the judge found unsafe.
        refused: Prompts that were refused.
        bound: Upper confidence bound of the unsafe rate.
        certified: Whether the bound is within the target and all stricter settings were certified as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    overrides: dict[str, Any]
    prompts: int = Field(ge=1)
    unsafe: int = Field(ge=0)
    refused: int = Field(ge=0)
    bound: float = Field(ge=0, le=1)
    certified: bool


class Certificate(BaseModel):
    """A statement about one guard: how often an answer it releases is unsafe, at most.

    Attributes:
        version: Of this file's format.
        target: α.
        confidence: 1 − δ.
        judge: Name of the independent judge.
        judge_limit: Scores above it are unsafe.
        prompts_fingerprint: SHA-256 over the prompts, in order.
        seed: Seeds the calibration.
        tested: The settings in the order that was fixed beforehand, as far as they were tested.
        identity: The certified guard's ``identity()``.
        identity_hash: SHA-256 of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    target: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    judge: str
    judge_limit: float
    prompts_fingerprint: str
    seed: int
    tested: tuple[Setting, ...] = Field(min_length=1)
    identity: dict[str, Any]
    identity_hash: str

    @model_validator(mode="after")
    def _untouched(self) -> "Certificate":
        if fingerprint(self.identity) != self.identity_hash:
            raise ValueError("identity and identity_hash disagree: the file was edited; calibrate again")
        flags = [setting.certified for setting in self.tested]
        if not flags[0] or flags != sorted(flags, reverse=True):
            raise ValueError(f"certified flags {flags}: a setting counts only after all before it; calibrate again")
        for setting in self.tested:
            if setting.certified and setting.bound > self.target:
                raise ValueError(f"a certified setting with bound {setting.bound} above the target {self.target}")
        return self

    @classmethod
    def load(cls, path: str | Path) -> "Certificate":
        """Reads a certificate.

        Raises:
            MismatchError: No file, not a certificate, or one that was edited.
        """
        try:
            return cls.model_validate_json(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise MismatchError(f"no certificate at '{path}'; run: inferenceguard calibrate --out {path}") from error
        except (ValidationError, UnicodeDecodeError) as error:
            first = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "not text"
            raise MismatchError(f"'{path}' is not a valid certificate: {first}") from error

    @property
    def chosen(self) -> Setting:
        """The last certified setting: the least strict one that holds the target."""
        return [setting for setting in self.tested if setting.certified][-1]

    def statement(self) -> str:
        """The promise in words, with what it does not say.

        It promises the target, not the chosen setting's own bound: that one is smaller, but it was picked by looking
        at the answers, which only the target's test allows for.
        """
        setting = self.chosen
        return (
            f"With {self.confidence:.0%} confidence, at most {self.target:.2%} of prompts drawn like the "
            f"{setting.prompts} calibration prompts get an answer that the judge '{self.judge}' finds unsafe "
            f"({setting.unsafe} unsafe and {setting.refused} refused in calibration; "
            f"{len(self.tested)} settings tested in order, this one's own bound is {setting.bound:.2%}). "
            "It holds for exactly these models and settings, for prompts of that kind, and as far as that judge is "
            "right; it says nothing about other prompts, about an adversary, or about what the judge cannot see."
        )

    def check(self, identity: Mapping[str, Any]) -> None:
        """Whether a guard is the certified one.

        Args:
            identity: The guard's ``identity()``.

        Raises:
            MismatchError: It is not; the message names up to five differences, both sides each.
        """
        if fingerprint(identity) == self.identity_hash:
            return
        ours, theirs = dict(_leaves(_bound(self.identity))), dict(_leaves(_bound(identity)))
        keys = [key for key in sorted({*ours, *theirs}) if ours.get(key, "absent") != theirs.get(key, "absent")]
        told = "; ".join(f"{k}: certified {ours.get(k, 'absent')}, here {theirs.get(k, 'absent')}" for k in keys[:5])
        more = f" and {len(keys) - 5} more" if len(keys) > 5 else ""
        raise MismatchError(
            f"the certificate is for another guard ({told}{more}); load the guard with the certified models and "
            "settings, or run: inferenceguard calibrate"
        )

    def save(self, path: str | Path) -> Path:
        """Writes the file; it is whole or not there."""
        path = Path(path)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        os.replace(partial, path)
        return path


def fingerprint(identity: Mapping[str, Any]) -> str:
    """SHA-256 of an identity, without what the promise does not depend on."""
    canonical = json.dumps(_bound(identity), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _bound(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _bound(part) for key, part in value.items() if key not in UNBOUND}
    if isinstance(value, (list, tuple)):
        return [_bound(part) for part in value]
    return value


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves(part, f"{at}.{key}" if at else key)
    else:
        yield at, json.dumps(value)
