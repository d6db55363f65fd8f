"""Any timm classifier: a right loss, or a clear refusal. See `timm_models`."""

from __future__ import annotations

import pytest
import timm
from timm_models import DOCUMENT, documented, timm_modules, try_model

ROWS = documented()


def test_the_page_has_every_module() -> None:
    assert len(ROWS) >= 90
    if f"timm {timm.__version__}:" in DOCUMENT.read_text():
        assert {module for module, _, _ in ROWS} == timm_modules()
    assert {status for _, _, status in ROWS} == {"supported", "refused"}


@pytest.mark.slow
@pytest.mark.parametrize(("module", "model", "status"), ROWS)
def test_a_right_loss_or_a_refusal(module: str, model: str, status: str) -> None:
    if not timm.is_model(model):
        pytest.skip(f"timm {timm.__version__} has no {model}")
    result = try_model(module, model)
    assert result.status == status, result.reason
