"""Docstrings and pages are true: examples run, commands parse, paths exist.

A block of code in a page is run: Python as a doctest, all of a page in one go,
and shell line by line. A block with ``<!-- file: NAME -->`` above it is written
to that file first. A block that cannot be run says so in a comment above it,
``<!-- not run: reason -->``; its ``mmu`` commands are still parsed. Above a
doctest with skipped lines stands ``<!-- skips: reason -->``.
"""

import doctest
import importlib
import json
import pathlib
import pkgutil
import re
import shutil
import subprocess
import sys

import notebook_files
import numpy as np
import pages
from paths import ROOT
from PIL import Image
import plan_7b
import pytest

import mmu_jax
from mmu_jax import __main__ as command_line
from mmu_jax import methods
from mmu_jax import recipes
from mmu_jax import workdir
from mmu_jax.commands import COMMANDS
from mmu_jax.commands import fields
from mmu_jax.stages.across import seeds as seeds_lib
from mmu_jax.stages.across import tables
from mmu_jax.training import optimizer

pytestmark = pytest.mark.usefixtures(
  'quick_compile', 'unpainted', 'roughly_scored'
)
NAMES = sorted(
  module.name for module in pkgutil.walk_packages(mmu_jax.__path__, 'mmu_jax.')
)
FINDER = doctest.DocTestFinder(exclude_empty=True)
HERE = ('mmu_jax', 'tests', 'docs', 'configs', 'launch', 'notebooks')
FAST = '--workdir=runs/fast'  # done as written: a notebook goes on from it
LITTLE = (
  '--config.base.rounds=2',
  '--config.vanilla.rounds=2',
  '--config.saliency.batches=1',
  '--config.unlearn.rounds=1',
  '--config.evaluation.max_new_tokens=2',
)
each_page = pytest.mark.parametrize('page', pages.PAGES)


def _examples(name):
  return [
    test for test in FINDER.find(importlib.import_module(name)) if test.examples
  ]


def _run(test):
  """Runs one doctest; the output of a failure becomes the test's message."""
  out = []
  runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
  failed = runner.run(test, out=out.append).failed
  assert not failed, ''.join(out)


@pytest.mark.parametrize('name', NAMES)
def test_examples_of_docstrings_are_true(name):
  for test in _examples(name):
    _run(test)


def test_the_core_modules_show_examples():
  for name in (
    'tree',
    'losses',
    'saliency.fisher',
    'saliency.ratio',
    'saliency.selection',
    'saliency.selection',
    'masks',
    'transforms',
    'methods',
  ):
    assert _examples(f'mmu_jax.{name}'), name


# Results: the tables of the pages are of the kept seeds.


def _kept(seeds):
  """The tables of kept seeds, each as its lines."""
  places = sorted((ROOT / 'docs' / 'results').glob(f'{seeds}.json.gz'))
  made = tables.seed_tables([seeds_lib.read_seed(path) for path in places])
  of = lambda text: [x for x in text.splitlines() if x.startswith('|')]
  return {title: of(text) for title, text in made.items()}


@pytest.mark.parametrize(
  'seeds, title, mark',
  [
    ('people/*', 'Scores', 'Scores'),
    ('people/*', 'Costs', 'Costs'),
    ('people/*', 'Attack: relearn', 'Attack: relearn'),
    ('forget_12/*', 'Scores', 'forget_12'),
    ('forget_1/*', 'Scores', 'forget_1'),
    ('look_alikes/*', 'Scores', 'look_alikes'),
    ('short_answers/*', 'Scores', 'short_answers'),
    ('masks/*', 'Scores', 'masks'),
    ('masks/*', 'Attack: relearn', 'relearning with masks'),
    ('frontier/*', 'Scores', 'frontier'),
    ('frontier/*', 'Attack: relearn', 'relearning with 60 rounds'),
    ('frontier/seed[34]', 'Costs', 'frontier costs'),
  ],
)
def test_a_table_of_results_is_what_compare_prints(seeds, title, mark):
  page = pages.read('docs/results.md').splitlines()
  start = page.index(f'<!-- table: {mark} -->') + 1
  want = _kept(seeds)[title]
  assert len(want) > 3 and page[start : start + len(want) + 1] == [*want, '']


