"""What weights ask of a kind of head; the answers here are those of a network that is a backbone and nothing else."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor, nn

from swinkit.errors import CheckpointError
from swinkit.models.swin import Swin
from swinkit.models.variants import resolve
from swinkit.specs import ModelSpec, Variant
from swinkit.weights.rows import Row

Tensors = dict[str, Tensor]
Mode = Literal["exact", "new", "22k"]  # of ``adapt.load_into``
Fields = dict[str, Any]  # of a ModelSpec


class Head:
    """One kind of head: its names in each code base, and what its presence means. A subclass says where it differs.

    Attributes:
        task: name of the task that has this kind of head.
        called: for notes about tensors of this head that are left aside.
        network: the module that carries it.
        apart: how our names of tensors begin that stand beside the backbone's and have tables of their own (``read``, ``write``).
        within: how our names of tensors begin that stand among the backbone's; another network may lack them.
        fresh: those of ``within`` that start as initialised where weights have none.
        rows: names of ``within`` in each dialect.
        unread: how keys begin that belong to this task's training and to no network.
        hf_types: ``model_type`` of its transformers configurations.
    """

    task: ClassVar[str]
    called: ClassVar[str] = "a head"
    network: ClassVar[type[nn.Module]]
    apart: ClassVar[tuple[str, ...]] = ()
    within: ClassVar[tuple[str, ...]] = ()
    fresh: ClassVar[tuple[str, ...]] = ()
    rows: ClassVar[dict[str, tuple[Row, ...]]] = {}
    unread: ClassVar[tuple[str, ...]] = ()
    hf_types: ClassVar[tuple[str, ...]] = ()

    # Names and descriptions

    def names(self, name: str) -> bool:
        """Return whether a network of this kind goes by ``name``."""
        return False

    def canonical(self, name: str) -> str:
        """Return the network's own name where ``name`` is another spelling, or that of its weights."""
        return resolve(name)[0]

    def weights_of(self, name: str, backbone: str | None) -> str:
        """Return the name of the weights that ``pretrained=True`` means."""
        return name

    def describes(self, spec: ModelSpec) -> bool:
        """Return whether a description is of a network of this kind."""
        return spec.task == self.task

    # Reading

    def read(self, tensors: Tensors) -> Tensors | None:
        """Return the tensors that stand apart, under our names; None when a file of any dialect has none of this kind.

        Raises:
            KeysLeftOver: some keys are explained by no row.
        """
        return None

    def classes(self, tensors: Tensors) -> int:
        """Return the number of classes that tensors within the backbone's tell of, 0 when none do."""
        return 0

    def shape(self, apart: Tensors, variant: Variant, described: ModelSpec | None) -> tuple[Variant, Fields]:
        """Return the variant with this head's classes, and what else of a description follows from tensors.

        Args:
            apart: as ``read`` returned them.
            variant: shape of the backbone.
            described: a description beside the weights; decides what tensors do not tell.

        Raises:
            UnknownDialect: a head of another kind.
        """
        return variant, {"task": self.task, "decoder": None}

    def undescribed(self, variant: Variant, fields: Fields, dialect: str, name: str) -> ModelSpec:
        """Return the description of weights beside which none stands: as their publisher prepared photos, if anyone knows."""
        raise NotImplementedError(self.task)

    def read_hf(self, config: dict[str, Any], preparation: dict[str, Any] | None) -> ModelSpec:
        """Return the description in a transformers configuration of ``hf_types`` and its processor's (None: there is none)."""
        raise NotImplementedError(self.task)

    def reads_mm(self, config: dict[str, Any]) -> bool:
        """Return whether a configuration is one of the mm family that ``read_mm`` reads."""
        return False

    def read_mm(self, config: dict[str, Any]) -> ModelSpec:
        """Return the description in a configuration of the mm family: its ``model``, as JSON."""
        raise NotImplementedError(self.task)

    # Loading

    def body(self, network: nn.Module) -> nn.Module:
        """Return the part of a network that takes the tensors of the backbone."""
        return network

    def load(self, network: nn.Module, apart: Tensors, mode: Mode) -> list[str]:
        """Put the tensors that stand apart into a network whose body is loaded; return notes.

        Raises:
            KeysLeftOver, ShapesDiffer: they do not fit, or there are none and the mode is "exact".
        """
        return []

    def fit(self, given: Tensors, wanted: Tensors, mode: Mode, notes: list[str]) -> None:
        """Adapt the tensors within the backbone's, in place, where classes differ.

        Raises:
            ShapesDiffer: they do, and the mode is "exact".
        """

    # Writing

    def taken(self, network: nn.Module, spec: ModelSpec) -> tuple[Tensors, ModelSpec]:
        """Return a network's tensors under our names and its description, shape as the network has it."""
        return network.state_dict(), spec.changed(variant=network.variant) if isinstance(network, Swin) else spec

    def refuse(self, dialect: str) -> None:
        """Raise CheckpointError where a dialect has no such head."""

    def prefix(self, spec: ModelSpec, dialect: str) -> str:
        """Return what stands before the backbone's keys in a file of a dialect."""
        return ""

    def write(self, apart: Tensors, dialect: str) -> Tensors:
        """Return tensors that stand apart in a dialect's names."""
        return {}

    def content(self, tensors: Tensors, spec: ModelSpec, dialect: str) -> dict[str, Any]:
        """Return what a .pth file of a dialect holds."""
        return {"model": tensors} if dialect == "official" else dict(tensors)

    def write_hf(self, spec: ModelSpec) -> dict[str, Any]:
        """Return the ``config.json`` with which transformers builds the same network.

        Raises:
            CheckpointError: transformers cannot hold it, with the reason.
        """
        raise CheckpointError(f"transformers has no place for a network of the task {spec.task}; write another dialect")


def put(network: nn.Module, given: Tensors, wanted: Tensors) -> None:
    """Copy tensors into the network; one on the meta device takes copies as its own."""
    unborn = any(value.is_meta for value in wanted.values())
    # A copy even then: memory of a file may be unaligned, and kernels round differently there.
    given = {key: value.to(wanted[key].dtype, copy=unborn) for key, value in given.items()}
    network.load_state_dict(given, assign=unborn)
