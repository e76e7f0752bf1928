"""For tests that render the chart."""

import pytest

from allotment_testkit import chart


@pytest.fixture(autouse=True)
def _helm() -> None:
    reason = chart.why_no_helm()
    if reason:
        pytest.skip(reason)
