"""References: what travels between tasks instead of arrays.

A reference names a product, its version, the digest of its content and its place. It is small, hashable JSON, so that
Prefect can store it and a cache key can contain it.
"""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict


class Ref(BaseModel):
    """A product in the store.

    Attributes:
        name: the product, `SYSTEM-NAME`.
        version: the first twelve digits of the digest; equal content has an equal version on every machine.
        digest: SHA-256 over configuration, inputs and files; run ids and times are left out.
        location: folder of the version, as a path or URL.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: ClassVar[str] = ""

    name: str
    version: str
    digest: str
    location: str

    def __str__(self) -> str:
        return f"{self.name}@{self.version}"


class Dataset(Ref):
    """Curated data with their statistics and splits."""

    kind: ClassVar[str] = "dataset"


class Day(Ref):
    """One day of raw input, validated; datasets are assembled from days."""

    kind: ClassVar[str] = "day"


class Calendar(Ref):
    """Which days, each in which version, a dataset is assembled from."""

    kind: ClassVar[str] = "calendar"


class Model(Ref):
    """Trained weights and the sizes their network is built from."""

    kind: ClassVar[str] = "model"


class Index(Ref):
    """A searchable index."""

    kind: ClassVar[str] = "index"


class Writes(Ref):
    """What was written to a product in service, since it was built."""

    kind: ClassVar[str] = "writes"


class Plan(Ref):
    """An allocation with its shadow prices."""

    kind: ClassVar[str] = "plan"


class Predictions(Ref):
    """Answers of a model to requests of somebody's own, and the requests."""

    kind: ClassVar[str] = "predictions"


class Report(Ref):
    """A judgement: metrics, tables and the certificate of one product.

    Attributes:
        run_id: the MLflow run that shows it; no part of the digest.
    """

    kind: ClassVar[str] = "report"
    run_id: str = ""


class Outcome(BaseModel):
    """What a flow did, small enough to be shown in a table and kept as its result.

    Attributes:
        kind: kind of the product.
        product: name of the product.
        version: the candidate's version.
        status: published (went live), unchanged (was live already), refused (the champion stays).
        reason: why, as a sentence.
        headline: name of the metric that stands for the product.
        value: its value.
        certificate: kinds of claims and whether they hold.
        live: the version that is live now; empty when none ever was.
        run_id: MLflow run of the candidate.
        figure: path of its first figure in that run; empty without one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    product: str
    version: str
    status: Literal["published", "unchanged", "refused"]
    reason: str
    headline: str
    value: float
    certificate: str
    live: str
    run_id: str = ""
    figure: str = ""
