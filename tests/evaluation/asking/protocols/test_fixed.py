"""One chat template and one instruction, for text and pictures alike."""

import folders
import jax
import numpy as np
import pytest
from questions import make_model
from questions import OPTIONS
from questions import ROWS
from questions import TASKS

from mmu_jax import models
from mmu_jax.data.encoding import processing
from mmu_jax.evaluation.asking import decoding
from mmu_jax.evaluation.asking import tasks as tasks_lib
from mmu_jax.evaluation.asking.protocols import fixed
from mmu_jax.evaluation.asking.protocols import Question

pytestmark = pytest.mark.usefixtures('quick_compile')
FAMILIES = pytest.mark.parametrize('family', folders.FAMILIES)
FIXED = fixed.PROTOCOL


TEXT = {
  'classification': 'Where is 0?\nA: Rome 0\nB: Oslo 0\n'
  'Answer with the letter of the right option only.',
  'cloze': '0 works as [Blank] in [Blank].\n'
  'Answer only with the words that [Blank] stands for.',
  'generation': 'Describe 0\nAnswer in one sentence in English.',
}


@FAMILIES
@pytest.mark.parametrize('task', TASKS)
@pytest.mark.parametrize('kind', TEXT)
def test_the_fixed_protocol_uses_the_chat_template_for_text_and_pictures(
  kind, task, family, encoders
):
  """One instruction, one [Blank] a gap, a placeholder for each picture."""
  row = next(r for r in ROWS[task] if r.task == kind)
  processor = encoders[family].processor
  asked = FIXED.ask(Question(row), encoders[family])
  plain = processing.encode(row._replace(question=TEXT[kind]), processor)
  np.testing.assert_array_equal(
    asked.example.tokens, processing.prompt_of(plain).tokens
  )
  assert asked.text.count(TEXT[kind]) == 1
  assert asked.text.count(processor.image_token) == (task == 'forget_vqa')


@FAMILIES
def test_shots_are_a_conversation_with_one_picture_a_person(family, encoders):
  asked = FIXED.questions(TASKS['forget_vqa'], TASKS, 2, 0)
  shot_people = {shot.person for q in asked for shot in q.shots}
  assert len(shot_people) == 2 and len(asked) == 2 * 4
  assert not shot_people & {q.row.person for q in asked}
  question = next(q for q in asked if q.row.task == 'classification')
  assert [s.task for s in question.shots] == ['classification'] * 4
  found = FIXED.ask(question, encoders[family])
  processor = encoders[family].processor
  assert found.text.count(processor.image_token) == 3  # two people, and one
  assert len(found.example.pictures) == 3
  for shot in question.shots:
    place = found.text.index(fixed.instructed(shot))
    answer = {'a': 'B', 'b': 'A'}[shot.key[-1]]
    rest = found.text[place + len(fixed.instructed(shot)) :]
    said = rest.split('assistant\n' if 'qwen' in family else 'ASSISTANT: ')[1]
    assert said.startswith(answer)
  assert fixed.instructed(question.row) in found.text


def test_one_seed_draws_the_same_people_for_pictures_and_text():
  drawn = lambda task, seed: {
    s.person
    for q in FIXED.questions(TASKS[task], TASKS, 1, seed)
    for s in q.shots
  }
  assert [drawn('forget_vqa', s) for s in range(9)] == [
    drawn('forget_qa', s) for s in range(9)
  ]
  assert len({next(iter(drawn('forget_qa', s))) for s in range(9)}) > 1


@FAMILIES
def test_given_answers_are_labelled_and_share_their_prompt(family, encoders):
  """The answer, its paraphrase, what is wrong; without an instruction."""
  row = ROWS['forget_vqa'][3]._replace(
    paraphrase='It is a chef 0.', perturbed=('A cat.', 'A painter.')
  )
  processor = encoders[family].processor
  given = FIXED.answers(Question(row), encoders[family])
  want = [row.answer, row.paraphrase, *row.perturbed]
  decode = processor.tokenizer.decode
  said = [
    decode(e.tokens[e.labelled], skip_special_tokens=True).strip()
    for e in given
  ]
  assert said == want
  plain = processing.prompt_of(processing.encode(row, processor))
  for example in given:
    np.testing.assert_array_equal(
      processing.prompt_of(example).tokens, plain.tokens
    )
  bare = Question(row._replace(perturbed=()))
  (only,) = FIXED.answers(bare, encoders[family])
  assert only.row.answer == row.answer


@FAMILIES
@pytest.mark.parametrize('shots', [0, 1])
def test_a_model_answers_every_kind_of_question(family, shots, encoders):
  """Likelihoods are those of the same answers, each in a row of its own."""
  encoder = encoders[family]
  model = make_model(family, encoder)
  params = model.init(jax.random.key(0))
  questions = FIXED.questions(TASKS['forget_vqa'], TASKS, shots, 0)
  found = [
    p
    for batch in tasks_lib.predict(
      model,
      params,
      questions,
      encoder,
      protocol=FIXED,
      max_new_tokens=3,
      size=4,
    )
    for p in batch
  ]
  assert {p['key'] for p in found} == {q.row.key for q in questions}
  by_key = {p['key']: p for p in found}
  choice = next(q for q in questions if q.row.task == 'classification')
  alone = [
    _nll(model, params, example, encoder)
    for example in FIXED.answers(choice, encoder)
  ]
  given = by_key[choice.row.key]['likelihoods']
  np.testing.assert_allclose([g['nll'] for g in given], alone, rtol=1e-4)
  for p in found:
    assert all(g['nll'] > 0 for g in p['likelihoods']) and 'prompt' in p


@FAMILIES
def test_a_prompt_that_the_model_cannot_hold_is_refused(
  family, encoders, monkeypatch
):
  """With its answer, and before anything is compiled; shots are longest."""
  encoder = encoders[family]
  zero, one = (
    FIXED.questions(TASKS['forget_vqa'], TASKS, n, 0) for n in (0, 1)
  )
  first = lambda questions: [q for q in questions if q.row.options][:1]
  end = lambda question: int(
    FIXED.ask(question, encoder).example.positions.max() + 1
  )
  asked = first(one)
  room = end(asked[0]) + 3  # new tokens
  assert end(asked[0]) > end(first(zero)[0])
  nll = [1.0] * len(asked[0].row.options)
  answered = lambda *_, **__: ([['']], [nll])
  monkeypatch.setattr(decoding, 'continue_and_score', answered)
  monkeypatch.setattr(decoding, 'answer_texts', lambda texts, _: texts)
  monkeypatch.setattr(decoding, 'answer_nll', lambda scores: scores)

  def predict(limit, questions=asked):
    options = OPTIONS[family]
    text = options['text_config'] | dict(max_position_embeddings=limit)
    model = models.from_options(
      family,
      len(encoder.processor.tokenizer),
      **options | dict(text_config=text),
    )
    return [
      *tasks_lib.predict(
        model,
        None,
        questions,
        encoder,
        protocol=FIXED,
        max_new_tokens=3,
        size=1,
      )
    ]

  assert predict(room) and predict(0)
  with pytest.raises(ValueError, match=f'got {room}. Set evaluation.shots'):
    predict(room - 1)
  assert predict(room - 1, first(zero))


def _nll(model, params, example, encoder):
  """The nll of one answer, alone in its batch."""
  shape = encoder.pixel_shape(encoder.room(example.pictures))
  batch = encoder.batch([[encoder.document([example])]], 512, shape)
  scores = decoding.answer_scores(params, batch, forward=model.forward)
  (nll,) = decoding.answer_nll(scores)
  return float(nll[0])
