"""Evaluation survives a kill, and each protocol reaches the results."""

import dataclasses
import shutil
import types

import folders
import ml_collections
import numpy as np
import pytest

from mmu_jax import checkpoint
from mmu_jax import errors
from mmu_jax import sharding
from mmu_jax import workdir as workdir_lib
from mmu_jax.data.batches import batching
from mmu_jax.data.dataset import by_name
from mmu_jax.data.dataset import Dataset
from mmu_jax.data.dataset import Task
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.scoring import scores
from mmu_jax.models.families import llava
from mmu_jax.stages import job as job_lib
from mmu_jax.stages import origins
from mmu_jax.stages import reporting
from mmu_jax.stages import runs as runs_lib
from mmu_jax.stages import scoring
from mmu_jax.workdir import seals

pytestmark = pytest.mark.usefixtures('roughly_scored')

MODEL = types.SimpleNamespace(config=llava.LlavaConfig(), family='llava')
RUNS = ('vanilla', 'retrained', 'ga')


def _rows(task, people=3):
  """A choice and a sentence about each person; captions have wrong ones."""
  rows = []
  for i in range(people):
    more = {'person': f'p{i}'}
    if task.endswith('vqa'):
      more['picture'] = Picture(f'{i}', folders.picture(i, 30, 30))
      rows.append(
        Row(
          f'{task}/{i}/name',
          f'Name {i}?',
          'Ada',
          'Ada',
          **more,
          task='classification',
          options=('Eva', 'Ada', 'Ida'),
        )
      )
    rows.append(
      Row(
        f'{task}/{i}/said',
        f'Say {i} to {task}',
        f'He says {i}.',
        f'{i}',
        **more,
        paraphrase=f'{i} he says.',
        perturbed=('no.', 'maybe.'),
      )
    )
  return rows


TASKS = by_name(
  Task('forget_qa', _rows('forget_qa'), 'forget', 'qa', 'keep'),
  Task('forget_vqa', _rows('forget_vqa'), 'forget', 'vqa', 'forget'),
  Task('retain_vqa', _rows('retain_vqa'), 'retain', 'vqa', 'keep'),
  Task(
    'chosen_by_vqa',
    _rows('chosen_by_vqa'),
    'forget',
    'vqa',
    'forget',
    reported=False,
  ),
)
REPORTED = [task.name for task in TASKS.values() if task.reported]


def _config(**evaluation):
  config = ml_collections.ConfigDict()
  config.seed = 0
  config.data = dict(name='clear')
  config.runs = dict(ga=dict(method='ga', options={}))
  config.evaluation = dict(max_new_tokens=50, batch_size=2) | evaluation
  return config


@pytest.fixture
def model(monkeypatch):
  """A model whose answers are functions of the tokens; counts batches.

  ``model['fails']`` is the number of the batch that it dies at.
  """
  state = {'batches': 0, 'fails': None, 'loaded': 0}

  def sums(batch):
    real = batch['documents'] > 0
    return (batch['tokens'] * real).sum(axis=1)

  def answers(params, batch, **_):
    state['batches'] += 1
    if state['batches'] == state['fails']:
      raise KeyboardInterrupt
    prompts = batch['prompts'].shape[1]
    say = lambda x, i: f'{params} says {x}' + f', {i}' * (prompts > 1)
    said = [[say(x, i) for i in range(prompts)] for x in sums(batch)]
    return said, scores(params, batch)

  def scores(params, batch, **_):
    found = []
    for branches, weights, total in zip(
      batch['branches'], batch['weights'], sums(batch)
    ):
      answers = np.unique(branches[weights > 0])
      rng = np.random.default_rng([int(total), len(params)])
      found.append(rng.exponential(3, len(answers)))
    return found

  monkeypatch.setattr(decoding, 'continue_and_score', answers)
  monkeypatch.setattr(decoding, 'answer_scores', scores)
  monkeypatch.setattr(decoding, 'answer_texts', lambda said, _: said)
  monkeypatch.setattr(decoding, 'answer_nll', lambda found: found)

  def final_params(job, run):
    state['loaded'] += 1
    return run

  monkeypatch.setattr(runs_lib, 'final_params', final_params)
  return state


