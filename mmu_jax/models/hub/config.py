"""Reads the ``config.json`` of a Hugging Face checkpoint."""

from collections.abc import Mapping
import pathlib
from typing import Any

from mmu_jax import inputs
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
  folder = pathlib.Path(path).expanduser()
  if not folder.exists():
    raise inputs.no_folder(path, 'model')
  file = folder / FILE
  raw = workdir.read_object(file) if file.exists() else {}
  other = _other_kind(folder, raw)
  if other:
    raise UserError(f'{folder} {other}')
  if not file.exists():
    raise MissingError(
      f'a checkpoint folder holds {FILE} (Hugging Face) or a numbered step '
      f'(Orbax); {folder} holds neither. Give the folder of a checkpoint.'
    )
  try:
    family = family_of(raw)
    rules.check(raw, family.fields, '', others=True)
    return family.read_config(raw, dict(options or {}))
  except UserError as error:
    raise UserError(f'{file}: {error}') from error


def _other_kind(folder: pathlib.Path, raw: Mapping[str, Any]) -> str:
  """Says which other kind of folder it is, with the way out; '' for none."""
  there = {path.name for path in folder.iterdir()}
  whole = any(n.startswith(('model', 'pytorch_model')) for n in there)
  if any(name.startswith('adapter_') for name in there) and not whole:
    return (
      'is an adapter (as LoRA) without its model. Merge it into its base: mmu '
      f'convert --from=BASE --adapter={folder} --to=NEW, and give that folder; '
      'or set config.model.path to the base and config.model.adapter to this '
      'folder.'
    )
  coded = any(n.endswith(('.gguf', 'quant_config.json')) for n in there)
  if raw.get('quantization_config') or coded or 'quantize_config.json' in there:
    return (
      'is quantised, and training needs whole weights: take the model that it '
      'was made from, in float32, bfloat16 or float16.'
    )
  if any(name.startswith(('mm_vision', 'mm_projector')) for name in raw):
    return (
      'has the original format of LLaVA: take the same model in the format of '
      'transformers, as llava-hf/llava-1.5-7b-hf of the hub.'
    )
  if 'world.json' in there:
    found = sorted(str(path) for path in folder.glob('**/params'))
    return f'is a workdir; its models are in {", ".join(found) or "no params"}.'
  return ''


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
