"""Claims are tests that can fail: under spoiled data each of these claims raises AssertionError.

To add one, add a row: the notebook, the id of the claim's cell, and code that spoils the data it rests on.
"""

from __future__ import annotations

from itertools import groupby

import nbformat
import pytest

from tests.notebooks.perturb import Perturbation, outcomes
from tools.run_notebooks import ROOT, missing_data

RESULTS = "chapters/front/reading-results.ipynb"
TOUR = "chapters/front/tour.ipynb"
SCRATCH = "chapters/3-recommender/build-from-scratch.ipynb"
DATA = "chapters/3-recommender/data.ipynb"
EVALUATE = "chapters/3-recommender/train-and-evaluate.ipynb"
LATE = "chapters/3-recommender/labels-arrive-late.ipynb"
PAGE = "chapters/3-recommender/scores-to-page.ipynb"
BUGS = "chapters/1-concepts/ten-bugs.ipynb"
LIKELIHOODS = "chapters/2-weighted-loss/losses-are-likelihoods.ipynb"
SUM = "chapters/2-weighted-loss/weighted-sum.ipynb"
GRADIENTS = "chapters/5-balancing/conflicting-gradients.ipynb"
LEARNED = "chapters/5-balancing/learning-the-weights.ipynb"
FASTER = "chapters/appendix/faster-without-magic.ipynb"


def swapped(one: str, other: str) -> str:
    """Code that exchanges the names of two models in the stored study."""
    return f"study = study.assign(model=study['model'].replace({{{one!r}: {other!r}, {other!r}: {one!r}}}))"


def renamed(one: str, other: str) -> str:
    """Code that exchanges two rows of the stored study wherever they are read."""
    exchanged = f"{{{one!r}: {other!r}, {other!r}: {one!r}}}"
    return f"by_world = lambda task, *rest, old=by_world: old({exchanged}.get(task, task), *rest)"


def runs_swapped(one: str, other: str) -> str:
    """Code that exchanges the names of two models in the runs of the chapter itself."""
    return f"runs = runs.assign(model=runs['model'].replace({{{one!r}: {other!r}, {other!r}: {one!r}}}))"


SHIFTED = "study = study.assign(value=study['value'] + 0.05 * (study['model'] == 'single'))"

