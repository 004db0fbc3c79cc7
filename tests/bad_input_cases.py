"""What users do wrong, and what they see: the table behind the appendix page *Errors you may see*, as data.

``code`` is run, exactly as the page shows it, on the scene of ``scene()``. ``before`` prepares it (it damages
a file, say) and is told by ``what``. A case without ``error`` is accepted, and ``then`` says what happens.
"""

from __future__ import annotations

import copy
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

import mtl_ref
from mtl_ref import (
    balancing,
    batches,
    checkpoints,
    datasets,
    encoders,
    evaluation,
    features,
    fusion,
    labels,
    market,
    metrics,
    models,
    plots,
    reproducible,
    serving,
    shards,
    tasks,
    training,
    weighting,
)

MODULES = (
    reproducible,
    market,
    datasets,
    features,
    batches,
    metrics,
    labels,
    tasks,
    encoders,
    models,
    weighting,
    balancing,
)
MODULES += (training, evaluation, plots)


@dataclass(frozen=True)
class Case:
    """One row of the table.

    Attributes:
        step: Step of the pipeline.
        what: What was wrong.
        code: What was run.
        error: Name of the exception; empty where nothing is refused.
        says: What the sentence must name: the column, task or file, and what was found.
        then: Accepted cases: what happens instead. Otherwise a remark for the page, if any.
        before: Run beforehand.
        check: Accepted cases: an expression over ``result`` that must hold.
        keeps: Whether everything is as it was; only a training that was under way moves its own weights.
    """

    step: str
    what: str
    code: str
    error: str = ""
    says: tuple[str, ...] = ()
    then: str = ""
    before: str = ""
    check: str = ""
    keeps: bool = True

    def __str__(self) -> str:
        return self.what


SETUP, DATA = "Before the first step: set-up", "Step 1: data"
FEATURES, BATCHES, SHARDS = "Step 2: features", "Step 2: mini-batches in memory", "Step 2: shards on disk"
TASKS, METRICS = "Step 3: tasks and their labels", "Step 3: metrics"
MODEL, TRAINING, CHECKPOINTS = "Step 4: model", "Step 5: training", "Step 5: checkpoints"
EVALUATION, SERVING, PLOTS = "Step 6: evaluation", "Step 7: serving", "Figures"

_CUT = "path.write_bytes(path.read_bytes()[:-40])"
_HEAD = "path.write_bytes(path.read_bytes()[:60])"  # where no number stands, so that the message is the same
_SHOPPERS = "data/online-shoppers-intention/online_shoppers_intention.csv"
_CONFIG = "path = folder / 'bundle/config.json'; config = json.loads(path.read_text()); "
_WRITE = "; path.write_text(json.dumps(config))"

