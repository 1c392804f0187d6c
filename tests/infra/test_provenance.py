"""What a run shows on its page: keys may be any names."""

import pytest
from prefect import flow
from prefect.artifacts import Artifact

from infra.provenance import create_image_artifact, create_link_artifact

pytestmark = pytest.mark.usefixtures("prefect_server")


@flow
def shows() -> None:
    """Shows a figure and a link of a product of a system whose name has an underscore."""
    create_image_artifact("http://127.0.0.1/figure.png", key="gravity_waves-lattice-figure", description="A figure")
    create_link_artifact("http://127.0.0.1/run", link_text="Run", key="Wind (m/s)", description="A run")


def test_a_key_may_be_the_name_of_any_product_or_figure() -> None:
    shows()
    for key in ("gravity-waves-lattice-figure", "wind-m-s-"):
        found = Artifact.get(key)
        assert found is not None, key
