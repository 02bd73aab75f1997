"""The folder of a job: its settings, and files that are whole or not there."""

from mmu_jax.workdir.claims import claim
from mmu_jax.workdir.claims import CONFIG
from mmu_jax.workdir.claims import differences
from mmu_jax.workdir.claims import is_empty
from mmu_jax.workdir.claims import MANIFEST
from mmu_jax.workdir.claims import manifest
from mmu_jax.workdir.claims import WORLD
from mmu_jax.workdir.files import append_jsonl
from mmu_jax.workdir.files import make_folder
from mmu_jax.workdir.files import read_json
from mmu_jax.workdir.files import read_jsonl
from mmu_jax.workdir.files import read_log
from mmu_jax.workdir.files import read_object
from mmu_jax.workdir.files import read_text
from mmu_jax.workdir.files import sync
from mmu_jax.workdir.files import to_json
from mmu_jax.workdir.files import write_bytes
from mmu_jax.workdir.files import write_json
from mmu_jax.workdir.files import write_jsonl
from mmu_jax.workdir.files import write_log
from mmu_jax.workdir.files import write_text

__all__ = [
  'CONFIG',
  'MANIFEST',
  'WORLD',
  'append_jsonl',
  'claim',
  'differences',
  'is_empty',
  'make_folder',
  'manifest',
  'read_json',
  'read_jsonl',
  'read_log',
  'read_object',
  'read_text',
  'sync',
  'to_json',
  'write_bytes',
  'write_json',
  'write_jsonl',
  'write_log',
  'write_text',
]