def test_the_scores_of_the_readme_are_those_of_the_results():
  cells = lambda line: [cell.strip() for cell in line.split('|')[1:-1]]
  head, _, *rows = map(cells, _kept('people/*')['Scores'])
  columns = {
    'forget VQA, new images ↓': 'forget VQA, held-out images ↓',
    'the fact ↓': 'held-out, the fact ↓',
    'one of 4 ↓': 'held-out, choice of 4 ↓',
    'names another ≈': 'held-out, names somebody else ≈',
    'nats ≈': 'held-out, nats ≈',
  }
  place = {title.split(' (')[0]: i for i, title in enumerate(head)}
  every = {row[0]: row for row in rows}
  page = pages.read('README.md').splitlines()
  lines = [
    x for x in page if x.startswith('| ') and ' .' in x or '| run |' in x
  ]
  shown_head, *shown = map(cells, lines)
  assert len(shown) == 10
  for run, *values in shown:
    for title, value in zip(shown_head[1:], values, strict=True):
      want = every[run][place[columns.get(title, title)]]
      assert value == want.split(' ')[0], (run, title)


# Pages: their form.


def test_the_readme_is_short_and_shows_python_early():
  lines = pages.read('README.md').splitlines()
  assert len(lines) <= 150
  assert lines.index('```python') < 40


@each_page
def test_a_block_runs_or_says_why_not(page):
  for block in pages.blocks(page):
    runs = block.language == 'shell' or '>>>' in block.text
    assert runs or (block.mark and block.said), f'{page}:{block.line}'
    assert ('+SKIP' in block.text) == (block.mark == 'skips'), block
  assert '```' not in pages.prose(page), 'a fence is not closed'
  assert not re.search(r'^    (mmu|make|python|pip) ', pages.prose(page), re.M)


@each_page
def test_links_lead_to_a_page_and_a_title(page):
  for target in re.findall(r'\]\(([^)\s]+)\)', pages.prose(page)):
    if target.startswith('https://'):
      continue
    path, _, anchor = target.partition('#')
    found = ((ROOT / page).parent / path) if path else ROOT / page
    assert found.exists(), f'{page}: {target}'
    if anchor:
      assert anchor in pages.anchors(found), f'{page}: {target}'


def _names(page):
  """Words in backticks."""
  return re.findall(r'`([^`\n]+)`', pages.prose(page))


@pytest.mark.parametrize('page', [p for p in pages.PAGES if 'CHANGE' not in p])
def test_paths_in_a_page_exist(page):
  for name in _names(page):
    path = name.split(' ')[0]
    if path.split('/')[0] in HERE and '/' in path:
      assert (ROOT / path).exists(), f'{page}: {path}'
    if re.fullmatch(r'mmu_jax(\.\w+)+', path):
      try:
        importlib.import_module(path)
      except ModuleNotFoundError:
        module, _, attribute = path.rpartition('.')
        assert hasattr(importlib.import_module(module), attribute), path


@each_page
def test_a_name_that_is_said_to_be_in_a_file_is_there(page):
  place = re.compile(r'`([A-Za-z_]+)`,?\s+(?:in|by)\s+`(mmu_jax/[\w/]+\.py)`')
  for name, path in place.findall(pages.prose(page)):
    assert re.search(rf'\b{name}\b', (ROOT / path).read_text()), (name, path)


