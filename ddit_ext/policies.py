"""The C++ policies, the same that a C++ program uses (`ddit_ext/policy.h`), and the base for one of your own.

    PatchScheduler   the paper's rule, scores against thresholds
    BudgetPolicy     a given speedup; the scores say where the full-size steps go
    FixedSchedule    one scale, or a list of one scale a step, in which 0 skips it
    TeaCachePolicy   TeaCache's rule: skips steps while the model's input hardly changes
    Policy           the base for one of your own

For `ddit_ext.patch` a strategy (`ddit_ext.strategies`) says the same as data. A policy object is taken as well: C++
ones are copied for each run.
"""

from ._core import BudgetPolicy, FixedSchedule, PatchScheduler, RunPolicy, TeaCachePolicy
from .strategies import SKIP, Policy

__all__ = ["SKIP", "BudgetPolicy", "FixedSchedule", "PatchScheduler", "Policy", "TeaCachePolicy"]

Policy.register(RunPolicy)
