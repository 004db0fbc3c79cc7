"""Copying is the installation: the folder alone, in an empty project, trains three tasks and serves them.

The project has torch, numpy, pandas, scikit-learn and what these need themselves; every other package of the
book is made unimportable.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import mtl_ref

ALLOWED = ("torch", "numpy", "pandas", "scikit-learn", "scipy")

GUARD = """
import importlib.machinery, sys

FORBIDDEN = set({forbidden!r})


class WhatThisProjectHas:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in FORBIDDEN:
            return importlib.machinery.PathFinder.find_spec(name, path, target)


built_in = (importlib.machinery.BuiltinImporter, importlib.machinery.FrozenImporter)
sys.meta_path[:] = [*built_in, WhatThisProjectHas]
"""

PROJECT = """
import guard
import numpy as np
import pandas as pd
import torch

import mtl_ref
from mtl_ref import serving
from mtl_ref.encoders import TabularEncoder
from mtl_ref.evaluation import evaluate
from mtl_ref.features import Features
from mtl_ref.models import SharedEncoder
from mtl_ref.tasks import Binary, Count, Regression, targets
from mtl_ref.training import fit, predict

# A table of one's own: what a customer paid, whether they came back, how many items they took.
random = np.random.default_rng(0)
n = 600
table = pd.DataFrame({"city": random.choice(["Leeds", "York", "Hull"], n), "visits": random.normal(size=n)})
signal = table["visits"] + (table["city"] == "York")
table["paid"] = 20 + 5 * signal + random.normal(size=n)
table["returned"] = (signal + 0.5 * random.normal(size=n) > 0.3).astype(float)
table["items"] = random.poisson(np.exp(0.3 * signal)).astype(float)
for column, share in (("paid", 0.3), ("returned", 0.5), ("items", 0.2)):
    table.loc[random.random(n) < share, column] = np.nan
table.loc[random.random(n) < 0.1, "visits"] = np.nan
training, test = table[:450], table[450:].reset_index(drop=True)

features = Features(categorical=["city"], numeric=["visits"]).fit(training)
tasks = [task.fit(training) for task in (Regression("paid"), Binary("returned"), Count("items"))]
torch.manual_seed(0)
model = SharedEncoder(TabularEncoder(features.sizes, embedding=4, hidden=(16,)), tasks, head=(8,))
y, w = targets(tasks, training)
rows = (features.transform(training), y, w)
history = fit(model, tasks, rows, epochs=30, batch_size=64, learning_rate=0.01)
assert len(history) == 30

predictions = predict(model, tasks, features.transform(test))
y_test, w_test = targets(tasks, test)
table_of_results = evaluate(tasks, y_test, predictions, w_test)
results = table_of_results.set_index(["task", "metric"])["value"]
assert results["returned", "auc"] > 0.75, results
assert results["paid", "rmse"] < 0.9 * test["paid"].std(), results

serving.save("bundle", model, features, tasks)
served = serving.load("bundle").predict(test)
for task in tasks:
    assert np.allclose(served[task.name], predictions[task.name], atol=1e-6), task.name
unseen = serving.load("bundle").predict(pd.DataFrame({"city": ["Bath"], "visits": [np.nan]}))
assert np.isfinite(unseen.to_numpy(dtype=float)).all()
assert mtl_ref.__file__.startswith(__import__("os").getcwd())
print("trained", sorted(served.columns))
"""


def needed_by(names):
    """The distributions that these need, themselves included."""
    reached, queue = set(), list(names)
    while queue:
        name = queue.pop().lower().replace("_", "-")
        if name in reached:
            continue
        reached.add(name)
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue
        # Without extras: "name (>=1) ; marker" where the marker asks for no extra.
        plain = [line for line in lines if "extra ==" not in line]
        for line in plain:
            queue.append(line.replace(";", " ").split(" ")[0].split("[")[0].rstrip("()<>=!~.,0123456789"))
    return reached


def forbidden_modules():
    """Top-level modules of every installed distribution that the four do not need."""
    allowed = needed_by(ALLOWED) | {"mtl-ref"}  # the copy has this name, too
    owners = packages_distributions()
    normal = {module: {o.lower().replace("_", "-") for o in found} for module, found in owners.items()}
    return sorted(module for module, found in normal.items() if not found & allowed)


def run(folder, script):
    """Run ``script`` in ``folder`` with nothing of this repository importable."""
    (folder / "guard.py").write_text(GUARD.format(forbidden=forbidden_modules()), "utf-8")
    (folder / "project.py").write_text(script, "utf-8")
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV_", "MTL_"))}
    variables.update(PYTHONPATH=str(folder), OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    return subprocess.run(
        [sys.executable, "project.py"], cwd=folder, env=variables, capture_output=True, text=True, timeout=300
    )


def copied(folder):
    """The package's folder, copied into an empty one."""
    source = Path(mtl_ref.__file__).parent
    shutil.copytree(source, folder / "mtl_ref", ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_what_the_book_needs_beyond_the_four_is_forbidden():
    forbidden = forbidden_modules()
    assert {"matplotlib", "tqdm", "pooch", "pyarrow", "IPython", "openpyxl", "jupyter_book", "PIL"} <= set(
        forbidden
    )
    assert not {"torch", "numpy", "pandas", "sklearn", "scipy", "joblib", "sympy", "dateutil"} & set(
        forbidden
    )


def test_a_copied_folder_trains_three_tasks_with_missing_labels(tmp_path):
    done = run(copied(tmp_path), PROJECT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip() == "trained ['items', 'paid', 'returned']"


def test_every_file_can_be_imported_with_the_four_alone(tmp_path):
    files = sorted(
        path.stem for path in Path(mtl_ref.__file__).parent.glob("*.py") if path.stem != "__init__"
    )
    done = run(copied(tmp_path), "import guard\n" + "".join(f"import mtl_ref.{name}\n" for name in files))
    assert done.returncode == 0, done.stderr


def test_a_missing_optional_package_names_its_extra(tmp_path):
    script = "import guard\nfrom mtl_ref.reproducible import need\nneed('matplotlib', 'plots')"
    done = run(copied(tmp_path), script)
    assert done.returncode != 0
    assert 'pip install "mtl-ref[plots]"' in done.stderr
