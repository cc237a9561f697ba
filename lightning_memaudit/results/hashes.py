"""Content hashes: which weights, images and settings a result is about."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def tensors_sha256(tensors: Mapping[str, Any]) -> str:
    """SHA-256 over names, types, shapes and bytes of tensors, in the order of their names.

    The same for a state dict on any device and for the ``state_dict`` of a checkpoint of it. Sparse tensors and
    quantized ones, whose bytes say nothing without their scale, are hashed as what they stand for.

    Raises:
        RuntimeError: One has no values that can be read, such as one on the meta device.
    """
    import torch  # only whoever has tensors pays for it

    digest = hashlib.sha256()
    for name in sorted(tensors):
        value = tensors[name]
        if not hasattr(value, "detach"):
            continue  # extra state that is no tensor
        tensor = value.detach().cpu()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        if tensor.is_quantized:
            tensor = tensor.dequantize()
        if tensor.layout != torch.strided:
            tensor = tensor.to_dense()
        tensor = tensor.resolve_conj().resolve_neg().contiguous()
        if tensor.numel():
            digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def json_sha256(content: Any) -> str:
    """SHA-256 of a JSON value in its canonical form: sorted keys, no spaces, UTF-8 (halves of characters too).

    Raises:
        ValueError: It holds NaN or an infinity.
        TypeError: It holds what JSON does not know.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def array_sha256(array: "np.ndarray[Any, Any]") -> str:
    """SHA-256 over type, shape and bytes of an array."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def image_sha256(image: "np.ndarray[Any, Any]") -> str:
    """SHA-256 of an image (C, *spatial) in [0, 1] at 8 bits per value."""
    return hashlib.sha256((np.clip(image, 0, 1) * np.float32(255)).round().astype(np.uint8).tobytes()).hexdigest()


def combined_sha256(hashes: "list[str]") -> str:
    """One hash for a sequence of hashes, in order."""
    return hashlib.sha256("".join(hashes).encode()).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()