PERTURBATIONS: list[Perturbation] = [
    Perturbation(TOUR, "claim-constant", "purchase = purchase.assign(**{net1: 0.5})"),
    Perturbation(TOUR, "claim-trees", "rating = rating.assign(trees=rating[net1].to_numpy()[::-1])"),
    Perturbation(
        TOUR, "claim-sharing", "between = {**between, 'purchase': ahead(purchase, net1, 'constant')}"
    ),
    Perturbation(
        RESULTS,
        "claim-coverage",
        "results = results.assign(rmse=results['rmse'] - results.groupby(['world', 'model'])['rmse']"
        ".transform('mean'))",
        rerun=("coverage",),
    ),
    Perturbation(
        RESULTS,
        "claim-linear",
        "wide = wide.assign(linear=wide['one net'].to_numpy()[::-1])",
        rerun=("paired",),
    ),
    Perturbation(RESULTS, "claim-nets", "wide = wide.assign(**{'two nets': wide['one net'] + 0.01})"),
    Perturbation(DATA, "claim-leak", "clicks = clicks.assign(times_bought=0)", rerun=("score-leaky",)),
    Perturbation(DATA, "claim-pages", "shoppers = shoppers.assign(page_values=0)", rerun=("page-values",)),
    Perturbation(DATA, "claim-lag", "calendar = lagged"),
    Perturbation(SCRATCH, "claim-mask", "masked_mean = lambda f, o, l, w=None: f(o, l.nan_to_num()).mean()"),
    Perturbation(
        SCRATCH,
        "claim-start",
        "runs = runs.rename(columns={'rate': 'random', 'random': 'rate'}, level=0)",
        rerun=("start-differences",),
    ),
    Perturbation(
        SCRATCH,
        "claim-end",
        "runs = runs.sort_index(ascending=False).set_index(runs.index)",
        rerun=("start-differences",),
    ),
    Perturbation(
        SCRATCH,
        "claim-loop",
        "ROW_LOSS = ROW_LOSS | {'rating': lambda o, l: (o - l) ** 2 / 2}",
        rerun=("model-check", "loop", "loop-check"),
    ),
    Perturbation(
        EVALUATE,
        "claim-one-epoch",
        "curves = curves.rename(columns={'epoch 1': 'epoch 2', 'epoch 2': 'epoch 1'})",
    ),
    Perturbation(EVALUATE, "claim-shop-hurts", swapped("single", "shared, equal weights")),
    Perturbation(EVALUATE, "claim-shop-rating", SHIFTED),
    Perturbation(EVALUATE, "claim-shop-classics", swapped("single", "trees")),
    Perturbation(EVALUATE, "claim-reviews-share", SHIFTED),
    Perturbation(EVALUATE, "claim-reviews-linear", swapped("single", "linear on TF-IDF")),
    Perturbation(EVALUATE, "claim-reviews-trees", swapped("single", "trees")),
    Perturbation(LATE, "claim-half-life", "worlds = [w.assign(age=100.0) for w in worlds]"),
    Perturbation(
        LATE,
        "claim-bids",
        swapped("naive, two tasks", "final labels, two tasks"),
        rerun=("study-functions",),
    ),
    Perturbation(
        LATE,
        "claim-page",
        swapped("wait, two tasks", "final labels, two tasks"),
        rerun=("study-functions",),
    ),
    Perturbation(LATE, "claim-coat-limit", "coats = coats.assign(corrected=coats['final'])"),
    Perturbation(PAGE, "claim-value", renamed("conversion", "powers 1 1")),
    Perturbation(PAGE, "claim-auc", renamed("oracle", "true conversion")),
    Perturbation(PAGE, "claim-knobs", "by_powers, by_weights = by_weights, by_powers"),
    Perturbation(PAGE, "claim-neighbours", renamed("neighbours by z", "neighbours by random")),
    Perturbation(PAGE, "claim-parity", "difference = np.abs(served + 0.001 - ours).to_numpy().max()"),
    Perturbation(PAGE, "claim-unit", "alarms_by = alarms_by[:, ::-1]"),
    Perturbation(PAGE, "claim-privacy", renamed("looker", "from the north")),
    Perturbation(BUGS, "claim-hook", "bad = good"),
    Perturbation(BUGS, "claim-leak", "alone = {**alone, 'leak': good}", rerun=("lies",)),
    Perturbation(BUGS, "claim-labels", "alone = {**alone, 'zero': good}", rerun=("lies",)),
    Perturbation(BUGS, "claim-training", "alone = {**alone, 'column': good}", rerun=("lies",)),
    Perturbation(LEARNED, "claim-abandon", swapped("uncertainty", "single"), rerun=("by-world",)),
    Perturbation(LEARNED, "claim-direction", "learned = learned ** 1.01"),
    Perturbation(LEARNED, "claim-same", "played = {**played, 'GLS': played['FAMO']}"),
    Perturbation(LEARNED, "claim-logs", "purse = purse.rename(columns={'RLW': 'GLS', 'GLS': 'RLW'})"),
    Perturbation(LEARNED, "claim-none", "against = {**against, 'DWA': against['single']}"),
    Perturbation(LEARNED, "claim-single", "against = {**against, 'single': against['equal']}"),
    Perturbation(
        LEARNED,
        "claim-toy",
        "left = left.rename(columns={'GradNorm, normal x': 'equal, normal x',"
        " 'equal, normal x': 'GradNorm, normal x'})",
    ),
    Perturbation(LEARNED, "claim-noise", "found = found.assign(noise=found['noise'] * 1.1)"),
    Perturbation(LEARNED, "claim-ignorance", "found = found.assign(noise=found['noise'] * 2)"),
    Perturbation(LEARNED, "claim-flat", "flat = flat.assign(**{'√2L': 1.0})"),
    Perturbation(LEARNED, "claim-units", "units = units.assign(**{'last step': units['last step'] * 2})"),
    Perturbation(LEARNED, "claim-sum", "moved = {'SGD': moved['Adam'], 'Adam': moved['SGD']}"),
    Perturbation(FASTER, "claim-ladder", "rungs = rungs.assign(ratio_low=1.5)"),
    Perturbation(FASTER, "claim-kept", "kept = usual"),
    Perturbation(FASTER, "claim-large", "large = rungs"),
    Perturbation(
        FASTER,
        "claim-lazy",
        "runs = runs.assign(adam=runs['adam'].replace({'dense': 'lazy', 'lazy': 'dense'}))",
        rerun=("lazy-differences", "gap"),
    ),
    Perturbation(FASTER, "claim-permutation", "epochs = [e[:-1] for e in epochs]"),
    Perturbation(FASTER, "claim-ranks", "y = y.nan_to_num()", rerun=("ranks-whole", "ranks-apart")),
    Perturbation(LIKELIHOODS, "claim-batch", "measured = measured[::-1]"),
    Perturbation(LIKELIHOODS, "claim-adam", runs_swapped("stars", "points"), rerun=("differences",)),
    Perturbation(
        LIKELIHOODS, "claim-mixture", runs_swapped("stars", "stars, λ = 625"), rerun=("differences",)
    ),
    Perturbation(
        LIKELIHOODS,
        "claim-adam-rating",
        "runs = runs.assign(rating=runs['rating'] + 0.05 * (runs['model'] == 'stars'))",
        rerun=("differences",),
    ),
    Perturbation(LIKELIHOODS, "claim-sgd", runs_swapped("stars", "points"), rerun=("differences",)),
    Perturbation(
        LIKELIHOODS, "claim-weight", runs_swapped("points", "points, λ = 1/625"), rerun=("differences",)
    ),
    Perturbation(
        LIKELIHOODS,
        "claim-cure",
        "fitted = lambda stars, points: Regression('rating', scale=20.0 if points else 1.0)",
        rerun=("cure-check",),
    ),
    Perturbation(SUM, "claim-reach", "pits = bowls"),
    Perturbation(SUM, "claim-chebyshev", "pits = pits[[0, 200, 400]]"),
    Perturbation(SUM, "claim-linear", "found = {**found, '3 tasks': found['2 tasks']}"),
    Perturbation(
        SUM,
        "claim-heavy",
        "runs = runs.assign(weight=runs['weight'].replace({100.0: 1.0, 1.0: 100.0}))",
    ),
    Perturbation(
        SUM,
        "claim-tenth",
        "kept = {**kept, 'best of the draft': kept['equal weights'], "
        "'equal weights': kept['best of the draft']}",
    ),
    Perturbation(GRADIENTS, "claim-blind", "at_theta = -at_theta[:1].repeat(2, 1)"),
    Perturbation(GRADIENTS, "claim-closed", "BY_HAND = BY_HAND | {'MGDA': imtl_g}", rerun=("gap",)),
    Perturbation(
        GRADIENTS, "claim-harm", "RULES = RULES | {'UPGrad': PCGrad()}", rerun=("harm", "harm-count")
    ),
    Perturbation(GRADIENTS, "claim-scale", "turn = turn | {'Nash-MTL': turn['MGDA']}"),
    Perturbation(GRADIENTS, "claim-graddrop", "back = straight"),
    Perturbation(GRADIENTS, "claim-shortcut", "worse = kept_promise"),
    Perturbation(GRADIENTS, "claim-published", "paths = paths + 0.1", rerun=("places", "published")),
    Perturbation(
        GRADIENTS,
        "claim-nudge",
        "nudged = nudged | {'PCGrad': nudged['MGDA']}",
        rerun=("drawn-from",),
    ),
    Perturbation(
        GRADIENTS,
        "claim-nash",
        "nash_miss = nash_miss.rename({'plain sum': 'Nash-MTL', 'Nash-MTL': 'plain sum'})",
    ),
    Perturbation(GRADIENTS, "claim-real", "cos = cos.rename({'reviews': 'census', 'census': 'reviews'})"),
    Perturbation(GRADIENTS, "claim-silent", "at_z = at_theta"),
]

