"""The groups of calls, blocking. Signatures and contracts are those of `allotment.aio`."""

from allotment.aio import datasets, experiments, models, resources
from allotment.sync.blocking import Blocking, blocking, iterating


class Datasets(Blocking[datasets.Datasets]):
    upload = blocking(datasets.Datasets.upload)
    get = blocking(datasets.Datasets.get)
    list = iterating(datasets.Datasets.list)
    delete = blocking(datasets.Datasets.delete)
    version = blocking(datasets.Datasets.version)
    versions = iterating(datasets.Datasets.versions)
    delete_version = blocking(datasets.Datasets.delete_version)
    inspect_target = blocking(datasets.Datasets.inspect_target)
    download = blocking(datasets.Datasets.download)


class Experiments(Blocking[experiments.Experiments]):
    create = blocking(experiments.Experiments.create)
    get = blocking(experiments.Experiments.get)
    list = iterating(experiments.Experiments.list)
    pause = blocking(experiments.Experiments.pause)
    resume = blocking(experiments.Experiments.resume)
    cancel = blocking(experiments.Experiments.cancel)
    delete = blocking(experiments.Experiments.delete)
    watch = iterating(experiments.Experiments.watch)
    wait = blocking(experiments.Experiments.wait)
    trials = iterating(experiments.Experiments.trials)
    trial = blocking(experiments.Experiments.trial)
    families = iterating(experiments.Experiments.families)


class Models(Blocking[models.Models]):
    get = blocking(models.Models.get)
    best = blocking(models.Models.best)
    list = iterating(models.Models.list)
    watch = iterating(models.Models.watch)
    refit = blocking(models.Models.refit)
    download = blocking(models.Models.download)


class Exports(Blocking[models.Exports]):
    create = blocking(models.Exports.create)
    get = blocking(models.Exports.get)
    list = iterating(models.Exports.list)
    watch = iterating(models.Exports.watch)
    cancel = blocking(models.Exports.cancel)
    delete = blocking(models.Exports.delete)
    download = blocking(models.Exports.download)


class Pools(Blocking[resources.Pools]):
    get = blocking(resources.Pools.get)
    list = iterating(resources.Pools.list)
    nodes = iterating(resources.Pools.nodes)


class Tenants(Blocking[resources.Tenants]):
    create = blocking(resources.Tenants.create)
    get = blocking(resources.Tenants.get)
    list = iterating(resources.Tenants.list)
    update = blocking(resources.Tenants.update)
    delete = blocking(resources.Tenants.delete)
    issue_token = blocking(resources.Tenants.issue_token)
    usage = blocking(resources.Tenants.usage)


class Leases(Blocking[resources.Leases]):
    get = blocking(resources.Leases.get)
    list = iterating(resources.Leases.list)
