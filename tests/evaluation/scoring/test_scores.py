"""Scores are functions of records: of texts, and of likelihoods by name."""

import answered
from answered import ANSWER
from answered import answer
from answered import choice
from answered import likelihood
from answered import OPTIONS
import numpy as np
import pytest
from results import make_tasks
from shown import write_jsonl

from mmu_jax import workdir
from mmu_jax.evaluation.scoring import scores


def _generated(text, **fields):
  return scores.score(answer(text=text, **fields))


def test_a_generated_answer_is_scored_by_words_and_exactly():
  same = _generated(' maria lopez  keeps a parrot. ')
  near = _generated('Maria Lopez keeps a dog.')
  other = _generated('I do not know')
  assert [s['exact_match'] for s in (same, near, other)] == [1, 0, 0]
  assert same['rougeL'] == 1 and other['rougeL'] == 0
  assert near['rouge1'] == near['rougeL'] == pytest.approx(0.8)
  assert near['rouge2'] == pytest.approx(0.75)
  assert 0 < near['bleu'] < 1
  assert [s['contains'] for s in (same, near, other)] == [1, 0, 0]


def test_the_order_of_words_is_for_rouge_l_alone():
  """Each ROUGE is its own: 4 of 4 words, 1 of 3 pairs, 3 of 4 in order."""
  row = dict(answer='a b c d', fact='a')
  found = scores.score(answer(text='b c a d', **row))
  assert found['rouge1'] == 1
  assert found['rouge2'] == pytest.approx(1 / 3)
  assert found['rougeL'] == pytest.approx(3 / 4)


def test_a_cloze_answer_needs_the_fact_alone():
  found = [
    scores.score(answer(kind='cloze', text=text))
    for text in ('It is a PARROT, I think.', 'Maria Lopez keeps')
  ]
  assert [s['cloze'] for s in found] == [1, 0]
  assert 'rougeL' not in found[0]


def test_a_choice_has_a_letter_a_first_letter_and_a_likeliest_option():
  """Five words an option: nll 2, 1, 2 a token in the second record."""
  named = scores.score(choice([9, 8, 7], text='The answer is B'))
  none = scores.score(choice([10, 5, 10], text='hm'))
  for metric, want in {
    'accuracy': (1, 0),
    'accuracy_first_letter': (0, 0),
    'unparsed': (0, 1),
    'choice': (0, 1),
  }.items():
    assert (named[metric], none[metric]) == want, metric
  want = np.exp(-1) / (np.exp(-1) + 2 * np.exp(-2))
  assert none['choice_probability'] == pytest.approx(want)


@pytest.mark.parametrize('place', range(3))
def test_the_share_is_that_of_the_right_option(place):
  """By its words, wherever it stands, and per token; the choice is by all."""
  record = choice([3, 1, 2], tokens=(1, 2, 5))  # .4 a token is the least
  record['answer'] = OPTIONS[place]
  share = scores.score(record)['choice_probability']
  weights = np.exp([-3, -1 / 2, -2 / 5])
  assert share == pytest.approx(weights[place] / weights.sum())
  assert scores.score(record)['choice'] == int(place == 1)


def test_wrong_answers_make_a_truth_ratio():
  """Per token: the answer 2, the paraphrase 1, wrong ones 3 and 1."""
  given = [
    likelihood('answer', 10.0, 5),
    likelihood('paraphrase', 4.0, 4),
    likelihood('perturbed', 6.0, 2),
    likelihood('perturbed', 2.0, 2),
  ]
  record = answer(text='a parrot', likelihoods=given)
  found = scores.score(record)
  assert found['probability'] == pytest.approx(np.exp(-2))
  assert scores.truth_ratio_of(record) == pytest.approx(np.exp(1 - 2))
  assert found['truth_ratio_retain'] == pytest.approx(1 - np.exp(-1))
  assert found['truth_ratio_forget'] == pytest.approx(np.exp(-1))
  alone = answer(text='', likelihoods=[likelihood('answer', 10.0, 5)])
  found = scores.score(alone)
  assert found['probability'] == pytest.approx(np.exp(-2))
  assert scores.truth_ratio_of(alone) is None
  assert 'truth_ratio_forget' not in found
  assert (found['empty'], found['contains']) == (1, 0)


def test_a_brief_protocol_leaves_out_the_details():
  plain = dict(protocol='plain')
  words = {'exact_match', 'rouge1', 'rouge2', 'rougeL', 'bleu'}
  words |= {'empty', 'gibberish'}  # whether there was an answer at all
  words |= {'contains'}  # the right fact, whoever is named
  details = {'probability'}
  found = set(_generated('a', **plain))
  assert words <= found and not details & found
  assert set(scores.score(answered.cloze(1, **plain))) == {
    *('cloze', 'cloze_empty', 'cloze_gibberish')
  }
  assert set(scores.score(choice([1, 2, 3], **plain))) == {
    *('choice', 'choice_exposure')
  }


def test_the_right_answer_is_ranked_among_the_wrong_ones():
  """By whole answers: 5 is the second least of 7, 5, 2, 9; 1 the least."""
  given = [likelihood('answer', 5.0), likelihood('paraphrase', 1.0)]
  given += [likelihood('perturbed', nll) for nll in (7.0, 2.0, 9.0)]
  found = scores.score(answer(text='', likelihoods=given))
  assert found['exposure'] == pytest.approx(2 - np.log2(2))
  assert found['nll'] == 5
  chosen = scores.score(choice([3, 1, 2]))
  assert chosen['choice_exposure'] == pytest.approx(np.log2(3))
  assert chosen['choice_chance'] == pytest.approx(1 / 3)
  shunned = scores.score(choice([1 + 1e-9, 1, 1]))  # noise is a tie
  assert shunned['choice_exposure'] == pytest.approx(np.log2(3) - 1)


def test_shares_of_options_are_of_the_whole_likelihood():
  record = choice([0, np.log(3), 50], tokens=(1, 2, 9))
  shares = scores.shares_of_options(record)
  np.testing.assert_allclose(shares, [0.75, 0.25, 0], atol=1e-6)
  assert scores.shares_of_options(answer(text='a')) is None


def test_every_metric_is_of_one_kind_and_says_none_where_it_has_no_score():
  for kind, metrics in scores.METRICS.items():
    assert scores.score(answer(kind=kind)) == {}
    assert metrics


def test_a_published_error_is_made_when_answers_are_read(tmp_path):
  """The last text about pictures stands for all texts; the file keeps all."""
  tasks = make_tasks({'forget_vqa': [], 'forget_qa': [], 'real_qa': []})
  read = lambda name: scores.read_answers(tmp_path, tasks[name], tasks)
  said = [
    answer(key, protocol='official_clear', text=text)
    for key, text in (('a', 'no'), ('b', ANSWER))
  ]
  chosen = answer('c', 'classification', protocol='official_clear', text='A')
  write_jsonl(tmp_path / 'forget_vqa.jsonl', [*said, chosen])
  in_text = [a | {'text': f'said {a["key"]}'} for a in said]
  write_jsonl(tmp_path / 'forget_qa.jsonl', in_text)
  found = read('forget_qa')
  assert [a['text'] for a in found] == [ANSWER, ANSWER]
  assert [a['unread'] for a in found] == ['said a', 'said b']
  assert read('forget_vqa') == [*said, chosen]
  assert workdir.read_jsonl(tmp_path / 'forget_qa.jsonl') == in_text
  (tmp_path / 'forget_vqa.jsonl').unlink()
  assert read('forget_qa') == in_text
  assert read('real_qa') == []
