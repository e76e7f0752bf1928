"""Resource names: parsed once, by type; a name that exists is valid.

`DatasetName.parse("tenants/acme/datasets/iris").tenant` is `TenantName("acme")`; `str()` gives the
text back.
"""

import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

from allotment_core.errors import FieldViolation, InvalidArgument, clip

ID_RULE = "1 to 63 of letters, digits, '.', '_', '-', beginning and ending with a letter or digit"
TENANT_ID_RULE = "1 to 63 of a-z, digits, '-', beginning and ending with a letter or digit"
NODE_ID_RULE = "1 to 253 of letters, digits, '.', '_', '-', '+', ending with a letter or digit"
SHA256_RULE = "64 lower-case hex digits"

_ID = re.compile(r"[a-zA-Z0-9]([a-zA-Z0-9._-]{0,61}[a-zA-Z0-9])?")
_TENANT_ID = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NODE_ID = re.compile(r"[a-zA-Z0-9+]([a-zA-Z0-9._-]{0,251}[a-zA-Z0-9])?")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
_LONGEST_NAME = 350


def new_id(prefix: str) -> str:
    """A fresh last segment, `prefix-xxxxxxxxxx` (50 random bits)."""
    return prefix + "-" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(10))


def check_id(text: str, field: str) -> str:
    """The id as it is. Raises: InvalidArgument when no resource could be called that."""
    return _check_segment(text, field, _ID, ID_RULE)


def check_tenant_id(text: str, field: str = "tenant_id") -> str:
    """The tenant's id as it is. Raises: InvalidArgument when no tenant could be called that."""
    return _check_segment(text, field, _TENANT_ID, TENANT_ID_RULE)


def _check_segment(text: str, field: str, rule: re.Pattern[str], said: str) -> str:
    if not rule.fullmatch(text):
        raise InvalidArgument(
            f"{field} {clip(text)!r} is not valid: it needs {said}",
            reason="INVALID_ID",
            violations=(FieldViolation(field, f"has to be {said}"),),
        )
    return text


