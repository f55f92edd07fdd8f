"""What holds for every test of the suite."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# A busy machine is not a defect: no example has a deadline, none is too slow to draw.
settings.register_profile(
    "narrows", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("narrows")