@pytest.mark.parametrize('page', [p for p in pages.PAGES if 'CHANGE' not in p])
def test_fields_and_commands_in_a_page_exist(page):
  names = ('people', 'mllmu_bench', 'own')
  configs = [recipes.load(name) for name in names]
  for name in _names(page):
    match = re.match(r'(?:--)?config((?:\.\w+)+)', name)
    if match and not match[0].endswith('.json'):
      assert any(_has(config, match[1]) for config in configs), name
    match = re.match(r'mmu ([a-z]+)', name)
    assert not match or match[1] in COMMANDS, f'{page}: {name}'


def _has(config, fields):
  """Whether a config has '.a.b'."""
  for field in fields.strip('.').split('.'):
    if field not in config:
      return False
    config = config[field]
  return True


def test_the_lists_of_the_pages_are_whole():
  readme = pages.read('README.md')
  for name in COMMANDS:
    assert f'`mmu {name}' in readme, name
  for name in recipes.known():
    assert f'`{name}`' in readme, name


# Pages: their code.


@pytest.fixture(scope='module', autouse=True)
def _registries():
  """Keeps methods and optimizers of a page from the tests of other files."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(methods, 'METHODS', dict(methods.METHODS))
    patch.setattr(optimizer, 'OPTIMIZERS', dict(optimizer.OPTIMIZERS))
    yield


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Where a newcomer is who has run the commands of the README."""
  folder = tmp_path_factory.mktemp('newcomer')
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    _run_page('README.md', folder)
  return folder