class ResourceName:
    """Base of all names. Subclasses are frozen dataclasses (their parent's name, their own id)."""

    __slots__ = ()
    PATTERN: ClassVar[str]
    """The collection ids with a star for each id: "tenants/*/datasets/*"."""
    PARENT: ClassVar[type["ResourceName"] | None] = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The name in this text. Raises: InvalidArgument (INVALID_NAME) with the pattern."""
        collections = cls.PATTERN.split("/")[::2]
        segments = text.split("/") if len(text) <= _LONGEST_NAME else []
        if segments[::2] != collections or len(segments) != 2 * len(collections):
            raise _bad_name(text, cls.PATTERN)
        try:
            return cls._of(segments[1::2])
        except InvalidArgument as e:
            raise _bad_name(text, cls.PATTERN, str(e)) from None

    @classmethod
    def _of(cls, ids: Sequence[str]) -> Self:
        if cls.PARENT is None:
            return cls(ids[0])  # type: ignore[call-arg]
        return cls(cls.PARENT._of(ids[:-1]), ids[-1])  # type: ignore[call-arg]


def _bad_name(text: str, pattern: str, detail: str = "") -> InvalidArgument:
    return InvalidArgument(
        f"{clip(text)!r} is not a name of the form {pattern}{': ' + detail if detail else ''}",
        reason="INVALID_NAME",
    )


@dataclass(frozen=True, slots=True, order=True)
class TenantName(ResourceName):
    tenant_id: str

    PATTERN: ClassVar[str] = "tenants/*"
    WILDCARD: ClassVar["TenantName"]
    """Every tenant, "tenants/-": `parse` refuses it, `parse_or_wildcard` takes it."""

    def __post_init__(self) -> None:
        if self.tenant_id != "-":
            check_tenant_id(self.tenant_id)

    @classmethod
    def _of(cls, ids: Sequence[str]) -> Self:
        return cls(check_tenant_id(ids[0]))

    @classmethod
    def parse_or_wildcard(cls, text: str) -> "TenantName":
        """Like `parse`, but "tenants/-" is every tenant: for the methods that say so."""
        return cls.WILDCARD if text == "tenants/-" else cls.parse(text)

    @property
    def tenant(self) -> "TenantName":
        return self

    def __str__(self) -> str:
        return f"tenants/{self.tenant_id}"


TenantName.WILDCARD = TenantName("-")


class _OfTenant(ResourceName):
    """What stands right below a tenant."""

    __slots__ = ()
    PARENT: ClassVar[type[ResourceName] | None] = TenantName
    tenant: TenantName

    @property
    def parent(self) -> TenantName:
        return self.tenant


@dataclass(frozen=True, slots=True, order=True)
class DatasetName(_OfTenant):
    tenant: TenantName
    dataset_id: str

    PATTERN: ClassVar[str] = "tenants/*/datasets/*"

    def __post_init__(self) -> None:
        check_id(self.dataset_id, "dataset_id")

    def __str__(self) -> str:
        return f"{self.tenant}/datasets/{self.dataset_id}"


@dataclass(frozen=True, slots=True, order=True)
class VersionName(ResourceName):
    dataset: DatasetName
    version_id: str

    PATTERN: ClassVar[str] = "tenants/*/datasets/*/versions/*"
    PARENT: ClassVar[type[ResourceName] | None] = DatasetName

    def __post_init__(self) -> None:
        check_id(self.version_id, "version_id")

    @property
    def parent(self) -> DatasetName:
        return self.dataset

    @property
    def tenant(self) -> TenantName:
        return self.dataset.tenant

    def __str__(self) -> str:
        return f"{self.dataset}/versions/{self.version_id}"


@dataclass(frozen=True, slots=True, order=True)
class UploadName(_OfTenant):
    tenant: TenantName
    upload_id: str

    PATTERN: ClassVar[str] = "tenants/*/uploads/*"

    def __post_init__(self) -> None:
        check_id(self.upload_id, "upload_id")

    def __str__(self) -> str:
        return f"{self.tenant}/uploads/{self.upload_id}"


@dataclass(frozen=True, slots=True, order=True)
class ImportName(_OfTenant):
    tenant: TenantName
    import_id: str

    PATTERN: ClassVar[str] = "tenants/*/imports/*"

    def __post_init__(self) -> None:
        check_id(self.import_id, "import_id")

    def __str__(self) -> str:
        return f"{self.tenant}/imports/{self.import_id}"


@dataclass(frozen=True, slots=True, order=True)
class BlobName(_OfTenant):
    tenant: TenantName
    sha256: str

    PATTERN: ClassVar[str] = "tenants/*/blobs/*"

    def __post_init__(self) -> None:
        check_sha256(self.sha256, "sha256")

    def __str__(self) -> str:
        return f"{self.tenant}/blobs/{self.sha256}"


@dataclass(frozen=True, slots=True, order=True)
class ExperimentName(_OfTenant):
    tenant: TenantName
    experiment_id: str

    PATTERN: ClassVar[str] = "tenants/*/experiments/*"

    def __post_init__(self) -> None:
        check_id(self.experiment_id, "experiment_id")

    def __str__(self) -> str:
        return f"{self.tenant}/experiments/{self.experiment_id}"


class _OfExperiment(ResourceName):
    """What stands right below an experiment."""

    __slots__ = ()
    PARENT: ClassVar[type[ResourceName] | None] = ExperimentName
    experiment: ExperimentName

    @property
    def parent(self) -> ExperimentName:
        return self.experiment

    @property
    def tenant(self) -> TenantName:
        return self.experiment.tenant


@dataclass(frozen=True, slots=True, order=True)
class TrialName(_OfExperiment):
    experiment: ExperimentName
    trial_id: str

    PATTERN: ClassVar[str] = "tenants/*/experiments/*/trials/*"

    def __post_init__(self) -> None:
        check_id(self.trial_id, "trial_id")

    def __str__(self) -> str:
        return f"{self.experiment}/trials/{self.trial_id}"


@dataclass(frozen=True, slots=True, order=True)
class CheckpointName(_OfExperiment):
    """What holds the fitted folds of a trial that has not ended; its id is the trial's."""

    experiment: ExperimentName
    trial_id: str

    PATTERN: ClassVar[str] = "tenants/*/experiments/*/checkpoints/*"

    def __post_init__(self) -> None:
        check_id(self.trial_id, "trial_id")

    def __str__(self) -> str:
        return f"{self.experiment}/checkpoints/{self.trial_id}"


