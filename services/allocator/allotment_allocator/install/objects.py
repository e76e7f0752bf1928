"""A release's own secrets at the API server."""

import logging
from collections.abc import Mapping

from allotment_allocator.adapters.kube.api import Json, KubeApi
from allotment_allocator.adapters.kube.nodes import OURS, PART_OF, RELEASE_LABEL
from allotment_allocator.install import plan
from allotment_allocator.install.config import InstallConfig
from allotment_allocator.install.plan import Secret
from allotment_core.errors import NotFound

log = logging.getLogger(__name__)

MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGER = "allotment-install"


class ReleaseObjects:
    """What is the release's by its labels is ours; the rest was made by somebody beforehand."""

    def __init__(self, api: KubeApi, config: InstallConfig) -> None:
        self._api = api
        self._config = config
        self._core = f"/api/v1/namespaces/{config.namespace}"

    async def secrets(self) -> dict[str, Secret]:
        """Those that are there, by name."""
        found = {}
        for name in plan.names(self._config):
            item = await self._find(f"{self._core}/secrets/{name}")
            if item is not None:
                found[name] = Secret(
                    data=plan.decoded(item.get("data") or {}),
                    kind=item.get("type", plan.OPAQUE),
                    ours=self._is_ours(item),
                    version=item["metadata"]["resourceVersion"],
                )
        return found

    async def kept(self, secrets: Mapping[str, Secret]) -> set[str]:
        """Volume claims that are there though their password is not."""
        return {
            claim
            for name, claim in plan.claims(self._config).items()
            if name not in secrets
            and await self._find(f"{self._core}/persistentvolumeclaims/{claim}") is not None
        }

    async def write(self, name: str, secret: Secret, before: Mapping[str, bytes]) -> None:
        """Raises: AlreadyExists, Aborted when somebody else was first."""
        path = f"{self._core}/secrets"
        if secret.version:
            gone = {key: None for key in before if key not in secret.data}
            metadata = {"resourceVersion": secret.version}
            body = {"metadata": metadata, "data": {**plan.encoded(secret.data), **gone}}
            await self._api.patch(f"{path}/{name}", body)
        else:
            body = self._object("Secret", name) | {
                "type": secret.kind,
                "data": plan.encoded(secret.data),
            }
            await self._api.create(path, body)
        log.info("secret written", extra={"secret": name, "new": not secret.version})

    async def publish(self, bundle: bytes) -> None:
        """The authorities' certificates in a ConfigMap. Raises: AlreadyExists, Aborted."""
        name = f"{self._config.release}-ca"
        path, data = f"{self._core}/configmaps", {"ca.crt": bundle.decode()}
        item = await self._find(f"{path}/{name}")
        if item is None:
            await self._api.create(path, self._object("ConfigMap", name) | {"data": data})
        elif self._is_ours(item) and item.get("data") != data:
            await self._api.patch(f"{path}/{name}", {"data": data})

    async def remove(self, kind: str, name: str) -> bool:
        """Whether there was one of ours. `kind`: secrets or configmaps."""
        path = f"{self._core}/{kind}/{name}"
        item = await self._find(path)
        if item is None or not self._is_ours(item):
            return False
        return await self._api.delete(path, {"preconditions": {"uid": item["metadata"]["uid"]}})

    async def _find(self, path: str) -> Json | None:
        try:
            return await self._api.get(path)
        except NotFound:
            return None

    def _is_ours(self, item: Json) -> bool:
        labels = item["metadata"].get("labels") or {}
        return labels.get(PART_OF) == OURS and labels.get(RELEASE_LABEL) == self._config.release

    def _object(self, kind: str, name: str) -> Json:
        labels = {PART_OF: OURS, RELEASE_LABEL: self._config.release, MANAGED_BY: MANAGER}
        return {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {"name": name, "labels": labels},
        }