CASES = [
    Case(SETUP, "A negative seed", "setup(seed=-1)", "ValueError", ("seed", "-1")),
    Case(SETUP, "No thread", "setup(threads=0)", "ValueError", ("threads", "found 0")),
    Case(
        SETUP,
        "An optional package is missing",
        'need("pandas_of_tomorrow", "data")',
        "ImportError",
        ("pandas_of_tomorrow", "not installed", "mtl-ref[data]"),
    ),
    # 1 data
    Case(DATA, "A dial out of its range", "Dials(noise=9)", "ValueError", ("'noise'", "found 9")),
    Case(DATA, "A page of five slots", "Dials(slots=5)", "ValueError", ("'slots'", "found 5")),
    Case(DATA, "Dials as a dictionary", 'World(0, {"noise": 0.5})', "TypeError", ("dials", "dict")),
    Case(DATA, "A seed that is a word", 'World("monday")', "ValueError", ("seed", "'monday'")),
    Case(
        DATA, "A mechanism of its own", 'World(0, mechanism="forest")', "ValueError", ("mechanism", "forest")
    ),
    Case(DATA, "No day to serve", "world.serve(days=0)", "ValueError", ("days", "found 0")),
    Case(
        DATA,
        "A policy returns missing scores",
        "world.serve(lambda rows: np.full(len(rows), np.nan), days=1)",
        "ValueError",
        ("policy", "missing or infinite"),
    ),
    Case(
        DATA,
        "A policy returns words",
        'world.serve(lambda rows: ["high"] * len(rows), days=1)',
        "ValueError",
        ("policy", "'high'"),
    ),
    Case(
        DATA,
        "The truth of rows that lack a column",
        'world.truth(log.table().drop(columns="hour"))',
        "KeyError",
        ("'hour'", "no column"),
    ),
    Case(
        DATA,
        "The truth of an item that the shop does not have",
        "world.truth(log.table().assign(item_id=5000))",
        "ValueError",
        ("item_id", "found 5000"),
    ),
    Case(
        DATA,
        "A negative id, which numpy would count from the end",
        "world.prices(np.array([-1]), np.array([0]))",
        "ValueError",
        ("item_id", "found -1"),
    ),
    Case(
        DATA,
        "A surface in capital letters",
        'world.truth(log.table().assign(surface="Home"))',
        "ValueError",
        ("'surface'", "'Home'", "'home'"),
    ),
    Case(
        DATA,
        "A price of zero",
        "world.truth(log.table().assign(price_shown=0.0))",
        "ValueError",
        ("price_shown", "found 0:"),
    ),
    Case(
        DATA,
        "Scores with a gap",
        "plackett_luce(np.array([[0.5, np.nan]]))",
        "ValueError",
        ("scores", "missing", "(1, 2)"),
    ),
    Case(DATA, "A day given as a word", 'log.table(as_of="Tuesday")', "ValueError", ("as_of", "'Tuesday'")),
    Case(DATA, "A misspelt data set", 'available("reviwes")', "ValueError", ("'reviwes'", "reviews")),
    Case(DATA, "A part that does not exist", 'census_income("all")', "ValueError", ("part", "'all'")),
    Case(
        DATA,
        "A data file that was altered or cut short",
        "online_shoppers()",
        "DataError",
        ("online_shoppers_intention.csv", "altered or cut short", "9 bytes"),
        before=f"path = folder / '{_SHOPPERS}'; path.parent.mkdir(parents=True);"
        "path.write_text('a,b\\n1,2\\n\\n');"
        "os.environ['MTL_REF_DATA'] = str(folder / 'data')",
    ),
    Case(
        DATA,
        "`MTL_REF_DATA` names no folder",
        "online_shoppers()",
        "DataError",
        ("MTL_REF_DATA", "no folder"),
        before="os.environ['MTL_REF_DATA'] = str(folder / 'nowhere')",
    ),
    # 2 features
    Case(
        FEATURES,
        "A column is missing",
        'Features(numeric=["price"]).fit(table.drop(columns="price"))',
        "KeyError",
        ("'price'", "not in the table", "'item'"),
    ),
    Case(
        FEATURES,
        "A column occurs twice",
        'Features(numeric=["price"]).fit(pd.concat([table, table], axis=1))',
        "ValueError",
        ("'price'", "2 times"),
    ),
    Case(
        FEATURES,
        "Text in a column of numbers",
        'Features(numeric=["price"]).fit(table.assign(price="free"))',
        "ValueError",
        ("'price'", "'free'", "str"),
    ),
    Case(
        FEATURES,
        "A date in a column of numbers",
        'features.transform(table.assign(price=pd.Timestamp("2026-01-01")))',
        "ValueError",
        ("'price'", "Timestamp"),
    ),
    Case(
        FEATURES,
        "An infinite number",
        "features.transform(table.assign(price=np.inf))",
        "ValueError",
        ("'price'", "inf", "row 0"),
    ),
    Case(
        FEATURES,
        "A column without a single value",
        'Features(numeric=["price"]).fit(table.assign(price=np.nan))',
        "ValueError",
        ("'price'", "no value"),
    ),
    Case(
        FEATURES,
        "An empty training table",
        "features.fit(table[:0])",
        "ValueError",
        ("Features.fit", "empty"),
    ),
    Case(
        FEATURES,
        "Ids that were read as floats and lost digits",
        "features.transform(table.assign(item=1e17))",
        "ValueError",
        ("'item'", "1e+17", "lost digits"),
    ),
    Case(
        FEATURES,
        "A list where an id should be",
        "features.transform(table.assign(item=[[1]] * len(table)))",
        "TypeError",
        ("'item'", "no id"),
    ),
    Case(
        FEATURES,
        "A number in a column of text",
        "features.transform(table.assign(title=7))",
        "TypeError",
        ("'title'", "7", "int"),
    ),
    Case(
        FEATURES,
        "A list instead of a table",
        "features.transform([1, 2])",
        "TypeError",
        ("DataFrame", "list"),
    ),
    Case(
        FEATURES,
        "One name instead of a list",
        'Features(numeric="price")',
        "TypeError",
        ("numeric", "'price'"),
    ),
    Case(
        FEATURES,
        "A column named twice",
        'Features(categorical=["item", "item"])',
        "ValueError",
        ("'item'", "twice", "categorical"),
    ),
    Case(FEATURES, "No column at all", "Features()", "ValueError", ("at least one", "found none")),
    Case(
        FEATURES,
        "Used before it was fitted",
        'Features(numeric=["price"]).transform(table)',
        "RuntimeError",
        ("Features", "no training rows"),
    ),
    Case(
        FEATURES,
        "A file of features that was cut short",
        'Features.load(folder / "features.json")',
        "ValueError",
        ("features.json", "cut short"),
        before=f"path = folder / 'features.json'; {_HEAD}",
    ),
    Case(
        FEATURES,
        "A foreign JSON file",
        'Features.load(folder / "features.json")',
        "ValueError",
        ("features.json", "'list'"),
        before="(folder / 'features.json').write_text('[1, 2]')",
    ),
    Case(
        FEATURES,
        "Hostile JSON: brackets in brackets, 100,000 deep",
        'Features.load(folder / "features.json")',
        "ValueError",
        ("features.json", "recursion"),
        before="(folder / 'features.json').write_text('[' * 100_000)",
    ),
    Case(
        FEATURES,
        "An entry of the file was edited by hand",
        'Features.load(folder / "features.json")',
        "ValueError",
        ("features.json", "damaged"),
        before="path = folder / 'features.json'; state = json.loads(path.read_text());"
        "state['scales'][0][1] = -1.0; path.write_text(json.dumps(state))",
    ),
    Case(
        FEATURES,
        "A category that training never saw",
        'features.transform(table.assign(item="velvet hat"))["categorical"][:, 0]',
        then="It goes to bucket 0, which all unknown and missing ids share.",
        check="(result == 0).all()",
    ),
    Case(
        FEATURES,
        "A number is missing when rows are scored",
        'features.transform(table.assign(price=np.nan))["numeric"]',
        then="It becomes 0, the mean of training.",
        check="(result[:, 0] == 0).all()",
    ),
    Case(
        FEATURES,
        "A text of 100,000 words",
        'features.transform(table.assign(title="scarf " * 100_000))["text"].shape',
        then="It is cut after `text_length` words.",
        check="tuple(result) == (12, 4)",
    ),
    Case(
        FEATURES,
        "A table without rows, after fitting",
        'features.transform(table[:0])["numeric"].shape',
        then="The result has no rows either.",
        check="tuple(result) == (0, 1)",
    ),
    # 2 batches
    Case(
        BATCHES,
        "Tensors of different lengths",
        'Batches(x, {"click": y["click"][:5]})',
        "ValueError",
        ("y['click']", "5", "12"),
    ),
    Case(BATCHES, "No rows", "Batches({k: v[:0] for k, v in x.items()}, {})", "ValueError", ("x", "no rows")),
    Case(BATCHES, "No inputs", "Batches({}, y)", "ValueError", ("x", "no tensor")),
    Case(
        BATCHES,
        "Weights for a task that is not there",
        'Batches(x, y, {"bought": torch.ones(12)})',
        "ValueError",
        ("'bought'", "'click'"),
    ),
    Case(BATCHES, "Empty batches", "Batches(x, y, batch_size=0)", "ValueError", ("batch_size", "found 0")),
    Case(
        BATCHES,
        "numpy arrays instead of tensors",
        'Batches(x, {"click": np.ones(12)})',
        "TypeError",
        ("y['click']", "ndarray"),
    ),
    Case(
        BATCHES,
        "The position of another table",
        'Batches(x, y).load_state_dict({"seed": 0, "epoch": 1, "offset": 4, "n_rows": 99})',
        "ValueError",
        ("99", "12"),
    ),
    # 2 shards
    Case(
        SHARDS,
        "A shard with another schema",
        'Shards(folder / "shards")',
        "ValueError",
        ("part-00001.parquet", "features"),
        before="other = Features(numeric=['price']).fit(table);"
        "shards.write(folder / 'other', table, other, tasks);"
        "shutil.copy(folder / 'other/part-00000.parquet', folder / 'shards/part-00001.parquet')",
    ),
    Case(
        SHARDS,
        "A shard is missing",
        'Shards(folder / "shards")',
        "FileNotFoundError",
        ("part-00001.parquet", "missing"),
        before="(folder / 'shards/part-00001.parquet').unlink()",
    ),
    Case(
        SHARDS,
        "A shard was cut short",
        'Shards(folder / "shards")',
        "ValueError",
        ("part-00001.parquet", "damaged"),
        before=f"path = folder / 'shards/part-00001.parquet'; {_CUT}",
    ),
    Case(
        SHARDS,
        "A stranger lies among the shards",
        'Shards(folder / "shards")',
        "ValueError",
        ("part-99.parquet", "not listed"),
        before="shutil.copy(folder / 'shards/part-00000.parquet', folder / 'shards/part-99.parquet')",
    ),
    Case(
        SHARDS,
        "Hostile JSON in the list of shards",
        'Shards(folder / "shards")',
        "ValueError",
        ("shards.json", "damaged"),
        before="(folder / 'shards/shards.json').write_text('{\"rows\": {\"../../secrets\": 12}}')",
    ),
    Case(
        SHARDS, "A folder without shards", "Shards(folder)", "FileNotFoundError", ("shards.json", "missing")
    ),
    Case(
        SHARDS,
        "Writing over a folder that holds something else",
        'shards.write(folder / "bundle", table, features, tasks)',
        "FileExistsError",
        ("bundle", "no shards"),
    ),
    Case(
        SHARDS,
        "Writing a table with a bad row",
        'shards.write(folder / "new", table.assign(price=np.inf), features, tasks)',
        "ValueError",
        ("'price'", "inf", "row 0"),
        then="Nothing is left behind.",
    ),
    # 3 tasks
    Case(
        TASKS,
        "The target column is missing",
        'targets([Binary("bought")], table)',
        "KeyError",
        ("'bought'", "no column", "'click'"),
    ),
    Case(
        TASKS,
        "The target column occurs twice",
        'targets([Binary("click")], pd.concat([table, table], axis=1))',
        "ValueError",
        ("'click'", "2 columns"),
    ),
    Case(
        TASKS,
        "Words where 0 and 1 are expected",
        'targets([Binary("click")], table.assign(click="yes"))',
        "ValueError",
        ("'click'", "'yes'", "str"),
    ),
    Case(
        TASKS,
        "A label that is neither 0 nor 1",
        'targets([Binary("stars")], table)',
        "ValueError",
        ("'stars'", "0 and 1", "found 4"),
    ),
    Case(
        TASKS,
        "Dates as a target",
        'targets([Regression("stars")], table.assign(stars=pd.Timestamp("2026-01-01")))',
        "ValueError",
        ("'stars'", "Timestamp"),
    ),
    Case(
        TASKS,
        "An infinite label",
        'targets([Regression("stars")], table.assign(stars=np.inf))',
        "ValueError",
        ("'stars'", "infinite", "inf"),
    ),
    Case(
        TASKS,
        "A class that is not listed",
        'targets([Multiclass("item", classes=("red scarf", "coat"))], table)',
        "ValueError",
        ("'item'", "'tea tin'", "classes"),
    ),
    Case(
        TASKS,
        "A negative count",
        'targets([Count("stars")], table.assign(stars=-1))',
        "ValueError",
        ("'stars'", "counts", "found -1"),
    ),
    Case(
        TASKS,
        "A label that was never observed",
        'Binary("click").fit(table.assign(click=np.nan))',
        "ValueError",
        ("'click'", "no label is observed"),
    ),
    Case(
        TASKS,
        "Two tasks of one name",
        'targets([Binary("click"), Regression("click")], table)',
        "ValueError",
        ("'click', 'click'", "name of its own"),
    ),
    Case(
        TASKS, "A name with a blank", 'Binary("add to cart")', "ValueError", ("'add to cart'", "plain word")
    ),
    Case(
        TASKS,
        "One task instead of a list",
        'targets(Binary("click"), table)',
        "TypeError",
        ("tasks", "Binary"),
    ),
    Case(
        TASKS,
        "One class only",
        'Multiclass("kind", classes=("scarf",))',
        "ValueError",
        ("'kind'", "('scarf',)"),
    ),
    Case(
        TASKS,
        "Levels out of order",
        'Ordinal("stars", levels=(5, 4, 3))',
        "ValueError",
        ("'stars'", "(5, 4, 3)"),
    ),
    Case(
        TASKS,
        "A negative row weight",
        'targets([Binary("click", weight="propensity")], table.assign(propensity=-1))',
        "ValueError",
        ("'propensity'", "'click'", "found -1"),
    ),
    Case(
        TASKS,
        "Row weights that are words",
        'targets([Binary("click", weight="item")], table)',
        "ValueError",
        ("'item'", "'click'", "'red scarf'"),
    ),
    Case(
        TASKS,
        "Weights of another shape, which torch would broadcast",
        'Binary("click").loss({"click": torch.zeros(12)}, y["click"], torch.ones(12, 1))',
        "ValueError",
        ("'click'", "(12, 1)", "(12,)"),
    ),
    Case(
        TASKS,
        "Every label is the same",
        'Binary("click").fit(table.assign(click=1)).initial',
        then="The task is made; its start is kept finite. Its AUC will be `nan`.",
        check="np.isfinite(result).all()",
    ),
    # 3 metrics
    Case(
        METRICS,
        "Logits instead of probabilities",
        "log_loss([0, 1], [-2.5, 3.0])",
        "ValueError",
        ("probabilities", "-2.5 to 3"),
    ),
    Case(METRICS, "Different lengths", "auc([0, 1, 1], [0.2, 0.9])", "ValueError", ("target (3,)", "(2,)")),
    Case(
        METRICS,
        "A column of predictions",
        "accuracy([0, 1], [[0.2], [0.9]])",
        "ValueError",
        ("(2, 1)", "(2,)"),
    ),
    Case(
        METRICS, "A missing prediction", "rmse([1, 2], [1.5, np.nan])", "ValueError", ("prediction missing",)
    ),
    Case(METRICS, "Words as targets", 'auc(["no", "yes"], [0.2, 0.9])', "ValueError", ("target", "'no'")),
    Case(METRICS, "A label of 2", "auc([0, 2], [0.2, 0.9])", "ValueError", ("target", "found 2")),
    Case(METRICS, "A negative weight", "rmse([1.0], [1.5], [-1.0])", "ValueError", ("weight", "found -1")),
    Case(
        METRICS,
        "No place to rank",
        "ndcg_at_k([1, 0], [0.9, 0.1], [7, 7], k=0)",
        "ValueError",
        ("k", "found 0"),
    ),
    Case(
        METRICS,
        "Half a level",
        "quadratic_weighted_kappa([1, 2], [1, 2.5])",
        "ValueError",
        ("integer levels", "found 2.5"),
    ),
    Case(
        METRICS,
        "Labels of one class",
        "auc([1, 1], [0.2, 0.9])",
        then="The AUC is `nan`: no pair can be ordered.",
        check="np.isnan(result)",
    ),
    # 4 model
    Case(
        MODEL, "An input of unknown kind", 'TabularEncoder({"image": 64})', "ValueError", ("sizes", "'image'")
    ),
    Case(MODEL, "No input", "TabularEncoder({})", "ValueError", ("sizes", "no input")),
    Case(
        MODEL,
        "A layer of negative width",
        'TabularEncoder({"numeric": 3}, hidden=(-8,))',
        "ValueError",
        ("hidden", "-8"),
    ),
    Case(
        MODEL,
        "`stop_gradient` names no task",
        'SharedEncoder(TabularEncoder({"numeric": 3}), tasks, stop_gradient=["buy"])',
        "ValueError",
        ("'buy'", "'click'"),
    ),
    Case(
        MODEL,
        "The control shares its encoder",
        "SingleTask(lambda: model.encoder, tasks)",
        "ValueError",
        ("make_encoder", "same one"),
    ),
    Case(
        MODEL,
        "Inputs that lack a part",
        'predict(model, tasks, {"numeric": x["numeric"]})',
        "ValueError",
        ("'categorical'", "'numeric'"),
    ),
    Case(
        MODEL,
        "An id beyond the table",
        'predict(model, tasks, x | {"categorical": x["categorical"] + 99})',
        "ValueError",
        ("'categorical'", "column 0"),
    ),
    Case(
        MODEL,
        "Numbers of another width",
        'predict(model, tasks, x | {"numeric": torch.zeros(12, 5)})',
        "ValueError",
        ("'numeric'", "(12, 5)"),
    ),
    # 5 training
    Case(
        TRAINING, "A negative λ", 'FixedWeights({"click": 1, "stars": -1})', "ValueError", ("'stars'", "-1")
    ),
    Case(
        TRAINING,
        "A λ that is not finite",
        'FixedWeights({"click": float("nan"), "stars": 1})',
        "ValueError",
        ("'click'", "nan"),
    ),
    Case(TRAINING, "All λ zero", "FixedWeights([0, 0])", "ValueError", ("weights", "zero")),
    Case(
        TRAINING,
        "One λ too few",
        "fit(model, tasks, (x, y), weighting=FixedWeights([1.0]))",
        "ValueError",
        ("1 weights", "2 tasks"),
    ),
    Case(
        TRAINING,
        "λ of other tasks",
        'fit(model, tasks, (x, y), weighting=FixedWeights({"click": 1, "bought": 1}))',
        "ValueError",
        ("'bought'", "'stars'"),
    ),
    Case(
        TRAINING,
        "Labels of a task are not there",
        'fit(model, tasks, (x, {"click": y["click"]}))',
        "ValueError",
        ("'stars'", "'click'", "train"),
    ),
    Case(
        TRAINING,
        "Raw stars where positions of levels are expected",
        'fit(model, tasks, (x, y | {"stars": y["stars"] + 1}))',
        "ValueError",
        ("'stars'", "0 to 4", "found 5"),
    ),
    Case(
        TRAINING,
        "A missing number among hand-made inputs",
        'fit(model, tasks, (x | {"numeric": x["numeric"] * np.nan}, y))',
        "ValueError",
        ("'numeric'", "column 0"),
    ),
    Case(
        TRAINING,
        "Row weights of another shape",
        'fit(model, tasks, (x, y, {"click": torch.ones(12, 1)}))',
        "ValueError",
        ("click", "(12, 1)"),
    ),
    Case(
        TRAINING,
        "Early stopping without a validation part",
        "fit(model, tasks, (x, y), patience=2)",
        "ValueError",
        ("patience", "validation"),
    ),
    Case(
        TRAINING,
        "An unknown task to monitor",
        'fit(model, tasks, (x, y), monitor="bought")',
        "ValueError",
        ("monitor", "'bought'", "'click'"),
    ),
    Case(TRAINING, "No epoch", "fit(model, tasks, (x, y), epochs=0)", "ValueError", ("epochs",)),
    Case(
        TRAINING,
        "A rule of both kinds",
        "fit(model, tasks, (x, y), weighting=FixedWeights([1, 1]), balancing=min_norm)",
        "ValueError",
        ("weighting", "balancing"),
    ),
    Case(
        TRAINING,
        "Balancing where nothing is shared",
        "fit(single, tasks, (x, y), balancing=min_norm)",
        "ValueError",
        ("SingleTask", "shares no parameter"),
    ),
    Case(
        TRAINING,
        "A rule that reads likelihoods gets names",
        'UncertaintyWeights(["click", "stars"])',
        "TypeError",
        ("UncertaintyWeights", "'click'"),
    ),
    Case(TRAINING, "A temperature of zero", "DWA(tasks, temperature=0)", "ValueError", ("temperature", "0")),
    Case(
        TRAINING,
        "A preference for too few tasks",
        "STCH(tasks, preference=[1.0])",
        "ValueError",
        ("preference", "[1.0]"),
    ),
    Case(TRAINING, "One task twice in a rule", 'GLS(["click", "click"])', "ValueError", ("'click'", "own")),
    Case(
        TRAINING,
        "A loss that is below zero, where a rule takes its logarithm",
        "GLS(tasks)(torch.tensor([0.5, -0.1]))",
        "ValueError",
        ("'stars'", "-0.1"),
    ),
    Case(
        TRAINING,
        "GradNorm outside of fit, without norms",
        "GradNorm(tasks)(torch.tensor([0.5, 0.7]))",
        "RuntimeError",
        ("GradNorm", "norms"),
    ),
    Case(TRAINING, "A ball as large as the gradient", "CAGrad(c=1.5)", "ValueError", ("c must", "1.5")),
    Case(
        TRAINING,
        "A Gram matrix that is not square",
        "UPGrad()(torch.ones(2, 3))",
        "ValueError",
        ("Gram", "(2, 3)"),
    ),
    Case(
        TRAINING,
        "A gradient that is not finite",
        "MGDA()(torch.tensor([[1.0, 0.0], [0.0, float('nan')]]))",
        "FloatingPointError",
        ("tasks [1]",),
    ),
    Case(
        TRAINING,
        "No direction improves every task",
        "NashMTL()(torch.tensor([[1.0, -1.0], [-1.0, 1.0]]))",
        "ValueError",
        ("Nash-MTL", "MGDA"),
    ),
    Case(
        TRAINING,
        "A rule made for other tasks",
        "GradVac(3)(torch.eye(2))",
        "ValueError",
        ("GradVac", "3 tasks", "of 2"),
    ),
    Case(
        TRAINING,
        "A learning rate that blows the weights up",
        "fit(model, tasks, (x, y), learning_rate=1e200)",
        "FloatingPointError",
        ("'click'", "step 2"),
        then="The weights are those after the last good step: build the model anew before you try again.",
        keeps=False,
    ),
    # 5 checkpoints
    Case(
        CHECKPOINTS,
        "The newest checkpoint was cut short",
        'fit(model, tasks, (x, y), checkpoint=folder / "run", resume=True, epochs=2)',
        then="A warning names the file, and training continues from the checkpoint before it.",
        before=f"path = sorted((folder / 'run').glob('*.checkpoint'))[-1]; {_CUT}",
        check="list(result['epoch']) == [1, 2]",
    ),
    Case(
        CHECKPOINTS,
        "Every checkpoint was cut short",
        'fit(model, tasks, (x, y), checkpoint=folder / "run", resume=True, epochs=2)',
        "ValueError",
        ("run", "2", "cut short"),
        before=f"for path in (folder / 'run').glob('*.checkpoint'): {_CUT}",
    ),
    Case(
        CHECKPOINTS,
        "A file that is no checkpoint",
        'checkpoints.read(folder / "features.json")',
        "ValueError",
        ("features.json", "no checkpoint"),
    ),
    Case(
        CHECKPOINTS,
        "A hostile checkpoint: a pickle that would run a program",
        "checkpoints.read(path)",
        "ValueError",
        (".checkpoint", "more than tensors"),
        then="Nothing in it was run.",
        before="path = hostile_checkpoint(folder)",
    ),
    Case(
        CHECKPOINTS,
        "The checkpoints of another run",
        'fit(model, tasks, (x, y), checkpoint=folder / "run", resume=True, epochs=2, clip=1)',
        "ValueError",
        ("run", "clip"),
    ),
    Case(
        CHECKPOINTS,
        "Resume without a folder",
        "fit(model, tasks, (x, y), resume=True)",
        "ValueError",
        ("resume", "checkpoint"),
    ),
    # 6 evaluation
    Case(
        EVALUATION,
        "Predictions lack a task",
        'evaluate(tasks, y, {"click": np.full(12, 0.5)})',
        "KeyError",
        ("'stars'", "predictions", "'click'"),
    ),
    Case(
        EVALUATION,
        "Raw outputs instead of predictions",
        'evaluate([Binary("click")], y, {"click": np.linspace(-3, 3, 12)})',
        "ValueError",
        ("'click'", "-3 to 3"),
    ),
    Case(
        EVALUATION,
        "Predictions for other rows",
        'evaluate([Binary("click")], y, {"click": np.full(9, 0.5)})',
        "ValueError",
        ("'click'", "12 targets", "9 predictions"),
    ),
    Case(
        EVALUATION,
        "Shares that do not sum to one",
        "split(table, (0.8, 0.1))",
        "ValueError",
        ("fractions", "(0.8, 0.1)"),
    ),
    Case(
        EVALUATION,
        "Splitting by a time that is missing",
        'split(table.assign(day=[1.0] * 11 + [np.nan]), time="day")',
        "ValueError",
        ("'day'", "1 rows"),
    ),
    Case(
        EVALUATION,
        "More parts than groups",
        'split(table, (0.5, 0.3, 0.2), groups="item")',
        "ValueError",
        ("3 parts", "rows or groups"),
        before="table['item'] = 'red scarf'",
    ),
    Case(
        EVALUATION,
        "One replicate",
        "replicate_interval([0.71])",
        "ValueError",
        ("at least two", "[0.71]"),
    ),
    Case(
        EVALUATION,
        "A confidence level of 95",
        "replicate_interval([0.71, 0.73], level=95)",
        "ValueError",
        ("level", "found 95"),
    ),
    Case(
        EVALUATION,
        "Pairs of different length",
        "paired_difference([0.7, 0.8], [0.6])",
        "ValueError",
        ("(2,)", "(1,)"),
    ),
    Case(
        EVALUATION,
        "A bootstrap of nothing",
        "bootstrap_interval(auc, [], [])",
        "ValueError",
        ("[0, 0] rows",),
    ),
    Case(
        EVALUATION,
        "A relative gain over a control at chance level",
        "relative_gains(scores(0.6), scores(0.5))",
        "ValueError",
        ("'click'", "chance level"),
    ),
    Case(
        EVALUATION,
        "A leak sought for a label of words",
        'leakage_probe(table, ["price"], "item")',
        "ValueError",
        ("'item'", "must hold numbers"),
    ),
    Case(
        EVALUATION,
        "A claim that is a text",
        'claim("sharing helps", "0.71 > 0.70", "AUC")',
        "TypeError",
        ("holds", "str"),
    ),
    # 7 serving
    Case(
        SERVING,
        "Rows that lack a feature",
        'serving.load(folder / "bundle").predict(table.drop(columns="price"))',
        "KeyError",
        ("'price'", "not in the table"),
    ),
    Case(
        SERVING,
        "A file of the bundle is missing",
        'serving.load(folder / "bundle")',
        "FileNotFoundError",
        ("bundle", "weights.pt", "missing"),
        before="(folder / 'bundle/weights.pt').unlink()",
    ),
    Case(
        SERVING,
        "The configuration was cut short",
        'serving.load(folder / "bundle")',
        "ValueError",
        ("config.json", "line"),
        before=f"path = folder / 'bundle/config.json'; {_HEAD}",
    ),
    Case(
        SERVING,
        "A bundle of another version",
        'serving.load(folder / "bundle")',
        "ValueError",
        ("config.json", "version 9"),
        before=f"{_CONFIG} config['version'] = 9{_WRITE}",
    ),
    Case(
        SERVING,
        "A configuration edited by hand: a table of 10¹³ rows",
        'serving.load(folder / "bundle")',
        "ValueError",
        ("bundle",),
        then="No memory was taken.",
        before=f"{_CONFIG} config['model']['encoder']['sizes']['categorical'][0] = 10**13{_WRITE}",
    ),
    Case(
        SERVING,
        "A configuration edited by hand: a task that is a program",
        'serving.load(folder / "bundle")',
        "ValueError",
        ("config.json", "checksum"),
        before=f"{_CONFIG} config['tasks'][0]['kind'] = 'os.system'{_WRITE}",
    ),
    Case(
        SERVING,
        "The weights were cut short",
        'serving.load(folder / "bundle")',
        "ValueError",
        ("weights.pt",),
        before=f"path = folder / 'bundle/weights.pt'; {_CUT}",
    ),
    Case(
        SERVING,
        "Hostile weights: a pickle that would run a program",
        'serving.load(folder / "bundle")',
        "ValueError",
        ("weights.pt",),
        then="Nothing in it was run.",
        before="import pickle; (folder / 'bundle/weights.pt').write_bytes(pickle.dumps(os.getcwd))",
    ),
    Case(
        SERVING,
        "The weights of another model",
        'serving.load(folder / "bundle")',
        "ValueError",
        ("weights.pt",),
        before="torch.save({'w': torch.ones(3)}, folder / 'bundle/weights.pt')",
    ),
    Case(
        SERVING,
        "The features of another bundle",
        'serving.load(folder / "bundle")',
        "ValueError",
        ("features.json",),
        before="Features(numeric=['price']).fit(table).save(folder / 'bundle/features.json')",
    ),
    Case(
        SERVING,
        "Saving over a folder that is no bundle",
        'serving.save(folder / "shards", model, features, tasks)',
        "FileExistsError",
        ("shards", "not a bundle"),
    ),
    Case(
        SERVING,
        "Ranking by something that is not predicted",
        'serving.load(folder / "bundle").rank(table, value={"bought": 9.0})',
        "KeyError",
        ("'bought'", "'click'"),
    ),
    Case(
        SERVING,
        "Ranking by an expected value without a price",
        'serving.load(folder / "bundle").rank(table, value={"click": "margin"})',
        "KeyError",
        ("'click'", "'margin'"),
    ),
    Case(
        SERVING,
        "A row with an item that training never saw",
        'serving.load(folder / "bundle").predict(table.assign(item="velvet hat"))',
        then="It is scored as an unknown item.",
        check="np.isfinite(result.to_numpy()).all()",
    ),
    Case(
        SERVING,
        "A table without rows",
        'serving.load(folder / "bundle").predict(table[:0])',
        then="The result has the same columns and no rows.",
        check="len(result) == 0 and 'click' in result",
    ),
    # figures
    Case(PLOTS, "A figure wider than a page", "figure(width=900)", "ValueError", ("640 px", "900")),
    Case(PLOTS, "No panel", "calibration({})", "ValueError", ("nothing to draw", "0 panels")),
    Case(
        PLOTS,
        "A table without intervals",
        'intervals(pd.DataFrame({"model": ["a"], "mean": [0.7]}))',
        "ValueError",
        ("'low'", "'mean'"),
    ),
    Case(
        PLOTS,
        "Words where numbers are drawn",
        'marginals({"price": ["cheap", "dear"]})',
        "ValueError",
        ("'price'", "'cheap'"),
    ),
]


