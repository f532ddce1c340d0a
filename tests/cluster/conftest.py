"""One Ray session of two cores for all tests of this folder: starting it takes seconds.

It is started before the first of them looks at the state of the process (``process_state.py``) and stopped after the
last of them, so that no other test runs beside it.
"""

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
from picture_trees import no_fsync as no_fsync
from picture_trees import tree as tree

from hrfr_fast.runtime.cluster import Cluster, connect

HERE = Path(__file__).parent
SESSION: "pytest.StashKey[tuple[ExitStack, Cluster]]" = pytest.StashKey()


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, None, None]:
    if "ray_cluster" in getattr(item, "fixturenames", ()) and SESSION not in item.session.stash:
        pytest.importorskip("ray", reason="needs Ray: pip install 'hrfr-fast[cluster]'")
        stack = ExitStack()
        item.session.stash[SESSION] = stack, stack.enter_context(connect("ray", cpus=2))
    return (yield)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, None, None]:
    result = yield
    if SESSION in item.session.stash and (nextitem is None or HERE not in nextitem.path.parents):
        stack, _ = item.session.stash[SESSION]
        stack.close()
        del item.session.stash[SESSION]
    return result


@pytest.fixture
def ray_cluster(request: pytest.FixtureRequest) -> Cluster:
    """Two local workers. ``connect`` in a test gives the same ones."""
    return request.session.stash[SESSION][1]
