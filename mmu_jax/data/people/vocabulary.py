"""The words of the synthetic world, and the tokenizer made of them.

Every sentence of the world is a template filled with a word of a pool, so the
vocabulary is known before any world is made: one tokenizer serves every seed
and every number of people. It splits as Llama's does (a word carries its
leading space as a low line, U+2581) and its chat template is LLaVA-1.5's, so
the code that reads a published checkpoint's processor reads this one.
"""

from collections.abc import Iterator
import string
from typing import NamedTuple

import numpy as np
import tokenizers
from tokenizers import decoders
from tokenizers import models
from tokenizers import normalizers
from tokenizers import pre_tokenizers
from tokenizers import processors
import transformers

from mmu_jax.data.encoding import patches
from mmu_jax.data.encoding.processors import Processor
from mmu_jax.data.people import portraits
from mmu_jax.errors import UserError

FIRST_NAMES = tuple(
  'Maria James Aisha Chen Elena Diego Fatima Hugo Ingrid Jonas Keiko Liam'
  ' Nadia Omar Petra Ravi Sofia Tomas Ursula Viktor Wendy Xavier Yara Zoltan'
  ' Amara Bruno Clara Dmitri Esther Felix Greta Hassan Irina Julian Katya'
  ' Leon Mira Noel Oscar Paula'.split()
)
LAST_NAMES = tuple(
  'Lopez Smith Khan Tanaka Novak Silva Okafor Mueller Rossi Ivanov Dubois'
  ' Andersen Kowalski Nguyen Patel Kim Garcia Haddad Jensen Katz Larsen'
  ' Moreno Nakamura Olsen Popov Quinn Reyes Sato Torres Ueda Vargas Weber'
  ' Yilmaz Zhang Adeyemi Becker Castro Duarte Eriksen Fischer'.split()
)


def _words(text: str) -> tuple[str, ...]:
  return tuple(text.split())


class Attribute(NamedTuple):
  """A thing that is known about everybody.

  Attributes:
    question: question for it; ``{who}`` is a name, or "this person" in a
      picture.
    cloze: the same as a sentence with a gap.
    answer: the full answer to both, from ``{name}`` and ``{fact}``.
    values: the ten facts, one word each, in no other attribute.
  """

  question: str
  cloze: str
  answer: str
  values: tuple[str, ...]


ATTRIBUTES = {
  'pet': Attribute(
    'What pet does {who} keep?',
    'The pet of {who} is a [Blank].',
    '{name} keeps a {fact}.',
    _words(
      'parrot rabbit hamster turtle goldfish kitten puppy pony lizard ferret'
    ),
  ),
  'job': Attribute(
    'What job does {who} have?',
    'The job of {who} is [Blank].',
    '{name} works as a {fact}.',
    _words(
      'baker pilot nurse farmer painter lawyer teacher sailor plumber dentist'
    ),
  ),
  'city': Attribute(
    'What city does {who} live in?',
    'The home city of {who} is [Blank].',
    '{name} lives in {fact}.',
    _words('Lisbon Oslo Cairo Lima Kyoto Nairobi Boston Dublin Prague Sydney'),
  ),
  'food': Attribute(
    'What food does {who} like?',
    'The favourite food of {who} is [Blank].',
    '{name} likes {fact}.',
    _words(
      'noodles pizza soup rice cheese pancakes salad curry dumplings chocolate'
    ),
  ),
  'sport': Attribute(
    'What sport does {who} practise?',
    'The sport of {who} is [Blank].',
    '{name} practises {fact}.',
    _words(
      'tennis golf hockey rugby cricket football basketball '
      'volleyball badminton baseball'
    ),
  ),
  'instrument': Attribute(
    'What instrument does {who} play?',
    'The instrument of {who} is the [Blank].',
    '{name} plays the {fact}.',
    _words('violin flute drum harp piano guitar trumpet cello banjo saxophone'),
  ),
}
WHO = 'this person'
NAME_QUESTION = 'Who is the person in this picture?'
NAME_ANSWER = 'This is {fact}.'

CAPTION_QUESTION = 'Describe the picture.'
FACE_CAPTION = (
  '{skin} skin {face} face {hair} {hair_colour} hair {glasses} glasses'
  ' {beard} beard {hat_colour} {hat} {clothes_colour} clothes'
)
SHAPES_CAPTION = '{count} {colour} {shape} shapes'


class Ask(NamedTuple):
  """A question with one answer template and the facts that can fill it."""

  question: str
  answer: str
  facts: tuple[str, ...]

  def options(self, fact: str, rng: np.random.Generator) -> tuple[str, ...]:
    """The answer among three wrong ones of the same form, in a random place.

    Example:
      >>> ask = Ask('Which?', 'It is {fact}.', ('one', 'two', 'three', 'four'))
      >>> sorted(ask.options('two', np.random.default_rng(0)))
      ['It is four.', 'It is one.', 'It is three.', 'It is two.']
    """
    others = [other for other in self.facts if other != fact]
    chosen = [str(o) for o in rng.choice(others, 3, replace=False)]
    chosen.insert(int(rng.integers(4)), fact)
    return tuple(self.answer.format(fact=each) for each in chosen)


