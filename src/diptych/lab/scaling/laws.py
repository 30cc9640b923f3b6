"""Laws of error over compute, fitted to the frontier of training runs:

    L(C) = A (C + B)^a + E,   A, B, E >= 0, a <= 0

Dimensions: n points, G starts, k values of compute.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from diptych.errors import InputError, unknown
from diptych.lab.statistics import student

Form = Literal["saturating", "no_floor", "power"]
Residuals = Literal["error", "log"]
NAMES = ("A", "B", "a", "E")
_FREE = {"saturating": (0, 1, 2, 3), "no_floor": (0, 1, 2), "power": (0, 2)}
_EXPONENTS = -np.geomspace(0.005, 2.0, 40)
_OFFSETS = np.r_[0.0, np.geomspace(1e-6, 1e4, 79)]
"""The grid of starts: exponents, and offsets in units of the least compute. For each, the best A and
E follow from linear least squares."""
_TOLERANCE = 1e-15
_EVALUATIONS = 2000
_NOTHING = 1e-9  # a solver inside of bounds comes near 0 and does not reach it


@dataclass(frozen=True, kw_only=True, eq=False)
class Law:
    """A fitted law: call it with compute for the error.

    `scaled` are A, B, a and E for compute in units of `unit`, and `covariance` (4, 4) is theirs, 0
    where a parameter is fixed or at its bound. `residuals` says on which scale, error or log, they
    were fitted; `mse` is the mean square of the residuals, `count` the number of points, `freedom`
    of degrees of freedom.
    """

    form: Form
    residuals: Residuals
    unit: float
    scaled: np.ndarray
    covariance: np.ndarray
    mse: float
    count: int
    freedom: int

    def __call__(self, compute: Any) -> np.ndarray:
        """The error: (k,) -> (k,)."""
        return _value(self.scaled, np.asarray(compute, float) / self.unit)

    def interval(self, compute: Any, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """The ends of the law's interval by the delta method: (k,) -> (k,), (k,).

        Without freedom, or if the points do not determine the parameters, it has no ends (NaN).
        """
        c = np.asarray(compute, float) / self.unit
        value = _value(self.scaled, c)
        gradient = _gradient(self.scaled, c)
        if self.residuals == "log":
            gradient = gradient / value[..., None]
        variance = np.einsum("...i,ij,...j->...", gradient, self.covariance, gradient)
        half = self._quantile(level) * np.sqrt(np.maximum(variance, 0.0))
        if self.residuals == "log":
            return value * np.exp(-half), value * np.exp(half)
        return value - half, value + half

    @cached_property
    def parameters(self) -> dict[str, float]:
        """A, B, a and E for compute in its own unit."""
        a_scaled, offset, exponent, floor = self.scaled
        return dict(
            zip(
                NAMES,
                map(
                    float,
                    (a_scaled * self.unit**-exponent, offset * self.unit, exponent, floor),
                ),
                strict=True,
            )
        )

    def ends(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """The interval of a parameter, by the delta method; of A, on a logarithmic scale."""
        at = NAMES.index(name)
        gradient = np.eye(4)[at]
        value = self.parameters[name]
        if name == "B":
            gradient = gradient * self.unit
        if name == "A":  # log A = log A' - a log(unit)
            gradient = np.array([1 / self.scaled[0], 0.0, -np.log(self.unit), 0.0])
        half = float(
            self._quantile(level) * np.sqrt(max(gradient @ self.covariance @ gradient, 0.0))
        )
        return (
            (value * np.exp(-half), value * np.exp(half))
            if name == "A"
            else (value - half, value + half)
        )

    def _quantile(self, level: float) -> float:
        return float(student().ppf((1 + level) / 2, self.freedom)) if self.freedom > 0 else np.nan


def fit_law(
    compute: np.ndarray,
    error: np.ndarray,
    form: Form = "saturating",
    *,
    c_max: float | None = None,
    residuals: Residuals = "error",
    starts: int = 8,
) -> Law:
    """Fit a law to points: compute (n,), error (n,).

    - `saturating`: A (C + B)^a + E
    - `no_floor`: the same without E
    - `power`: A C^a, a straight line on logarithmic axes, fitted to log L

    Least squares of the errors, or of their logarithms, over the points with compute at most `c_max`.
    A and E are linear given B and a, so a grid of B and a is searched with the best A and E of each;
    from the `starts` best the solver goes on to the end. [choice] The paper starts it from 3,200
    points of all four.

    Raises InputError if there are too few points, and for errors or compute that are not above 0.

    >>> c = np.geomspace(1e6, 1e10, 9)
    >>> law = fit_law(c, 5 * (c + 50) ** -0.1 + 0.05)
    >>> print(law(np.array([1e12])).round(6))
    [0.365479]
    """
    if form not in get_args(Form):
        raise unknown("form of a law", form, get_args(Form))
    compute, error = np.asarray(compute, float), np.asarray(error, float)
    if c_max is not None:
        error, compute = error[compute <= c_max], compute[compute <= c_max]
    free = _FREE[form]
    if len(compute) <= len(free):
        within = "" if c_max is None else f" of at most {c_max:g}"
        raise InputError(
            f"a law of the form {form!r} has {len(free)} parameters and needs more points than that; there are "
            f"{len(compute)}{within}: add runs, or fit a form with fewer"
        )
    if not (np.isfinite(compute).all() and (compute > 0).all()):
        raise InputError("a law needs compute above 0; leave out runs without it")
    if not (np.isfinite(error).all() and (error > 0).all()):
        raise InputError("a law needs errors above 0; leave out runs without an error")
    unit = float(compute.min())
    c = compute / unit
    if form == "power":
        return _line(c, error, unit)
    begun = _starts(c, error, form, residuals, starts)
    ends = (_solved(each, c, error, free, residuals) for each in begun)
    scaled, _ = min(ends, key=lambda end: end[1])
    scaled[[1, 3]] = np.where(scaled[[1, 3]] < _NOTHING, 0.0, scaled[[1, 3]])
    return _law(scaled, c, error, unit, form, residuals)


def _line(c: np.ndarray, y: np.ndarray, unit: float) -> Law:
    """The straight line on logarithmic axes."""
    matrix = np.stack([np.ones_like(c), np.log(c)], 1)
    log_a, exponent = np.linalg.lstsq(matrix, np.log(y), rcond=None)[0]
    return _law(np.array([np.exp(log_a), 0.0, exponent, 0.0]), c, y, unit, "power", "log")


def _starts(
    c: np.ndarray, y: np.ndarray, form: Form, residuals: Residuals, count: int
) -> np.ndarray:
    """The best points of the grid: (count, 4)."""
    offset, exponent = (grid.ravel() for grid in np.meshgrid(_OFFSETS, _EXPONENTS))
    basis = (c + offset[:, None]) ** exponent[:, None]  # (G, n)
    weight = np.ones_like(y) if residuals == "error" else y**-2.0  # log residuals, to first order
    scale, floor = _linear(basis, y, weight, form == "saturating")
    left = y - (scale[:, None] * basis + floor[:, None])
    order = np.argsort((weight * left**2).sum(1), kind="stable")[:count]
    return np.stack([scale, offset, exponent, floor], 1)[order]


def _linear(
    basis: np.ndarray, y: np.ndarray, weight: np.ndarray, floor: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The A and E, not below 0, of the least weighted squares of y - A basis - E: (G,), (G,)."""
    alone = np.maximum((weight * basis * y).sum(1) / (weight * basis**2).sum(1), 0.0)
    if not floor:
        return alone, np.zeros_like(alone)
    total = weight.sum()
    mean = (weight * basis).sum(1) / total
    mean_y = (weight * y).sum() / total
    centred = basis - mean[:, None]
    spread = (weight * centred**2).sum(1)
    scale = (weight * centred * (y - mean_y)).sum(1) / np.where(spread > 0, spread, 1.0)
    rest = mean_y - scale * mean
    flat = (spread <= 0) | (scale < 0)
    scale, rest = np.where(flat, 0.0, scale), np.where(flat, mean_y, rest)
    return np.where(rest < 0, alone, scale), np.maximum(rest, 0.0)


