"""Write docs/data/policy-steps.json: test vectors of the stochastic steps of reinforcement learning on flow models.

    python tools/policy_vectors.py

The formulas are those of the papers, in the velocity and with 40 decimal digits, and use nothing of the library.
``precise`` is the solution of its SDE by small Runge-Kutta steps, not by a formula.
"""

from __future__ import annotations

import json
import math
from decimal import Decimal, getcontext
from pathlib import Path

getcontext().prec = 40
ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs/data/policy-steps.json"
PI = Decimal("3.141592653589793238462643383279502884197")

SIGMAS = ("1", "0.96", "0.85", "0.6", "0.25", "0.12", "0")
ETAS = {"flow_grpo": ("0.3", "0.7"), "dance_grpo": ("0.3", "0.1"), "cps": ("0.4", "0.9"), "precise": ("0.7", "1.2")}
X, V, NEXT = ("0.75", "-1.5", "0.125"), ("-0.5", "0.25", "2"), ("0.5", "-1.25", "0.25")


def flow_grpo(i: int, a: Decimal) -> tuple[Decimal, Decimal, Decimal]:
    """The factors of x and of v in the mean, and the standard deviation."""
    now, after = Decimal(SIGMAS[i]), Decimal(SIGMAS[i + 1])
    square = a * a * now / (1 - (now if now != 1 else Decimal(SIGMAS[1])))
    return _euler_maruyama(now, after, square)


def dance_grpo(i: int, eta: Decimal) -> tuple[Decimal, Decimal, Decimal]:
    return _euler_maruyama(Decimal(SIGMAS[i]), Decimal(SIGMAS[i + 1]), eta * eta)


def _euler_maruyama(now: Decimal, after: Decimal, square: Decimal) -> tuple[Decimal, Decimal, Decimal]:
    dt = after - now
    return 1 + square / (2 * now) * dt, (1 + square * (1 - now) / (2 * now)) * dt, (square * -dt).sqrt()


def cps(i: int, eta: Decimal) -> tuple[Decimal, Decimal, Decimal]:
    now, after = Decimal(SIGMAS[i]), Decimal(SIGMAS[i + 1])
    std = after * _sine(eta * PI / 2)
    rest = (after * after - std * std).sqrt()  # of the noise x + (1 − σ)·v; the clean sample is x − σ·v
    return (1 - after) + rest, -now * (1 - after) + (1 - now) * rest, std


def precise(i: int, eta: Decimal) -> tuple[Decimal, Decimal, Decimal]:
    """Mean and variance of u = x − (1 − t)·x₀ under du = (u/t)·(1 + s²/(2t)) dt + s dw, s² = η²·t/(1 − t)."""
    now, after = float(SIGMAS[i]), float(SIGMAS[i + 1])
    square = float(eta) ** 2
    if now == 1.0:  # u forgets where it was: s grows without bound
        u, variance = 0.0, after**2
    elif after == 0.0:
        u, variance = 0.0, 0.0
    else:

        def slope(t: float, u: float, w: float) -> tuple[float, float]:
            rate = 1.0 / t + square / (2.0 * t * (1.0 - t))
            return rate * u, 2.0 * rate * w - square * t / (1.0 - t)

        u, variance, count = 1.0, 0.0, 4000
        h = (after - now) / count
        for k in range(count):
            t = now + k * h
            k1 = slope(t, u, variance)
            k2 = slope(t + h / 2, u + h / 2 * k1[0], variance + h / 2 * k1[1])
            k3 = slope(t + h / 2, u + h / 2 * k2[0], variance + h / 2 * k2[1])
            k4 = slope(t + h, u + h * k3[0], variance + h * k3[1])
            u += h / 6 * (k1[0] + 2 * k2[0] + 2 * k3[0] + k4[0])
            variance += h / 6 * (k1[1] + 2 * k2[1] + 2 * k3[1] + k4[1])
    of_u, start, end = Decimal(u), Decimal(SIGMAS[i]), Decimal(SIGMAS[i + 1])
    # x' = (1 − σ')·x₀ + of_u·(x − (1 − σ)·x₀) with x₀ = x − σ·v
    of_clean = (1 - end) - of_u * (1 - start)
    return of_u + of_clean, -start * of_clean, Decimal(math.sqrt(variance))


def _sine(angle: Decimal) -> Decimal:
    term, total, k = angle, angle, 1
    while abs(term) > Decimal(10) ** -45:
        term *= -angle * angle / ((2 * k) * (2 * k + 1))
        total, k = total + term, k + 1
    return total


def vectors() -> list[dict[str, object]]:
    """One entry a step: the step's Gaussian, and its log-density at ``next``, summed over the numbers."""
    entries = []
    for name, formula in (("flow_grpo", flow_grpo), ("dance_grpo", dance_grpo), ("cps", cps), ("precise", precise)):
        for eta in ETAS[name]:
            for i in range(len(SIGMAS) - 1):
                of_x, of_v, std = formula(i, Decimal(eta))
                mean = [of_x * Decimal(x) + of_v * Decimal(v) for x, v in zip(X, V, strict=True)]
                errors = [Decimal(y) - m for y, m in zip(NEXT, mean, strict=True)]
                density = std and sum(-((e / std) ** 2) / 2 - std.ln() - (2 * PI).ln() / 2 for e in errors)
                entries.append(
                    {
                        "sampler": name, "eta": float(eta), "step": i, "sigma": float(SIGMAS[i]),
                        "next_sigma": float(SIGMAS[i + 1]), "mean": [float(m) for m in mean], "std": float(std),
                        "log_prob": float(density) if std else None,
                    }
                )  # fmt: skip
    return entries


def document() -> dict[str, object]:
    """The file's content."""
    about = (
        "Steps x' = mean + std·noise on the path x = (1 − σ)·x₀ + σ·ε, whose network predicts v = ε − x₀. log_prob is "
        "that of `next`, summed over its three numbers; null where nothing is drawn. flow_grpo and dance_grpo add "
        "noise in the last step, too, as published (option last_noise)."
    )
    numbers = {"x": X, "v": V, "next": NEXT, "sigmas": SIGMAS}
    return {"about": about, **{k: [float(n) for n in v] for k, v in numbers.items()}, "steps": vectors()}


if __name__ == "__main__":
    OUT.write_text(json.dumps(document(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"wrote {OUT.relative_to(ROOT)}")