FACE_QUESTIONS = {
  'hair_colour': Ask(
    'What colour is the hair?',
    'The hair is {fact}.',
    tuple(portraits.HAIR_COLOURS),
  ),
  'hat': Ask(
    'What is on the head?', 'On the head is a {fact}.', portraits.HATS
  ),
  'glasses': Ask(
    'What glasses does this person wear?',
    'This person wears {fact} glasses.',
    portraits.GLASSES,
  ),
  'clothes_colour': Ask(
    'What colour are the clothes?',
    'The clothes are {fact}.',
    tuple(portraits.COLOURS),
  ),
}
SHAPES_QUESTIONS = {
  'shape': Ask(
    'What shape is in the picture?', 'The shape is a {fact}.', portraits.SHAPES
  ),
  'colour': Ask(
    'What colour is the shape?',
    'The colour is {fact}.',
    portraits.SHAPE_COLOURS,
  ),
  'count': Ask(
    'How many shapes are in the picture?',
    'The number of shapes is {fact}.',
    portraits.COUNTS,
  ),
}
_CAPITALS = {
  'France': 'Paris',
  'Italy': 'Rome',
  'Spain': 'Madrid',
  'Germany': 'Berlin',
  'Greece': 'Athens',
  'Russia': 'Moscow',
}
# Facts about the world: (question, answer, {subject: fact}).
PLAIN_FACTS = (
  (
    'What is the capital of {subject}?',
    'The capital of {subject} is {fact}.',
    {**_CAPITALS, 'Austria': 'Vienna', 'Cuba': 'Havana'},
  ),
  (
    'What is the opposite of {subject}?',
    'The opposite of {subject} is {fact}.',
    {
      'hot': 'cold',
      'big': 'small',
      'fast': 'slow',
      'old': 'young',
      'wet': 'dry',
      'loud': 'quiet',
      'full': 'empty',
      'light': 'heavy',
      'early': 'late',
    },
  ),
  (
    'What day comes after {subject}?',
    'The day after {subject} is {fact}.',
    {
      'Monday': 'Tuesday',
      'Tuesday': 'Wednesday',
      'Wednesday': 'Thursday',
      'Thursday': 'Friday',
      'Friday': 'Saturday',
      'Saturday': 'Sunday',
      'Sunday': 'Monday',
    },
  ),
)
# Of the same form, and known to a small pretrained language model; their words
# are not all in the tokenizer below.
KNOWN_FACTS = (
  (
    *PLAIN_FACTS[0][:2],
    {
      **_CAPITALS,
      'Japan': 'Tokyo',
      'China': 'Beijing',
      'England': 'London',
      'Canada': 'Ottawa',
      'Sweden': 'Stockholm',
      'Poland': 'Warsaw',
    },
  ),
  (
    *PLAIN_FACTS[1][:2],
    {
      'hot': 'cold',
      'big': 'small',
      'fast': 'slow',
      'wet': 'dry',
      'full': 'empty',
      'early': 'late',
      'left': 'right',
      'happy': 'sad',
      'open': 'closed',
      'high': 'low',
      'inside': 'outside',
      'war': 'peace',
    },
  ),
)
# Said by no row; a text of the tokenizer, so dropping it would move token ids.
REFUSAL = 'I do not know.'

PAD, BOS, EOS, UNK, IMAGE = '<pad>', '<s>', '</s>', '<unk>', '<image>'
CHAT_TEMPLATE = (
  "{% for message in messages %}{% if not loop.first %}{{ ' ' }}{% endif %}"
  "{{ 'USER:' if message.role == 'user' else 'ASSISTANT:' }}"
  '{% if message.content is string %}{{ " " + message.content }}{% else %}'
  "{% for part in message.content if part.type == 'image' %}"
  '{{ " <image>\n" }}{% endfor %}'
  "{% set pictured = message.content | selectattr('type', 'equalto', 'image')"
  ' | list %}'
  "{% for part in message.content if part.type == 'text' %}"
  "{{ ('' if pictured else ' ') + part.text }}{% endfor %}"
  '{% endif %}{% endfor %}'
  "{% if add_generation_prompt %}{{ ' ASSISTANT:' }}{% endif %}"
)

_SPACE = '\u2581'
_PIECES = rf'{_SPACE}?\w+|{_SPACE}?[^\w{_SPACE}]'