@pytest.fixture(scope='module')
def encoder(tmp_path_factory):
  return batching.Encoder(folders.load(tmp_path_factory.mktemp('c'), 'llava'))


@pytest.fixture
def evaluate(model, encoder, monkeypatch):
  """Evaluates in a workdir that holds models of this name."""

  def run(folder, runs=RUNS, world='w', **evaluation):
    config = _config(**evaluation)
    data = Dataset({}, TASKS, {}, layout='clear', official='official_clear')
    job = job_lib.Job(
      config,
      folder,
      data,
      encoder,
      encoder,
      MODEL,
      {},
      False,
      folder,
      sharding.make_mesh('data=1'),
      world,
    )
    monkeypatch.setattr(scoring, 'open_job', lambda *_, **__: job)
    settings = lambda job, name: {'name': name}
    monkeypatch.setattr(scoring.training, 'settings_of', settings)
    for name in runs:
      made = runs_lib.model_folder(job, name)
      if not runs_lib.is_finished(made):
        workdir_lib.write_json(made / 'config.json', {'name': name})
        note = {'rounds': 7, 'content': f'of {name}'}
        note |= origins.origin(job, made)
        checkpoint.save(made / 'params', {'w': np.ones(2)}, note)
    return scoring.evaluate(config, folder)

  return run


def _predictions(folder):
  return {
    str(path.relative_to(folder)): path.read_text()
    for path in sorted((folder / 'predictions').rglob('*.jsonl'))
  }


def test_a_killed_evaluation_goes_on_where_it_was(evaluate, model, tmp_path):
  """Also behind a line that was cut off; every answer is that of one go."""
  whole, killed = tmp_path / 'whole', tmp_path / 'killed'
  evaluate(whole)
  total, model['batches'], model['fails'] = model['batches'], 0, 4
  with pytest.raises(KeyboardInterrupt):
    evaluate(killed)
  (partial,) = killed.rglob('*.partial.jsonl')
  kept = len(partial.read_text().splitlines())
  assert kept > 0
  with partial.open('a') as file:
    file.write('{"key": "forget_vqa/2/na')
  model['batches'], model['fails'] = 0, None
  with pytest.warns(UserWarning, match='is cut off'):
    evaluate(killed)
  assert model['batches'] == total - 3  # three batches were answered
  assert _predictions(killed) == _predictions(whole)
  assert not list(killed.rglob('*.partial.jsonl'))


def test_what_is_answered_is_not_asked_again(evaluate, model, tmp_path):
  """And no parameters are loaded to say what it is worth."""
  first = evaluate(tmp_path)
  model['batches'] = model['loaded'] = 0
  (tmp_path / 'results.jsonl').unlink()
  assert evaluate(tmp_path) == first
  assert not model['batches'] and not model['loaded']
  assert workdir_lib.read_jsonl(tmp_path / 'results.jsonl') == first


def test_a_new_metric_costs_no_model_call(
  evaluate, model, monkeypatch, tmp_path
):
  """One line of the table, and every model that was asked has the score."""
  first = evaluate(tmp_path)
  before = _predictions(tmp_path)
  new = {'length': lambda answer: len(answer['text'])}
  table = scores.METRICS | {'generation': scores.METRICS['generation'] | new}
  monkeypatch.setattr(scores, 'METRICS', table)
  model['batches'] = model['loaded'] = 0
  results = evaluate(tmp_path)
  assert not model['batches'] and not model['loaded']
  added = [row for row in results if row['metric'] == 'length']
  assert {(row['run'], row['task']) for row in added} == {
    (run, task) for run in RUNS for task in REPORTED
  }
  assert [row for row in results if row not in added] == first
  said = workdir_lib.read_jsonl(
    tmp_path / 'predictions' / 'ga' / 'forget_qa.jsonl'
  )
  (row,) = [r for r in added if (r['run'], r['task']) == ('ga', 'forget_qa')]
  assert row['value'] == pytest.approx(
    np.mean([len(a['text']) for a in said]), rel=1e-5
  )
  assert workdir_lib.read_jsonl(tmp_path / 'results.jsonl') == results
  assert _predictions(tmp_path) == before


