"""Contents of tensors and arrays: copied and put back, or watched where a copy would take too much memory."""

import weakref
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

LARGEST_COPY = 256 * 2**20
"""Bytes of one tensor, and of all parameters and gradients together, up to which they are copied."""

_PACKED = 2**20


class ChangedBefore:
    """Tensors that an audit has changed although nothing changes them: from then on a copy of them is kept.

    >>> weight, seen = torch.zeros(3), ChangedBefore()
    >>> seen.add(weight)
    >>> weight in seen, torch.zeros(3) in seen
    (True, False)
    """

    def __init__(self) -> None:
        self._tensors: dict[int, weakref.ref[Any]] = {}

    def add(self, tensor: Any) -> None:
        """Remember one."""
        self._tensors[id(tensor)] = weakref.ref(tensor)

    def __contains__(self, tensor: Any) -> bool:
        reference = self._tensors.get(id(tensor))
        return reference is not None and reference() is tensor


class TensorContent:
    """What one tensor holds, its storage, whether it asks for gradients, and its gradient.

    Attributes:
        owner: The tensor.
        size: Bytes that a copy takes.
        pooled: Whether it is a parameter or a gradient, which are copied within one common limit.

    >>> weight = torch.ones(2)
    >>> content = TensorContent(weight, pooled=True)
    >>> content.keep()
    >>> _ = weight.zero_()
    >>> content.restore()
    >>> weight
    tensor([1., 1.])
    """

    def __init__(self, tensor: Tensor, pooled: bool, sharded: bool = False) -> None:
        self.owner, self.pooled, self._sharded = tensor, pooled, sharded
        # Another tensor of the same memory: it stays behind where `tensor.data = ...` replaces the memory. It has its
        # own version counter, so that putting back does not look like a change to a graph that waits for backward.
        self.memory = tensor.data
        self.size = tensor.nbytes if tensor.layout is torch.strided else 0
        self.requires_grad = tensor.requires_grad
        self.grad = tensor.grad if tensor.is_leaf else None
        self._copy: Tensor | None = None
        self._watched: tuple[int, int] | None = None

    def keep(self) -> None:
        """Copy the content."""
        self._copy = self.memory.clone()

    def watch(self) -> None:
        """Remember what tells a changed content from this one."""
        self._watched = _version(self.owner), _checksum(self.memory)

    @property
    def is_kept(self) -> bool:
        """Whether there is a copy."""
        return self._copy is not None

    def restore(self, content_changed: bool = True) -> str | None:
        """Put everything back; what could not be is returned in words.

        Args:
            content_changed: False where the content is known to be as it was.
        """
        tensor, problem = self.owner, None
        if self._watched is not None:
            if (_version(tensor), _checksum(self.memory)) != self._watched:
                problem = f"tensor of {self.size / 2**20:.0f} MiB"
        elif content_changed and self._copy is not None and not same_content(self.memory, self._copy):
            with torch.inference_mode(self.memory.is_inference()):
                _write(self.memory, self._copy)
        if self._sharded:
            return problem
        if _layout(tensor) != _layout(self.memory):
            tensor.data = self.memory
        if tensor.is_leaf:
            if tensor.requires_grad != self.requires_grad:
                tensor.requires_grad_(self.requires_grad)
            if tensor.grad is not self.grad:
                tensor.grad = self.grad
        return problem


class ArrayContent:
    """What one numpy array holds; the interface of :class:`TensorContent`.

    >>> table = np.ones(2)
    >>> content = ArrayContent(table)
    >>> content.keep()
    >>> table[:] = 0
    >>> content.restore()
    >>> table
    array([1., 1.])
    """

    pooled = False
    is_kept = False

    def __init__(self, array: "np.ndarray[Any, Any]") -> None:
        self.owner = array
        self.memory = array.view(np.ndarray)
        self.size = array.nbytes
        self.shape = array.shape
        self._copy: np.ndarray[Any, Any] | None = None
        self._checksum: int | None = None

    def keep(self) -> None:
        """Copy the content."""
        self._copy = self.memory.copy()

    def watch(self) -> None:
        """Remember what tells a changed content from this one."""
        self._checksum = zlib.crc32(np.ascontiguousarray(self.memory).data) if self.memory.flags.writeable else None

    def restore(self) -> str | None:
        """Put the content back; what could not be is returned in words."""
        if self.owner.shape != self.shape:
            return "array of another shape"
        if self._copy is not None:
            if self.memory.flags.writeable:
                np.copyto(self.memory, self._copy)
        elif self._checksum is not None and zlib.crc32(np.ascontiguousarray(self.memory).data) != self._checksum:
            return f"array of {self.size / 2**20:.0f} MiB"
        return None


