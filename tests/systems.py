"""What Windows lacks: tests that need it are skipped there, and nowhere else."""

import os

import pytest

WINDOWS = os.name == "nt"


def _not_on_windows(reason: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(WINDOWS, reason=reason)


needs_links = _not_on_windows("making symbolic links needs a right that few have on Windows")
needs_pipes = _not_on_windows("Windows has no pipes among its files")
needs_fork = _not_on_windows("Windows cannot fork")
needs_limits = _not_on_windows("Windows cannot limit what a process may write or allocate")
needs_signals = _not_on_windows("Windows has no signals that a process may hear")
needs_case = _not_on_windows("names that differ in case are one file on Windows")