def test_answers_hold_no_scores(evaluate, tmp_path):
  """Only what was asked, the text, and likelihoods by name."""
  evaluate(tmp_path, ['vanilla'])
  path = tmp_path / 'predictions' / 'vanilla' / 'retain_vqa.jsonl'
  for row in workdir_lib.read_jsonl(path):
    given = {'likelihoods', 'prompt', 'text'}
    asked = {'key', 'kind', 'protocol', 'person', 'picture', 'question'}
    assert set(row) == asked | given | {'answer', 'fact', 'options'}
    assert row['prompt'].startswith('USER: <image>') and row['text']
    names = [g['of'] for g in row['likelihoods']]
    assert (
      names
      == {
        'classification': ['option'] * 3,
        'generation': ['answer', 'paraphrase', 'perturbed', 'perturbed'],
      }[row['kind']]
    )
    assert all(g['tokens'] > 0 for g in row['likelihoods'])


def test_scores_outlive_the_parameters(evaluate, tmp_path):
  """Those of a run, and of the retrained model that others are beside."""
  first = evaluate(tmp_path)
  for name in ('retrained', 'unlearned/ga'):
    shutil.rmtree(tmp_path / name)
  assert evaluate(tmp_path, ['vanilla']) == first


def test_only_complete_answers_are_scored(evaluate, model, tmp_path, capsys):
  """A model that lacks one answer to one question is not shown, but asked."""
  first = evaluate(tmp_path)
  path = tmp_path / 'predictions' / 'ga' / 'retain_vqa.jsonl'
  kept = workdir_lib.read_jsonl(path)
  shutil.rmtree(tmp_path / 'unlearned' / 'ga' / 'params')
  for left in (kept[:-1], kept[1:], [], None):
    path.unlink() if left is None else workdir_lib.write_jsonl(path, left)
    found = evaluate(tmp_path, ['vanilla'])
    assert {row['run'] for row in found} == {'vanilla', 'retrained'}
    note = seals.read_note(tmp_path / 'results.jsonl')
    assert note['left_out'].keys() == {'ga'}
    assert 'retain_vqa.jsonl' in note['left_out']['ga']
    assert 'ga is left out' in capsys.readouterr().out
  model['batches'] = 0
  assert evaluate(tmp_path) == first  # the fixture makes its parameters again
  assert model['batches'] == 4  # six questions, two at a time, kind by kind


def test_every_model_and_task_is_scored_by_its_own_answers(evaluate, tmp_path):
  """The text of every answer says who gave it; no two averages are alike."""
  results = evaluate(tmp_path)
  found = {
    (r['run'], r['task']): r['value']
    for r in results
    if r['metric'] == 'probability'
  }
  assert len(found) == len(RUNS) * len(REPORTED)
  for (run, task), value in found.items():
    path = tmp_path / 'predictions' / run / f'{task}.jsonl'
    given = [
      answer['likelihoods'][0]
      for answer in workdir_lib.read_jsonl(path)
      if answer['kind'] == 'generation'
    ]
    want = np.mean([np.exp(-g['nll'] / g['tokens']) for g in given])
    assert value == pytest.approx(want, rel=1e-5)
  assert len(set(found.values())) == len(found)


def test_answers_that_were_edited_are_asked_again(evaluate, model, tmp_path):
  first = evaluate(tmp_path)
  path = tmp_path / 'predictions' / 'ga' / 'retain_vqa.jsonl'
  whole = path.read_bytes()
  path.write_text(path.read_text().replace('says', 'said'))
  model['batches'] = 0
  with pytest.warns(errors.DamageWarning, match='retain_vqa.jsonl.damaged'):
    assert evaluate(tmp_path) == first
  assert model['batches'] == 4 and path.read_bytes() == whole


