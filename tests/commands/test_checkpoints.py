"""Commands on checkpoints take what their examples say; see models/hub too."""

import pytest

from mmu_jax import __main__ as command_line
from mmu_jax import evaluation
from mmu_jax import recipes
from mmu_jax import stages
from mmu_jax import workdir
from mmu_jax.evaluation.asking import ask as ask_lib
from mmu_jax.models.hub import convert
from mmu_jax.models.hub import inspection


def test_convert_is_given_both_folders_and_its_options(monkeypatch, capsys):
  asked = []
  said = lambda *args, **options: asked.append((args, options)) or 'written'
  monkeypatch.setattr(convert, 'convert', said)
  argv = ['convert', '--from=a', '--to=b', '--like=c', '--dtype=float16']
  argv.append('--adapter=d')
  assert command_line.main(argv) == 0
  assert asked == [
    (('a', 'b'), {'like': 'c', 'dtype': 'float16', 'adapter': 'd'})
  ]
  assert capsys.readouterr().out.startswith('written\nmmu convert: ')


def test_convert_loads_the_model_whose_tower_is_taken(monkeypatch):
  asked = []
  said = lambda *_, **options: asked.append(options['tower']) or 'written'
  monkeypatch.setattr(convert, 'convert', said)
  monkeypatch.setattr(stages, 'load_model', lambda path: f'model of {path}')
  argv = ['convert', '--from=a.gguf', '--to=b', '--tower=c']
  assert command_line.main(argv) == 0
  assert asked == ['model of c']


def test_inspect_prints_the_tables_of_a_folder(monkeypatch, capsys):
  monkeypatch.setattr(inspection, 'inspect', lambda path: path)
  monkeypatch.setattr(
    inspection, 'content_tables', lambda found: [f'see {found}']
  )
  assert command_line.main(['inspect', 'some_folder']) == 0
  assert capsys.readouterr().out == 'see some_folder\n'


def _refused(capsys, *words):
  """The message of an `mmu ask` that must fail."""
  assert command_line.main(['ask', *words]) == 1
  out, error = capsys.readouterr()
  assert not out and error.startswith('mmu: ') and 'Traceback' not in error
  return error


@pytest.mark.parametrize(
  'words, said',
  [
    (['--params=x'], 'there is no question'),
    (['Who?'], '--params=DIR, or both --workdir=DIR and --run=NAME'),
    (['--workdir=x', 'Who?'], 'or both --workdir=DIR and --run=NAME'),
    (['--run=npo', 'Who?'], 'or both --workdir=DIR and --run=NAME'),
    (['--params=x', '--workdir=y', '--run=npo', 'Who?'], 'which model'),
    (['--params=x', '--image=no.png', 'Who?'], 'there is no file no.png'),
    (['--params=nowhere', 'Who?'], 'there is no folder nowhere. Check'),
    (['--params=.', 'Who?'], 'holds config.json (Hugging Face) or a numbered'),
    (['--workdir=nowhere', '--run=npo', 'Who?'], 'not the workdir of a job'),
  ],
)
def test_an_ask_that_cannot_be_says_what_is_missing(
  words, said, capsys, tmp_path, monkeypatch
):
  monkeypatch.chdir(tmp_path)
  assert said in _refused(capsys, *words)


def test_an_unknown_run_is_named_with_those_of_the_job(capsys, tmp_path):
  config = recipes.load('people:fast')
  workdir.write_json(tmp_path / workdir.CONFIG, config.to_dict())
  workdir.write_json(tmp_path / workdir.WORLD, {})
  given = [f'--workdir={tmp_path}', '--run=nop', 'Who?']
  said = _refused(capsys, *given)
  assert (
    "no model 'nop'" in said
    and 'base, vanilla, retrained, counterfactual, ga' in said
  )


def test_a_question_needs_no_quotes(monkeypatch, capsys):
  asked = []

  def ask(model, question, image, **options):
    asked.append((model, question, image, options))
    return [
      evaluation.Reply('Ada', 0.25, True),
      evaluation.Reply('', 0.5, True),
      evaluation.Reply('Bert', 0.0625, False),
    ]

  load = lambda path, **options: (path, options)
  monkeypatch.setattr(stages, 'load_model', load)
  monkeypatch.setattr(ask_lib, 'ask', ask)
  argv = ['ask', '--params=a', '--dtype=bfloat16', 'Who', 'is', 'this?']
  assert command_line.main([*argv, '--alternatives=2']) == 0
  ((model, question, image, options),) = asked
  assert model == ('a', {'like': None, 'dtype': 'bfloat16'})
  assert (question, image) == ('Who is this?', None)
  assert options == {'alternatives': 2, 'max_new_tokens': 64}
  assert capsys.readouterr().out == (
    'Ada\n\nprobability  answer, then alternatives\n'
    '     0.2500  Ada\n     0.5000  (nothing)\n     0.0625  Bert ...\n'
  )
