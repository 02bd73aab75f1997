"""Own data about things, by the command line alone, from nothing to a verdict.

One model is taught eight drawn robots and made to forget two of them; then its
vanilla is given as a checkpoint that knows them, and its base as one that does
not.
"""

import html
import pathlib
import re

import jax
from jax.experimental.compilation_cache import compilation_cache
import pytest
import robots

from mmu_jax import __main__ as command_line
from mmu_jax import stages
from mmu_jax import workdir

pytestmark = [
  pytest.mark.scale,
  pytest.mark.usefixtures('quick_compile', 'unpainted'),
]
JOB = pathlib.Path(__file__).parent / 'robots_job.py'


@pytest.fixture(scope='module')
def compiled_once(tmp_path_factory):
  """Lets the second job read the programs of the first."""
  folder = str(tmp_path_factory.mktemp('programs'))
  wanted = {
    'jax_compilation_cache_dir': folder,
    'jax_persistent_cache_min_compile_time_secs': 0,
    'jax_persistent_cache_min_entry_size_bytes': -1,
  }
  before = {name: getattr(jax.config, name) for name in wanted}
  for values in (wanted, before):
    for name, value in values.items():
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    if values is wanted:
      yield


@pytest.fixture(scope='module')
def taught(tmp_path_factory, quick_compile, unpainted, compiled_once):
  """The folder of data and of a finished job that taught the robots."""
  folder = tmp_path_factory.mktemp('robots')
  robots.write(folder / 'data')
  assert _run('data', 'check', str(folder / 'data' / 'robots.jsonl')) == 0
  assert _pipeline(folder, 'job') == 0
  return folder


def _run(*words):
  return command_line.main([*words])


def _pipeline(folder, job, *options):
  """Runs a whole job on the robots; returns the exit code."""
  data = f'--config.data.path={folder / "data" / "robots.jsonl"}'
  work = f'--workdir={folder / job}'
  return _run('pipeline', f'--config={JOB}', work, data, *options)


def _headline(work):
  """The sentences at the top of a report."""
  page = (work / 'report.html').read_text()
  lead = page.partition('</header>')[0]
  return [html.unescape(x) for x in re.findall('<p>(.*?)</p>', lead)]


def _answer(capsys, work, run, name, question='Which robot is this?'):
  """The answer of a model to a question about a new picture of a robot."""
  image = work.parent / 'data' / 'pictures' / f'{name.lower()}5.png'
  asked = [f'--workdir={work}', f'--run={run}', f'--image={image}', question]
  capsys.readouterr()
  assert _run('ask', *asked) == 0
  return capsys.readouterr().out.splitlines()[0]


def _check_forgotten(work):
  """The verdict of a model that knew the robots and then did not."""
  task, known, verdict, *rest = _headline(work)
  assert task.startswith('A model was asked to forget 2 entities: to stop')
  share = re.match(r'Before unlearning, vanilla found .* for (\d+)% of', known)
  assert int(share[1]) >= 90 and 'proves nothing' not in known
  assert re.search(
    '(no longer recognises|mostly stopped recognising) them', verdict
  )
  assert 'kept what it knows in text about them' in verdict
  assert any('Of the 2 entities, Cog' in x or 'None of' in x for x in rest)
  assert not re.search('person|people|face', ' '.join([task, known, *rest]))


def test_own_data_go_from_nothing_to_a_verdict(taught, capsys):
  work = taught / 'job'
  _check_forgotten(work)
  assert _answer(capsys, work, 'vanilla', 'Cog') == 'This is Cog.'
  assert _answer(capsys, work, 'mmunlearner', 'Cog') != 'This is Cog.'
  assert _answer(capsys, work, 'retrained', 'Cog') != 'This is Cog.'


def test_a_checkpoint_that_knows_them_needs_no_training(taught, capsys):
  robots.export(stages.load_run(taught / 'job', 'vanilla'), taught / 'known')
  options = (f'--config.model.path={taught / "known"}',)
  options += ('--config.vanilla.rounds=0', '--config.retrained=None')
  assert _pipeline(taught, 'mine', *options) == 0
  work = taught / 'mine'
  _check_forgotten(work)
  assert not (work / 'retrained').exists()
  assert 'There is no retrained model' in (work / 'report.html').read_text()
  found = [workdir.read_json(taught / x / 'gate.json') for x in ('job', 'mine')]
  assert found[0].pop('base') is not None and found[1].pop('base') is None
  assert found[0] == found[1]
  assert _answer(capsys, work, 'vanilla', 'Cog') == 'This is Cog.'
  assert _answer(capsys, work, 'mmunlearner', 'Cog') != 'This is Cog.'


def test_a_checkpoint_that_does_not_know_them_is_stopped(taught, capfd):
  robots.export(stages.load_run(taught / 'job', 'base'), taught / 'unknown')
  options = (f'--config.model.path={taught / "unknown"}',)
  assert _pipeline(taught, 'none', *options, '--config.vanilla.rounds=0') == 1
  said = capfd.readouterr().err
  for words in (
    'mmu: vanilla must know what it is to forget. Before unlearning',
    'never known proves nothing',
    'teach it first',
    '--config.unlearn.require_memorised=False',
  ):
    assert words in said, words
  work = taught / 'none'
  assert (work / 'gate.json').is_file() and (work / 'vanilla').is_dir()
  assert not (work / 'importance').exists() and not (work / 'mask').exists()