class _Hostile:
    """What a stranger's pickle may hold: reading it with pickle would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, ("executed", "w"))


def hostile_checkpoint(folder: Path) -> Path:
    """A checkpoint with a right checksum that would run code if it were unpickled."""
    state = {"model": _Hostile()}
    return checkpoints.save(folder / "hostile", 1, state)


def min_norm(gram: torch.Tensor, generator: torch.Generator | None = None) -> torch.Tensor:
    """Weights that are all one, as a rule."""
    return torch.ones(len(gram))


def scores(value: float) -> pd.DataFrame:
    """What ``evaluate`` returns for a model with this AUC."""
    row = {
        "task": "click",
        "metric": "auc",
        "value": value,
        "higher_is_better": True,
        "main": True,
        "rows": 9,
    }
    return pd.DataFrame([row])


@cache
def _shop() -> tuple[market.World, market.Log]:
    world = market.World(0, market.Dials(visitors=100, items=100, requests=200))
    return world, world.serve(days=1)


@cache
def _saved() -> tuple[dict[str, Any], Path]:
    """The scene's objects, and a folder with a file of each kind; both are copied for every case."""
    torch.manual_seed(0)
    table = pd.DataFrame(
        {
            "item": ["red scarf", "tea tin", "wool coat"] * 4,
            "price": np.linspace(5, 60, 12),
            "title": ["a red scarf", "tea in a tin", "a coat", "tea"] * 3,
            "click": [1.0, 0.0, 1.0, 0.0] * 3,
            "stars": [4.0, 5.0, np.nan, 1.0] * 3,
        }
    )
    made = [tasks.Binary("click").fit(table), tasks.Ordinal("stars").fit(table)]
    known = features.Features(["item"], ["price"], ["title"], text_length=4).fit(table)
    x, (y, _) = known.transform(table), tasks.targets(made, table)

    def encoder() -> encoders.TabularEncoder:
        return encoders.TabularEncoder(known.sizes, 4, (8,), text_embedding=4)

    model = models.SharedEncoder(encoder(), made, (4,))
    folder = Path(tempfile.mkdtemp(prefix="mtl_ref-"))
    known.save(folder / "features.json")
    serving.save(folder / "bundle", model, known, made)
    shards.write(folder / "shards", table, known, made, rows_per_shard=6)
    training.fit(copy.deepcopy(model), made, (x, y), epochs=2, checkpoint=folder / "run", progress=False)
    scene = {"table": table, "features": known, "tasks": made, "model": model, "x": x, "y": y}
    return scene | {"single": models.SingleTask(encoder, made, (4,))}, folder


