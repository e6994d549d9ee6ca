"""Networks written for other libraries, each proved as it is written; engines made on demand from a checkpoint."""

from __future__ import annotations

from swinkit.export.cache import OnDemandEngine
from swinkit.export.write import CompiledEngine, export_network

__all__ = ["CompiledEngine", "OnDemandEngine", "export_network"]
