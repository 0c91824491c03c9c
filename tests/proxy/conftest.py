"""What holds in every test of the proxy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from steps_guard import no_task_in_steps

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def guarded_steps() -> Iterator[None]:
    """Steps use no task."""
    with no_task_in_steps():
        yield
