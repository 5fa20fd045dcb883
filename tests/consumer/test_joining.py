"""What a process decides before it joins the ranks."""

from types import SimpleNamespace

import pytest
import torch

from penstock.consumer import joining


@pytest.mark.parametrize(("major", "expected"), [(7, "no"), (8, "bf16"), (9, "bf16")])
def test_auto_takes_bfloat16_only_where_the_gpu_multiplies_it(
    major: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tensor cores know it from compute capability 8 on; a V100 or T4 (7) only emulates it, slower than float32."""
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(major=major))
    monkeypatch.setattr(torch.cuda, "_check_bf16_tensor_supported", lambda device: True)
    assert joining.precision("auto") == expected
    assert joining.precision("fp16") == "fp16"