def public() -> dict[str, Any]:
    """Every public name of the package that the cases use."""
    names = {name: getattr(module, name) for module in MODULES for name in vars(module) if name[0] != "_"}
    names |= {
        "np": np,
        "pd": pd,
        "torch": torch,
        "json": json,
        "os": os,
        "shutil": shutil,
        "mtl_ref": mtl_ref,
    }
    names |= {"serving": serving, "shards": shards, "checkpoints": checkpoints, "fusion": fusion}
    names |= {"Shards": shards.Shards, "World": market.World, "Dials": market.Dials, "scores": scores}
    return names | {"hostile_checkpoint": hostile_checkpoint, "min_norm": min_norm}


@contextmanager
def scene(folder: Path) -> Iterator[dict[str, Any]]:
    """Fresh copies of everything a case may touch, in ``folder``; the environment is put back afterwards."""
    before, dtype = dict(os.environ), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        made, files = _saved()
        shutil.copytree(files, folder, dirs_exist_ok=True)
        world, log = _shop()
        yield public() | copy.deepcopy(made) | {"folder": folder, "world": world, "log": log}
    finally:
        torch.set_default_dtype(dtype)
        os.environ.clear()
        os.environ.update(before)


def state(names: dict[str, Any]) -> dict[str, bytes]:
    """All that a refusal must leave as it was: files, weights, features, the table."""
    folder: Path = names["folder"]
    found = {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
    found |= {f"{p.relative_to(folder)}/": b"" for p in sorted(folder.rglob("*")) if p.is_dir()}
    for name in ("model", "single"):
        weights = names[name].state_dict()
        found |= {f"{name} {key}": value.numpy().tobytes() for key, value in weights.items()}
    found["features"] = json.dumps(names["features"]._state()).encode()
    found["table"] = names["table"].to_csv().encode()
    return found


def run(case: Case, names: dict[str, Any]) -> tuple[Any, BaseException | None]:
    """Do what the case does: its result, or what it raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return eval(compile(case.code, case.what, "eval"), names), None
        except Exception as error:
            return None, error


def sentence(error: BaseException, folder: Path) -> str:
    """The message as the page shows it, whatever the machine."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text.replace(str(folder), "FOLDER")
