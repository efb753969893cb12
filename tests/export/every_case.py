"""Each format, precision and target that `kdx export` offers."""

from __future__ import annotations

from kdx.runtime.formats import BUILT_IN, Format

Case = tuple[Format, str, str]

# int8 alone has other files for another target
CASES: list[Case] = [
    (format_, precision, target)
    for format_ in BUILT_IN
    for precision in format_.precisions
    for target in format_.targets
    if precision == "int8" or target == format_.targets[0]
]


def case_name(case: Case) -> str:
    format_, precision, target = case
    return "-".join((format_.name, precision, target))