NOTEBOOKS = {
    name: list(rows)
    for name, rows in groupby(sorted(PERTURBATIONS, key=lambda p: p.notebook), key=lambda p: p.notebook)
}


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_claims_fail_when_their_data_are_spoiled(notebook, monkeypatch):
    path = ROOT / notebook
    if missing := missing_data(path):
        pytest.skip(f"needs data: {', '.join(missing)}")
    monkeypatch.delenv("MPLBACKEND", raising=False)
    found = outcomes(path, NOTEBOOKS[notebook])
    assert {name: trouble for name, trouble in found.items() if trouble} == {}
    assert len(found) == len(NOTEBOOKS[notebook])


@pytest.fixture
def tiny(tmp_path):
    """A notebook with a claim that its data decide, and one that nothing could break."""
    cells = [
        ("data", "scores = [1.0, 2.0, 3.0]"),
        ("mean", "mean = sum(scores) / len(scores)"),
        ("decided", "assert mean > 1.5"),
        ("empty", "assert len(str(mean)) > 0"),
    ]
    notebook = nbformat.v4.new_notebook()
    for name, source in cells:
        notebook.cells.append(nbformat.v4.new_code_cell(source, id=name))
    path = tmp_path / "tiny.ipynb"
    nbformat.write(notebook, path)
    return path


def test_the_mechanism_tells_a_claim_from_an_empty_phrase(tiny):
    decided = Perturbation("tiny.ipynb", "decided", "mean = 0.0")
    empty = Perturbation("tiny.ipynb", "empty", "mean = 0.0")
    found = outcomes(tiny, [decided, empty])
    assert found[decided.name] == ""
    assert "the claim held although the data were spoiled" in found[empty.name]


def test_cells_between_the_data_and_the_claim_can_run_again(tiny):
    row = Perturbation("tiny.ipynb", "decided", "scores = [0.0, 1.0]", rerun=("mean",))
    assert outcomes(tiny, [row]) == {row.name: ""}


def test_a_change_stays_beside_the_notebook(tiny):
    first = Perturbation("tiny.ipynb", "decided", "mean = 0.0")
    second = Perturbation("tiny.ipynb", "decided", "mean = mean")
    found = outcomes(tiny, [first, second])
    assert found[first.name] == ""
    assert "held although" in found[second.name]


def test_a_change_of_the_notebook_itself_is_named(tiny):
    row = Perturbation("tiny.ipynb", "decided", "import __main__; __main__.mean = mean = 0.0")
    assert outcomes(tiny, [row])[row.name].startswith("the change spoiled the notebook itself")


def test_an_error_in_the_change_is_not_a_failed_claim(tiny):
    row = Perturbation("tiny.ipynb", "decided", "mean = undefined_name")
    assert outcomes(tiny, [row])[row.name].startswith("NameError")


def test_an_unknown_cell_is_named(tiny):
    with pytest.raises(KeyError, match="no code cell other"):
        outcomes(tiny, [Perturbation("tiny.ipynb", "other", "mean = 0.0")])
