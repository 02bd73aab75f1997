"""Times an evaluation: our batches against transformers, question by question.

  python tests/benchmarks/evaluate_500.py
  python tests/benchmarks/evaluate_500.py --questions=100 --size=32

Both answer the same questions about portraits of the synthetic people, with a
random LLaVA of the size that is trained on them, on the CPU, from text and
pixels to scores: once as `mmu evaluate` does, and once by `generate`, one after
the other, as the published evaluators do. No answer ends early: every one has
50 tokens, the limit of the published evaluations.

Prints medians, their ratio, and how many answers are the same; compiling is
timed apart. Seconds are those of the clock and, for machines that others use
too, of the processors. Needs torch, whose one thread is its fastest here.
"""

import argparse
import dataclasses
import pathlib
import sys
import time
from typing import Any

import numpy as np
import transformers

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / 'helpers'))

import parity_reference as reference

from mmu_jax.data import row as row_lib
from mmu_jax.data.batches import batching
from mmu_jax.data.dataset import Task
from mmu_jax.data.people import vocabulary
from mmu_jax.data.people import world as world_lib
from mmu_jax.evaluation.asking import answers
from mmu_jax.evaluation.asking import protocols
from mmu_jax.evaluation.asking import tasks
from mmu_jax.evaluation.scoring import scores

torch = reference.torch
PLAIN = protocols.PROTOCOLS['plain']


def main():
  """Parses the command line and prints what was found."""
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument('--questions', type=int, default=500)
  parser.add_argument('--size', type=int, default=64)
  parser.add_argument('--new_tokens', type=int, default=50)
  parser.add_argument('--repeats', type=int, default=3)
  parser.add_argument('--threads', type=int, default=1, help='of torch')
  args = parser.parse_args()
  torch.set_num_threads(args.threads)
  found = measure(args.questions, args.size, args.new_tokens, args.repeats)
  for name, value in found.items():
    print(name, np.round(value, 3))


def measure(
  questions: int, size: int, new_tokens: int, repeats: int
) -> dict[str, Any]:
  """Answers the questions both ways.

  Returns:
    Seconds of an evaluation, ``[clock, processors]`` each: ``ours``, the median
    over repeats; ``compiling``, what the first one took longer; ``theirs``, so
    many times the median question; the ``ratio`` of the last and the first,
    and with compiling; and ``same``, the share of equal answers.
  """
  processor = vocabulary.make_processor()
  size_of_vocabulary = len(processor.tokenizer)
  processor = dataclasses.replace(processor, stop_ids=(size_of_vocabulary,))
  rows = _rows(questions)
  pair = reference.load(reference.build(config(processor), 0))
  (first, said), *later = [
    _timed(_ours, pair, rows, processor, size, new_tokens)
    for _ in range(repeats + 1)
  ]
  ours = np.median([seconds for seconds, _ in later], axis=0)
  _theirs(pair, rows[0], processor, new_tokens)  # whatever is set up once
  each = [_timed(_theirs, pair, row, processor, new_tokens) for row in rows]
  theirs = questions * np.median([seconds for seconds, _ in each], axis=0)
  return {
    'ours': ours,
    'compiling': first - ours,
    'theirs': theirs,
    'ratio': theirs / ours,
    'ratio_with_compiling': theirs / first,
    'same': np.mean([a == b for a, (_, b) in zip(said, each)]),
  }


def _timed(function, *args):
  """Seconds ``[clock, processors]`` of a call, and what it returned."""
  started = np.array([time.perf_counter(), time.process_time()])
  found = function(*args)
  ended = np.array([time.perf_counter(), time.process_time()])
  return ended - started, found


def config(processor):
  """A LLaVA of the size that is trained on the people."""
  images = processor.images
  return reference.config_of(
    'llava',
    0,
    vision_config=transformers.CLIPVisionConfig(
      hidden_size=96,
      intermediate_size=384,
      num_hidden_layers=3,
      num_attention_heads=2,
      image_size=images.processor.crop_size.height,
      patch_size=images.patch_size,
    ),
    text_config=transformers.LlamaConfig(
      vocab_size=len(processor.tokenizer),
      hidden_size=128,
      intermediate_size=344,
      num_hidden_layers=4,
      num_attention_heads=2,
      pad_token_id=0,
    ),
    image_token_index=processor.image_token_id,
    image_seq_length=images.tokens_per_image,
  )


def _rows(number):
  """Questions about portraits, each answered in words."""
  tasks_of = world_lib.make_world(0, num_people=60, num_captioned=0).tasks
  rows = [
    row
    for task in ('retain_vqa', 'forget_vqa', 'forget_vqa_holdout')
    for row in tasks_of[task].rows
    if row.task == row_lib.GENERATION
  ]
  assert len(rows) >= number, f'there are {len(rows)} questions'
  return rows[:number]


def _ours(pair, rows, processor, size, new_tokens):
  """The answers of one evaluation; nothing encoded before is used."""
  task = Task('vqa', rows, 'retain', 'vqa', 'keep')
  questions = PLAIN.questions(task, {'vqa': task}, 0, 0)
  found = tasks.predict(
    pair.ours,
    pair.ours.params,
    questions,
    batching.Encoder(processor),
    protocol=PLAIN,
    max_new_tokens=new_tokens,
    size=size,
  )
  return [p['text'] for batch in found for p in batch]


def _theirs(pair, row, processor, new_tokens):
  """The answer to one question, scored."""
  (question,) = PLAIN.questions('vqa', {'vqa': [row]}, 0, 0)
  example = PLAIN.ask(question, batching.Encoder(processor)).example
  pixels = processor.images.encode(row.picture.image).pixel_values
  ids = torch.tensor(example.tokens[None].astype(np.int64))
  with torch.no_grad():
    out = pair.torch.generate(
      input_ids=ids,
      attention_mask=torch.ones_like(ids),
      pixel_values=torch.tensor(pixels[None]),
      do_sample=False,
      max_new_tokens=new_tokens,
      eos_token_id=None,
      pad_token_id=0,
    )
  text = processor.tokenizer.decode(
    out[0, ids.shape[1] :], skip_special_tokens=True
  )
  answer = answers.record(question, PLAIN, (row.question, text.strip()), ())
  scores.score(answer)
  return answer['text']


if __name__ == '__main__':
  main()
