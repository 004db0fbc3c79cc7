"""GradNorm's toy (Chen et al., 2018): tasks f_i(x) = sigma_i tanh((B + eps_i) x), sigma = (1, 100).

Ten draws of B (250 x 100, standard deviation 10) and eps_i (3.5), of initial weights and of batches. A trunk
of four ReLU layers of 100 and one affine head per task, squared error, alpha = 0.12. What else one must
choose was chosen on a draw that is none of the ten: x standard normal or, as in one public implementation,
uniform on (0, 1), fresh in every step; 1,000 steps of Adam with 100 rows, rate 0.001, and 0.01 for GradNorm's
lambda, ten times as much, as there. ``standardised`` is lambda_i = 1 / sigma_i^2, what dividing the labels by
their scale does. Run:

    python benchmarks/gradnorm_toy.py
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from study import Rows, Study
from torch import Tensor, nn

from mtl_ref.weighting import FixedWeights, GradNorm

SCALES, STEPS, BATCH, RATE = (1.0, 100.0), 1_000, 100, 1e-3
RULES = {
    "equal": lambda: FixedWeights([1.0, 1.0]),
    "GradNorm": lambda: GradNorm(["small", "large"], alpha=0.12),
    "standardised": lambda: FixedWeights([1 / s**2 for s in SCALES]),
}
MODELS = tuple(f"{rule}, {inputs} x" for inputs in ("normal", "uniform") for rule in RULES)


class Toy(nn.Module):
    """A common trunk and an affine head per task."""

    def __init__(self) -> None:
        super().__init__()
        widths = [250, 100, 100, 100, 100]
        layers = [
            part
            for wide, narrow in zip(widths, widths[1:], strict=False)
            for part in (nn.Linear(wide, narrow), nn.ReLU())
        ]
        self.last, self.trunk = layers[-2].weight, nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(100, 100) for _ in SCALES)

    def losses(self, x: Tensor, y: Tensor) -> Tensor:
        """Mean squared errors (T,) of inputs (B, 250) and labels (T, B, 100)."""
        z = self.trunk(x)
        pairs = zip(self.heads, y, strict=True)
        return torch.stack([(head(z) - label).square().mean() for head, label in pairs])


def unit(replicate: int, model: str) -> Rows:
    """Test loss of each task after the last step, as a share of that before the first."""
    rule_name, inputs = model.split(", ")
    generator = torch.Generator().manual_seed(1_000 + replicate)
    shared = 10 * torch.randn(250, 100, generator=generator)
    own = 3.5 * torch.randn(2, 250, 100, generator=generator)
    scales = torch.tensor(SCALES)[:, None, None]
    draw = torch.randn if inputs == "normal x" else torch.rand

    def rows(count: int) -> tuple[Tensor, Tensor]:
        x = draw(count, 250, generator=generator)
        return x, scales * torch.tanh(x @ (shared + own))

    held_out, net, rule = rows(2_000), Toy(), RULES[rule_name]()
    groups = [{"params": list(net.parameters()), "lr": RATE}]
    groups += [{"params": list(rule.parameters()), "lr": 10 * RATE}] if list(rule.parameters()) else []
    adam = torch.optim.Adam(groups)
    with torch.no_grad():
        first = net.losses(*held_out)
    for _ in range(STEPS):
        losses = net.losses(*rows(BATCH))
        if isinstance(rule, GradNorm):
            pulls = [torch.autograd.grad(one, net.last, retain_graph=True)[0].norm() for one in losses]
            combined = rule.from_norms(losses, torch.stack(pulls))
        else:
            combined = rule(losses)
        adam.zero_grad()
        combined.backward()
        adam.step()
        if isinstance(rule, GradNorm):
            rule.after_step(losses.detach())
    with torch.no_grad():
        shares = (net.losses(*held_out) / first).tolist()
    values = dict(zip(("small", "large"), shares, strict=True)) | {"both": sum(shares)}
    found = [{"task": task, "metric": "loss / first loss", "value": value} for task, value in values.items()]
    weights = rule.weights.tolist()
    return [*found, {"task": "small", "metric": "share of lambda", "value": weights[0] / sum(weights)}]


STUDY = Study(
    name="gradnorm_toy",
    unit=unit,
    models=MODELS,
    replicates=10,
    code=("weighting",),
    trainings=60,
    hours=0.15,
)

if __name__ == "__main__":
    STUDY.main()