class Contents:
    """Contents of many tensors and arrays.

    Small tensors are compared together, by one kernel and one wait for the device.

    >>> weight = torch.ones(2)
    >>> contents = Contents([TensorContent(weight, pooled=True)], ChangedBefore())
    >>> _ = weight.data.mul_(3)
    >>> list(contents.restore()), weight
    ([], tensor([1., 1.]))
    """

    def __init__(self, parts: Sequence[TensorContent | ArrayContent], changed: ChangedBefore) -> None:
        self._parts, self._changed = parts, changed
        left = LARGEST_COPY
        for part in sorted(parts, key=lambda part: part.size):
            fits = part.size <= (left if part.pooled else LARGEST_COPY)
            if fits and part.pooled:
                left -= part.size
            if fits or part.owner in changed:
                part.keep()
            else:
                part.watch()
        groups: dict[torch.device, list[TensorContent]] = {}
        for part in parts:
            if isinstance(part, TensorContent) and part.is_kept and 0 < part.size <= _PACKED:
                groups.setdefault(part.memory.device, []).append(part)
        self._groups = [group for group in groups.values() if len(group) > 1]

    def restore(self) -> Iterable[tuple[Any, str]]:
        """Put everything back; yields each tensor or array that could not be, and what it is."""
        same = {id(part) for group in self._groups if _all_same(group) for part in group}
        for part in self._parts:
            try:
                if isinstance(part, TensorContent):
                    problem = part.restore(content_changed=id(part) not in same)
                else:
                    problem = part.restore()
            except Exception as error:
                problem = f"tensor, {type(error).__name__}" if isinstance(part, TensorContent) else "array"
            if problem is not None:
                if isinstance(part, TensorContent):
                    self._changed.add(part.owner)
                yield part.owner, problem


def tensor_content(tensor: Tensor, pooled: bool, sharded: bool = False) -> TensorContent | None:
    """The content of a tensor; None where it has none that can be copied, such as a parameter not yet initialized."""
    if is_lazy(tensor) or tensor.is_meta:
        return None
    try:
        with torch._C.DisableTorchFunctionSubclass():
            return TensorContent(tensor, pooled, sharded)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):  # of a kind that nobody here knows
        return None


def same_content(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same bits; NaN included."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    try:
        return torch.equal(_bits(one), _bits(other))
    except (RuntimeError, NotImplementedError, TypeError):
        return False  # sparse, quantized: put back in any case


def _bits(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1).view(torch.uint8)


def _all_same(parts: Sequence[TensorContent]) -> bool:
    try:
        now = torch.cat([_bits(part.memory) for part in parts])
        return torch.equal(now, torch.cat([_bits(part._copy) for part in parts if part._copy is not None]))
    except (RuntimeError, NotImplementedError, TypeError):
        return False


def _write(tensor: Tensor, content: Tensor) -> None:
    """Write to a tensor, without the repetitions of one that is expanded, which would refuse."""
    if tensor.layout is torch.strided:
        for dim, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
            if stride == 0 and size > 1:
                tensor, content = tensor.narrow(dim, 0, 1), content.narrow(dim, 0, 1)
    tensor.copy_(content)


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    if tensor.layout is not torch.strided:
        return (tensor.layout,)
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _checksum(tensor: Tensor) -> int:
    """A number that a change of the content changes too; `tensor.data` is written to without a new version."""
    if tensor.layout is not torch.strided:
        return 0
    # In the order of memory, where a large tensor need not be copied to be read.
    strides = tensor.stride()
    bits = _bits(tensor.permute(sorted(range(tensor.dim()), key=lambda dim: -strides[dim])))
    whole = len(bits) // 8 * 8 if bits.storage_offset() % 8 == 0 else 0
    return int(bits[:whole].view(torch.int64).sum()) + int(bits[whole:].sum())
