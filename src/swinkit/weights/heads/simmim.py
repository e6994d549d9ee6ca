"""SimMIM's encoder: a backbone with the token that stands for what is hidden; the decoder of the pre-training is left aside."""

from __future__ import annotations

from typing import Any

from swinkit.models.simmim import MaskedSwin
from swinkit.specs import ModelSpec
from swinkit.weights import hf
from swinkit.weights.heads.base import Head


class SimMim(Head):
    """Masked pre-training; its one tensor has its names in the tables of the backbone, where every code base keeps it."""

    task = "simmim"
    network = MaskedSwin
    within = ("mask_token",)
    fresh = ("mask_token",)
    unread = ("decoder.",)

    def write_hf(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the configuration of transformers' ``SwinModel``, or of its Swin V2."""
        return hf.write_config(spec)
