"""What is ready to be made: in order, each once."""

from hypothesis import given
from hypothesis import strategies as st

from softmark.sweep.queue import Queue


@st.composite
def graphs(draw) -> dict[str, list[str]]:
    """The parents of stages of which each may descend from any before it."""
    parents: dict[str, list[str]] = {}
    for number in range(draw(st.integers(1, 12))):
        parents[str(number)] = [address for address in parents if draw(st.booleans())]
    return parents


@given(parents=graphs(), data=st.data())
def test_each_stage_comes_once_and_after_its_parents(parents, data):
    queue = Queue(parents)
    made, running = [], []
    while queue.ready or running:
        if queue.ready and (not running or data.draw(st.booleans())):
            running.append(queue.pop())
        else:
            address = running.pop(data.draw(st.integers(0, len(running) - 1)))
            made.append(address)
            queue.finish(address)
    assert sorted(made) == sorted(parents)
    for address, others in parents.items():
        assert all(made.index(parent) < made.index(address) for parent in others)


def test_the_longest_chain_begins_first():
    queue = Queue({"innocent": [], "victim": [], "marked": ["victim", "there already"]})
    assert [queue.pop(), queue.pop()] == ["victim", "innocent"]
    queue.finish("victim")
    assert queue.pop() == "marked"