@each_page
def test_python_of_a_page_is_true(page, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  shown = '\n'.join(b.text for b in pages.blocks(page) if '>>>' in b.text)
  _run(doctest.DocTestParser().get_doctest(shown, {}, page, page, 0))


@each_page
def test_commands_of_a_page_parse(page):
  for block in pages.blocks(page):
    for words in pages.commands(block) if block.language == 'shell' else ():
      if 'mmu' in words and words[0] != 'pip':
        _parse(words[words.index('mmu') + 1 :], block)


def _parse(argv, block):
  """Parses a command as ``mmu`` does, fields of the config included."""
  if argv == ['--help']:
    return
  args, overrides = command_line._parser().parse_known_args(argv)
  spec = getattr(args, 'config', '') or ''
  made_here = spec.split(':')[0].endswith('.py')  # from a block of the page
  if spec and not made_here:
    fields.read(spec, overrides)
  else:
    assert not overrides or made_here, (block.line, overrides)


@pytest.mark.slow
@each_page
def test_commands_of_a_page_run(page, folder, monkeypatch):
  monkeypatch.chdir(folder)
  if page != 'README.md':  # its commands made the folder
    _run_page(page, folder)


@pytest.mark.slow
def test_a_method_of_a_config_file_is_trained_and_scored(folder, monkeypatch):
  monkeypatch.chdir(folder)
  _run_page('docs/own_method.md', folder)
  run = folder / 'runs' / 'fast' / 'unlearned' / 'confusion'
  made = json.loads((run / 'config.json').read_text())
  assert made['run']['method'] == 'confusion'
  assert made['unlearn']['optimizer'] == {'name': 'adabelief', 'b2': 0.99}
  turns = [
    row['turn']
    for row in workdir.read_jsonl(run / 'metrics.jsonl')
    if 'turn' in row
  ]
  assert turns == ['forget', 'retain']  # those of the first round are logged
  results = workdir.read_jsonl(folder / 'runs' / 'fast' / 'results.jsonl')
  assert {'ga_diff', 'confusion'} <= {row['run'] for row in results}


@pytest.mark.slow
@pytest.mark.parametrize(
  'path', notebook_files.PATHS, ids=lambda path: path.stem
)
def test_a_notebook_runs_in_its_fast_mode(path, folder, tmp_path, monkeypatch):
  """It finds the models and masks of its job where the README made them."""
  work = shutil.copytree(folder / 'runs' / 'fast', tmp_path / 'work')
  made = notebook_files.run(path, work, monkeypatch)
  assert notebook_files.pictures(made) >= notebook_files.PICTURES
  said = json.dumps(notebook_files.code(made))
  for name in ('base', *notebook_files.NEEDS[path.stem]):
    assert f'{name}: found in' in said


def _run_page(page, folder):
  """Writes the files of a page and runs its commands, in their order."""
  for block in pages.blocks(page):
    if block.mark == 'file':
      (folder / block.said).write_text(block.text)
      _draw(folder, block)
    if block.language == 'shell' and block.mark != 'not run':
      for words in pages.commands(block):
        _call(words, f'{page}:{block.line}')


def _draw(folder, block):
  """Makes the pictures that a file of rows names."""
  for line in block.text.splitlines() if block.language == 'json' else ():
    name = json.loads(line).get('image')
    if name:
      path = folder / name
      path.parent.mkdir(exist_ok=True)
      noise = np.random.default_rng(len(name)).integers(0, 255, (48, 48, 3))
      Image.fromarray(noise.astype(np.uint8)).save(path)


def _call(words, where):
  """Runs a command; what would start other machines, as its dry run."""
  if words[0] == 'mmu':
    assert _mmu(words[1:]) == 0, where
  elif words[0] == 'make':
    _process('make', '--dry-run', *words[1:], where=where)
  elif words[:2] == ['python', 'launch/local.py']:
    _process(sys.executable, words[1], '--dry_run', *words[2:], where=where)
  elif words[0] == 'python':
    _process(sys.executable, *words[1:], where=where)
  elif words[0] == 'bash' and '--dry_run' in words:
    _process(*words, where=where)
  else:
    assert words == ['source', '.venv/bin/activate'], f'{where}: {words}'


def _mmu(argv):
  """Calls the command line in this process; a job does as little as it can."""
  if argv[0] in ('pipeline', 'train', 'evaluate'):
    argv = [*argv, '--config.mesh=', *(() if FAST in argv else LITTLE)]
  try:
    return command_line.main(argv)
  except SystemExit as error:
    return error.code


def _process(*words, where):
  """Runs a command in the checkout."""
  done = subprocess.run(
    words, cwd=ROOT, capture_output=True, text=True, check=False
  )
  assert not done.returncode, f'{where}: {done.stdout}{done.stderr}'


@pytest.mark.slow
def test_the_table_of_hardware_is_what_the_planner_prints(monkeypatch, capsys):
  """Meshes are the same; GiB agree to 5 %, as versions of JAX may differ."""
  monkeypatch.setattr(sys, 'argv', ['plan_7b.py', '--markdown'])
  plan_7b.main()
  text = pages.read('docs/install.md')
  number = re.compile(r'\d+(?:\.\d+)?(?=; )')
  rows = lambda text: [x for x in text.splitlines() if number.search(x)]
  shown = [row for row in rows(text) if row.startswith('|')]
  made = capsys.readouterr().out
  printed = [row for row in rows(made) if row.startswith('|')]
  without = lambda rows: [number.sub('', row) for row in rows]
  assert without(shown) == without(printed)
  sizes = lambda rows: [float(x) for row in rows for x in number.findall(row)]
  assert sizes(shown) == pytest.approx(sizes(printed), rel=0.05)


# Citation.


def test_the_citation_names_this_version_and_the_paper():
  yaml = pytest.importorskip('yaml')
  cited = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
  assert cited['version'] == mmu_jax.__version__
  assert cited['license'] == 'Apache-2.0'
  (paper,) = cited['references']
  assert paper['url'].endswith('2502.11051')
  assert f'## [{cited["version"]}]' in pages.read('CHANGELOG.md')


def test_pages_name_no_folder_of_the_machine_they_were_written_on():
  for page in map(pathlib.Path, pages.PAGES):
    text = (ROOT / page).read_text()
    for name in ('/home/', '/root/', '/work/', '/tmp/'):
      assert name not in text, f'{page}: {name}'
