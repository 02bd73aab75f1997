"""Questions: a row, its shots, and the prompt that they become."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from mmu_jax import metrics
from mmu_jax.data.batches import batching
from mmu_jax.data.dataset import Task
from mmu_jax.data.encoding import processing
from mmu_jax.data.encoding.processing import Example
from mmu_jax.data.encoding.processors import Processor
from mmu_jax.data.rng import named_rng
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

Tasks = Mapping[str, Task]


class Question(NamedTuple):
  """A row as a protocol asks it.

  Attributes:
    row: the row that is asked about.
    shots: solved questions that stand before it.
    blind: the prompt has the placeholder of a picture, and no picture.
  """

  row: Row
  shots: tuple[Row, ...] = ()
  blind: bool = False


class Asked(NamedTuple):
  """A prompt as text, for the record, and as tokens, for the model."""

  text: str
  example: Example


class ChatTurn(NamedTuple):
  """Words of a user about some pictures, and the answer of the assistant."""

  text: str
  pictures: tuple[Picture, ...] = ()
  answer: str = ''


class Protocol(NamedTuple):
  """How questions are put and answers are read.

  Attributes:
    name: the name that its scores carry.
    questions: ``(task, tasks, shots, seed)`` -> the questions of a task, one
      of these tasks.
    ask: ``(question, encoder)`` -> the prompt that is continued; None where
      nothing is generated.
    mark: answer record -> marks (0 or 1) of a generated answer to a question
      with options: ``accuracy`` and the like.
    answers: ``(question, encoder)`` -> given answers whose likelihood is
      wanted: the options, or the answer, its paraphrase and wrong answers, in
      this order.
    max_new_tokens: longest answer; None for the config's.
    answers_from: ``(task, tasks)`` -> the task whose last answer is scored in
      place of all answers of this one, if there is any: an error of a
      published evaluation.
    brief: leaves out the scores that only benchmarks show: probability, words
      that are contained, model utility, distance to the retrained model.
    published: it repeats a published evaluation, with its errors.
  """

  name: str
  questions: Callable[[Task, Tasks, int, int], list[Question]]
  ask: Callable[[Question, batching.Encoder], Asked | None]
  mark: Callable[[Mapping[str, Any]], dict[str, int]]
  answers: Callable[[Question, batching.Encoder], list[Example]] = (
    lambda question, encoder: []
  )
  max_new_tokens: int | None = None
  answers_from: Callable[[Task, Tasks], Task | None] = lambda task, tasks: None
  brief: bool = False
  published: bool = False


class _Blind(Processor):
  """A processor to which a placeholder is a token like any other."""

  image_token_id = -1


def encode_prompt(
  prompt: str, pictures: Sequence[Picture], row: Row, processor: Processor
) -> Asked:
  """Encodes a prompt without an answer.

  Tokens are the same as without an answer behind, also where the prompt ends
  in a space. A placeholder without any picture stays one token, with its own
  embedding, as in transformers.

  Args:
    prompt: the rendered prompt.
    pictures: pictures of its placeholders, in their order; () leaves all blind.
    row: the row that is asked about.
    processor: the model's processor.

  Raises:
    ValueError: if there are pictures, and not one for each placeholder.
  """
  if not pictures:
    processor = _Blind(
      processor.tokenizer,
      processor.images,
      processor.image_token,
      processor.stop_ids,
    )
  # An end token never makes one token with the text before it.
  full = prompt + processor.tokenizer.eos_token
  example = processing.encode_chat(prompt, full, row, pictures, processor)
  return Asked(prompt, processing.prompt_of(example))


def chat(
  turns: Sequence[ChatTurn], processor: Processor, answer: str = ''
) -> tuple[str, str]:
  """Renders a conversation by the chat template.

  Args:
    turns: questions, all answered but the last one.
    processor: the model's processor.
    answer: answer to the last turn; '' for none.

  Returns:
    The prompt, and the prompt with the answer.

  Raises:
    ValueError: if a turn contains the placeholder of a picture, or the
      template does not put the answer after the prompt.
  """
  template = processor.tokenizer.apply_chat_template
  messages = _messages(turns, processor)
  prompt = template(messages, tokenize=False, add_generation_prompt=True)
  if not answer:
    return prompt, prompt
  full = template([*messages, _assistant(answer)], tokenize=False).rstrip()
  if not full.startswith(prompt) or answer.strip() not in full[len(prompt) :]:
    raise UserError(
      'the chat template must render the answer after the prompt; the '
      f'prompt is {prompt!r} and the whole {full!r}. Give the tokenizer a '
      'chat template that extends its generation prompt.'
    )
  return prompt, full


def _messages(turns, processor):
  """A conversation as the chat template takes it."""
  messages = []
  for turn in turns:
    check_text(turn.text + turn.answer, processor)
    content = [{'type': 'image'} for _ in turn.pictures]
    content.append({'type': 'text', 'text': turn.text})
    messages.append({'role': 'user', 'content': content})
    if turn.answer:
      messages.append(_assistant(turn.answer))
  return messages


def _assistant(answer):
  """An answer, as the chat template takes it."""
  return {'role': 'assistant', 'content': [{'type': 'text', 'text': answer}]}


def check_text(text: str, processor: Processor) -> None:
  """Raises ValueError if a text contains the placeholder of a picture."""
  if processor.image_token in text:
    raise UserError(
      f'questions and answers must not contain {processor.image_token!r}, '
      f'which is put in for each picture; got {text[:80]!r}. Remove it.'
    )


def list_options(row: Row, mark: str = ':') -> list[str]:
  """Returns the options of a row as lines like ``'A: Oslo'``."""
  letters = metrics.marking.LETTERS
  return [f'{a}{mark} {option}' for a, option in zip(letters, row.options)]


def subject_of(row: Row) -> str:
  """Returns the person or picture of a row, which shots draw and leave out."""
  return row.person or row.picture_key or row.key


def draw_shots(rows: Sequence[Row], number: int, seed: int, name: str):
  """Draws the people whose questions are the shots.

  Args:
    rows: rows of a task.
    number: number of people; 0 for none.
    seed: any number >= 0.
    name: name of the draw: one name and the same people give the same draw.

  Returns:
    A set of people as ``subject_of`` names them.

  Raises:
    ValueError: if nobody would be left to ask about.
  """
  groups = sorted({subject_of(row) for row in rows})
  if number < 0 or (number and number >= len(groups)):
    raise UserError(
      'the people of the shots are not scored, so there must be more people '
      f'than shots; got shots={number} of {len(groups)} people in {name!r}. '
      'Set shots lower.'
    )
  rng = named_rng(seed, name)
  return {groups[i] for i in rng.choice(len(groups), number, replace=False)}
