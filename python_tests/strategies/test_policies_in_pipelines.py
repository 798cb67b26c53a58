"""Policies as the schedule of a patched pipeline: ours, and a user's own."""

import pytest
from flux_pipelines import make_call, make_pipeline, run

import ddit_ext
from ddit_ext import policies
from ddit_ext.coarse import Adapter
from ddit_ext.runtime.patched_call import find_hook

ignore_training_free = pytest.mark.filterwarnings("ignore:ddit_ext. no adapter")


@pytest.fixture(scope="module")
def pipe():
    return make_pipeline()


@pytest.fixture
def patched(pipe):
    """patch(pipe, ...), taken off again."""
    handles = []

    def patch(**arguments):
        handles.append(ddit_ext.patch(pipe, **arguments))
        return handles[-1]

    yield patch
    for handle in handles:
        handle.unpatch()


def taken(handle):
    return [step["scale"] for step in handle.report().to_dict()["steps"]]


@ignore_training_free
def test_planned_policies_in_a_pipeline(pipe, patched):
    policy = policies.FixedSchedule([1, 2], [2, 2, 1, 1])
    handle = patched(schedule=policy)
    run(pipe, make_call(steps=4))
    assert taken(handle) == [2, 2, 1, 1]
    data = handle.report().to_dict()
    assert data["policy"] == repr(policy) and data["scales"] == [1, 2] and not data["dynamic"]
    assert all(step["scores"] is None for step in data["steps"])


@ignore_training_free
def test_a_policy_of_cpp_is_copied_for_each_run(pipe, patched):
    policy = policies.BudgetPolicy([1, 2, 4], [0.4, 0.2], 2.0)
    handle = patched(schedule=policy)
    run(pipe, make_call(steps=10))
    assert policy.spent == 0.0
    cost = {1: 1.0, 2: 0.4, 4: 0.2}
    first = taken(handle)
    assert 5.0 - 0.8 < sum(cost[size] for size in first) <= 5.0 + 1e-9
    run(pipe, make_call(steps=10))
    assert taken(handle) == first  # nothing of the run before is left


@ignore_training_free
def test_the_papers_rule_as_an_object_is_the_default(pipe, patched):
    scores = []
    for arguments in (
        dict(threshold=(0.05, 0.02), protect=(4, 1)),
        dict(schedule=policies.PatchScheduler([1, 2, 4], [0.05, 0.02], 4, 1)),
    ):
        handle = patched(**arguments)
        run(pipe, make_call(steps=9))
        data = handle.report().to_dict()
        scores.append([(step["scale"], step["scores"]) for step in data["steps"]])
        assert data["thresholds"] == [0.05, 0.02] and data["dynamic"]
        handle.unpatch()
    assert scores[0] == scores[1]


class Counting(policies.Policy):
    """Coarse where there is a signal; remembers what it was asked."""

    def __init__(self):
        self.asked, self.runs = [], []

    def begin(self, total_steps):
        self.runs.append(total_steps)

    def decide(self, step, scores):
        self.asked.append((step, scores))
        self.per_sample = [2, 1] if scores else []
        return 2 if scores else 1


@ignore_training_free
def test_a_users_own_policy(pipe, patched):
    own = Counting()
    handle = patched(schedule=own, protect=(4, 1))
    run(pipe, make_call(steps=7, batch=2))
    steps = handle.report().to_dict()["steps"]
    assert [step["scale"] for step in steps] == [1, 1, 1, 1, 2, 2, 1]
    assert [step["scales"] for step in steps[3:6]] == [[1, 1], [2, 1], [2, 1]]
    assert own.runs == [7] and [step for step, _ in own.asked] == [4, 5]
    assert [scores for _, scores in own.asked] == [steps[4]["scores"], steps[5]["scores"]]


@ignore_training_free
def test_an_object_with_the_two_methods_is_a_policy(pipe, patched):
    class Plain:
        needs_signal = False

        def begin(self, total_steps):
            self.last = total_steps - 1

        def decide(self, step, scores):
            return 1 if step == self.last else 4

    handle = patched(schedule=Plain())
    run(pipe, make_call(steps=3))
    assert taken(handle) == [4, 4, 1]


