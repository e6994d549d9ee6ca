"""Linear layers for a CPU that needs no gradients: oneDNN's product, with the bias and GELU in the same pass.

PyTorch hands exact products to MKL, after it has copied the bias into the result, and reads the result again for GELU. Where
nobody watches the layer (gradients, autocast, compilers, counters of operations, hooks, replaced modules), the same arithmetic
is asked of oneDNN, which PyTorch ships too; ``python -m benchmarks --only classify`` prints what that gives.
"""

from __future__ import annotations

import functools
import platform

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import is_in_torch_dispatch_mode


def apply(layer: nn.Module, x: Tensor, gelu: bool = False) -> Tensor:
    """Return the layer's answer, through the exact GELU if asked for: (..., in) -> (..., out)."""
    if type(layer) is nn.Linear and not layer._forward_hooks and not layer._forward_pre_hooks:
        return linear(x, layer.weight, layer.bias, gelu)
    x = layer(x)
    return F.gelu(x) if gelu else x


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: bool = False) -> Tensor:
    """Return x W^T + b, through the exact GELU if asked for: (..., in), (out, in), (out,) -> (..., out)."""
    if quick(x) and type(weight) in (Tensor, nn.Parameter) and weight.dtype == torch.float32 and x.numel():
        rows = x.reshape(-1, x.shape[-1])
        found = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "gelu" if gelu else "none", [], "none")
        return found.view(*x.shape[:-1], -1)
    x = F.linear(x, weight, bias)
    return F.gelu(x) if gelu else x


def quick(x: Tensor) -> bool:
    """Say whether work on this tensor may go the short way: float32 on a CPU, no gradients, nobody watching."""
    return (
        type(x) is Tensor
        and x.device.type == "cpu"
        and x.dtype == torch.float32
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and not torch.is_autocast_enabled("cpu")
        and not bool(is_in_torch_dispatch_mode())
        and bool(torch.backends.mkldnn.enabled)
        and _there()
    )


@functools.cache
def _there() -> bool:
    """Say whether this PyTorch has the operation and it answers rightly; it is not part of the public interface."""
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch.backends.mkldnn.is_available():
        return False
    x, weight = torch.linspace(-2, 2, 12).view(3, 4), torch.linspace(-1, 1, 8).view(2, 4)
    try:
        found = torch.ops.mkldnn._linear_pointwise(x, weight, torch.ones(2), "gelu", [], "none")
    except (AttributeError, RuntimeError, TypeError):
        return False
    return torch.allclose(found, F.gelu(F.linear(x, weight, torch.ones(2))), atol=1e-5)
