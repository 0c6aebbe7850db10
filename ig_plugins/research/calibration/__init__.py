"""A promise about a guard, with the evidence for it and the exact guard that it is about.

Loading and checking a certificate needs nothing beyond the core; calibrating needs scipy (extra ``evaluation``).
"""

from ig_plugins.guard.certificate import Certificate, Setting, fingerprint
from ig_plugins.research.calibration.calibrate import Calibration, calibrate
from ig_plugins.research.calibration.feasibility import Feasibility, feasibility

__all__ = [
    "Calibration",
    "Certificate",
    "Feasibility",
    "Setting",
    "calibrate",
    "feasibility",
    "fingerprint",
]
