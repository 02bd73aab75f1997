"""Names the content of a checkpoint folder, without reading all weights."""

import hashlib
import pathlib

from mmu_jax.models.hub import peft_files
from mmu_jax.models.hub import safetensors_files as files_lib

TEXTS = ('*.json', '*.jinja', '*.txt', '*.model')
SAMPLES = 64  # pieces of a weight file that are read
PIECE = 2**16  # bytes of each


def digest(folder: pathlib.Path) -> dict[str, str]:
  """Returns the size and a hash of every file that a model is loaded from.

  Configs and tokenizers count with every byte. Of a weight file its header and
  64 pieces of 64 KiB are read, evenly spread, so that 14 GB take no minute at
  every start: another model is noticed, a single changed weight is not. (A
  trained model of a workdir has checksums of all its bytes.)

  Args:
    folder: folder in the Hugging Face format, or a PEFT adapter.

  Returns:
    ``{'config.json': '1203 bytes, 3fa9...', ...}``.

  Raises:
    FileNotFoundError: if a weight file is missing.
  """
  texts = {file for name in TEXTS for file in folder.glob(name)}
  adapter = folder / peft_files.WEIGHTS
  found = [adapter] if adapter.exists() else files_lib.files(folder)
  files = sorted({*texts, *found})
  return {
    file.name: f'{file.stat().st_size} bytes, {_hash(file, file in texts)}'
    for file in files
  }


def _hash(file: pathlib.Path, whole: bool) -> str:
  """The hash of a file, or of pieces of it."""
  size = file.stat().st_size
  if whole or size <= SAMPLES * PIECE:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:32]
  found = hashlib.sha256()
  with file.open('rb') as stream:
    for i in range(SAMPLES):
      stream.seek(i * (size - PIECE) // (SAMPLES - 1))
      found.update(stream.read(PIECE))
  return found.hexdigest()[:32]
