"""The two layouts of torch.save: a zip file, and before PyTorch 1.6 a series of pickles, tensors' bytes behind it."""

import os
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from io import BytesIO
from typing import BinaryIO

import torch
from torch.serialization import default_restore_location

from .contents import STORAGES, Name, Storage
from .pickled import DataUnpickler

# What a file of the old layout begins with; the second is its version.
_HEAD = (0x1950A86A20F9469CFC6C, 1001)
_LOCAL_HEADER = struct.Struct('<4s22xHH')

Placing = Callable[[torch.UntypedStorage, str], torch.UntypedStorage]


def placing(map_location) -> Placing:
    """How storages come to the device where they are wanted.

    Args:
        map_location: As torch.load takes it: a device, a dict from the one in the file, a function, or None.
    """

    def place(storage: torch.UntypedStorage, location: str) -> torch.UntypedStorage:
        if callable(map_location):
            placed = map_location(storage, location)
            return default_restore_location(storage, location) if placed is None else placed
        if isinstance(map_location, Mapping):
            location = map_location.get(location, location)
        elif map_location is not None:
            location = str(map_location)
        return default_restore_location(storage, location)

    return place


def read_zip(path: str, place: Placing, mmap: bool) -> object:
    """What a zip file of torch.save holds.

    Args:
        path: The file.
        place: See :func:`placing`.
        mmap: Whether the tensors stay in the file, which may then not change.

    Raises:
        NotData: If there is more than data.
        EOFError: If it ends too early; for other damage, exceptions of any kind.
    """
    content = torch.UntypedStorage.from_file(path, False, os.path.getsize(path))
    storages: dict[str, torch.UntypedStorage] = {}
    with open(path, 'rb') as file, zipfile.ZipFile(file) as archive:
        entries = {info.filename.partition('/')[2]: info for info in archive.infolist()}

        def read(name: str) -> bytes:
            start, end = _range(file, entries[name])
            file.seek(start)
            return file.read(end - start)

        def storage(reference: tuple) -> Storage:
            dtype, key, location, numel, _ = _parts(reference)
            if key not in storages:
                start, end = _range(file, entries[f'data/{key}'])
                data = content[start:end] if end > start else torch.UntypedStorage(0)
                if foreign or not mmap or start % dtype.itemsize:
                    data = data.clone()
                if foreign:
                    data.byteswap(dtype)
                storages[key] = place(data, location)
            if numel * dtype.itemsize > storages[key].nbytes():
                raise EOFError(f'it has {storages[key].nbytes()} bytes of a tensor of {numel} elements')
            return Storage(storages[key], dtype)

        if 'data.pkl' not in entries:
            raise ValueError('it is a zip file, but none of torch.save')
        foreign = 'byteorder' in entries and read('byteorder').decode() != sys.byteorder
        return DataUnpickler(BytesIO(read('data.pkl')), storage).load()


def _range(file: BinaryIO, entry: zipfile.ZipInfo) -> tuple[int, int]:
    """Where the bytes of an entry are."""
    if entry.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f'{entry.filename} in it is compressed, which torch.save never does')
    file.seek(entry.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    if signature != b'PK\x03\x04':
        raise ValueError(f'{entry.filename} is not where the table of contents says')
    start = entry.header_offset + _LOCAL_HEADER.size + name + extra
    return start, start + entry.file_size


def read_series(path: str, place: Placing) -> object:
    """What a file of the layout before PyTorch 1.6 holds.

    Args:
        path: The file.
        place: See :func:`placing`.

    Raises:
        NotData: If there is more than data.
        EOFError: If it ends too early; for other damage, exceptions of any kind.
    """
    size = os.path.getsize(path)
    storages: dict[str, tuple[torch.UntypedStorage, torch.dtype, int]] = {}
    with open(path, 'rb') as file:

        def storage(reference: tuple) -> Storage:
            dtype, key, location, numel, view = _parts(reference)
            nbytes = numel * dtype.itemsize
            if key not in storages:
                if nbytes > size:
                    raise EOFError(f'it has not the {nbytes} bytes of a tensor')
                # The bytes come behind the pickle.
                storages[key] = place(torch.UntypedStorage(nbytes), location), dtype, numel
            data = storages[key][0]
            if view is not None:
                _, offset, length = view
                data = data[offset * dtype.itemsize : (offset + length) * dtype.itemsize]
            return Storage(data, dtype)

        if (DataUnpickler(file).load(), DataUnpickler(file).load()) != _HEAD:
            raise ValueError('it was not written by torch.save')
        if not DataUnpickler(file).load()['little_endian'] == (sys.byteorder == 'little'):
            raise ValueError('it comes from a machine with another byte order')
        result = DataUnpickler(file, storage).load()
        for key in DataUnpickler(file).load():
            data, dtype, numel = storages[key]
            if int.from_bytes(file.read(8), sys.byteorder) != numel:
                raise EOFError('a tensor has another size than its pickle says')
            content = bytearray(numel * dtype.itemsize)
            if file.readinto(content) < len(content):
                raise EOFError('it ends within a tensor')
            if content:
                data.copy_(torch.frombuffer(content, dtype=torch.uint8).untyped_storage())
            del storages[key]
        if storages:
            raise EOFError('the bytes of tensors are missing')
        return result


def _parts(reference: tuple) -> tuple[torch.dtype, str, str, int, tuple | None]:
    """Type, key, device and number of elements of a storage; before PyTorch 1.6 also which part of it is meant."""
    _, kind, key, location, numel, *view = reference
    dtype = STORAGES.get(kind.path) if isinstance(kind, Name) else None
    if dtype is None or type(numel) is not int or numel < 0 or not isinstance(location, str):
        raise ValueError('the reference to the bytes of a tensor is damaged')
    return dtype, key, location, numel, *(view or [None])
