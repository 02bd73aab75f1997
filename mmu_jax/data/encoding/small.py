"""A tokenizer of a dataset's own texts, for small models without a checkpoint.

A benchmark is meant for a published model and its processor. To try a folder,
a config or a change in a minute there are models of a million parameters; they
need a tokenizer that writes any text in few tokens.
"""

from collections.abc import Iterable, Sequence
import functools

from mmu_jax.data.encoding.processors import Processor
from mmu_jax.data.row import Row
from mmu_jax.errors import UserError


def choose(name: str, rows: Iterable[Sequence[Row]]) -> Processor | None:
  """Returns the processor of a dataset that has none of its own.

  Args:
    name: '' for None: the checkpoint's is used; ``'small'``.
    rows: rows of the dataset, by split.

  Raises:
    ValueError: if the name is unknown.
  """
  if name not in ('', 'small'):
    raise UserError(
      f"processor is '' (the checkpoint's) or 'small', got {name!r}."
    )
  if not name:
    return None
  texts = dict.fromkeys(
    text
    for split in rows
    for row in split
    for text in (row.question, row.answer, *row.options)
  )
  return make_small_processor(tuple(texts))


@functools.lru_cache(maxsize=2)
def make_small_processor(
  texts: Sequence[str], vocabulary: int = 2000
) -> Processor:
  """Returns a byte-pair tokenizer of these texts, with small LLaVA images.

  It is lossless on any text, also on others than these; the chat form is
  LLaVA-1.5's and pictures are encoded as by ``vocabulary.make_processor``,
  so the small models of the configs read both.

  Args:
    texts: texts that the merges are learnt from.
    vocabulary: largest number of tokens, at least 300.

  Example:
    >>> processor = make_small_processor(('Where was Ana born?', 'Oslo'))
    >>> tokenizer = processor.tokenizer
    >>> ids = tokenizer('Where is Zoë?')['input_ids']
    >>> tokenizer.decode(ids, skip_special_tokens=True)
    'Where is Zoë?'
  """
  import tokenizers
  from tokenizers import decoders
  from tokenizers import models
  from tokenizers import pre_tokenizers
  from tokenizers import trainers
  import transformers

  from mmu_jax.data.people import vocabulary as words

  specials = [words.PAD, words.BOS, words.EOS, words.UNK, words.IMAGE]
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=vocabulary,
    special_tokens=specials,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(texts, trainer)
  tokenizer.post_processor = _begin(words.BOS, tokenizer)
  # lstrip: the space of "USER: <image>" belongs to the placeholder.
  image = tokenizers.AddedToken(words.IMAGE, lstrip=True, special=True)
  tokenizer.add_special_tokens([*specials[:4], image])
  base = words.make_processor()
  fast = transformers.PreTrainedTokenizerFast(
    tokenizer_object=tokenizer,
    pad_token=words.PAD,
    bos_token=words.BOS,
    eos_token=words.EOS,
    unk_token=words.UNK,
    additional_special_tokens=[image],
    chat_template=words.CHAT_TEMPLATE,
    clean_up_tokenization_spaces=False,
  )
  return Processor(fast, base.images, words.IMAGE, (fast.eos_token_id,))


def _begin(token, tokenizer):
  """Puts the begin token in front of every text."""
  from tokenizers import processors

  return processors.TemplateProcessing(
    single=f'{token} $A',
    pair=f'{token} $A $B',
    special_tokens=[(token, tokenizer.token_to_id(token))],
  )
