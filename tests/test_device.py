"""What ``auto`` means."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from s15erav3 import device
from s15erav3.errors import UserError
from s15erav3.training.hardware import has_fast_bf16, listed_flops, peak_flops


def test_a_cpu_trains_in_fp32_and_a_gpu_in_bf16_only_where_it_is_made_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """bf16 that is emulated can be a hundred times slower than fp32."""
    assert device.choose_precision("auto", "cpu") == "32-true"
    for fast, wanted in ((True, "bf16-mixed"), (False, "32-true")):
        monkeypatch.setattr(device, "has_fast_bf16", lambda _, fast=fast: fast)
        assert device.choose_precision("auto", "cuda") == wanted
    assert device.choose_precision("bf16-mixed", "cpu") == "bf16-mixed"


def test_gpu_never_falls_back_to_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """``auto`` may choose, ``gpu`` may not."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device.choose_accelerator("auto") == "cpu"
    with pytest.raises(UserError, match="no CUDA device"):
        device.choose_accelerator("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device.choose_accelerator("auto") == "cuda"
    assert device.choose_accelerator("cpu") == "cpu"


def test_a_model_is_refused_that_the_device_could_not_hold_while_it_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 bytes each, of the whole device and of the right one: a GPU's memory is not the machine's."""
    monkeypatch.setattr(device.psutil, "virtual_memory", lambda: SimpleNamespace(total=4096 * 1_000_000))
    properties = SimpleNamespace(total_memory=16_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    for place, most in (("cpu", 256_000_000), ("cuda", 1_000_000_000)):
        device.refuse_if_too_large(most, place)
        with pytest.raises(UserError) as caught:
            device.refuse_if_too_large(most + 1, place)
        said = str(caught.value)
        assert f"{most + 1:,} parameters" in said and f"{16 * most / 1e9:,.0f} GB" in said and "smaller model" in said


@pytest.mark.parametrize(
    ("card", "bf16", "fp32"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4, 66.9),
        ("NVIDIA H100 PCIe", 756, 51.2),
        ("NVIDIA H100 NVL", 835.5, 60),
        ("NVIDIA H200", 989.4, 66.9),
        ("NVIDIA A100-SXM4-80GB", 312, 19.5),
        ("NVIDIA L4", 121, 30.3),
        ("NVIDIA L40S", 362, 91.6),
        ("NVIDIA GeForce RTX 4090", 165.2, 82.6),
        ("NVIDIA A10G", None, None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None, None),
        ("NVIDIA A40-48Q", None, None),
        ("Tesla T4", None, None),
    ],
)
def test_the_peak_of_a_gpu_is_that_of_its_name(card: str, bf16: float | None, fp32: float | None) -> None:
    """Seen wrong in Lightning's table: an L40S as an L4, an H100 NVL with sparsity, no H200."""
    for is_bf16, peak in ((True, bf16), (False, fp32)):
        found = listed_flops(card, is_bf16)
        assert found == (peak and pytest.approx(peak * 1e12))


def test_the_peak_of_a_cpu_is_measured() -> None:
    """A plausible number: more than a calculator, less than a data centre."""
    assert isinstance(has_fast_bf16("cpu"), bool)
    peak = peak_flops(torch.device("cpu"), bf16=False)
    assert peak is not None
    assert 1e8 < peak < 1e15
