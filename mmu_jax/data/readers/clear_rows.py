"""The rows of CLEAR: pictures with captions, questions in text, wrong answers.

Columns are named as on the hub; ``clear`` makes a dataset of the rows.
"""

from collections.abc import Iterator, Mapping
import pathlib
from typing import Any, NamedTuple

from mmu_jax.data.readers import fields
from mmu_jax.data.readers import parquet
from mmu_jax.data.readers import reading
from mmu_jax.data.row import Picture
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError

CAPTIONED = ('image', 'caption', 'name')
TOFU = ('image', 'caption', 'question', 'answer')
PERTURBED = (
  *CAPTIONED,
  'perturbed_captions',
  'paraphrased_caption',
  'perturbed_names',
)
REAL = ('image', 'answer', 'options')
_TEXTS = 'caption name question answer paraphrased_caption'.split()
_LISTS = 'options perturbed_captions perturbed_names'.split()
FORM = dict.fromkeys(_TEXTS, fields.TEXT) | {
  name: [fields.TEXT] for name in _LISTS
}


class Captioned(NamedTuple):
  """A picture with its caption.

  Attributes:
    key: config and number: ``'forget05/3'``.
    picture: the picture.
    caption: description of the picture, with the name.
    person: the name, which is the id as well.
    question: asked instead of a caption question, where a row has one.
  """

  key: str
  picture: Picture
  caption: str
  person: str
  question: str = ''


def captions(
  root: pathlib.Path, config: str, pictures: reading.Pictures
) -> Iterator[Captioned]:
  """Yields the pictures of a config with their captions.

  Raises:
    FileNotFoundError: if the config is not there.
    ValueError: if a column, a picture or a caption is missing.
  """
  rows = parquet.read_config(
    root, config, CAPTIONED, optional=('question', 'answer')
  )
  for number, row in enumerate(rows):
    yield _captioned(row, root / config, number, pictures)


def texts_of(
  root: pathlib.Path, config: str, people: set[str], dropped: reading.Dropped
) -> Iterator[Row]:
  """Yields the questions in text of a ``+tofu`` config.

  Such a config mixes two kinds of rows: a text row has no image, a picture row
  no question. Picture rows are read from the config without ``+tofu``.

  Args:
    root: folder of CLEAR.
    config: ``'forget05+tofu'``.
    people: names, of whom one may stand in question or answer.
    dropped: record that gets the rows that are neither.

  Raises:
    ValueError: if there is no such question, or a row has another form.
  """
  found = False
  for number, row in enumerate(parquet.read_config(root, config, TOFU)):
    key, image = f'{config}/{number}', row['image']
    fields.check_form(row, FORM, f'row {key}')
    if reading.image_source(image, root / config, key) is not None:
      continue
    question, answer = row['question'], row['answer']
    if reading.is_blank(question) or reading.is_blank(answer):
      dropped.add('rows without picture, question or answer', key)
      continue
    text, found = f'{question} {answer}', True
    # Sorted: of two names of one length the first counts, in every process.
    named = [person for person in sorted(people) if person in text]
    yield Row(
      key=key,
      question=question.strip(),
      answer=answer.strip(),
      fact=answer.strip(),
      person=max(named, key=len) if named else None,
    )
  if not found:
    raise UserError(
      f'{root / config} has no questions in text: rows with question, answer '
      'and no image. Get the config again.'
    )


def perturbed(
  root: pathlib.Path, config: str, pictures: reading.Pictures
) -> dict[tuple[str, str], tuple[Captioned, Mapping[str, Any]]]:
  """Returns the rows of a ``_perturbed`` config by name and caption.

  Returns:
    (name, caption) -> the picture, and the columns of ``PERTURBED``.
  """
  found = {}
  for number, row in enumerate(parquet.read_config(root, config, PERTURBED)):
    made = _captioned(row, root / config, number, pictures)
    found[made.person, made.caption] = made, row
  return found


def texts(values: Any) -> tuple[str, ...]:
  """Returns the texts of a list column, without empty and repeated ones."""
  values = [values] if isinstance(values, str) else values or ()
  return tuple(dict.fromkeys(v.strip() for v in values if v and v.strip()))


def _captioned(row, folder, number, pictures) -> Captioned:
  """A row with a picture, checked."""
  key = f'{folder.name}/{number}'
  fields.check_form(row, FORM, f'row {key}')
  picture = pictures.get(row['image'], folder, f'row {key}')
  question, text = row.get('question') or '', row['caption']
  if question.strip():
    text = row['answer']  # a row that asks for itself
  if picture is None or reading.is_blank(text):
    raise UserError(
      'a row of CLEAR without +tofu has a picture and a caption; row '
      f'{number} of {folder} has no '
      f'{"picture" if picture is None else "caption"}. Get the file again, '
      'or drop the row.'
    )
  if reading.is_blank(row['name']):
    raise UserError(
      f'row {number} of {folder} has no name, so nobody can be kept apart. '
      'Get the file again, or drop the row.'
    )
  name = row['name'].strip()
  return Captioned(key, picture, text.strip(), name, question.strip())
