"""The certificate: a bound, its evidence, and the guard it speaks of."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from critic_models.validation import explain
from ig_plugins.errors import MismatchError
from ig_plugins.guard.identity import bound, unknown


class Setting(BaseModel):
    """One tested setting and what it showed.

    Attributes:
        overrides: By what the guard differed: {"limit": 10.0}, or a list with a limit for each cost model.
        prompts: Prompts answered, each once.
        unsafe: Released answers that the judge found unsafe.
        refused: Prompts that were refused.
        bound: Upper confidence bound of the unsafe rate.
        certified: Whether the bound is within the target and all stricter settings were certified as well.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    overrides: dict[str, Any]
    prompts: int = Field(ge=1)
    unsafe: int = Field(ge=0)
    refused: int = Field(ge=0)
    bound: float = Field(ge=0, le=1)
    certified: bool

    @model_validator(mode="after")
    def _counts_add_up(self) -> "Setting":
        if self.unsafe + self.refused > self.prompts:
            raise ValueError(f"{self.unsafe} unsafe and {self.refused} refused of {self.prompts} prompts")
        json.dumps(self.overrides, allow_nan=False)
        return self


class Certificate(BaseModel):
    """A statement about one guard: how often an answer it releases is unsafe, at most.

    Attributes:
        version: Of this file's format; 1 knew guards by the names of their parts, and is read but not accepted.
        target: α.
        confidence: 1 − δ.
        judge: Name of the independent judge.
        judge_limit: Scores above it are unsafe.
        judge_identity: What the judge is; see ``critic_models.identity``.
        prompts_fingerprint: SHA-256 over the prompts, in order.
        seed: Seeds the calibration.
        tested: The settings in the order that was fixed beforehand, as far as they were tested.
        identity: The certified guard's ``identity()``.
        identity_hash: SHA-256 of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal[1, 2] = 2
    target: float = Field(gt=0, lt=1)
    confidence: float = Field(gt=0, lt=1)
    judge: str
    judge_limit: float
    judge_identity: dict[str, Any] | None = None
    prompts_fingerprint: str
    seed: int = Field(ge=0)
    tested: tuple[Setting, ...] = Field(min_length=1)
    identity: dict[str, Any]
    identity_hash: str

    @model_validator(mode="after")
    def _untouched(self) -> "Certificate":
        if (fingerprint(self.identity) if self.version > 1 else _fingerprint_1(self.identity)) != self.identity_hash:
            raise ValueError("identity and identity_hash disagree: the file was edited; calibrate again")
        flags = [setting.certified for setting in self.tested]
        if not flags[0] or flags != sorted(flags, reverse=True):
            raise ValueError(f"certified flags {flags}: a setting counts only after all before it; calibrate again")
        for setting in self.tested:
            if setting.certified != (setting.bound <= self.target):
                raise ValueError(
                    f"a setting with bound {setting.bound} is {'' if setting.certified else 'not '}certified, "
                    f"and the target is {self.target}"
                )
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
            first = explain(error, values=False) if isinstance(error, ValidationError) else "not text"
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
            MismatchError: It is not, and the message names up to five differences, both sides each; or nobody can
                know, since a part has no version, or the certificate is of an older format.
        """
        if self.version < 2:
            raise MismatchError(
                "this certificate was made by an older inferenceguard, which knew a guard by the names of its parts "
                "and not by what they are, so it cannot be compared; run: inferenceguard calibrate"
            )
        check_known(identity)
        if fingerprint(identity) == self.identity_hash:
            return
        ours, theirs = dict(_leaves(bound(self.identity))), dict(_leaves(bound(identity)))
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
    return _sha256(bound(identity))


def check_known(identity: Mapping[str, Any]) -> None:
    """Refuses a guard of which something cannot be known, such as a function without a version.

    Raises:
        MismatchError: Names the parts, and how to make them known.
    """
    if found := unknown(identity):
        raise MismatchError(
            "nothing can be certified about this guard, since nobody can know what these parts are: "
            f"{'; '.join(found)}. Give a function a version that says what it does: CallableJudge(f, version='...'), "
            "or an attribute f.version; an object of a class of your own likewise; a model must be wholly in memory"
        )


def _sha256(value: Any) -> str:
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _fingerprint_1(identity: Mapping[str, Any]) -> str:
    """As format 1 had it, which left out these keys wherever they stood."""

    def without(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): without(part) for key, part in value.items() if key not in ("seed", "on_block")}
        return [without(part) for part in value] if isinstance(value, list | tuple) else value

    return _sha256(without(identity))


def _leaves(value: Any, at: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list) and value:
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(part, f"{at}.{key}" if at else str(key))
    else:
        yield at, json.dumps(value)
