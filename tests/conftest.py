import jax
import pytest

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(config, items):
    """Tests marked `gpu` run on a GPU, or where `-m gpu` asks for them."""
    if config.option.markexpr == "gpu" or jax.default_backend() == "gpu":
        return
    skip = pytest.mark.skip(reason="needs an NVIDIA GPU")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def key():
    return jax.random.key(7)


@pytest.fixture
def users_broadcast():
    """For models under test that add a bias to a batch, as users write it."""
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture(scope="module", autouse=True)
def compiled_programs_do_not_pile_up():
    yield
    jax.clear_caches()


@pytest.fixture
def pyplot():
    """A pyplot that shows nothing, starts empty and forgets its figures."""
    from matplotlib import pyplot

    before = pyplot.get_backend()
    pyplot.switch_backend("agg")
    pyplot.close("all")
    yield pyplot
    pyplot.close("all")
    pyplot.switch_backend(before)