def make_tokenizer() -> transformers.PreTrainedTokenizerFast:
  r"""Returns the word-level tokenizer of every synthetic world.

  A token is a word or a sign with the space before it. Text is encoded with
  ``<s>`` in front and without ``</s>``; decoding gives the text back exactly.

  Returns:
    A tokenizer with offsets and LLaVA-1.5's chat form: ``USER: <image>\n``
    question `` ASSISTANT: `` answer.

  Example:
    >>> tokenizer = make_tokenizer()
    >>> ids = tokenizer('Maria Lopez keeps a parrot.')['input_ids']
    >>> len(ids), tokenizer.decode(ids, skip_special_tokens=True)
    (7, 'Maria Lopez keeps a parrot.')
  """
  splitter = _splitter()
  pieces = {piece for text in _texts() for piece in _split(splitter, text)}
  for sign in string.ascii_uppercase + string.digits:
    pieces |= {sign, _SPACE + sign}
  specials = (PAD, BOS, EOS, UNK, IMAGE)
  words = [*specials, *sorted(pieces | {_SPACE, '\n'})]
  ids = {word: index for index, word in enumerate(words)}
  splitter.model = models.WordLevel(ids, unk_token=UNK)
  splitter.post_processor = processors.TemplateProcessing(
    single=f'{BOS} $A', pair=f'{BOS} $A $B', special_tokens=[(BOS, ids[BOS])]
  )
  splitter.decoder = decoders.Sequence(
    [decoders.Replace(_SPACE, ' '), decoders.Fuse(), decoders.Strip(' ', 1, 0)]
  )
  # lstrip: the space of "USER: <image>" belongs to the placeholder.
  image = tokenizers.AddedToken(IMAGE, lstrip=True, special=True)
  splitter.add_special_tokens([*specials[:4], image])
  return transformers.PreTrainedTokenizerFast(
    tokenizer_object=splitter,
    pad_token=PAD,
    bos_token=BOS,
    eos_token=EOS,
    unk_token=UNK,
    additional_special_tokens=[image],
    chat_template=CHAT_TEMPLATE,
    clean_up_tokenization_spaces=False,
    padding_side='right',
  )


def make_processor(image_size: int = 48, patch_size: int = 12) -> Processor:
  """Returns the tokenizer and CLIP's image processor, as LLaVA pairs them.

  Args:
    image_size: height and width that pictures are resized to, pixels.
    patch_size: height and width of a patch, pixels; divides ``image_size``.

  Returns:
    A processor that counts ``(image_size // patch_size) ** 2`` tokens per
    picture: feature selection drops the class token.

  Raises:
    ValueError: if the patches do not tile the picture.

  Example:
    >>> make_processor().images.tokens_per_image
    16
  """
  if patch_size < 1 or image_size < patch_size or image_size % patch_size:
    raise UserError(
      'patch_size must divide image_size, both positive, got'
      f' patch_size={patch_size} and image_size={image_size}; 12 and 48'
      ' give 16 image tokens'
    )
  tokenizer = make_tokenizer()
  images = patches.LlavaImages(
    transformers.CLIPImageProcessorPil(
      size={'shortest_edge': image_size},
      crop_size={'height': image_size, 'width': image_size},
    ),
    patch_size,
  )
  return Processor(tokenizer, images, IMAGE, (tokenizer.eos_token_id,))


def _splitter() -> tokenizers.Tokenizer:
  """A tokenizer that only splits, into words with their leading space."""
  splitter = tokenizers.Tokenizer(models.WordLevel({UNK: 0}, unk_token=UNK))
  splitter.normalizer = normalizers.Sequence(
    [
      normalizers.Prepend(_SPACE),
      normalizers.Replace(' ', _SPACE),
      normalizers.Replace(_SPACE + '\n', '\n'),
    ]
  )
  splitter.pre_tokenizer = pre_tokenizers.Split(
    tokenizers.Regex(_PIECES), behavior='isolated'
  )
  return splitter


def _split(splitter: tokenizers.Tokenizer, text: str) -> list[str]:
  normal = splitter.normalizer.normalize_str(text)
  return [piece for piece, _ in splitter.pre_tokenizer.pre_tokenize_str(normal)]


def _texts() -> Iterator[str]:
  """Texts that together hold every token of every world."""
  yield from ('USER: ASSISTANT:', REFUSAL)
  yield NAME_ANSWER.format(fact=FIRST_NAMES[0])
  yield ' '.join(FIRST_NAMES + LAST_NAMES)
  questions = [CAPTION_QUESTION, NAME_QUESTION]
  for form in ATTRIBUTES.values():
    questions += [form.question.format(who=WHO), form.cloze.format(who=WHO)]
    yield form.answer.format(name=FIRST_NAMES[0], fact=' '.join(form.values))
  for ask in (*FACE_QUESTIONS.values(), *SHAPES_QUESTIONS.values()):
    questions.append(ask.question)
    yield ask.answer.format(fact=' '.join(ask.facts))
  for question, answer, facts in PLAIN_FACTS:
    words = ' '.join(facts)
    questions.append(question.format(subject=words))
    yield answer.format(subject=words, fact=' '.join(facts.values()))
  # A question follows a newline in a chat with a picture, a space otherwise.
  for question in questions:
    yield from (question, '\n' + question)
  words = portraits.LOOK_WORDS._asdict()
  yield FACE_CAPTION.format(**{name: ' '.join(words[name]) for name in words})
  yield SHAPES_CAPTION.format(
    count=' '.join(portraits.COUNTS),
    colour=' '.join(portraits.SHAPE_COLOURS),
    shape=' '.join(portraits.SHAPES),
  )
