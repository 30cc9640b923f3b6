"""The rule that CI skips nothing, for tests and for the examples of docstrings."""

import os

import pytest


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport(item, call):
    return _no_skip_in_ci((yield))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report(collector):
    return _no_skip_in_ci((yield))


def _no_skip_in_ci(report):
    """With CI=true a skip is a failure, unless it is a GPU, a browser or the folder of real packs
    that is not there."""
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get("CI") == "true":
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        if not any(missing in reason for missing in ("GPU", "browser", "DIPTYCH_DATA")):
            report.outcome, report.longrepr = "failed", f"skipped in CI: {reason}"
    return report
