"""Whether a model's files are all there, from their headers alone: a download that broke off is met before tokenising.

safetensors: 8 bytes length of the header (little endian), the header in JSON, the tensors' bytes
(https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
import struct
from pathlib import Path

from extes_train.dialogue.files import read_json
from extes_train.errors import ModelError

LARGEST_HEADER = 100_000_000  # bytes, as the library reads at most


def check_weights(folder: Path) -> None:
    """Raise ModelError for a shard that is missing, cut off or no safetensors file."""
    files = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        try:
            named = set(read_json(index)["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"{index}: cannot be read ({error}); copy the model again") from error
        missing = sorted(named - {file.name for file in files})
        if missing:
            raise ModelError(f"model.path={folder}: {len(missing)} of {len(named)} shards missing, first {missing[0]}")
    for file in files:
        fault = fault_of(file)
        if fault:
            raise ModelError(f"{file}: {fault}; copy the model again")


def fault_of(file: Path) -> str:
    """What is wrong with a safetensors file, '' for a whole one."""
    size = file.stat().st_size
    if size < 8:
        return f"is cut off: {size} bytes"
    with open(file, "rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        if length > LARGEST_HEADER:
            return "is no safetensors file"
        header = stream.read(length)
    try:
        tensors = json.loads(header)
        ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return "is cut off in its header" if len(header) < length else "is no safetensors file"
    whole = 8 + length + max(ends, default=0)
    return "" if size == whole else f"is cut off: {size:,} of {whole:,} bytes" if size < whole else "is too long"
