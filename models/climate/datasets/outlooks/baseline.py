"""How many runs have a text, and how much of a text is known before anybody looks at the weather.

A caption that a model writes from fields must beat what needs no fields: the text of the day before, the most
typical text, a text of any other day. A guess g is held against the true text t by the words that both have,
counted with repetition:

    F1 = 2 |g n t| / (|g| + |t|)

and by the cosine of their words weighted by rarity, log(N / texts with the word).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import xarray as xr

Array = NDArray[Any]

RULES = ("persistence", "typical", "random")
RESAMPLES = 1000
_BLOCK_DAYS = 7
_MOST = 4000


def words_of(text: str) -> list[str]:
    """Lower-case words and numbers of a text."""
    return re.findall(r"[a-z]+|\d+", text.lower())


def overlap(guess: Sequence[str], truth: Sequence[str]) -> float:
    """F1 of the words of two texts, 0 to 1; two empty texts agree."""
    if not guess and not truth:
        return 1.0
    common = sum((Counter(guess) & Counter(truth)).values())
    return 2.0 * common / (len(guess) + len(truth))


def weighted(texts: Sequence[Sequence[str]]) -> Array:
    """Unit vectors of texts, words weighted by rarity; (N, V), a row without any word is zero."""
    vocabulary = {word: place for place, word in enumerate(sorted({word for text in texts for word in text}))}
    counts = np.zeros((len(texts), max(1, len(vocabulary))), np.float32)
    for row, text in enumerate(texts):
        for word, number in Counter(text).items():
            counts[row, vocabulary[word]] = number
    rarity = np.log(len(texts) / np.maximum((counts > 0).sum(0), 1))
    vectors = counts * rarity
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.where(length > 0, length, 1.0))


def baseline(groups: Mapping[str, "xr.Dataset"], seed: int = 0) -> dict[str, float]:
    """Coverage of pairs, and what the rules without fields know of the texts.

    The most typical text is the one whose words agree best with those of the first four fifths of pairs; rules are
    tested on the last fifth, in order of time.

    Args:
        groups: `outlooks`, `images`, `pairs`.
        seed: of the random texts and of the resampling.

    Returns:
        `coverage`, the share of files with a text; `outlooks_a_day`; `with_summary`; `words_a_text`; `RULE_f1` and
        `RULE_cosine`, each with `_low` and `_high`: 95 %, over weeks drawn with replacement; `texts_tested`.

    Raises:
        ValueError: there are fewer than ten pairs.

    Source:
        Rajpurkar et al. 2016, "SQuAD", section 6.1, for F1 of words; the rest is ours.
    """
    outlooks, images, pairs = groups["outlooks"], groups["images"], groups["pairs"]
    when = np.asarray(pairs["moment"].values).astype(np.int64)
    if len(when) < 10:
        raise ValueError(f"texts are compared when there are at least 10 pairs, got {len(when)}; prepare more days.")
    order = np.argsort(when, kind="stable")[-_MOST:]
    texts = [words_of(str(pairs["text"].values[row])) for row in order]
    day = when[order] // 1440
    vectors = weighted(texts)
    start = int(0.8 * len(texts))
    rows = np.arange(start, len(texts))
    random = np.random.default_rng(seed)
    typical = int(np.argmax(vectors[:start] @ vectors[:start].sum(0)))
    guesses = {
        "persistence": rows - 1,
        "typical": np.full(len(rows), typical),
        "random": random.integers(0, start, len(rows)),
    }
    days = np.unique(np.asarray(outlooks["stored_under"].values))
    metrics = {
        "coverage": float(np.asarray(images["paired"].values).astype(np.float64).mean()),
        "outlooks_a_day": outlooks.sizes["outlook"] / max(1, len(days)),
        "with_summary": float(np.asarray(outlooks["has_summary"].values).astype(np.float64).mean()),
        "words_a_text": float(np.mean([len(text) for text in texts])),
        "texts_tested": float(len(rows)),
    }
    _, block = np.unique(day[rows] // _BLOCK_DAYS, return_inverse=True)
    blocks = int(block.max()) + 1
    draws = random.multinomial(blocks, np.full(blocks, 1 / blocks), size=RESAMPLES)
    for rule in RULES:
        guess = guesses[rule]
        scores = {
            "f1": np.array([overlap(texts[one], texts[row]) for one, row in zip(guess, rows, strict=True)]),
            "cosine": (vectors[guess].astype(np.float64) * vectors[rows]).sum(1),
        }
        for name, score in scores.items():
            means = (draws @ np.bincount(block, score)) / (draws @ np.bincount(block))
            mean = float(score.mean())
            low, high = np.quantile(means, (0.025, 0.975))
            low, high = min(float(low), mean), max(float(high), mean)  # one draw has no spread, but it rounds
            key = f"{rule}_{name}"
            metrics |= {key: mean, f"{key}_low": low, f"{key}_high": high}
    return metrics