def test_a_kill_before_the_seal_of_a_note_is_mended(
  evaluate, model, monkeypatch, tmp_path
):
  """Nothing was answered yet."""

  def killed(*_):
    raise KeyboardInterrupt

  with monkeypatch.context() as patch:
    patch.setattr(seals, 'seal', killed)
    with pytest.raises(KeyboardInterrupt):
      evaluate(tmp_path)
  assert list(tmp_path.rglob('predictions/*/note.json'))
  assert {row['run'] for row in evaluate(tmp_path)} == set(RUNS)


def _made_anew(tmp_path, name):
  """A model is made again with other parameters."""
  folder = tmp_path / 'unlearned' / name / 'params'
  note = checkpoint.read_note(folder) | {'content': 'another'}
  checkpoint.save(folder, {'w': np.zeros(2)}, note)


def test_answers_of_parameters_that_were_made_anew_are_refused(
  evaluate, tmp_path
):
  evaluate(tmp_path)
  _made_anew(tmp_path, 'ga')
  with pytest.raises(ValueError, match='predictions/ga holds answers of other'):
    evaluate(tmp_path)


def test_answers_of_other_settings_are_left_out_and_named(evaluate, tmp_path):
  evaluate(tmp_path, ['vanilla', 'ga'])
  shutil.rmtree(tmp_path / 'unlearned')
  shutil.rmtree(tmp_path / 'predictions' / 'vanilla')
  found = evaluate(tmp_path, ['vanilla'], max_new_tokens=9)
  assert {row['run'] for row in found} == {'vanilla'}
  note = seals.read_note(tmp_path / 'results.jsonl')
  assert 'max_new_tokens: 50 there, 9 asked' in note['left_out']['ga']


@pytest.mark.parametrize('swap', ['note.json', 'retain_vqa.jsonl', ''])
def test_answers_that_changed_places_are_noticed(evaluate, tmp_path, swap):
  """Those of one file with its seal, or of the whole folder."""
  evaluate(tmp_path)
  folders = [tmp_path / 'predictions' / run for run in ('ga', 'vanilla')]
  for end in ('', '.seal') if swap else ('',):
    one, two = (folder / f'{swap}{end}' for folder in folders)
    one.rename(tmp_path / 'aside')
    two.rename(one)
    (tmp_path / 'aside').rename(two)
  if swap.startswith('retain'):
    with pytest.warns(errors.DamageWarning, match='other parameters'):
      evaluate(tmp_path)
  else:
    with pytest.raises(ValueError, match='predictions/(ga|vanilla)'):
      evaluate(tmp_path)


def test_the_batch_size_may_change(evaluate, model, tmp_path):
  """As after running out of memory."""
  model['fails'] = 4
  with pytest.raises(KeyboardInterrupt):
    evaluate(tmp_path, batch_size=3)
  model['fails'] = None
  results = evaluate(tmp_path, batch_size=1)
  assert results == evaluate(tmp_path, batch_size=2)
  with pytest.raises(ValueError, match='max_new_tokens: 50 there, 9 asked'):
    evaluate(tmp_path, max_new_tokens=9)


@pytest.mark.parametrize('asked, want', [(0.0, 1.2), (1.0, 1.0), (1.5, 1.5)])
def test_the_penalty_of_a_checkpoint_can_be_set_and_switched_off(
  asked, want, tmp_path
):
  """It stands with the answers, which another penalty would change."""
  processor = folders.load(tmp_path, 'llava')
  processor = dataclasses.replace(processor, repetition_penalty=1.2)
  job = types.SimpleNamespace(
    config=_config(repetition_penalty=asked), scorer=batching.Encoder(processor)
  )
  assert runs_lib.scorer(job).processor.repetition_penalty == want
  assert scoring._settings(job)['repetition_penalty'] == want


