"""Models and the exports that prove them: `client.models`, `client.exports`."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio

from allotment import convert
from allotment.aio.group import PAGE_SIZE, Group
from allotment.connection import Connection, new_request_id
from allotment.download import fetch_blob
from allotment.naming import Named, nested_name, version_name
from allotment.types import Experiment, Export, Model, ModelState
from allotment_api.exporter.v1 import exporter_pb2
from allotment_api.exporter.v1.exporter_pb2_grpc import ExportServiceStub
from allotment_api.search.v1 import search_pb2 as wire
from allotment_api.search.v1.search_pb2_grpc import SearchServiceStub
from allotment_core.errors import FailedPrecondition, InvalidArgument, clip


class Models(Group):
    """The stream of better and better models."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._stub = SearchServiceStub(connection.channel)

    async def get(self, model: str | Named) -> Model:
        """A model by its name or EXPERIMENT/NUMBER; EXPERIMENT/best is the best one that is
        ready.
        """
        name = nested_name(model, "experiments", "models", self._tenant)
        response = await self._call(self._stub.GetModel, wire.GetModelRequest(name=name))
        return convert.model(response.model)

    async def best(self, experiment: str | Named) -> Model:
        """The best model that can be downloaded. Raises: NotFound while there is none."""
        return await self.get(f"{self._name(experiment, 'experiments')}/models/best")

    async def list(self, experiment: str | Named) -> AsyncIterator[Model]:
        parent = self._name(experiment, "experiments")
        async for page in self._pages(
            self._stub.ListModels,
            lambda token: wire.ListModelsRequest(
                parent=parent, page_size=PAGE_SIZE, page_token=token
            ),
        ):
            for item in page.models:
                yield convert.model(item)

    async def watch(self, experiment: str | Named) -> AsyncIterator[Model]:
        """Every model that is ready, oldest first, then each new one until the experiment has
        ended.
        """
        parent = self._name(experiment, "experiments")
        revision = 0

        def open_stream() -> AsyncIterator[wire.WatchModelsResponse]:
            call: grpc.aio.UnaryStreamCall[wire.WatchModelsRequest, wire.WatchModelsResponse] = (
                self._stub.WatchModels(
                    wire.WatchModelsRequest(parent=parent, after_revision=revision)
                )
            )
            return call.__aiter__()

        async for response in self._connection.follow(open_stream):
            revision = max(revision, response.revision)
            yield convert.model(response.model)

    async def refit(
        self, model: str | Named, *, data: str | Named = "", experiment_id: str = ""
    ) -> Experiment:
        """Trains what the model is made of again on newer rows, without a search: an experiment
        that ends with one new model, to wait for like any other.

        `data`: a version that has the columns which the model reads; empty: the latest one of the
        model's data set. Raises: FailedPrecondition (MODEL_NOT_READY), InvalidArgument.
        """
        request = wire.RefitModelRequest(
            request_id=new_request_id(),
            name=nested_name(model, "experiments", "models", self._tenant),
            dataset_version=version_name(data, self._tenant) if data else "",
            experiment_id=experiment_id,
        )
        response = await self._call(self._stub.RefitModel, request)
        return convert.experiment(response.experiment)

    async def download(
        self, model: str | Named, folder: str | os.PathLike[str]
    ) -> tuple[Path, Path]:
        """model.onnx and manifest.json in a folder, checked against their sha256.

        Raises: FailedPrecondition (MODEL_NOT_READY) while there is no artefact.
        """
        found = model if isinstance(model, Model) else await self.get(model)
        if found.state is not ModelState.READY:
            why = found.problem.message if found.problem else "wait until it is ready"
            raise FailedPrecondition(
                f"model {found.name} is {found.state}: {why}", reason="MODEL_NOT_READY"
            )
        tenant = found.name.split("/experiments/")[0]
        artefact, manifest = Path(folder) / "model.onnx", Path(folder) / "manifest.json"
        await fetch_blob(self._connection, f"{tenant}/blobs/{found.artefact_sha256}", artefact)
        await fetch_blob(self._connection, f"{tenant}/blobs/{found.manifest_sha256}", manifest)
        return artefact, manifest