class Bringing(policies.Policy):
    """Coarse wherever it is asked, with attributes of its own."""

    needs_signal = False

    def __init__(self, **own):
        vars(self).update(own)

    def begin(self, total_steps):
        pass

    def decide(self, step, scores):
        return 2


@ignore_training_free
def test_a_policy_of_ones_own_brings_its_attributes(pipe, patched):
    adapter = Adapter.training_free(pipe.transformer, (2,))
    own = Bringing(scales=(1, 2), protect_last=2, thresholds=(0.3,))
    handle = patched(adapter=adapter, schedule=own)
    run(pipe, make_call(steps=5))
    data = handle.report().to_dict()
    assert taken(handle) == [2, 2, 2, 1, 1]
    assert data["scales"] == [1, 2] and data["thresholds"] == [0.3]
    handle.unpatch()
    handle = patched(adapter=adapter, schedule=Bringing(protect_first=1), scales=(1, 2))
    run(pipe, make_call(steps=3))
    assert taken(handle) == [1, 2, 2] and handle.report().to_dict()["thresholds"] == []


@pytest.mark.parametrize(
    ("own", "beside", "error", "text"),
    [
        (dict(scales=(2, 1)), {}, ValueError, r"schedule: scales of the policy must be distinct.*\(2, 1\)"),
        (dict(scales="12"), {}, TypeError, "schedule: scales of the policy must be distinct.*'12'"),
        (
            dict(scales=(1, 2)),
            dict(scales=(1, 4)),
            ValueError,
            r"policy in schedule has \(1, 2\), got \(1, 4\)",
        ),
        (dict(protect_last=-1), {}, ValueError, r"protect_last\) of the policy must be two.*\(0, -1\)"),
        (dict(protect_first=1.5), {}, ValueError, r"protect_last\) of the policy must be two.*\(1.5, 0\)"),
        (
            dict(protect_last=1),
            dict(protect=(0, 2)),
            ValueError,
            r"protect=\(0, 2\): a policy in schedule has its",
        ),
        (dict(thresholds=(1,)), {}, ValueError, "schedule: thresholds of the policy must be.* 2.*; got 1"),
        (
            dict(thresholds=-1),
            {},
            ValueError,
            "schedule: thresholds of the policy must not be negative, got -1",
        ),
    ],
)
def test_attributes_that_do_not_fit(pipe, own, beside, error, text):
    with pytest.raises(error, match=text):
        ddit_ext.patch(pipe, schedule=Bringing(**own), **beside)
    assert find_hook(pipe.transformer) is None


class Unfit:
    def begin(self, total_steps):
        pass

    def decide(self, step, scores):
        return 3


def unfit(**attributes):
    policy = Unfit()
    vars(policy).update(attributes)
    return policy


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (
            dict(schedule=policies.FixedSchedule([1, 3], 3), scales=(1, 2)),
            ValueError,
            r"scales: .*\(1, 3\).*\(1, 2\)",
        ),
        (dict(schedule=policies.FixedSchedule([1, 2], 2), protect=(1, 0)), ValueError, r"protect=\(1, 0\)"),
        (
            dict(schedule=policies.FixedSchedule),
            TypeError,
            r"schedule must be an object, got the class FixedSchedule: make one, FixedSchedule\(...\)",
        ),
        (dict(schedule=unfit(source="z")), ValueError, "schedule: source .*got 'z'"),
        (dict(schedule=unfit(mixed=1)), ValueError, "schedule: mixed .*got 1"),
    ],
)
def test_bad_policies(pipe, arguments, error, text):
    with pytest.raises(error, match=text):
        ddit_ext.patch(pipe, **arguments)
    assert find_hook(pipe.transformer) is None


@ignore_training_free
def test_bad_answers_of_a_users_policy(pipe, patched):
    patched(schedule=unfit())
    with pytest.raises(
        ValueError, match=r"schedule at step 0: expected one of the scales \(1, 2, 4\), got 3"
    ):
        run(pipe, make_call(steps=6))
    ddit_ext.unpatch(pipe)
    own = unfit(per_sample=[1, 1], decide=lambda step, scores: 1)
    patched(schedule=own)
    with pytest.raises(ValueError, match="schedule: per_sample must have 1 entries, one a sample, got 2"):
        run(pipe, make_call(steps=6))