@dataclass(frozen=True, slots=True, order=True)
class ModelName(_OfExperiment):
    experiment: ExperimentName
    model_id: str

    PATTERN: ClassVar[str] = "tenants/*/experiments/*/models/*"

    def __post_init__(self) -> None:
        check_id(self.model_id, "model_id")

    def __str__(self) -> str:
        return f"{self.experiment}/models/{self.model_id}"


@dataclass(frozen=True, slots=True, order=True)
class ExportName(_OfTenant):
    tenant: TenantName
    export_id: str

    PATTERN: ClassVar[str] = "tenants/*/exports/*"

    def __post_init__(self) -> None:
        check_id(self.export_id, "export_id")

    def __str__(self) -> str:
        return f"{self.tenant}/exports/{self.export_id}"


@dataclass(frozen=True, slots=True, order=True)
class LeaseName(_OfTenant):
    tenant: TenantName
    lease_id: str

    PATTERN: ClassVar[str] = "tenants/*/leases/*"

    def __post_init__(self) -> None:
        check_id(self.lease_id, "lease_id")

    def __str__(self) -> str:
        return f"{self.tenant}/leases/{self.lease_id}"


@dataclass(frozen=True, slots=True, order=True)
class PoolName(ResourceName):
    pool_id: str

    PATTERN: ClassVar[str] = "pools/*"

    def __post_init__(self) -> None:
        check_id(self.pool_id, "pool_id")

    def __str__(self) -> str:
        return f"pools/{self.pool_id}"


@dataclass(frozen=True, slots=True, order=True)
class NodeName(ResourceName):
    pool: PoolName
    node_id: str
    """As the cluster calls it; `+1` for one that is only expected."""

    PATTERN: ClassVar[str] = "pools/*/nodes/*"
    PARENT: ClassVar[type[ResourceName] | None] = PoolName

    def __post_init__(self) -> None:
        _check_segment(self.node_id, "node_id", _NODE_ID, NODE_ID_RULE)

    def __str__(self) -> str:
        return f"{self.pool}/nodes/{self.node_id}"


@dataclass(frozen=True, slots=True, order=True)
class FamilyName(ResourceName):
    family_id: str

    PATTERN: ClassVar[str] = "families/*"

    def __post_init__(self) -> None:
        check_id(self.family_id, "family_id")

    def __str__(self) -> str:
        return f"families/{self.family_id}"


def check_sha256(text: str, field: str) -> str:
    """The digest as it is. Raises: InvalidArgument unless it is a sha256 in lower-case hex."""
    return _check_segment(text, field, _SHA256, SHA256_RULE)


TenantResource = (
    TenantName
    | DatasetName
    | VersionName
    | UploadName
    | ImportName
    | BlobName
    | ExperimentName
    | TrialName
    | CheckpointName
    | ModelName
    | ExportName
    | LeaseName
)
"""Any name below a tenant."""

TENANT_RESOURCES: tuple[type[TenantResource], ...] = (
    TenantName,
    DatasetName,
    VersionName,
    UploadName,
    ImportName,
    BlobName,
    ExperimentName,
    TrialName,
    CheckpointName,
    ModelName,
    ExportName,
    LeaseName,
)

_BY_COLLECTIONS = {tuple(c.PATTERN.split("/")[::2]): c for c in TENANT_RESOURCES}


def parse_tenant_resource(text: str) -> TenantResource:
    """The name in this text, whatever type below a tenant it has.

    Raises: InvalidArgument (INVALID_NAME).
    """
    name_class = _BY_COLLECTIONS.get(tuple(text.split("/", 8)[::2]))
    if name_class is None:
        raise _bad_name(text, "tenants/*[/collection/*...]")
    return name_class.parse(text)
