"""Reads the ``config.json`` of a Hugging Face checkpoint."""

from collections.abc import Mapping
import pathlib
from typing import Any

from mmu_jax import workdir
from mmu_jax.errors import MissingError
from mmu_jax.errors import UserError
from mmu_jax.models.family import Family
from mmu_jax.models.model import MODELS
from mmu_jax.settings import rules

FILE = 'config.json'


def read_config(
  path: str | pathlib.Path, options: Mapping[str, Any] | None = None
) -> Any:
  """Returns the model config of a checkpoint folder.

  Args:
    path: folder with a ``config.json``.
    options: ways to compute: ``dtype``, ``attention``, ``remat``.

  Raises:
    FileNotFoundError: if there is no ``config.json``.
    ValueError: if the architecture or one of its choices is not supported, or
      a field is out of its range; names the file, the field, the rule and the
      value.
  """
  file = pathlib.Path(path) / FILE
  if not file.exists():
    raise MissingError(
      f'a checkpoint folder holds {FILE}; {file} is missing. Give the folder '
      'of a model in the Hugging Face format.'
    )
  raw = workdir.read_object(file)
  try:
    family = family_of(raw)
    rules.check(raw, family.fields, '', others=True)
    return family.read_config(raw, dict(options or {}))
  except UserError as error:
    raise UserError(f'{file}: {error}') from error


def family_of(raw: Mapping[str, Any]) -> Family:
  """Returns the family of a config.

  Args:
    raw: fields of ``config.json``; model_type and the decoder's decide.

  Raises:
    ValueError: if no family has this model_type.
  """
  kind = raw.get('model_type')
  if kind is None:
    raise UserError(
      'it has no model_type, so this is no Hugging Face checkpoint. The '
      'parameters of a run are in its folder params/.'
    )
  known = {f.hub_type or f.name: f for f in MODELS.values()}
  text = raw.get('text_config')
  text = text.get('model_type') if isinstance(text, Mapping) else None
  family = known.get(f'{kind}/{text}') or known.get(str(kind))
  if family is None:
    raise UserError(
      f'model_type {kind!r} is not supported; supported are {", ".join(known)}.'
    )
  return family


read = read_config  # models.hub_config.read(folder)
