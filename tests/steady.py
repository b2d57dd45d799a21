"""Settings of hypothesis for all tests that use it: the same examples each time, on a machine of any speed."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

STEADY = settings(
    deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
