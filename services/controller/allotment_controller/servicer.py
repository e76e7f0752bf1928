"""SearchService: messages in, messages out."""

from collections.abc import AsyncIterator
from typing import Any

from allotment_api.search.v1 import search_pb2 as pb
from allotment_controller import convert
from allotment_controller.domain.controller import Controller
from allotment_controller.domain.experiment import Experiment
from allotment_controller.domain.model import ModelState
from allotment_controller.domain.trial import Trial
from allotment_controller.domain.views import Announcer, ModelView, Reader
from allotment_core.errors import FieldViolation, InvalidArgument, NotFound, clip
from allotment_core.names import (
    ExperimentName,
    FamilyName,
    ModelName,
    TenantName,
    TrialName,
    VersionName,
    check_id,
    new_id,
)
from allotment_core.paging import decode_token, encode_token, page_size
from allotment_search import Grammar

BEST = "best"
"""The id that names the best model that is ready."""


class SearchServicer:
    """Every method of SearchService."""

    def __init__(
        self, controller: Controller, reader: Reader, announcer: Announcer, grammar: Grammar
    ) -> None:
        self._controller = controller
        self._reader = reader
        self._announcer = announcer
        self._grammar = grammar

    async def CreateExperiment(
        self, request: pb.CreateExperimentRequest, context: Any
    ) -> pb.CreateExperimentResponse:
        tenant = TenantName.parse(request.parent)
        experiment_id = check_id(request.experiment_id or new_id("e"), "experiment_id")
        return await self._controller.create(
            ExperimentName(tenant, experiment_id),
            convert.wish(request.spec),
            lambda e: pb.CreateExperimentResponse(experiment=convert.experiment(e)),
        )

    async def RefitModel(
        self, request: pb.RefitModelRequest, context: Any
    ) -> pb.RefitModelResponse:
        model = ModelName.parse(request.name)
        experiment_id = check_id(request.experiment_id or new_id("e"), "experiment_id")
        version = request.dataset_version
        return await self._controller.refit(
            model,
            VersionName.parse(version) if version else None,
            ExperimentName(model.tenant, experiment_id),
            lambda e: pb.RefitModelResponse(experiment=convert.experiment(e)),
        )

    async def GetExperiment(
        self, request: pb.GetExperimentRequest, context: Any
    ) -> pb.GetExperimentResponse:
        experiment = await self._reader.experiment(ExperimentName.parse(request.name))
        return pb.GetExperimentResponse(experiment=convert.experiment(experiment))

    async def ListExperiments(
        self, request: pb.ListExperimentsRequest, context: Any
    ) -> pb.ListExperimentsResponse:
        tenant, key = TenantName.parse(request.parent), f"experiments:{request.parent}"
        found, cursor = await self._reader.experiments(
            tenant, decode_token(request.page_token, key), page_size(request.page_size)
        )
        return pb.ListExperimentsResponse(
            experiments=[convert.experiment(e) for e in found],
            next_page_token=encode_token(key, cursor) if cursor else "",
        )

    async def PauseExperiment(
        self, request: pb.PauseExperimentRequest, context: Any
    ) -> pb.PauseExperimentResponse:
        return await self._controller.pause(
            ExperimentName.parse(request.name),
            lambda e: pb.PauseExperimentResponse(experiment=convert.experiment(e)),
        )

    async def ResumeExperiment(
        self, request: pb.ResumeExperimentRequest, context: Any
    ) -> pb.ResumeExperimentResponse:
        budget = convert.budget(request.budget) if request.HasField("budget") else None
        return await self._controller.resume(
            ExperimentName.parse(request.name),
            budget,
            lambda e: pb.ResumeExperimentResponse(experiment=convert.experiment(e)),
        )

    async def CancelExperiment(
        self, request: pb.CancelExperimentRequest, context: Any
    ) -> pb.CancelExperimentResponse:
        return await self._controller.cancel(
            ExperimentName.parse(request.name),
            lambda e: pb.CancelExperimentResponse(experiment=convert.experiment(e)),
        )

    async def DeleteExperiment(
        self, request: pb.DeleteExperimentRequest, context: Any
    ) -> pb.DeleteExperimentResponse:
        return await self._controller.delete(
            ExperimentName.parse(request.name), request.etag, pb.DeleteExperimentResponse
        )

    async def WatchExperiment(
        self, request: pb.WatchExperimentRequest, context: Any
    ) -> AsyncIterator[pb.WatchExperimentResponse]:
        name = ExperimentName.parse(request.name)
        after = _revision(request.after_revision)
        with self._announcer.listen(name) as listener:
            opening = True
            while True:
                changed = await self._reader.changed(name, after)
                if opening:
                    yield _change(after, changed.experiment, changed.experiment)
                for part in changed.parts:
                    yield _change(_revision_of(part), part, changed.experiment)
                if not opening and changed.experiment.revision > after:
                    yield _change(
                        changed.experiment.revision, changed.experiment, changed.experiment
                    )
                if changed.experiment.ended:
                    return
                opening, after = False, max(after, changed.experiment.revision)
                await listener.wait()

    async def GetTrial(self, request: pb.GetTrialRequest, context: Any) -> pb.GetTrialResponse:
        name = TrialName.parse(request.name)
        number = _number(name.trial_id)
        trial = await self._reader.trial(name.experiment, number)
        if trial is None:
            raise NotFound(f"there is no trial {name}", reason="TRIAL_NOT_FOUND")
        return pb.GetTrialResponse(trial=convert.trial(trial))

    async def ListTrials(
        self, request: pb.ListTrialsRequest, context: Any
    ) -> pb.ListTrialsResponse:
        name, key = ExperimentName.parse(request.parent), f"trials:{request.parent}"
        found, cursor = await self._reader.trials(
            name, decode_token(request.page_token, key), page_size(request.page_size)
        )
        return pb.ListTrialsResponse(
            trials=[convert.trial(t) for t in found],
            next_page_token=encode_token(key, cursor) if cursor else "",
        )

    async def GetModel(self, request: pb.GetModelRequest, context: Any) -> pb.GetModelResponse:
        name = ModelName.parse(request.name)
        number = None if name.model_id == BEST else _number(name.model_id)
        experiment, view = await self._reader.model(name.experiment, number)
        if view is None:
            why = "; none is ready yet" if number is None else ""
            raise NotFound(f"there is no model {name}{why}", reason="MODEL_NOT_FOUND")
        return pb.GetModelResponse(model=convert.model(experiment, view))

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Any
    ) -> pb.ListModelsResponse:
        name, key = ExperimentName.parse(request.parent), f"models:{request.parent}"
        experiment, views, cursor = await self._reader.models(
            name, decode_token(request.page_token, key), page_size(request.page_size)
        )
        return pb.ListModelsResponse(
            models=[convert.model(experiment, v) for v in views],
            next_page_token=encode_token(key, cursor) if cursor else "",
        )

    async def WatchModels(
        self, request: pb.WatchModelsRequest, context: Any
    ) -> AsyncIterator[pb.WatchModelsResponse]:
        name = ExperimentName.parse(request.parent)
        after = _revision(request.after_revision)
        with self._announcer.listen(name) as listener:
            while True:
                changed = await self._reader.changed(name, after)
                for part in changed.parts:
                    if isinstance(part, ModelView) and part.model.state is ModelState.READY:
                        yield pb.WatchModelsResponse(
                            revision=part.model.revision,
                            model=convert.model(changed.experiment, part),
                        )
                if changed.experiment.ended:
                    return
                after = max(after, changed.experiment.revision)
                await listener.wait()

    async def GetFamily(self, request: pb.GetFamilyRequest, context: Any) -> pb.GetFamilyResponse:
        name = FamilyName.parse(request.name)
        families = {f.name: f for f in await self._families()}
        if str(name) not in families:
            raise NotFound(
                f"there is no family {name}; there are {', '.join(families)}",
                reason="FAMILY_NOT_FOUND",
            )
        return pb.GetFamilyResponse(family=families[str(name)])

    async def ListFamilies(
        self, request: pb.ListFamiliesRequest, context: Any
    ) -> pb.ListFamiliesResponse:
        start = int(decode_token(request.page_token, "families") or 0)
        families = await self._families()
        end = start + page_size(request.page_size)
        return pb.ListFamiliesResponse(
            families=families[start:end],
            next_page_token=encode_token("families", str(end)) if end < len(families) else "",
        )

    async def _families(self) -> list[pb.Family]:
        offers = {o.family: o for o in await self._reader.offered()}
        return [convert.family(self._grammar, n, offers.get(n)) for n in self._grammar.families]


def _number(text: str) -> int:
    """The number in a trial's or model's id; 0, which none has, when it is none."""
    canonical = text.isascii() and text.isdecimal() and not text.startswith("0")
    return int(text) if canonical and len(text) < 10 else 0


def _revision(value: int) -> int:
    if value < 0:
        raise InvalidArgument(
            f"after_revision is {clip(value)}; it has to be 0 or more",
            reason="INVALID_REVISION",
            violations=(FieldViolation("after_revision", "has to be 0 or more"),),
        )
    return value


def _revision_of(part: Trial | ModelView) -> int:
    return part.model.revision if isinstance(part, ModelView) else part.revision


def _change(
    revision: int, part: Experiment | Trial | ModelView, experiment: Experiment
) -> pb.WatchExperimentResponse:
    match part:
        case Experiment():
            return pb.WatchExperimentResponse(
                revision=revision, experiment=convert.experiment(part)
            )
        case ModelView():
            return pb.WatchExperimentResponse(
                revision=revision, model=convert.model(experiment, part)
            )
        case _:
            return pb.WatchExperimentResponse(revision=revision, trial=convert.trial(part))
