"""Values that make no sense are refused by their key before anything is asked."""

from __future__ import annotations

from typing import Any

import pytest

from data_gen.config import FaultsConfig, FiltersConfig, GenerateConfig, InpaintConfig, TeacherConfig
from extes_train.errors import ConfigError

NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        *((TeacherConfig, f"teacher.{key}", NAN) for key in ("max_cost", "timeout_s", "requests_per_minute")),
        (TeacherConfig, "teacher.tokens_per_minute", 0),
        (TeacherConfig, "teacher.max_tokens", 0),
        (TeacherConfig, "teacher.temperature", -0.1),
        (TeacherConfig, "teacher.price_per_million_prompt_tokens", -1),
        (GenerateConfig, "generate.max_candidates", 0),
        (GenerateConfig, "generate.min_acceptance", 5),
        (GenerateConfig, "generate.seed_share", -0.5),
        (InpaintConfig, "inpaint.lag", 0),
        (InpaintConfig, "inpaint.fsync_every", 0),
        (InpaintConfig, "inpaint.max_similarity", 2),
        (FiltersConfig, "filters.near_duplicate", 1.5),
        (FiltersConfig, "filters.max_turns", 3),
        (FaultsConfig, "serve.faults.rate_429", 1.5),
    ],
)
def test_a_value_without_sense_is_refused(kind: Any, key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"^{key}={value}: must"):
        kind(**{key.rpartition(".")[2]: value})
