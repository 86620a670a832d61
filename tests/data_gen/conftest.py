"""A loopback teacher for all tests of data_gen, and small configurations."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from data_gen.config import TeacherConfig
from data_gen.teacher.serve import background_server


@pytest.fixture(scope="session")
def teacher_url() -> Iterator[str]:
    """The base URL of an offline teacher in its own process."""
    with background_server() as url:
        yield url


@pytest.fixture
def teacher(teacher_url: str) -> TeacherConfig:
    """A configuration that asks the loopback teacher."""
    return TeacherConfig(base_url=teacher_url, concurrency=8)