@pytest.mark.parametrize(
  'other, folder',
  [
    (dict(protocol='official'), 'official_clear-0shot'),
    (dict(shots=1), 'fixed-1shot'),
  ],
)
def test_protocols_are_one_switch_apart(
  other, folder, evaluate, model, tmp_path
):
  """In one workdir; each keeps its answers, and the scores are of one."""
  asked = lambda rows: {(r['protocol'], r['shots']) for r in rows}
  fixed = evaluate(tmp_path)
  before = _predictions(tmp_path)
  apart = evaluate(tmp_path, **other)
  assert asked(fixed) == {('fixed', 0)} and len(asked(apart)) == 1
  assert asked(apart) != asked(fixed)
  assert workdir_lib.read_jsonl(tmp_path / 'results.jsonl') == apart
  new = _predictions(tmp_path)
  assert before.items() <= new.items()
  assert {name.split('/')[1] for name in new.keys() - before.keys()} == {folder}
  model['batches'] = 0
  assert evaluate(tmp_path, protocol='fixed') == fixed
  assert evaluate(tmp_path, **other) == apart
  assert not model['batches'] and _predictions(tmp_path) == new


def test_a_report_shows_the_answers_of_its_scores(
  evaluate, monkeypatch, tmp_path
):
  evaluate(tmp_path)
  evaluate(tmp_path, shots=1)
  read = {}
  save = lambda folder, runs, *args, **kwargs: read.update(kwargs, runs=runs)
  write = lambda *args, **kwargs: read.update(page=kwargs['predictions'])
  monkeypatch.setattr(reporting.gallery, 'save_gallery', save)
  monkeypatch.setattr(reporting.page, 'write_report', write)
  monkeypatch.setattr(reporting, 'open_job', scoring.open_job)
  monkeypatch.setattr(reporting, 'find_models', lambda config, folder: RUNS)
  reporting.report(_config(), tmp_path)
  folder = tmp_path / 'predictions' / 'fixed-1shot'
  assert read == {'predictions': folder, 'page': folder, 'runs': list(RUNS)}


def test_a_report_of_earlier_scores_is_named(evaluate, tmp_path, capsys):
  evaluate(tmp_path)
  (tmp_path / 'report.html').write_text('')
  evaluate(tmp_path)
  assert 'earlier scores' not in capsys.readouterr().out
  evaluate(tmp_path, shots=1)
  assert 'report.html shows earlier scores' in capsys.readouterr().out


def test_every_score_has_n_and_an_interval(evaluate, tmp_path):
  results = evaluate(tmp_path)
  found = {(r['run'], r['task'], r['metric']): r for r in results}
  assert len(found) == len(results)
  for r in results:
    assert r['n'] >= 1 and r['step'] == 7
    assert r['low'] <= r['value'] <= r['high']
  metrics = lambda run, task: {
    metric for r, t, metric in found if (r, t) == (run, task)
  }
  of_text = {
    'exact_match',
    'rouge1',
    'rouge2',
    'rougeL',
    'rougeL_recall',
    'bleu',
    'contains',
    'empty',
    'gibberish',
    'probability',
  }
  of_choice = {
    'accuracy',
    'accuracy_first_letter',
    'choice',
    'choice_probability',
    'choice_empty',
    'choice_gibberish',
    'unparsed',
  }
  of_pairs = {'js_divergence', 'forget_quality'}
  ratios = {'truth_ratio_retain', 'truth_ratio_forget'}
  retain, forget = metrics('ga', 'retain_vqa'), metrics('ga', 'forget_qa')
  assert of_text | of_choice <= retain and of_text <= forget
  assert not of_choice & forget
  assert retain & (ratios | of_pairs) == {'truth_ratio_retain', 'js_divergence'}
  assert forget & (ratios | of_pairs) == {
    'truth_ratio_forget',
    'forget_quality',
  }
  assert metrics('ga', 'all') == {'model_utility'}
  # The retrained model is not compared with itself.
  assert 'js_divergence' not in metrics('retrained', 'retain_vqa')
  assert 'chosen_by_vqa' not in {r['task'] for r in results}