def _solved(
    start: np.ndarray, c: np.ndarray, y: np.ndarray, free: tuple[int, ...], residuals: Residuals
) -> tuple[np.ndarray, float]:
    """Where the solver ends from a start, and the mean square of the residuals there."""
    from scipy.optimize import least_squares

    at = list(free)
    least = np.array([0.0, 0.0, -np.inf, 0.0])[at]
    most = np.array([np.inf, np.inf, 0.0, np.inf])[at]

    def whole(values: np.ndarray) -> np.ndarray:
        full = np.zeros(4)
        full[at] = values
        return full

    def residual(values: np.ndarray) -> np.ndarray:
        return _residual(whole(values), c, y, residuals)

    def jacobian(values: np.ndarray) -> np.ndarray:
        return _slope(whole(values), c, residuals)[:, at]

    inside = np.clip(start[at], least + 1e-12, most - 1e-12)
    slope: Any = jacobian  # scipy's types know its names alone
    found = least_squares(
        residual,
        inside,
        slope,
        bounds=(least, most),
        x_scale="jac",
        ftol=_TOLERANCE,
        xtol=_TOLERANCE,
        gtol=_TOLERANCE,
        max_nfev=_EVALUATIONS,
    )
    return whole(found.x), float(np.mean(found.fun**2))


