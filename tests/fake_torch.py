"""Stands for PyTorch, as far as its tensors are pickled: each is a view of a storage, and pickled with all of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

uint8 = np.uint8


class Tensor:
    """Elements of a storage, which is a flat array here."""

    device = SimpleNamespace(type="cpu")

    def __init__(self, storage: Any, start: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> None:
        self.storage, self.start, self.shape, self.strides = storage, start, shape, strides
        self.dtype = storage.dtype

    def element_size(self) -> int:
        return int(self.dtype.itemsize)

    def untyped_storage(self) -> Any:
        return self.storage.view(uint8)

    def set_(self, storage: Any, start: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
        return Tensor(storage.view(self.dtype), start, shape, strides)

    def numpy(self) -> Any:
        steps = [stride * self.element_size() for stride in self.strides]
        return np.lib.stride_tricks.as_strided(self.storage[self.start :], self.shape, steps)

    def clone(self) -> Tensor:
        return Tensor(self.storage.copy(), self.start, self.shape, self.strides)

    def __len__(self) -> int:
        return self.shape[0]

    def __reduce_ex__(self, _: object) -> Any:
        return _rebuild_tensor_v2, (self.storage, self.start, self.shape, self.strides)


Tensor.__module__ = "torch"


def empty(length: int, dtype: Any) -> Tensor:
    return Tensor(np.empty(length, dtype), 0, (length,), (1,))


def frombuffer(content: Any, dtype: Any) -> Tensor:
    array = np.frombuffer(content, dtype)
    return Tensor(array, 0, array.shape, (1,))


def _rebuild_tensor_v2(storage: Any, start: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> Tensor:
    return Tensor(storage, start, shape, strides)


def _typed(wrap_storage: Any, dtype: Any, _internal: bool) -> Any:
    return wrap_storage.view(dtype)


_utils = SimpleNamespace(_rebuild_tensor_v2=_rebuild_tensor_v2)
storage = SimpleNamespace(TypedStorage=_typed)