def test_only_the_official_protocol_reads_a_stale_answer(evaluate, tmp_path):
  """Every question in text gets the last answer of the visual evaluation."""
  said = {}
  for protocol, part in (('fixed', ''), ('official', 'official_clear-0shot')):
    evaluate(tmp_path / protocol, ['vanilla'], protocol=protocol)
    folder = tmp_path / protocol / 'predictions' / part / 'vanilla'
    said[protocol] = {
      task: scores.read_answers(folder, TASKS[task], TASKS)
      for task in ('forget_vqa', 'forget_qa')
    }
  texts = lambda protocol, task, field='text': [
    answer[field] for answer in said[protocol][task]
  ]
  assert len(set(texts('fixed', 'forget_qa'))) == 3
  assert len(texts('fixed', 'forget_vqa')) == 6
  # Three more rows: the questions in text, asked as if about a picture.
  assert len(texts('official', 'forget_vqa')) == 9
  last = texts('official', 'forget_vqa')[-1]
  assert set(texts('official', 'forget_qa')) == {last}
  # What was not read is not lost.
  kept = workdir_lib.read_jsonl(folder / 'forget_qa.jsonl')
  own = texts('official', 'forget_qa', 'unread')
  assert [answer['text'] for answer in kept] == own and len(set(own)) == 3


def test_shots_leave_their_people_out(evaluate, tmp_path):
  results = evaluate(tmp_path, ['vanilla'], shots=1)
  n = {(r['task'], r['metric']): r['n'] for r in results}
  assert n['retain_vqa', 'accuracy'] == n['forget_qa', 'exact_match'] == 2


def test_an_official_protocol_has_its_own_limit(evaluate, tmp_path):
  with pytest.raises(ValueError, match='generates 50 tokens, got max_new'):
    evaluate(tmp_path, protocol='official', max_new_tokens=12)
  with pytest.raises(ValueError, match='there is no protocol'):
    evaluate(tmp_path, protocol='exact')


def _exchange(a, b):
  aside = a.with_name('aside')
  a.rename(aside), b.rename(a), aside.rename(b)


def test_answers_of_another_way_to_ask_are_noticed(evaluate, model, tmp_path):
  """As their folders are exchanged: the same model, questions and settings."""
  evaluate(tmp_path, shots=1)
  first = evaluate(tmp_path)
  shown = tmp_path / 'predictions' / 'ga'
  _exchange(shown, tmp_path / 'predictions' / 'fixed-1shot' / 'ga')
  with pytest.warns(errors.DamageWarning, match='forget_qa.jsonl.damaged'):
    assert evaluate(tmp_path) == first


def test_answers_of_another_world_are_noticed(evaluate, tmp_path):
  """Of a model whose parameters are gone, so that they cannot tell."""
  first = evaluate(tmp_path / 'a')
  evaluate(tmp_path / 'b', world='of another seed')
  shutil.rmtree(tmp_path / 'a' / 'unlearned')
  for name in ('ga', 'guest'):
    found = tmp_path / 'a' / 'predictions' / name
    shutil.rmtree(found, ignore_errors=True)
    shutil.copytree(tmp_path / 'b' / 'predictions' / 'ga', found)
    results = evaluate(tmp_path / 'a', ['vanilla', 'retrained'])
    assert results == [row for row in first if row['run'] != 'ga']
    note = seals.read_note(tmp_path / 'a' / 'results.jsonl')
    assert name in note['left_out']


@pytest.mark.parametrize('name', ['note.json', 'config.json'])
def test_a_run_that_lost_a_file_is_named(evaluate, tmp_path, name):
  """And does not vanish, where its parameters are gone as well."""
  evaluate(tmp_path)
  shutil.rmtree(tmp_path / 'unlearned')
  (tmp_path / 'predictions' / 'ga' / name).unlink()
  found = evaluate(tmp_path, ['vanilla', 'retrained'])
  assert {row['run'] for row in found} == {'vanilla', 'retrained'}
  note = seals.read_note(tmp_path / 'results.jsonl')
  assert name in note['left_out']['ga']
