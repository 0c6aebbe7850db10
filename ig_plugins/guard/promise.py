"""A guard under a certificate: every call is compared with what was certified, not only the guard when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ig_plugins.errors import MismatchError, OutsideCertificateError
from ig_plugins.guard.identity import identity

if TYPE_CHECKING:
    from ig_plugins.guard.certificate import Certificate
    from ig_plugins.guard.components import Components
    from ig_plugins.guard.options import Options

Outside = Literal["refuse", "mark"]


@dataclass(frozen=True)
class Promise:
    """A certificate, and what becomes of calls that it does not speak of.

    Attributes:
        certificate: The certificate.
        outside: ``refuse`` raises; ``mark`` answers, and the result says that it is not certified.
    """

    certificate: Certificate
    outside: Outside = "refuse"

    def covers(self, components: Components, options: Options, *, fresh: bool = False) -> bool:
        """Whether the certificate speaks of an answer of these parts under these settings.

        Seed, timeouts and ``on_block`` may be anything. The parts are compared as they are now, so that an adapter
        loaded, or a template changed, after the guard was made is seen too.

        Raises:
            OutsideCertificateError: It does not, and that is to be refused.
        """
        try:
            self.certificate.check(identity(components, options, fresh=fresh))
        except MismatchError as error:
            if self.outside == "mark":
                return False
            raise OutsideCertificateError(
                f"this call is not what the guard's certificate speaks of: {error}. Leave the settings as they were "
                "certified (seed, timeouts and on_block are free), or load the guard with outside_certificate='mark', "
                "so that such answers are given and marked"
            ) from error
        return True