class Exports(Group):
    """The operations that turn trained graphs into proven artefacts."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._stub = ExportServiceStub(connection.channel)
        self._search = SearchServiceStub(connection.channel)

    async def create(self, model: str | Named, precision: str = "exact") -> Export:
        """Exports a model once more. `precision`: exact, or int8 for large matrix products in eight
        bits where the metric allows it; the manifest's candidates say what was measured.

        Raises: InvalidArgument.
        """
        known = {
            "exact": exporter_pb2.PRECISION_EXACT,
            "int8": exporter_pb2.PRECISION_INT8,
        }
        if precision not in known:
            raise InvalidArgument(
                f"there is no precision '{clip(precision)}'; choose exact or int8",
                reason="NO_SUCH_PRECISION",
            )
        name = nested_name(model, "experiments", "models", self._tenant)
        got = await self._call(self._search.GetModel, wire.GetModelRequest(name=name))
        request = exporter_pb2.CreateExportRequest(
            request_id=new_request_id(),
            parent=self._tenant,
            source=got.model.source,
            precision=known[precision],
        )
        return convert.export((await self._call(self._stub.CreateExport, request)).export)

    async def get(self, export: str | Named) -> Export:
        request = exporter_pb2.GetExportRequest(name=self._name(export, "exports"))
        return convert.export((await self._call(self._stub.GetExport, request)).export)

    async def list(self) -> AsyncIterator[Export]:
        async for page in self._pages(
            self._stub.ListExports,
            lambda token: exporter_pb2.ListExportsRequest(
                parent=self._tenant, page_size=PAGE_SIZE, page_token=token
            ),
        ):
            for item in page.exports:
                yield convert.export(item)

    async def watch(self, export: str | Named) -> AsyncIterator[Export]:
        """The export as it is, then every change until it has ended."""
        request = exporter_pb2.WatchExportRequest(name=self._name(export, "exports"))

        def open_stream() -> AsyncIterator[exporter_pb2.WatchExportResponse]:
            call: grpc.aio.UnaryStreamCall[
                exporter_pb2.WatchExportRequest, exporter_pb2.WatchExportResponse
            ] = self._stub.WatchExport(request)
            return call.__aiter__()

        async for response in self._connection.follow(open_stream):
            yield convert.export(response.export)

    async def cancel(self, export: str | Named) -> Export:
        request = exporter_pb2.CancelExportRequest(
            request_id=new_request_id(), name=self._name(export, "exports")
        )
        return convert.export((await self._call(self._stub.CancelExport, request)).export)

    async def delete(self, export: str | Named) -> None:
        """Forgets an ended export and lets go of its artefact."""
        request = exporter_pb2.DeleteExportRequest(
            request_id=new_request_id(), name=self._name(export, "exports")
        )
        await self._call(self._stub.DeleteExport, request)

    async def download(
        self, export: str | Named, folder: str | os.PathLike[str]
    ) -> tuple[Path, Path]:
        """model.onnx and manifest.json of an export that succeeded. Raises: FailedPrecondition
        (EXPORT_NOT_READY).
        """
        found = export if isinstance(export, Export) else await self.get(export)
        if not found.artefact_sha256:
            raise FailedPrecondition(
                f"export {found.name} is {found.state} and has no artefact",
                reason="EXPORT_NOT_READY",
            )
        tenant = found.name.split("/exports/")[0]
        artefact, manifest = Path(folder) / "model.onnx", Path(folder) / "manifest.json"
        await fetch_blob(self._connection, f"{tenant}/blobs/{found.artefact_sha256}", artefact)
        await fetch_blob(self._connection, f"{tenant}/blobs/{found.manifest_sha256}", manifest)
        return artefact, manifest
