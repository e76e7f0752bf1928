{{/* Which service serves which of the API's, as YAML. */}}
{{- define "allotment.owners" -}}
allotment_api.allocator.v1.LeaseService: allocator
allotment_api.allocator.v1.PoolService: allocator
allotment_api.allocator.v1.TenantService: allocator
allotment_api.dataset.v1.BlobService: dataset
allotment_api.dataset.v1.DatasetService: dataset
allotment_api.exporter.v1.ExportService: exporter
allotment_api.search.v1.SearchService: controller
allotment_api.trainer.v1.TrainerService: controller
{{- end }}
