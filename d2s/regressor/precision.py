"""Which number format the network runs in."""

from __future__ import annotations

from pathlib import Path

import torch


def resolve_precision(precision: str, device: torch.device) -> torch.dtype:
    """The dtype of "fp32", "bf16" or "auto" (bf16 where the hardware multiplies it natively, else fp32)."""
    if precision == "auto":
        return torch.bfloat16 if has_native_bf16(device) else torch.float32
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 is faster than fp32 there: emulated bf16 (older CPUs and GPUs) is slower."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    return device.type == "cpu" and _cpu_has_bf16()


def _cpu_has_bf16() -> bool:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return False
    flags = info.read_text(encoding="utf-8", errors="replace")
    return "avx512_bf16" in flags or "amx_bf16" in flags