def _law(
    scaled: np.ndarray,
    c: np.ndarray,
    y: np.ndarray,
    unit: float,
    form: Form,
    residuals: Residuals,
) -> Law:
    """The law with the covariance of its parameters: s² (JᵀJ)⁻¹ of those that are free and inside
    of their bounds."""
    left = _residual(scaled, c, y, residuals)
    free = [at for at in _FREE[form] if at not in (1, 3) or scaled[at] > 0]
    freedom = len(y) - len(free)
    slope = _slope(scaled, c, residuals)[:, free]
    norms = np.linalg.norm(slope, axis=0)
    norms[norms == 0] = 1.0
    inverse = np.linalg.pinv((slope / norms).T @ (slope / norms), rcond=1e-14, hermitian=True)
    covariance = np.zeros((4, 4))
    covariance[np.ix_(free, free)] = (
        (left @ left) / max(freedom, 1) * inverse / np.outer(norms, norms)
    )
    return Law(
        form=form,
        residuals=residuals,
        unit=unit,
        scaled=scaled,
        covariance=covariance,
        mse=float(np.mean(left**2)),
        count=len(y),
        freedom=freedom,
    )


def _residual(p: np.ndarray, c: np.ndarray, y: np.ndarray, residuals: Residuals) -> np.ndarray:
    value = _value(p, c)
    if residuals == "error":
        return value - y
    return np.log(np.maximum(value, np.finfo(float).tiny)) - np.log(y)


def _slope(p: np.ndarray, c: np.ndarray, residuals: Residuals) -> np.ndarray:
    """The residuals' derivatives: (n, 4)."""
    gradient = _gradient(p, c)
    if residuals == "error":
        return gradient
    return gradient / np.maximum(_value(p, c), np.finfo(float).tiny)[:, None]


def _value(p: np.ndarray, c: np.ndarray) -> np.ndarray:
    return p[0] * (c + p[1]) ** p[2] + p[3]


def _gradient(p: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The derivatives by A, B, a and E: (…, 4)."""
    u = c + p[1]
    power = u ** p[2]
    return np.stack([power, p[0] * p[2] * power / u, p[0] * np.log(u) * power, np.ones_like(u)], -1)
