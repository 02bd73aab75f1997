"""An import goes to a lower rank, and what is imported stays little."""

import ast
import pathlib
import sys

import pytest

import mmu_jax

ROOT = pathlib.Path(mmu_jax.__file__).parent
RANKS = {
  'typing': 0,
  'tree': 0,
  'errors': -1,
  'inputs': -0.5,
  'recipes': 0,
  'settings': 0,  # rules, and what every field means
  'distributed': 0.2,
  'sharding': 0.4,  # what is traced says where it is
  'masks': 0.5,  # the transformations unpack them
  'gradients': 0.5,
  'lora': 0.6,
  'data': 1,
  'metrics': 1,
  'losses': 1,
  'saliency': 1,
  'transforms': 1,
  'checkpoint': 1,
  'workdir': 0.3,
  'objectives': 1.5,  # losses of whole batches, of which methods are made
  'methods': 2,
  'models': 2,
  'training': 3,
  'evaluation': 3,
  'stages': 4,
  'planning': 4.5,
  'doctor': 4.5,
  'commands': 5,
  '__main__': 6,
}
# Attacks are stages with a folder of their own: the report shows them.
ALIKE = {'attacks': 'stages'}
CORE = {
  'tree',
  'typing',
  'models',
  'losses',
  'saliency',
  'masks',
  'transforms',
  'methods',
  'checkpoint',
  'training',
  'sharding',
  'gradients',
  'distributed',
}
CORE_PACKAGES = {
  'jax',
  'flax',
  'optax',
  'orbax',
  'numpy',
  'chex',
  'safetensors',
  'tqdm',
}
FILES = sorted(ROOT.rglob('*.py'))


def _module(path):
  parts = path.relative_to(ROOT.parent).with_suffix('').parts
  return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


MODULES = {_module(path): path for path in FILES}


def _imports(path, *, everywhere=True):
  """Modules that a file imports; at module level only, if wanted."""
  nodes = [ast.parse(path.read_text())]
  found = set()
  while nodes:
    node = nodes.pop()
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level, f'{path}: write imports from the root'
      for alias in node.names:
        if (node.module, alias.name) == ('mmu_jax', '__version__'):
          continue
        inner = f'{node.module}.{alias.name}'
        found.add(inner if inner in MODULES else node.module)
    function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    if everywhere or not function:
      nodes += ast.iter_child_nodes(node)
  return found


def _own(path):
  return {name for name in _imports(path) if name.split('.')[0] == 'mmu_jax'}


def _part(module):
  """``mmu_jax.models.llama`` is part of ``models``; the package of itself."""
  part = (module.split('.') + [''])[1]
  return ALIKE.get(part, part)


def _parametrize(paths):
  return pytest.mark.parametrize(
    'path', paths, ids=lambda path: str(path.relative_to(ROOT))
  )


def test_every_module_has_a_rank():
  parts = {_part(module) for module in MODULES} - {''}
  assert parts == set(RANKS), 'name new modules in RANKS; drop removed ones'


@_parametrize([path for path in FILES if path != ROOT / '__init__.py'])
def test_imports_go_to_a_lower_rank(path):
  here = _part(_module(path))
  for module in _own(path):
    there = _part(module)
    if there == '':
      pytest.fail(f'{path.name} imports the package instead of a module')
    lower = RANKS[there] < RANKS[here]
    assert lower or there == here, f'{path.name} imports {module}'


def test_siblings_import_each_other_without_cycles():
  imports = {module: _own(path) for module, path in MODULES.items()}
  done, under_way = set(), []

  def visit(module):
    assert module not in under_way, f'cycle: {under_way + [module]}'
    if module in done:
      return
    under_way.append(module)
    for other in imports[module]:
      visit(other)
    done.add(under_way.pop())

  for module in imports:
    visit(module)
  assert done == set(MODULES)


@_parametrize([p for p in FILES if _part(_module(p)) in ('data', 'metrics')])
def test_data_and_metrics_know_no_jax(path):
  packages = {name.split('.')[0] for name in _imports(path)}
  assert not packages & {'jax', 'flax', 'optax', 'orbax', 'chex'}


@_parametrize([ROOT / 'tree.py', ROOT / 'typing.py', ROOT / 'errors.py'])
def test_the_lowest_rank_imports_nothing_of_ours(path):
  assert _own(path) <= {'mmu_jax.errors'}


@_parametrize([p for p in FILES if _part(_module(p)) in CORE])
def test_the_core_needs_few_packages(path):
  packages = {name.split('.')[0] for name in _imports(path, everywhere=False)}
  allowed = CORE_PACKAGES | set(sys.stdlib_module_names) | {'mmu_jax'}
  assert packages <= allowed


def test_only_checkpoints_import_orbax():
  users = {
    _module(path)
    for path in FILES
    if any(name.startswith('orbax') for name in _imports(path))
  }
  assert users == {'mmu_jax.checkpoint.orbax_handler'}
