"""Programs of a config: stages, rows, and what is refused."""

import folders
import plans
import pytest

from mmu_jax import recipes
from mmu_jax.data.batches import batching
from mmu_jax.data.people import vocabulary
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.planning import memory
from mmu_jax.planning import programs
from mmu_jax.stages import job as job_lib
from mmu_jax.stages.budgets import streams


def _read(config, length=0):
  _, jobs, notes = programs.read_job(config, length)
  return {(p.stage, p.step): p for p in jobs}, notes[0]


def test_a_published_model_is_planned_without_data():
  jobs, note = _read(plans.config())
  assert note.startswith('no data is read')
  assert {stage for stage, _ in jobs} == {
    'vanilla',
    'retrained',
    'importance',
    'mask',
    'kl_min',
    'mmunlearner',
    'evaluate',
  }
  # A picture of 576 tokens and 19 questions of 64.
  texts = 19 * 64
  assert jobs['vanilla', 'train'].rows == memory.Rows(4, 576 + texts, 1, texts)
  assert jobs['importance', 'text'].rows.room == 0
  assert jobs['kl_min', 'forget'].reference
  assert jobs['mmunlearner', 'retain'].mask
  # One leaf of the forget set, and of two preserve sets for the language.
  assert jobs['mask', ''].count == 3


def test_rows_are_those_of_the_streams_of_a_job():
  config = recipes.load('people:fast')
  jobs, _ = _read(config)
  data, encoder, scorer, model = job_lib.load_world(config)
  shared = config, None, data, encoder, scorer, model
  job = job_lib.Job(*shared, config.groups, '', None, None)
  for name, parts in (
    (('base', 'train'), config.base.stream),
    (('vanilla', 'train'), config.vanilla.stream),
    (('mmunlearner', 'retain'), config.unlearn.streams.retain),
    (('importance', 'text'), config.saliency.preserve.text),
  ):
    stream = batching.Stream(streams.draw_from(job, parts), encoder, seed=0)
    room = stream(0)['pixel_values'].shape[1]
    sizes = stream.num_rows, stream.length, room, stream.most_counted
    want = memory.Rows(*sizes)
    assert jobs[name].rows == want, name


def test_prompts_are_read_with_their_given_answers(monkeypatch):
  """Of the people: options are scored alone; a prompt is its answer's start."""
  monkeypatch.setattr(programs, 'bucket', lambda tokens: tokens)
  config = recipes.load('people:fast')
  jobs, _ = _read(config)
  decode, score = (jobs['evaluate', step] for step in ('decode', 'score'))
  assert decode.count == config.evaluation.max_new_tokens and not score.count
  data, _, scorer, _ = job_lib.load_world(config)
  longest = {'decode': 0, 'score': 0}
  for task in data.tasks.values():
    for row in task.rows:
      made = [scorer.example(row._replace(answer=x)) for x in row.options]
      if row.task == 'generation':
        made = [scorer.example(row)]
      start = scorer.example(row).prompt_length
      shared = start - (len(made) > 1)  # each has the prompt's last token
      tokens = shared + sum(len(x.tokens) - shared for x in made)
      step = 'score' if row.options else 'decode'
      longest[step] = max(longest[step], tokens)
  for step, program in (('decode', decode), ('score', score)):
    assert program.rows.length == longest[step]


@pytest.mark.parametrize('number', (3, 12, 18, 19))
def test_texts_that_stand_for_all_are_as_long_as_all(number):
  """Few of many texts are encoded; epochs end at the same places of both."""
  processor = vocabulary.make_processor()
  rows = [
    Row(f'{i}', 'Who?', ' '.join(['red'] * (3 * i + 1)), '')
    for i in range(number)
  ]
  part = batching.Part(rows, 2, 4)
  some = part._replace(rows=programs._longest(part, processor.images))
  all_of, few = (
    batching.Stream([p], batching.Encoder(processor), seed=0).length
    for p in (part, some)
  )
  assert few == all_of and len(some.rows) <= 12


def test_the_picture_with_most_tokens_is_planned_for_and_not_the_widest(
  tmp_path,
):
  """Of LLaVA-NeXT: 4 tiles show 60 x 180 pixels, and 5 show 90 x 90."""
  processor = folders.load(tmp_path, 'llava_next')
  sizes = [(180, 60), *[(40 + i, 30) for i in range(9)], (90, 90), (62, 30)]
  rows = [
    Row(f'{i}', 'Who?' * (i != 10), 'A chef.', '', Picture(f'{i}', picture))
    for i, picture in enumerate(folders.picture(0, *size) for size in sizes)
  ]
  part = batching.Part(rows, 2, 1)
  some = part._replace(rows=programs._longest(part, processor.images))
  all_of, few = (
    batching.Stream([p], batching.Encoder(processor), seed=0)
    for p in (part, some)
  )
  assert few.length == all_of.length and len(some.rows) < len(rows)
  rooms = [s(0)['pixel_values'].shape[1] for s in (few, all_of)]
  assert rooms == [5, 5]


def test_a_bug_in_reading_data_is_not_taken_for_data_that_lack(
  tmp_path, monkeypatch
):
  def load(config):
    raise ValueError('a bug')

  (tmp_path / 'config.json').write_text('{}')
  config = plans.config()
  config.model.path = str(tmp_path)
  monkeypatch.setattr(job_lib, 'load_world', load)
  with pytest.raises(ValueError, match='^a bug$'):
    programs.read_job(config)


def test_shots_lengthen_the_prompts_of_the_evaluation():
  config = plans.config()
  alone = _read(config)[0]['evaluate', 'decode'].rows
  config.evaluation.shots = 2
  made = _read(config)[0]['evaluate', 'decode'].rows
  more = 2 * (576 + 64)  # pictures, and questions with their answers
  assert (made.length - alone.length, made.room) == (more, 3 * alone.room)


@pytest.mark.parametrize(
  'values, length, message',
  [
    (dict(micro_batches=0), 0, 'config.micro_batches is a whole number >= 1'),
    (dict(offload=('moments',)), 0, 'reference'),
    (dict(mesh='rows=2'), 0, 'written like data=2,fsdp=4'),
    ({}, -5, 'at least 577 tokens'),
    ({}, 576, 'at least 577 tokens'),
    ({'model.path': 'llava-2'}, 0, 'no folder llava-2.*\n.*llava-1.5-7b'),
    ({'model.path': 'org/m'}, 0, 'hf download org/m --local-dir m'),
    ({'model.path': ''}, 0, 'config.data.path is empty: give'),
  ],
)
def test_an_option_out_of_range_is_refused(values, length, message):
  config = plans.config()
  config.update_from_flattened_dict(values)
  with pytest.raises(ValueError, match=message):
    programs.read_job(config, length)


def test_an_open_mesh_is_planned_for_one_device_with_a_note():
  on, _, notes = programs.read_job(plans.config(mesh='fsdp=-1,tensor=2'))
  assert dict(on.mesh.shape) == {'data': 1, 'fsdp': 1, 'tensor': 2}
  assert 'fsdp=-1' in notes[1]
